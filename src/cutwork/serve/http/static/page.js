// The page: talks to the same routes as any client.
import { setUp } from "./transcribe.js";
import { setUpTranslation } from "./translate.js";

const $ = (id) => document.getElementById(id);
const models = new Map();
let conversation = [];
let running = null;

function headers() {
  const key = $("key").value;
  return { "Content-Type": "application/json", ...(key ? { Authorization: `Bearer ${key}` } : {}) };
}

async function fail(response) {
  let message = `${response.status} ${response.statusText}`;
  try {
    message = (await response.json()).error.message;
  } catch {}
  return new Error(message);
}

async function loadModels() {
  const response = await fetch("v1/models", { headers: headers() });
  if (response.status === 401) {
    $("card").textContent = "This server wants an API key: enter it under Settings.";
    document.querySelector("details").open = true;
    return;
  }
  if (!response.ok) throw await fail(response);
  for (const model of (await response.json()).data) models.set(model.id, model.cutwork);
  $("model").replaceChildren(...[...models.keys()].map((name) => new Option(name, name)));
  showCard();
}

function showCard() {
  const card = models.get($("model").value);
  if (!card) return;
  const parts = [card.architecture, `${(100 * card.sparsity).toFixed(0)}% zeros`, `${card.megabytes.toFixed(0)} MB`,
    card.encodings.join(", "), `context ${card.context}`, `${card.threads} threads`, card.isa];
  $("card").textContent = parts.join(" · ");
  showTab(tabOf(card));
}

const TABS = ["chat", "translate", "transcribe"];
const tabOf = (card) => (card.transcribe ? "transcribe" : card.translate ? "translate" : "chat");

function showTab(chosen) {
  const kinds = new Set([...models.values()].map(tabOf));
  $("tabs").hidden = kinds.size < 2;
  for (const name of TABS) {
    $(name).hidden = name !== chosen;
    $(`tab-${name}`).hidden = !kinds.has(name);
    $(`tab-${name}`).setAttribute("aria-selected", name === chosen);
  }
}

function openTab(name) {
  const first = [...models].find(([, card]) => tabOf(card) === name);
  if (first && tabOf(models.get($("model").value)) !== name) $("model").value = first[0];
  showCard();
}

function addMessage(kind, text) {
  const element = document.createElement("div");
  element.className = `message ${kind}`;
  element.textContent = text;
  $("messages").append(element);
  scroll();
  return element;
}

function scroll() {
  const log = $("messages");
  log.scrollTop = log.scrollHeight;
}

async function* eventsOf(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let held = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    held += value;
    const parts = held.split("\n\n");
    held = parts.pop();
    for (const part of parts) {
      const data = part.replace(/^data: /, "");
      if (data === "[DONE]") return;
      yield JSON.parse(data);
    }
  }
}

function request(text) {
  const shared = {
    model: $("model").value, stream: true, stream_options: { include_usage: true },
    temperature: Number($("temperature").value), top_p: Number($("top_p").value),
    max_tokens: Number($("max_tokens").value),
  };
  if (!models.get(shared.model)?.chat) return ["v1/completions", { ...shared, prompt: text }];
  const system = $("system").value ? [{ role: "system", content: $("system").value }] : [];
  return ["v1/chat/completions", { ...shared, messages: [...system, ...conversation] }];
}

async function send(text) {
  conversation.push({ role: "user", content: text });
  addMessage("user", text);
  const answer = addMessage("assistant", "");
  const [path, body] = request(text);
  running = new AbortController();
  busy(true);
  const began = performance.now();
  let said = "", first = 0, count = 0, end = null;
  try {
    const response = await fetch(path, {
      method: "POST", headers: headers(), body: JSON.stringify(body), signal: running.signal,
    });
    if (!response.ok) throw await fail(response);
    for await (const event of eventsOf(response)) {
      if (event.error) throw new Error(event.error.message);
      if (event.usage) end = event;
      const choice = event.choices[0];
      const piece = choice?.delta?.content ?? choice?.text ?? "";
      if (!piece) continue;
      first ||= performance.now();
      said += piece;
      count += 1;
      answer.textContent = said;
      scroll();
      const seconds = (performance.now() - first) / 1000;
      const rate = seconds > 0.2 ? `${(count / seconds).toFixed(0)} tokens/s · ` : "";
      $("speed").textContent = `${rate}first token ${(first - began).toFixed(0)} ms`;
    }
    if (end) showEnd(answer, end, first - began);
  } catch (error) {
    if (error.name === "AbortError") note(answer, "stopped");
    else {
      if (!said) answer.remove();
      addMessage("error", error.message);
    }
  }
  if (said) conversation.push({ role: "assistant", content: said });
  else conversation.pop();
  running = null;
  busy(false);
}

function showEnd(answer, end, firstToken) {
  const { usage, timings } = end;
  const speed = timings.predicted_per_second?.toFixed(0) ?? "–";
  $("speed").textContent = `${speed} tokens/s · first token ${firstToken.toFixed(0)} ms`;
  note(answer, `${usage.completion_tokens} tokens, ${speed} tokens/s; prompt ${usage.prompt_tokens} tokens, ` +
    `${usage.prompt_tokens_details.cached_tokens} from the cache; first token ${firstToken.toFixed(0)} ms`);
}

function note(element, text) {
  const line = document.createElement("span");
  line.className = "note";
  line.textContent = text;
  element.append(line);
  scroll();
}

function busy(is) {
  $("send").disabled = is;
  $("stop").disabled = !is;
  if (!is) $("prompt").focus();
}

$("form").addEventListener("submit", (event) => {
  event.preventDefault();
  const text = $("prompt").value.trim();
  if (!text || running) return;
  $("prompt").value = "";
  send(text);
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
  conversation = [];
  $("messages").replaceChildren();
  $("speed").textContent = "";
  $("prompt").focus();
});
$("model").addEventListener("change", showCard);
for (const name of TABS) $(`tab-${name}`).addEventListener("click", () => openTab(name));
setUp({ headers, fail, eventsOf });
setUpTranslation({ headers, fail });
$("key").addEventListener("change", () => loadModels().catch((error) => addMessage("error", error.message)));

loadModels().catch((error) => addMessage("error", error.message));
$("prompt").focus();
