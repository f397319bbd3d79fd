"""Many streams with one hostile client beside them: none may end early or stall, and memory stays flat.

    python -m benchmarks.serving.siege --minutes 10
    python -m benchmarks.serving.siege --minutes 10 --model out/packed --speech openai/whisper-tiny

Without --model a tiny random one is served. Honest clients ask again as soon as they are answered, each for an answer
of a known length; the hostile one, in a process of its own and with another key, does what worst.py lists. Leaves
siege.json in results/; exits with 1 if a stream failed or stalled for more than `--stall` seconds, if anything was a
5xx that must not be, if health took more than 100 ms in more than one of a hundred cases, or memory grew.
"""

import argparse
import asyncio
import json
import multiprocessing
import os
import re
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import httpx

from benchmarks.common.random_checkpoint import write_tiny_llama
from benchmarks.common.results import RESULTS, save
from benchmarks.serving.hostile import ask_health
from benchmarks.serving.worst import Worst

HONEST, HOSTILE = "an-honest-key", "a-hostile-key"
ANSWERS = (20, 200)  # tokens, from and to
GROWTH = 1.1  # memory at the end, of what it was at a third of the time
MAY_BE = ("503", "504", "left")


class Streams:
    """What the honest clients saw."""

    def __init__(self) -> None:
        self.answers = self.refused = 0
        self.wrong: list[str] = []
        self.first: list[float] = []  # seconds to the first piece
        self.stalls: list[float] = []  # the longest wait between two pieces, of each answer

    async def client(self, number: int, url: str, model: str, until: float) -> None:
        """Ask again and again."""
        headers = {"Authorization": f"Bearer {HONEST}"}
        async with httpx.AsyncClient(base_url=url, timeout=120, headers=headers) as client:
            asked = 0
            while time.time() < until:
                length = ANSWERS[0] + (37 * number + 61 * asked) % (ANSWERS[1] - ANSWERS[0])
                asked += 1
                body = {"model": model, "prompt": f"client {number}, question {asked}", "max_tokens": length}
                body |= {"temperature": 0, "ignore_eos": True, "stream": True}
                try:
                    await self._answer(client, body)
                except httpx.HTTPError as error:
                    self.wrong.append(f"client {number}: {type(error).__name__}")

    async def _answer(self, client: httpx.AsyncClient, body: dict[str, Any]) -> None:
        began = last = time.monotonic()
        pieces, longest, end, reason = 0, 0.0, "", ""
        async with client.stream("POST", "/v1/completions", json=body) as answer:
            if answer.status_code == 429:
                self.refused += 1
                await asyncio.sleep(1)
                return
            if answer.status_code != 200:
                self.wrong.append(f"{answer.status_code}: {(await answer.aread())[:200]!r}")
                return
            async for line in answer.aiter_lines():
                if not line:
                    continue
                now = time.monotonic()
                if pieces:
                    longest = max(longest, now - last)
                else:
                    self.first.append(now - began)
                pieces, last, end = pieces + 1, now, line
                if "error" in line or '"finish_reason":"length"' in line.replace(" ", ""):
                    reason = line
        if end != "data: [DONE]" or "length" not in reason:
            self.wrong.append(f"a stream ended after {pieces} pieces with {end[:200]}")
        self.answers += 1
        self.stalls.append(longest)


def besiege(pipe: Any, *given: Any) -> None:
    """The hostile client's process."""
    pipe.send(Worst(*given).run())


def table(result: dict[str, Any]) -> str:
    """What the honest streams, health and memory came to."""
    memory = result["memory_mb"]
    asked = sum(result["hostile"].values())
    return (
        "| minutes | streams | answers | wrong | longest stall | hostile requests | 5xx | health, p99 | "
        "memory, a third in / end |\n"
        "|--:|--:|--:|--:|--:|--:|--:|--:|--:|\n"
        f"| {result['minutes']:g} | {result['streams']} | {result['answers']:,} | {len(result['wrong'])} | "
        f"{result['longest_stall_s']:.1f} s | {asked:,} | {len(result['server_errors'])} | "
        f"{result['health_p99_ms']:.0f} ms | {memory[len(memory) // 3]} / {memory[-1]} MB |"
    )


def main() -> int:
    """Serve, besiege, look at what the others saw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--streams", type=int, default=64)
    parser.add_argument("--stall", type=float, default=2.0, help="seconds that a stream may pause")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--model", type=Path, help="a model directory")
    parser.add_argument("--speech", type=Path, help="a model directory that hears speech, served beside it")
    parser.add_argument("--cutwork-option", action="append", default=[], help="for `cutwork serve`; may be repeated")
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        model = options.model or Path(work) / "tiny"
        if not options.model:
            write_tiny_llama(model)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        served = [f"honest={model}", *([f"speech={options.speech}"] if options.speech else [])]
        command = [str(Path(sys.executable).with_name("cutwork")), "serve", *served, "--port", str(port)]
        command += ["--api-key", HONEST, "--api-key", HOSTILE, "--max-batch", str(options.streams + 8)]
        server = subprocess.Popen([*command, *options.cutwork_option], stderr=subprocess.DEVNULL)
        try:
            return siege(options, f"http://127.0.0.1:{port}", server.pid)
        finally:
            server.terminate()
            server.wait()


def siege(options: argparse.Namespace, url: str, pid: int) -> int:
    """Let all of them ask for so long."""
    _wait_until_ready(url)
    seconds = 60 * options.minutes
    until = time.time() + seconds
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    given = (url, HOSTILE, "honest", "speech" if options.speech else None, options.seed, until)
    hostile = context.Process(target=besiege, args=(theirs, *given))
    hostile.start()
    stop, asked, memory = threading.Event(), list[float](), list[int]()
    watch = threading.Thread(target=ask_health, args=(url, stop, asked))
    watch.start()
    load = os.getloadavg()[0]
    streams = Streams()

    async def all_of_them() -> None:
        clients = (streams.client(i, url, "honest", until) for i in range(options.streams))
        watched = asyncio.create_task(_watch(pid, memory))
        await asyncio.gather(*clients)
        watched.cancel()

    asyncio.run(all_of_them())
    harm: dict[str, int] = ours.recv()
    hostile.join()
    stop.set()
    watch.join()
    time.sleep(3)
    headers = {"Authorization": f"Bearer {HONEST}"}
    metrics = httpx.get(f"{url}/metrics", headers=headers).text
    left = sum(map(float, re.findall(r"^cutwork:num_requests_(?:running|waiting){.*?} (\S+)$", metrics, re.MULTILINE)))
    third = memory[len(memory) // 3 : len(memory) // 3 + 3]
    codes = Counter({deed: count for deed, count in harm.items()})
    found = {
        "minutes": options.minutes,
        "streams": options.streams,
        "answers": streams.answers,
        "refused": streams.refused,
        "wrong": streams.wrong[:10],
        "longest_stall_s": round(max(streams.stalls, default=0), 3),
        "stalls": sum(stall > options.stall for stall in streams.stalls),
        "first_piece_p99_s": round(_percentile(streams.first, 0.99), 3),
        "hostile": harm,
        "server_errors": [deed for deed in codes if re.search(r": 5\d\d$", deed) and not deed.endswith(MAY_BE)],
        "health_p99_ms": round(1e3 * _percentile(asked, 0.99), 1),
        "health_longest_ms": round(1e3 * max(asked), 1),
        "memory_mb": memory,
        "still_running": left,
        "load_before": load,
    }
    grown = bool(third) and memory[-1] > GROWTH * max(third)
    save(options.results / "siege.json", found)
    print(json.dumps(found, indent=1))
    bad = streams.wrong or found["stalls"] or found["server_errors"] or grown or left or not streams.answers
    return int(bool(bad) or found["health_p99_ms"] > 100)


async def _watch(pid: int, memory: list[int]) -> None:
    while True:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        memory.append(round(pages * os.sysconf("SC_PAGE_SIZE") / 1e6))
        await asyncio.sleep(5)


def _wait_until_ready(url: str) -> None:
    for _ in range(600):
        try:
            httpx.get(f"{url}/health/ready").raise_for_status()
            return
        except httpx.HTTPError:
            time.sleep(0.2)
    sys.exit("the server did not start")


def _percentile(values: list[float], part: float) -> float:
    return sorted(values)[int(part * (len(values) - 1))] if values else 0.0


if __name__ == "__main__":
    raise SystemExit(main())
