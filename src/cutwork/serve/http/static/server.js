// What every tab asks the server with.
const $ = (id) => document.getElementById(id);

export function headers() {
  const key = $("key").value;
  return { "Content-Type": "application/json", ...(key ? { Authorization: `Bearer ${key}` } : {}) };
}

export async function fail(response) {
  let message = `${response.status} ${response.statusText}`;
  try {
    message = (await response.json()).error.message;
  } catch {}
  return new Error(message);
}

// Words for what ended a request. Of a lost connection browsers say "Failed to fetch", "network error" or "Load failed".
export function reason(error) {
  if (error.name === "AbortError") return "stopped";
  return error instanceof TypeError ? "The connection to the server is lost; is it still running?" : error.message;
}

export async function* eventsOf(response) {
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
