// The chat tab: a conversation, also one in which tools are called and the user says what they return.
import { Answer } from "./answer.js";
import { offer } from "./examples.js";
import { reason } from "./server.js";

const $ = (id) => document.getElementById(id);
let conversation = [];
let running = null;
let called = []; // calls whose results the user has not given yet

function addMessage(kind, text) {
  const element = document.createElement("div");
  element.className = `message ${kind}`;
  element.textContent = text;
  $("messages").append(element);
  scroll();
}

function scroll() {
  const log = $("messages");
  log.scrollTop = log.scrollHeight;
}

// What every request of the page says, as its settings are.
export function settings(card) {
  const given = {
    stream: true, stream_options: { include_usage: true },
    temperature: Number($("temperature").value), top_p: Number($("top_p").value),
    max_tokens: Number($("max_tokens").value),
  };
  if (card?.thinks && $("think").value) given.enable_thinking = $("think").value === "yes";
  if (card?.thinks && $("thinking_budget").value) given.thinking_budget = Number($("thinking_budget").value);
  return given;
}

export function opening() {
  return $("system").value ? [{ role: "system", content: $("system").value }] : [];
}

function request(card, model, text) {
  const shared = { model, ...settings(card) };
  if (!card?.chat) return ["v1/completions", { ...shared, prompt: text }];
  if (card.tools && $("tools").value.trim()) shared.tools = JSON.parse($("tools").value);
  return ["v1/chat/completions", { ...shared, messages: [...opening(), ...conversation] }];
}

async function send(card, model, text) {
  $("examples").hidden = true;
  const call = called.shift(), mine = conversation;
  mine.push(call ? { role: "tool", tool_call_id: call.id, content: text } : { role: "user", content: text });
  addMessage("user", call ? `${call.function.name} returns ${text}` : text);
  if (called.length) { busy(false); return; }
  const answer = new Answer($("messages"), { grown: scroll, told: (line) => { $("speed").textContent = line; } });
  running = new AbortController();
  busy(true);
  try {
    await answer.ask(...request(card, model, text), running.signal);
  } catch (error) {
    if (conversation !== mine) return; // another has begun meanwhile
    if (error.name === "AbortError") answer.note(reason(error));
    else {
      if (answer.empty) answer.element.remove();
      addMessage("error", error instanceof SyntaxError ? `Tools are no JSON: ${error.message}` : reason(error));
    }
  }
  if (conversation !== mine) return;
  answer.fold();
  if (answer.said || answer.calls.length) mine.push(answer.message());
  else {
    mine.pop();
    $("prompt").value ||= text; // to be sent again
    if (call) called.unshift(call);
  }
  if (answer.calls.length) called = [...answer.calls];
  running = null;
  busy(false);
}

function busy(is) {
  $("send").disabled = is;
  $("stop").disabled = !is;
  const next = called[0]?.function.name;
  $("prompt").placeholder = next ? `What does ${next} return?` : "Ask something. Enter sends, Shift+Enter makes a new line.";
  if (!is) $("prompt").focus();
}

// chosen: what tells the model of the page, as {name, card}.
export function setUpChat(chosen) {
  function ask(text) {
    if (!text || running) return;
    $("prompt").value = "";
    const { name, card } = chosen();
    send(card, name, text);
  }

  $("form").addEventListener("submit", (event) => {
    event.preventDefault();
    ask($("prompt").value.trim());
  });
  $("prompt").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
      event.preventDefault();
      $("form").requestSubmit();
    }
  });
  $("stop").addEventListener("click", () => running?.abort());
  $("clear").addEventListener("click", () => {
    running?.abort();
    running = null;
    conversation = [];
    called = [];
    $("messages").replaceChildren();
    $("examples").hidden = false;
    $("speed").textContent = "";
    busy(false);
  });
  return {
    failed: (error) => addMessage("error", reason(error)),
    offer: (card) => offer($("examples"), card, ask),
  };
}
