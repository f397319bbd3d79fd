"""The worst that one client was found to do, over and over; each of it once ended, stopped or starved all others."""

import json
import random
import socket
import struct
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit

import httpx

from benchmarks.serving.hostile import HALF, hostile

SCHEMA = {"type": "object", "properties": {f"p{i}": {} for i in range(2500)}}
LONG = 8_300_000  # bytes of a body, just within what is read


class Worst:
    """One hostile client of the server at `url`, with a key of its own, until a time."""

    def __init__(self, url: str, key: str, model: str, speech: str | None, seed: int, until: float) -> None:
        self.url, self.model, self.speech, self.until = url, model, speech, until
        self.chance = random.Random(seed)
        self.codes: Counter[str] = Counter()
        self.headers = {"Authorization": f"Bearer {key}"}
        self.client = httpx.Client(base_url=url, timeout=120, headers=self.headers)
        self.held: list[socket.socket] = []

    def run(self) -> dict[str, int]:
        """Do one of it after the other; returns how many of each had which status."""
        deeds: list[Callable[[], None]] = [
            self.odd_numbers, self.schemas, self.grammars, self.long_texts, self.small_values, self.many_messages,
            self.logprobs, self.echoes, self.endless_headers, self.unfinished_bodies, self.flood, self.leave,
            self.many_choices, self.long_prompts, self.anything,
            *([self.recordings] if self.speech else []),
        ]  # fmt: skip
        while time.time() < self.until:
            self.chance.choice(deeds)()
        for each in self.held:
            each.close()
        return dict(sorted(self.codes.items()))

    def post(self, what: str, path: str, timeout: float = 120, **body: Any) -> None:
        """A request; an answer that takes longer than the siege is not waited for."""
        content = json.dumps({"model": self.model, **body}).encode()
        left = max(0.1, min(timeout, self.until - time.time()))
        headers = {"Content-Type": "application/json"}
        try:
            code = str(self.client.post(path, content=content, headers=headers, timeout=left).status_code)
        except httpx.TimeoutException:
            code = "left"
        except httpx.HTTPError as error:
            code = type(error).__name__
        self.codes[f"{what}: {code}"] += 1

    def odd_numbers(self) -> None:
        for odd in ({"temperature": 1e-300, "top_p": 0.9}, {"temperature": 1e-38, "min_p": 0.5}, {"priority": -1000}):
            self.post("odd numbers", "/v1/completions", prompt="a", max_tokens=20, **odd)
        self.post("half characters", "/v1/completions", prompt=HALF)

    def schemas(self) -> None:
        form = {"type": "json_schema", "json_schema": {"name": "s", "schema": SCHEMA}}
        self.post("schemas", "/v1/completions", prompt=["a"] * 64, n=4, max_tokens=2, response_format=form)

    def grammars(self) -> None:
        self.post("grammars", "/v1/completions", prompt="a", max_tokens=2, grammar="\n" * 60_000 + 'root ::= "a"')

    def small_values(self) -> None:
        self.post("small values", "/v1/completions", prompt=[[1] * 4000] * 680)
        call = {"type": "function", "id": "a", "function": {"name": "f", "arguments": f"[{'[],' * 2_000_000}[]]"}}
        messages = [{"role": "user", "content": "a"}, {"role": "assistant", "tool_calls": [call]}]
        self.post("small values", "/v1/chat/completions", messages=messages, max_tokens=1)

    def echoes(self) -> None:
        self.post("echoes", "/v1/completions", prompt=[[5] * 500] * 64, n=16, echo=True, max_tokens=0)

    def long_texts(self) -> None:
        text = self.chance.choice(["ab", "7", " ", "é", "\n"])
        self.post("long texts", "/tokenize", prompt=text * (LONG // len(json.dumps(text)[1:-1])))

    def many_messages(self) -> None:
        self.post("many messages", "/v1/chat/completions", messages=[{"role": "user", "content": "a"}] * 200_000)
        messages = [{"role": "user", "content": "a" * 100}] * 1000
        self.post("many messages", "/v1/chat/completions", messages=messages, max_tokens=1)

    def logprobs(self) -> None:
        prompts = [[(i * 7 + j) % 250 for j in range(200)] for i in range(60)]
        self.post("logprobs", "/v1/completions", prompt=prompts, echo=True, max_tokens=0, logprobs=20)

    def endless_headers(self) -> None:
        with self._connected() as connection, suppress(OSError):
            connection.sendall(b"GET / HTTP/1.1\r\nX: ")
            for _ in range(300):
                connection.sendall(b"a" * 65536)

    def unfinished_bodies(self) -> None:
        head = "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        head += "".join(f"{name}: {value}\r\n" for name, value in self.headers.items())
        for _ in range(20):
            with suppress(OSError):
                connection = self._connected()
                self.held = [*self.held, connection][-300:]
                kind = self.chance.randrange(3)
                connection.sendall(head[: 40 if kind == 0 else None].encode())
                if kind == 2:
                    connection.sendall(b"Content-Length: 8000000\r\n\r\n" + b"[" * 2_000_000)
        self.codes["unfinished bodies"] += 20

    def flood(self) -> None:
        for i in range(100):
            spoofed = {"Authorization": f"Bearer {i}", "Content-Type": "application/json"}
            with suppress(httpx.HTTPError):
                answer = self.client.post("/v1/completions", content=b'{"prompt": "a"}', headers=spoofed, timeout=10)
                self.codes[f"flood: {answer.status_code}"] += 1

    def leave(self) -> None:
        for _ in range(20):
            body = {"model": self.model, "prompt": "a b c", "max_tokens": 500, "stream": True}
            with suppress(httpx.HTTPError), self.client.stream("POST", "/v1/completions", json=body, timeout=10) as got:
                next(got.iter_raw(), b"")
            self.codes["left early"] += 1

    def many_choices(self) -> None:
        more = {"prompt": ["a"] * 16, "n": 16, "max_tokens": 60, "temperature": 2, "ignore_eos": True}
        self.post("many choices", "/v1/completions", **more)

    def long_prompts(self) -> None:
        prompts = [[self.chance.randrange(3, 250) for _ in range(900)] for _ in range(16)]
        self.post("long prompts", "/v1/completions", prompt=prompts, max_tokens=8)

    def anything(self) -> None:
        done = hostile(self.url, 20, self.chance.getrandbits(32), self.headers)
        self.codes.update({f"anything: {code}": count for code, count in done["codes"].items()})

    def recordings(self) -> None:
        rate, channels, frames = 655_350, 8, 3600 * 655_350
        info = struct.pack(">HH", 65535, 65535) + bytes(6)
        info += ((rate << 44) | ((channels - 1) << 41) | (15 << 36) | frames % (1 << 36)).to_bytes(8, "big") + bytes(16)
        for content in (b"fLaC\x80\0\0\x22" + info, b"RIFF" + b"\xff" * 60_000_000):
            files, form = {"file": ("a.flac", content)}, {"model": str(self.speech)}
            with suppress(httpx.HTTPError):
                answer = self.client.post("/v1/audio/transcriptions", files=files, data=form)
                self.codes[f"recordings: {answer.status_code}"] += 1

    def _connected(self) -> socket.socket:
        parts = urlsplit(self.url)
        return socket.create_connection((parts.hostname, parts.port), timeout=10)
