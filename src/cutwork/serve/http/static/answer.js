// One streamed answer: what is said, its thought and its calls folded, and how fast it came.
import { eventsOf, fail, headers } from "./server.js";

function make(name, kind, text = "") {
  const element = document.createElement(name);
  element.className = kind;
  element.textContent = text;
  return element;
}

export class Answer {
  // grown: called when the answer has become larger. told: called with a line about its speed.
  constructor(container, { grown = () => {}, told = () => {} } = {}) {
    this.element = make("div", "message assistant");
    this.saying = make("div", "said");
    this.element.append(this.saying);
    container.append(this.element);
    this.grown = grown;
    this.told = told;
    this.said = this.thought = "";
    this.calls = [];
  }

  get empty() {
    return !this.said && !this.thought && !this.calls.length;
  }

  // Ask, and show what comes. Throws what went wrong, an AbortError if it was stopped.
  async ask(path, body, signal) {
    const began = performance.now();
    let first = 0, count = 0, end = null;
    const response = await fetch(path, { method: "POST", headers: headers(), body: JSON.stringify(body), signal });
    if (!response.ok) throw await fail(response);
    const warning = response.headers.get("X-Cutwork-Warning");
    for await (const event of eventsOf(response)) {
      if (event.error) throw new Error(event.error.message);
      if (event.usage) end = event;
      if (!this.add(event.choices[0])) continue;
      first ||= performance.now();
      count += 1;
      this.grown();
      const seconds = (performance.now() - first) / 1000;
      const rate = seconds > 0.2 ? `${(count / seconds).toFixed(0)} tokens/s · ` : "";
      this.told(`${rate}first token ${(first - began).toFixed(0)} ms`);
    }
    this.fold();
    if (warning) this.note(warning);
    if (end) this.end(end, first - began);
  }

  // Show what a choice of an event adds; whether that is anything.
  add(choice) {
    const { content = "", reasoning = "", tool_calls: calls = [] } = choice?.delta ?? { content: choice?.text };
    if (reasoning) this.think(reasoning);
    if (content) {
      this.fold();
      this.said += content;
      this.saying.textContent = this.said;
    }
    for (const call of calls) this.call(call);
    return Boolean(content || reasoning || calls.length);
  }

  think(text) {
    if (!this.thinking) {
      this.thinking = make("details", "thought");
      this.thinking.append(make("summary", "", "Thinking…"), make("div", "said"));
      this.element.insertBefore(this.thinking, this.saying);
      this.thoughtBegan = performance.now();
    }
    this.thought += text;
    this.thinking.lastChild.textContent = this.thought;
  }

  // The thought has ended.
  fold() {
    if (!this.thoughtBegan) return;
    const seconds = (performance.now() - this.thoughtBegan) / 1000;
    this.thinking.firstChild.textContent = `Thought for ${seconds.toFixed(1)} s`;
    this.thoughtBegan = 0;
  }

  call({ id, function: { name, arguments: text } }) {
    this.fold();
    this.calls.push({ id, type: "function", function: { name, arguments: text } });
    const call = make("details", "call");
    call.append(make("summary", "", `Calls ${name}`), make("pre", "", text));
    this.element.append(call);
  }

  end({ usage, timings }, firstToken) {
    const speed = timings.predicted_per_second?.toFixed(0) ?? "–";
    this.told(`${speed} tokens/s · first token ${firstToken.toFixed(0)} ms`);
    const thought = usage.completion_tokens_details?.reasoning_tokens;
    this.note(`${usage.completion_tokens} tokens${thought ? ` (${thought} of them thought)` : ""}, ${speed} tokens/s; ` +
      `prompt ${usage.prompt_tokens} tokens, ${usage.prompt_tokens_details.cached_tokens} from the cache; ` +
      `first token ${firstToken.toFixed(0)} ms`);
  }

  note(text) {
    this.element.append(make("span", "note", text));
    this.grown();
  }

  // As a message of the conversation.
  message() {
    return { role: "assistant", content: this.said, ...(this.calls.length ? { tool_calls: this.calls } : {}) };
  }
}
