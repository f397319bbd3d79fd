// The compare tab: one prompt, two models, both answers beside each other.
import { Answer } from "./answer.js";
import { opening, settings } from "./chat.js";
import { offer } from "./examples.js";
import { reason } from "./server.js";

const $ = (id) => document.getElementById(id);
const SIDES = ["left", "right"];
let running = null;

// models: cards by name, filled later. Returns what to call once they are there.
export function setUpComparison(models) {
  const able = () => [...models].filter(([, card]) => !card.transcribe && !card.translate && !card.embed && !card.classify);

  function show() {
    able().length > 1 && SIDES.forEach((side, place) => {
      const chosen = $(`model-${side}`).value;
      $(`model-${side}`).replaceChildren(...able().map(([name]) => new Option(name, name)));
      $(`model-${side}`).value = models.has(chosen) ? chosen : able()[place][0];
      describe(side);
    });
    offer($("compare-examples"), models.get($("model-left").value), ask);
  }

  function describe(side) {
    const card = models.get($(`model-${side}`).value);
    $(`card-${side}`).textContent = `${(100 * card.sparsity).toFixed(0)}% zeros · ${card.megabytes.toFixed(0)} MB · ` +
      card.encodings.join(", ");
  }

  async function one(side, text) {
    const name = $(`model-${side}`).value;
    const card = models.get(name);
    const shared = { model: name, ...settings(card) };
    const [path, body] = card.chat
      ? ["v1/chat/completions", { ...shared, messages: [...opening(), { role: "user", content: text }] }]
      : ["v1/completions", { ...shared, prompt: text }];
    const answer = new Answer($(`answer-${side}`), { told: (line) => { $(`speed-${side}`).textContent = line; } });
    try {
      await answer.ask(path, body, running.signal);
    } catch (error) {
      answer.note(reason(error));
    }
    answer.fold();
  }

  async function ask(text) {
    if (!text || running) return;
    running = new AbortController();
    busy(true);
    $("question").textContent = text;
    for (const side of SIDES) {
      $(`answer-${side}`).replaceChildren();
      $(`speed-${side}`).textContent = "";
    }
    if ($("in-turn").checked) for (const side of SIDES) await one(side, text);
    else await Promise.all(SIDES.map((side) => one(side, text)));
    running = null;
    busy(false);
  }

  function busy(is) {
    $("compare-send").disabled = is;
    $("compare-stop").disabled = !is;
    $("compare-examples").hidden = true;
    if (!is) $("compare-prompt").focus();
  }

  $("compare-form").addEventListener("submit", (event) => {
    event.preventDefault();
    const text = $("compare-prompt").value.trim();
    if (running || !text) return;
    $("compare-prompt").value = "";
    ask(text);
  });
  $("compare-prompt").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
      event.preventDefault();
      $("compare-form").requestSubmit();
    }
  });
  $("compare-stop").addEventListener("click", () => running?.abort());
  for (const side of SIDES) $(`model-${side}`).addEventListener("change", () => describe(side));
  return { show, possible: () => able().length > 1 };
}
