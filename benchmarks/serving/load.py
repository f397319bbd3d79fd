"""Many clients at once: 64 streams of mixed lengths against `cutwork serve` and against llama.cpp's server.

    python -m benchmarks.serving.load --tokenizer DIR --minutes 10
    python -m benchmarks.serving.load --tokenizer DIR --llama BUILD --llama-source SOURCE --minutes 3

Random weights of TinyLlama-1.1B's shape: 75% zeros in int8 here, dense Q8_0 and Q4_0 there. Every server gets the same
requests (prompts of 16 to 512 tokens, answers of 16 to 128) from clients that ask again as soon as they are answered,
and first, for a while, from one client alone. Servers take turns of `--turn` minutes until each has had `--minutes`.
Leaves serving.json in results/.
"""

import argparse
import asyncio
import os
import random
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from statistics import quantiles
from typing import Any

import httpx
from transformers import AutoTokenizer

from benchmarks.common import random_checkpoint as models
from benchmarks.common.provenance import llama_cpp
from benchmarks.common.results import RESULTS, resume, save
from benchmarks.common.shapes import SHAPES

PROMPTS, ANSWERS = (16, 512), (16, 128)  # tokens, from and to, evenly in their logarithms
CONTEXT = 1024


@dataclass
class Seen:
    """What the clients saw of a server."""

    seconds: float = 0
    answers: int = 0
    prompt_tokens: int = 0
    tokens: int = 0
    refused: int = 0
    errors: list[str] = field(default_factory=list)
    first: list[float] = field(default_factory=list)  # seconds from the request to the first token
    between: list[float] = field(default_factory=list)  # seconds between pieces of a stream
    rss: list[float] = field(default_factory=list)  # MB, every ten seconds

    def summary(self) -> dict[str, Any]:
        """As it is written down."""
        return {
            "seconds": round(self.seconds, 1),
            "answers": self.answers,
            "tokens_per_second": round(self.tokens / self.seconds, 1),
            "prompt_tokens_per_second": round(self.prompt_tokens / self.seconds, 1),
            "refused": self.refused,
            "errors": len(self.errors),
            "error": self.errors[0] if self.errors else None,
            "first_token_s": _percentiles(self.first),
            "inter_token_s": _percentiles(self.between),
            "rss_mb": [round(value) for value in self.rss],
        }


class Asker:
    """Requests in a fixed order, whoever asks: the i-th is the same for every server."""

    def __init__(self, tokenizer: Any, seed: int) -> None:
        self._random = random.Random(seed)
        self._words = [token for token in range(1000, len(tokenizer) - 1)]
        self._decode = tokenizer.decode

    def next(self) -> dict[str, Any]:
        length, answer = (round(_between(self._random, *span)) for span in (PROMPTS, ANSWERS))
        prompt = self._random.choices(self._words, k=length)
        return {"prompt": prompt, "max_tokens": answer, "temperature": 0, "stream": True, "ignore_eos": True}


def _between(source: random.Random, low: int, high: int) -> float:
    """Evenly distributed in its logarithm."""
    return float(low * (high / low) ** source.random())


class Server:
    """A server in a process of its own."""

    def __init__(self, name: str, command: Callable[[int], list[str]]) -> None:
        self.name, self.command = name, command
        self.shown = [Path(part).name if Path(part).is_absolute() else part for part in command(0)]
        self.loaded, self.alone = Seen(), Seen()

    def turn(self, asker: Asker, streams: int, seconds: float, seen: Seen) -> None:
        """Start it, let clients ask for so long, end it."""
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        process = subprocess.Popen(self.command(port), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            asyncio.run(_clients(f"http://127.0.0.1:{port}", process.pid, asker, streams, seconds, seen))
        finally:
            process.terminate()
            process.wait()


async def _clients(url: str, pid: int, asker: Asker, streams: int, seconds: float, seen: Seen) -> None:
    limits = httpx.Limits(max_connections=streams + 4, max_keepalive_connections=0)  # no stale ones
    async with httpx.AsyncClient(base_url=url, timeout=600, limits=limits) as client:
        await _ready(client)
        start = time.perf_counter()
        end = start + seconds
        watch = asyncio.create_task(_watch(pid, seen))
        await asyncio.gather(*(_client(client, asker, end, seen) for _ in range(streams)))
        watch.cancel()
        seen.seconds += seconds


async def _ready(client: httpx.AsyncClient) -> None:
    for _ in range(1200):
        try:
            if (await client.post("/v1/completions", json={"prompt": "a", "max_tokens": 1})).status_code == 200:
                return
        except httpx.TransportError:
            pass
        await asyncio.sleep(0.1)
    raise SystemExit("the server did not start")


async def _watch(pid: int, seen: Seen) -> None:
    page = os.sysconf("SC_PAGE_SIZE")
    while True:
        seen.rss.append(int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * page / 1e6)
        await asyncio.sleep(10)


async def _client(client: httpx.AsyncClient, asker: Asker, end: float, seen: Seen) -> None:
    while time.perf_counter() < end:
        request = asker.next()
        asked = last = time.perf_counter()
        tokens = 0
        try:
            async with client.stream("POST", "/v1/completions", json=request) as response:
                if response.status_code == 429:
                    seen.refused += 1
                    await asyncio.sleep(float(response.headers.get("retry-after", 1)))
                    continue
                if response.status_code != 200:
                    seen.errors.append(f"{response.status_code}: {(await response.aread())[:200]!r}")
                    continue
                async for line in response.aiter_lines():
                    if not line.startswith("data: {"):
                        continue
                    now = time.perf_counter()
                    if now > end:
                        return
                    if not tokens:
                        seen.first.append(now - asked)
                        seen.prompt_tokens += len(request["prompt"])
                    else:
                        seen.between.append(now - last)
                    last = now
                    tokens += 1
                    seen.tokens += 1
            seen.answers += 1
        except httpx.HTTPError as error:
            seen.errors.append(repr(error))


def _percentiles(values: list[float]) -> dict[str, float]:
    if len(values) < 2:
        return {}
    cuts = quantiles(values, n=100)
    return {f"p{p}": round(cuts[p - 1], 4) for p in (50, 95, 99)}


def servers(options: argparse.Namespace) -> list[Server]:
    """Those that can be run here."""
    make = (options.work, "llama-1.1b", models.llama(SHAPES["1.1b"]), options.tokenizer)
    sparse = models.packed(*make, options.sparsity)
    threads = str(options.threads)

    def cutwork(path: Path) -> Callable[[int], list[str]]:
        limits = ["--context", str(CONTEXT), "--max-batch", str(options.streams), "--threads", threads]
        limits += ["--cache-mb", str(options.cache_mb)]
        program = str(Path(sys.executable).with_name("cutwork"))
        return lambda port: [program, "serve", str(path), "--port", str(port), *limits, *options.cutwork_option]

    found = [Server(f"cutwork int8 {round(100 * options.sparsity)}%", cutwork(sparse))]
    if options.llama:
        found += [
            Server(
                f"llama-server {kind}",
                _llama_server(options, models.gguf(*make, kind, options.llama, options.llama_source)),
            )
            for kind in ("Q8_0", "Q4_0")
        ]
    return found


def _llama_server(options: argparse.Namespace, path: Path) -> Callable[[int], list[str]]:
    threads = str(options.threads)
    size = ["-np", str(options.streams), "-c", str(options.streams * CONTEXT), "-t", threads, "-tb", threads]
    program = str(options.llama / "bin" / "llama-server")
    return lambda port: [program, "-m", str(path), "--port", str(port), "--no-webui", *size]


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokenizer", type=Path, required=True, help="a model directory whose tokenizer is used")
    parser.add_argument("--minutes", type=float, default=10, help="under load, for each server")
    parser.add_argument("--turn", type=float, default=10, help="minutes at a time")
    parser.add_argument("--alone", type=float, default=0.5, help="minutes with one client")
    parser.add_argument("--streams", type=int, default=64)
    parser.add_argument("--sparsity", type=float, default=0.75)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--llama", type=Path, help="a build of llama.cpp, with bin/llama-server")
    parser.add_argument("--llama-source", type=Path, help="its source tree")
    parser.add_argument("--cache-mb", type=int, default=1024, help="KV cache of `cutwork serve`")
    parser.add_argument("--cutwork-option", action="append", default=[], help="for `cutwork serve`; may be repeated")
    parser.add_argument("--only", help="servers whose names contain it; the file keeps the others")
    parser.add_argument("--work", type=Path, default=Path("build/serving"))
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    tokenizer = AutoTokenizer.from_pretrained(options.tokenizer)
    measured = [server for server in servers(options) if not options.only or options.only in server.name]
    for server in measured:
        server.turn(Asker(tokenizer, 1), 1, 60 * options.alone, server.alone)
    askers = {server.name: Asker(tokenizer, 2) for server in measured}
    for turn in range(round(options.minutes / options.turn + 0.499)):
        for server in measured:
            print(f"turn {turn + 1}: {server.name}", file=sys.stderr, flush=True)
            server.turn(askers[server.name], options.streams, 60 * options.turn, server.loaded)
    path = options.results / "serving.json"
    before = resume(path).get("servers", {}) if options.only else {}
    found = before | {
        s.name: {"load": s.loaded.summary(), "alone": s.alone.summary(), "command": s.shown} for s in measured
    }
    content = {"streams": options.streams, "servers": found}
    print(table(save(path, content, threads=options.threads, versions=llama_cpp(options.llama))))


def table(result: dict[str, Any]) -> str:
    """Under load; seconds."""
    lines = [
        "| server | minutes, answers | tokens/s | × one client | first token p50 / p95 / p99 | next p50 / p95 / p99 "
        "| 429 | errors | RSS MB |",
        "|---|--:|--:|--:|---|---|--:|--:|---|",
    ]
    for name, row in result["servers"].items():
        load, alone = row["load"], row["alone"]
        first, between = (" / ".join(f"{v:.3g}" for v in load[k].values()) for k in ("first_token_s", "inter_token_s"))
        gain = load["tokens_per_second"] / max(alone["tokens_per_second"], 1e-9)
        memory = f"{load['rss_mb'][min(1, len(load['rss_mb']) - 1)]} to {load['rss_mb'][-1]}"
        lines.append(
            f"| {name} | {load['seconds'] / 60:g}, {load['answers']:,} | {load['tokens_per_second']} | {gain:.2f} "
            f"| {first} | {between} | {load['refused']} | {load['errors']} | {memory} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
