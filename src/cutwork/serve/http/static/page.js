// The page: talks to the same routes as any client.
import { setUpChat } from "./chat.js";
import { setUpComparison } from "./compare.js";
import { eventsOf, fail, headers, reason } from "./server.js";
import { setUp } from "./transcribe.js";
import { setUpTranslation } from "./translate.js";

const $ = (id) => document.getElementById(id);
const models = new Map();

async function loadModels() {
  const response = await fetch("v1/models", { headers: headers() });
  if (response.status === 401) {
    $("card").textContent = "This server wants an API key: enter it under Settings.";
    $("settings").open = true;
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
    card.encodings.join(", "), `context ${card.context}`, `${card.threads} thread${card.threads === 1 ? "" : "s"}`, card.isa];
  if (!card.loaded) parts.push("loaded when it is asked");
  if (card.embed) parts.push("makes vectors: POST /v1/embeddings");
  if (card.classify) parts.push("gives classes: POST /classify, /v1/rerank");
  $("card").textContent = parts.join(" · ");
  for (const element of document.querySelectorAll("[data-needs]")) element.hidden = !card[element.dataset.needs];
  chat.offer(card);
  drawAs(card.sampling ?? {});
  showTab(tabOf(card));
}

// As the model is meant to be drawn from, but what somebody has chosen stays.
function drawAs(own) {
  const usual = Object.keys(own).length ? { temperature: 1, top_p: 1, ...own } : { temperature: 0.7, top_p: 0.9 };
  for (const name of ["temperature", "top_p"]) if (!$(name).dataset.chosen) $(name).value = usual[name];
}

const TABS = ["chat", "compare", "translate", "transcribe"];
const tabOf = (card) => (card.transcribe ? "transcribe" : card.translate ? "translate" : card.embed || card.classify ? "" : "chat");

function showTab(chosen) {
  const kinds = new Set([...models.values()].map(tabOf).filter(Boolean));
  if (comparison.possible()) kinds.add("compare");
  $("tabs").hidden = kinds.size < 2;
  $("choice").hidden = $("card").hidden = chosen === "compare";
  $("settings").hidden = !["chat", "compare"].includes(chosen);
  for (const name of TABS) {
    $(name).hidden = name !== chosen;
    $(`tab-${name}`).hidden = !kinds.has(name);
    $(`tab-${name}`).setAttribute("aria-selected", name === chosen);
  }
  const entered = kinds.has(chosen) ? chosen : TABS.find((name) => kinds.has(name)); // by the keyboard
  for (const name of TABS) $(`tab-${name}`).tabIndex = name === entered ? 0 : -1;
}

function openTab(name) {
  if (name === "compare") {
    comparison.show();
    showTab(name);
    $("compare-prompt").focus();
    return;
  }
  const first = [...models].find(([, card]) => tabOf(card) === name);
  if (first && tabOf(models.get($("model").value)) !== name) $("model").value = first[0];
  showCard();
}

// Left and right go from tab to tab, as in other programs.
function moveTab(event) {
  const shown = TABS.filter((name) => !$(`tab-${name}`).hidden);
  const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
  if (!step) return;
  const next = shown[(shown.indexOf(event.target.id.slice(4)) + step + shown.length) % shown.length];
  openTab(next);
  $(`tab-${next}`).focus();
}

const comparison = setUpComparison(models);
const chat = setUpChat(() => ({ name: $("model").value, card: models.get($("model").value) }));
const load = () => loadModels().catch(chat.failed);
$("model").addEventListener("change", showCard);
for (const name of TABS) $(`tab-${name}`).addEventListener("click", () => openTab(name));
setUp({ headers, fail, reason, eventsOf });
setUpTranslation({ headers, fail, reason });
for (const name of ["temperature", "top_p"]) $(name).addEventListener("input", (event) => { event.target.dataset.chosen = true; });
$("tabs").addEventListener("keydown", moveTab);
$("key").addEventListener("change", load);

load();
$("prompt").focus();
