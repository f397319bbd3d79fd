"""Requests made to do harm, at random: half characters, depth, odd numbers, tools, recordings that are none, bodies and
headers that never end. What a schema's generator never makes."""

import json
import random
import socket
import struct
import threading
import time
from collections import Counter
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit

import httpx

HALF = "\ud800"
NASTY: list[Any] = [
    None, True, 0, -1, 1 << 70, 1e308, 5e-324, 1e-300, float("nan"), "", "x", HALF, "\0", [], {}, [[]], ["a"],
    {"a": HALF}, "x" * 100_000, [1] * 5000, {HALF: 1}, {"type": "json_object"},
    {"type": "json_schema", "json_schema": {"schema": {"type": "string", "pattern": "("}}},
    {"type": "json_schema", "json_schema": {"schema": {"properties": {f"p{i}": {} for i in range(900)}}}},
]  # fmt: skip
BOTH = [
    "model", "n", "max_tokens", "temperature", "top_p", "top_k", "min_p", "presence_penalty", "frequency_penalty",
    "repetition_penalty", "logit_bias", "seed", "stop", "stream", "stream_options", "response_format", "ignore_eos",
    "skip_special_tokens", "priority", "logprobs",
]  # fmt: skip
# Of each route: a body that is answered, and the fields that are replaced by something odd.
ROUTES: dict[str, tuple[dict[str, Any], list[str]]] = {
    "/v1/completions": ({"prompt": "a"}, [*BOTH, "prompt", "echo", "suffix", "best_of", "nobody knows it"]),
    "/v1/chat/completions": (
        {},
        [*BOTH, "messages", "tools", "tool_choice", "top_logprobs", "max_completion_tokens", "parallel_tool_calls",
         "chat_template_kwargs", "enable_thinking", "reasoning_effort", "thinking_budget", "include_reasoning",
         "reasoning_format"],
    ),
    "/v1/responses": (
        {"input": "a", "max_output_tokens": 2},
        ["input", "instructions", "max_output_tokens", "reasoning", "text", "tools", "tool_choice", "include",
         "truncation", "previous_response_id", "stream", "temperature", "top_p"],
    ),
    "/v1/messages": (
        {"max_tokens": 2},
        ["messages", "system", "max_tokens", "tools", "tool_choice", "thinking", "output_config", "stop_sequences",
         "stream", "temperature", "top_k", "top_p"],
    ),
    "/infill": (
        {"input_prefix": "a", "input_suffix": "b", "n_predict": 2},
        ["input_prefix", "input_suffix", "prompt", "input_extra", "n_predict", "stop", "seed", "samplers", "stream"],
    ),
    "/tokenize": ({"prompt": "a"}, ["prompt", "messages", "model", "add_special_tokens"]),
    "/detokenize": ({"tokens": [1, 2]}, ["tokens", "model"]),
    "/translate": ({"text": "a"}, ["text", "num_beams", "length_penalty", "prefix", "max_tokens", "model"]),
}  # fmt: skip


def hostile(url: str, count: int, seed: int, headers: dict[str, str] | None = None) -> dict[str, Any]:
    """Send so many requests; how many had which status, and the first of those that ended in a 5xx (but for 503)."""
    chance, codes, wrong = random.Random(seed), Counter[str](), []
    held: list[socket.socket] = []
    with httpx.Client(base_url=url, timeout=60, headers=headers) as client:
        for number in range(count):
            if number % 50 == 0:
                held = [*held, _unfinished(url, chance)][-40:]
            route, content, kind = _recording(chance) if number % 10 == 0 else _json(chance)
            try:
                answer = client.post(route, content=content, headers=kind)
                code, text = str(answer.status_code), answer.text
            except httpx.HTTPError as error:
                code, text = type(error).__name__, str(error)
            codes[code] += 1
            if code not in ("200", "400", "404", "413", "429", "503") or "server failed" in text:
                wrong.append(f"{code} {route} {content[:200]!r}")
    for connection in held:
        connection.close()
    return {"requests": count, "seed": seed, "codes": dict(codes), "wrong": wrong[:10]}


def ask_health(url: str, stop: threading.Event, asked: list[float]) -> None:
    """Ask whether the server lives until told to stop, and note how long each answer took."""
    with httpx.Client(base_url=url, timeout=60) as client:
        while not stop.is_set():
            began = time.monotonic()
            client.get("/health/live").raise_for_status()
            asked.append(time.monotonic() - began)
            time.sleep(0.02)


def _json(chance: random.Random) -> tuple[str, bytes, dict[str, str]]:
    route = chance.choice(list(ROUTES))
    base, fields = ROUTES[route]
    body = dict(base)
    if "max_tokens" in fields:
        body["max_tokens"] = chance.choice([1, 2, 5])
    if "messages" in fields:
        call = {"function": {"name": "f", "arguments": chance.choice(["{}", '{"a": "\\ud800"}', {"a": HALF}, {}])}}
        body["messages"] = [
            {"role": "user", "content": chance.choice(["hi", "", HALF, [{"type": "text", "text": "x"}]])},
            *([{"role": "assistant", "tool_calls": [call]}] if chance.random() < 0.3 else ()),
        ]
        body.pop("prompt", None)
    if route == "/v1/chat/completions" and chance.random() < 0.3:
        parameters = chance.choice([{}, {"type": "object"}, {"description": HALF}, {"x": "x" * 80_000}, {"DEEP": 1}])
        body["tools"] = [{"function": {"name": "f", "parameters": parameters}}]
        body["tool_choice"] = chance.choice(["auto", "required", "none", {"function": {"name": "f"}}])
    for _ in range(chance.choice([0, 1, 1, 2, 3])):
        body[chance.choice(fields)] = chance.choice(
            [chance.choice(NASTY), chance.random() * 2, chance.randrange(-3, 30)]
        )
    levels = chance.choice([20, 60, 500, 950, 5000])
    text = json.dumps(body).replace('{"DEEP": 1}', '{"a":' * levels + "1" + "}" * levels)
    return route, text.encode(), {"Content-Type": "application/json"}


def _recording(chance: random.Random) -> tuple[str, bytes, dict[str, str]]:
    rate, channels = chance.choice([0, 1, 16_000, 1 << 31]), chance.choice([0, 1, 8, 65535])
    head = struct.pack("<HHIIHH", 1, channels, rate, rate & 0xFFFF, 2, 16)
    wave = b"RIFF\xff\xff\xff\xffWAVEfmt " + struct.pack("<I", 16) + head + b"data\xff\xff\xff\x7f" + bytes(4000)
    info = bytes(6) + (
        (chance.choice([16_000, 655_350]) << 44) | (7 << 41) | (15 << 36) | chance.getrandbits(36)
    ).to_bytes(8, "big")
    flac = b"fLaC\x80\0\0\x22\x10\0\x10\0" + info + bytes(16)
    sound = chance.choice([b"", wave, flac, chance.randbytes(2000)])
    body = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n' + sound + b"\r\n--x--\r\n"
    return "/v1/audio/transcriptions", body, {"Content-Type": "multipart/form-data; boundary=x"}


def _unfinished(url: str, chance: random.Random) -> socket.socket:
    """A connection that sends nothing, half a header, or a body without its end."""
    parts = urlsplit(url)
    connection = socket.create_connection((parts.hostname, parts.port), timeout=10)
    head = f"POST /v1/completions HTTP/1.1\r\nHost: {parts.netloc}\r\nContent-Type: application/json\r\n".encode()
    body = b"Content-Length: 4000000\r\n\r\n" + b"[" * 2_000_000
    with suppress(OSError):
        connection.sendall(chance.choice([b"", head, head + body]))
    return connection
