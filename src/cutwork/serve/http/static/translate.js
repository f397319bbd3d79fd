// The translate tab: sends lines, shows theirs in the other language.
const $ = (id) => document.getElementById(id);
const LINES = 64; // in one request
let running = null;

export function setUpTranslation({ headers, fail, reason }) {
  async function send() {
    const lines = $("source").value.replace(/\n+$/, "").split("\n");
    if (running || !lines.some((line) => line.trim())) return;
    running = new AbortController();
    busy(true);
    $("translated").textContent = "";
    $("translating").textContent = "translating…";
    const began = performance.now();
    let tokens = 0;
    try {
      for (let start = 0; start < lines.length; start += LINES) {
        const text = lines.slice(start, start + LINES);
        if (text.some((line) => line.trim())) tokens += await translate(text);
        else $("translated").textContent += "\n".repeat(text.length);
      }
      const seconds = (performance.now() - began) / 1000;
      $("translating").textContent = `${seconds.toFixed(1)} s · ${(tokens / seconds).toFixed(0)} tokens/s`;
    } catch (error) {
      $("translating").textContent = reason(error);
    }
    running = null;
    busy(false);
  }

  async function translate(text) {
    const body = { model: $("model").value, text };
    if ($("beams").value) body.num_beams = Number($("beams").value);
    if ($("prefix").value) body.prefix = $("prefix").value;
    if ($("from").value) body.source = $("from").value;
    if ($("to").value) body.target = $("to").value;
    const response = await fetch("translate", {
      method: "POST", headers: headers(), body: JSON.stringify(body), signal: running.signal,
    });
    if (!response.ok) throw await fail(response);
    const answer = await response.json();
    $("translated").textContent += answer.translations.map((each) => `${each.text}\n`).join("");
    return answer.usage.completion_tokens;
  }

  function busy(is) {
    $("turn").disabled = is;
    $("halt").disabled = !is;
  }

  $("foreign").addEventListener("submit", (event) => {
    event.preventDefault();
    send();
  });
  $("source").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
      event.preventDefault();
      $("foreign").requestSubmit();
    }
  });
  $("halt").addEventListener("click", () => running?.abort());
}
