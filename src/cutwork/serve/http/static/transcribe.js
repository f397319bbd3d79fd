// The transcribe tab: sends a recording, shows its text as it is found.
const $ = (id) => document.getElementById(id);
let running = null;

export function setUp({ headers, fail, reason, eventsOf }) {
  const show = (text) => { $("heard").textContent = text; };

  async function send() {
    const file = $("audio").files[0];
    if (!file || running) return;
    running = new AbortController();
    busy(true);
    show("");
    $("listening").textContent = "listening…";
    const began = performance.now();
    try {
      const form = new FormData();
      form.append("file", file, file.name);
      form.append("model", $("model").value);
      const kind = $("subtitles").value;
      const offered = (id) => !$(id).parentElement.hidden;
      const translate = offered("into-english") && $("into-english").checked;
      if (!translate && offered("language") && $("language").value) form.append("language", $("language").value);
      const live = kind === "text" && !translate;
      form.append("response_format", kind);
      if (live) form.append("stream", "true");
      const { "Content-Type": _, ...known } = headers();
      const response = await fetch(`v1/audio/${translate ? "translations" : "transcriptions"}`, {
        method: "POST", headers: known, body: form, signal: running.signal,
      });
      if (!response.ok) throw await fail(response);
      if (live) {
        let said = "";
        for await (const event of eventsOf(response)) {
          if (event.error) throw new Error(event.error.message);
          if (event.type === "transcript.text.delta") show(said += event.delta);
          if (event.type === "transcript.text.done") {
            show(event.text);
            told(event.usage.seconds, began);
          }
        }
      } else {
        show(await response.text());
        told(0, began);
      }
    } catch (error) {
      $("listening").textContent = reason(error);
    }
    running = null;
    busy(false);
  }

  function told(seconds, began) {
    const taken = (performance.now() - began) / 1000;
    const times = seconds ? ` · ${(seconds / taken).toFixed(1)}× real time` : "";
    $("listening").textContent = `${taken.toFixed(1)} s${times}`;
  }

  function busy(is) {
    $("listen").disabled = is;
    $("quit").disabled = !is;
  }

  $("hear").addEventListener("submit", (event) => {
    event.preventDefault();
    send();
  });
  $("quit").addEventListener("click", () => running?.abort());
}
