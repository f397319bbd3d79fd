"""Runs the cells in rounds, one process at a time, until each has its runs or the time is up."""

import json
import os
import resource
import signal
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks.common.provenance import ROOT
from benchmarks.isa.cells import CUTWORK, DISTURBED, PATIENCE, Cell, CellError
from benchmarks.isa.llama import Build
from benchmarks.isa.models import model_path
from benchmarks.isa.store import Store
from benchmarks.isa.work import WHAT
from benchmarks.peers.measure import bandwidth_program

GUESS, PEERS_GUESS = 10.0, 20.0  # seconds of a cell nobody has measured
MOSTLY = 0.85  # of private memory in huge pages: all weights, and little else


@dataclass(frozen=True)
class Bench:
    """What is needed to measure a cell."""

    store: Store
    models: Path
    builds: dict[tuple[str, str], Build]
    console: Console
    deadline: float = float("inf")  # time.monotonic()

    def run(self, rounds: Sequence[Sequence[Cell]]) -> bool:
        """Measure what is missing, round by round; whether all of it was. What fails once is left out."""
        todo = list(self.missing(rounds))
        failed: set[Cell] = set()
        for number, cell in enumerate(todo):
            if cell in failed:
                continue
            if time.monotonic() + self.seconds(cell) > self.deadline:
                return False
            left = min(sum(map(self.seconds, todo[number:])), self.deadline - time.monotonic())
            try:
                run = self.measure(cell)
            except CellError as error:
                self.console.print(f"[red]{cell}: {error}")
                failed.add(cell)
                continue
            speeds = "  ".join(f"{name} {run[name]:.4g}" for name in WHAT)
            head = f"{number + 1}/{len(todo)}, {left / 60:.0f} min left: "
            doubts = ", ".join(self.doubts(run))
            self.console.print(f"{head}{cell}: {speeds}, memory {run['bandwidth']:.3g} GB/s  [yellow]{doubts}")
        return not failed

    def doubts(self, run: dict[str, float]) -> Iterator[str]:
        """Why a run may say little."""
        if run["others"] > DISTURBED:
            yield f"others took {run['others']:.0%} of a processor"
        if run["huge_pages"] < MOSTLY:
            yield f"only {run['huge_pages']:.0%} in huge pages"

    def missing(self, rounds: Sequence[Sequence[Cell]]) -> Iterator[Cell]:
        """In which order: another cell first each round."""
        planned: dict[Cell, int] = {}
        for number, cells in enumerate(rounds):
            start = len(cells) * number // max(1, len(rounds))
            for cell in (*cells[start:], *cells[:start]):
                planned[cell] = planned.get(cell, 0) + 1
                if planned[cell] > self.store.runs(cell):
                    yield cell

    def seconds(self, cell: Cell) -> float:
        """How long a run takes, as it did before."""
        runs = self.store.cells.get(cell, {}).get("runs", [])
        return float(runs[-1]["seconds"]) if runs else GUESS if cell.engine == CUTWORK else PEERS_GUESS

    def measure(self, cell: Cell) -> dict[str, float]:
        """One run of a cell, into the store. Raises CellError."""
        start, busy, own = time.monotonic(), busy_seconds(), own_seconds()
        bandwidth = read_bandwidth(cell.threads)
        path = model_path(self.models, self.store.layers, cell)
        if cell.engine == CUTWORK:
            answer = measure_ours(path, cell)
        else:
            answer = self.builds[cell.engine, cell.isa].measure(path.resolve(), cell.threads)
        seconds = time.monotonic() - start
        others = max(0.0, busy_seconds() - busy - (own_seconds() - own)) / seconds
        run = {
            **answer.pop("speeds"),
            "bandwidth": bandwidth,
            "huge_pages": answer.pop("huge_pages"),
            "others": others,
            "seconds": seconds,
        }
        self.store.add(cell, answer, run)
        return run


def measure_ours(path: Path, cell: Cell, build: Path | None = None) -> dict[str, Any]:
    """In a process of its own, by the installed package or the one in `build`. Raises CellError if it fails."""
    environment = os.environ | {"CUTWORK_ISA": cell.isa, "CUTWORK_COSTS": "default"}
    options: list[str] = []
    if build:  # and, without `site`, no other that this environment has
        options = ["-S"]
        environment["PYTHONPATH"] = os.pathsep.join(map(str, (build, ROOT, sysconfig.get_path("purelib"))))
    try:
        done = subprocess.run(
            [sys.executable, *options, "-m", "benchmarks.isa.cutwork_worker", str(path.resolve()), str(cell.threads)],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise CellError(f"took more than {PATIENCE:.0f} seconds") from None
    if done.returncode:
        raise CellError("its process failed, see above")
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def read_bandwidth(threads: int) -> float:
    """GB/s that so many threads read from memory, now."""
    done = subprocess.run([bandwidth_program(), str(threads)], check=True, capture_output=True, text=True)
    return float(done.stdout.split()[0])


def busy_seconds() -> float:
    """Of all processors since the system began, what a neighbour on the same host took included."""
    user, nice, system, _, _, irq, soft, steal, *_ = map(int, Path("/proc/stat").read_text().split("\n")[0].split()[1:])
    return (user + nice + system + irq + soft + steal) / os.sysconf("SC_CLK_TCK")


def own_seconds() -> float:
    """Of this process and its children that have ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


@contextmanager
def stopped(processes: Sequence[int]) -> Iterator[None]:
    """Others' processes stand still meanwhile, and go on however this one ends, unless it is killed."""
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by SIGTERM"))
    try:
        for process in processes:
            os.kill(process, signal.SIGSTOP)
        yield
    finally:
        for process in processes:
            os.kill(process, signal.SIGCONT)
        signal.signal(signal.SIGTERM, before)
