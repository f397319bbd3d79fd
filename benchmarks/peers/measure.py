"""Runs the plan: starts workers, checks them, and lets them take turns until every cell has its samples."""

import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from benchmarks.common.provenance import build
from benchmarks.common.random_llama import some_tokens
from benchmarks.common.shapes import SHAPES
from benchmarks.common.worker import Worker, WorkerError
from benchmarks.peers.engines import ENGINES, Engine, write_model
from benchmarks.peers.environments import PEERS, WORKERS, python_of
from benchmarks.peers.plan import BANDWIDTH, BATCH_CONTEXT, BATCHES, LONGEST, Condition, conditions
from benchmarks.peers.reference import prompt, reference_logits
from benchmarks.peers.store import Key, Store

LEAST, MOST = 3, 6  # samples of a cell
STEADY = 0.08  # spread of a cell, relative to its median, that needs no further samples
WARM_UP_LIMIT = 3.0  # seconds; longer runs need no warm-up, and the median of three forgives one
LARGEST_REGRET = 1.0  # standard deviations of the logits
LOAD_SECONDS = 6.0
MEMORY_SHARE, MEMORY_PER_BYTE = 0.9, 1.1  # of what is available; of what a model takes on disk


class OutOfTime(Exception):
    """The next run would end after the time this call was given."""


@dataclass
class Bench:
    """One call of the benchmark."""

    store: Store
    console: Console
    deadline: float = float("inf")
    _runs: int = 0

    def run(self, plan: Sequence[Condition]) -> None:
        """Measure what is missing. Raises OutOfTime when it must stop; everything until then is saved."""
        groups = {(condition.shape, condition.threads) for condition in plan}
        for shape, threads in sorted(groups):
            mine = [c for c in plan if (c.shape, c.threads) == (shape, threads)]
            names = list(dict.fromkeys(name for c in mine for name in c.engines if self._pending(c, name)))
            native = [name for name in names if ENGINES[name].isa == "native"]
            for crew in (*crews(native, shape), *crews([name for name in names if name not in native], shape)):
                self._with_crew(shape, threads, crew, mine)

    def missing(self, plan: Sequence[Condition]) -> Iterator[tuple[Condition, str, float]]:
        """(condition, engine, seconds it will take about) of every cell without its samples."""
        for condition in plan:
            for name in condition.engines:
                if self._pending(condition, name):
                    each = condition.seconds(ENGINES[name])
                    runs = LEAST - len(self.store.samples(key_of(condition, name, "decode")))
                    yield condition, name, each * (max(runs, 1) + (each < WARM_UP_LIMIT))

    def _with_crew(self, shape: str, threads: int, crew: Sequence[str], plan: Sequence[Condition]) -> None:
        workers: dict[str, Worker] = {}
        try:
            for name in crew:
                if time.monotonic() + LOAD_SECONDS > self.deadline:
                    raise OutOfTime
                with self.console.status(f"starting {name}, {shape}, {threads} threads"):
                    worker = self._start(name, shape, threads)
                if worker:
                    workers[name] = worker
            for condition in plan:
                here = [n for n in condition.engines if n in workers and self._pending(condition, n)]
                if here:
                    self._rounds(condition, {name: workers[name] for name in here})
        finally:
            for worker in workers.values():
                worker.kill()

    def _start(self, name: str, shape: str, threads: int) -> Worker | None:
        """A worker whose output is right; None, and a reason in the store, if there is none."""
        engine = ENGINES[name]
        spec = {
            "model": str(write_model(engine, SHAPES[shape])),
            "reorder_weights": engine.reorder_weights,
            "threads": threads,
            "context": LONGEST,
            "batch": max(BATCHES),
            "batch_context": BATCH_CONTEXT,
        }
        forced = {} if engine.isa == "native" or engine.environment else {"CUTWORK_ISA": engine.isa}
        log = PEERS / "logs" / f"{name} {shape} {threads}.log".replace(" ", "-")
        worker = None
        try:
            worker = Worker(python_of(engine.environment), WORKERS / engine.worker, spec, log, forced)
            about = worker.about | ({"version": build()} if engine.family == "cutwork" else {})
            self.store.engines[f"{name}, {shape}"] = about | {
                "megabytes": round(size(engine.path(SHAPES[shape])) / 1e6)
            }
            problem = self._check(engine, shape, worker, about["version"])
        except WorkerError as error:
            problem = str(error)
            if engine.family == "cutwork":  # then the others say nothing, and an hour of the machine is lost
                raise SystemExit(f"{name} does not run, so nothing is measured; run make native: {problem}") from None
        self.store.unavailable.pop(f"{name}, {shape}", None)
        if problem:
            self.store.unavailable[f"{name}, {shape}"] = problem
            self.console.print(f"[red]{name}, {shape}: {problem}; it is not timed", highlight=False)
        self.store.save()
        if problem and worker:
            worker.kill()
        return None if problem else worker

    def _check(self, engine: Engine, shape: str, worker: Worker, version: str) -> str | None:
        """What is wrong with its output, or None; done once for each version of an engine."""
        found = self.store.checks.get(f"{engine.name}, {shape}")
        if found is None or found["version"] != version:
            batch = 1 if engine.isa == "scalar" else 3
            answer = worker.ask({"check": prompt(SHAPES[shape]), "batch": batch})
            reference = expected(shape)[engine.sparsity]
            correlation = float(np.corrcoef(answer["logits"], reference)[0, 1])
            found = {"version": version, "correlation": round(correlation, 5), "regret": round(answer["regret"], 4)}
            self.store.checks[f"{engine.name}, {shape}"] = found
        if not found["correlation"] >= engine.agreement:
            return f"its logits are wrong (correlation {found['correlation']:.3f} with the reference)"
        if not found["regret"] <= LARGEST_REGRET:
            return f"its decoding strays from its own prefill by {found['regret']:.1f} standard deviations"
        return None

    def _rounds(self, condition: Condition, workers: dict[str, Worker]) -> None:
        """Turns of all engines, another one first each time, until each cell is done."""
        seconds = {name: condition.seconds(ENGINES[name]) for name in workers}
        warm: set[str] = set()
        names, failed = list(workers), set[str]()
        while waiting := [n for n in names if n not in failed and self._pending(condition, n, seconds[n])]:
            if condition.batch == 1 and condition.prompt == 16:
                self._bandwidth(condition)
            for name in waiting:
                if time.monotonic() + seconds[name] > self.deadline:
                    raise OutOfTime
                with self.console.status(f"{condition.title}: {name}"):
                    try:
                        if name not in warm and seconds[name] < WARM_UP_LIMIT:
                            self._once(condition, name, workers[name])
                        warm.add(name)
                        answer = self._once(condition, name, workers[name])
                    except WorkerError as error:
                        failed.add(name)
                        self.console.print(f"[red]{name}, {condition.title}: {error}", highlight=False)
                        continue
                seconds[name] = answer["prefill"] + answer["decode"]
                self._note(condition, name, answer)
            names = names[1:] + names[:1]
        self._show(condition, [name for name in workers if name not in failed])

    def _once(self, condition: Condition, name: str, worker: Worker) -> dict[str, Any]:
        """Prompts never come twice, nor one as another's beginning: an engine may remember prefixes."""
        vocabulary = SHAPES[condition.shape].vocabulary
        self._runs += 1
        prompts = [some_tokens(condition.prompt, vocabulary, self._runs, i) for i in range(condition.batch)]
        return worker.ask({"time": prompts, "decode": condition.decode})

    def _note(self, condition: Condition, name: str, answer: dict[str, Any]) -> None:
        engine = ENGINES[name]
        about = self.store.engines[f"{name}, {condition.shape}"] | {
            "weights": engine.weights,
            "sparsity": engine.sparsity,
            "isa": engine.isa,
            "decode_tokens": condition.decode,
        }
        for phase, tokens in (("prefill", condition.prompt), ("decode", condition.decode)):
            speed = condition.batch * tokens / answer[phase]
            self.store.add(key_of(condition, name, phase), speed, about)
        self.store.save()

    def _pending(self, condition: Condition, name: str, seconds: float = 0.0) -> bool:
        """Whether the cell wants another sample: a noisy one gets more than the least, if it is not slow."""
        samples = {phase: self.store.samples(key_of(condition, name, phase)) for phase in ("prefill", "decode")}
        count = min(map(len, samples.values()))
        if count < LEAST:
            return True
        if not seconds or count >= (MOST if seconds < 2 else LEAST + 1 if seconds < WARM_UP_LIMIT else LEAST):
            return False
        decode = samples["decode"]
        return max(decode) - min(decode) > STEADY * float(np.median(decode))

    def _bandwidth(self, condition: Condition) -> None:
        key = key_of(condition, BANDWIDTH, "GB/s")
        about = {"weights": "", "sparsity": 0.0, "isa": "native", "version": "1", "decode_tokens": 0}
        done = subprocess.run(
            [str(bandwidth_program()), str(condition.threads)], check=True, capture_output=True, text=True
        )
        self.store.add(key, float(done.stdout.split()[0]), about)

    def _show(self, condition: Condition, names: Sequence[str]) -> None:
        self.console.print(f"[bold]{condition.title}[/]: tokens/s", highlight=False)
        for name in names:
            cells = [self.store.cells[key_of(condition, name, phase)] for phase in ("prefill", "decode")]
            texts = [f"{c['phase']} {c['median']:8.1f} ({c['min']:.1f}–{c['max']:.1f})" for c in cells]
            self.console.print(f"  {name:26} {'   '.join(texts)}", highlight=False)


def key_of(condition: Condition, name: str, phase: str) -> Key:
    """Of a cell in the store."""
    return name, condition.shape, condition.threads, condition.prompt, condition.batch, phase


def crews(names: Sequence[str], shape: str) -> list[list[str]]:
    """Engines that fit into memory together, in their order; all, if they do."""
    available = 1024 * int(Path("/proc/meminfo").read_text().split("MemAvailable:")[1].split()[0])
    cache = SHAPES[shape].cache_bytes(LONGEST + max(BATCHES) * BATCH_CONTEXT)
    result: list[list[str]] = []
    room = 0.0
    for name in names:
        needs = MEMORY_PER_BYTE * size(ENGINES[name].path(SHAPES[shape])) + cache
        if not result or needs > room:
            result.append([])
            room = MEMORY_SHARE * available
        result[-1].append(name)
        room -= needs
    return result


def size(model: Path) -> int:
    """Bytes of a model's files on disk."""
    return sum(file.stat().st_size for file in ([model] if model.is_file() else model.rglob("*")) if file.is_file())


@cache
def expected(shape: str) -> dict[float, np.ndarray]:
    """The reference's logits by sparsity."""
    sparsities = {ENGINES[name].sparsity for c in conditions([shape], [1, 2], False) for name in c.engines}
    return reference_logits(SHAPES[shape], sorted(sparsities), PEERS / "models" / shape / "reference.npz")


@cache
def bandwidth_program() -> Path:
    """Compiled for this machine."""
    source, program = Path(__file__).with_name("bandwidth.cpp"), PEERS / "bandwidth"
    if not program.exists() or program.stat().st_mtime < source.stat().st_mtime:
        program.parent.mkdir(parents=True, exist_ok=True)
        command = ["c++", "-O3", "-march=native", "-pthread", str(source), "-o", str(program)]
        subprocess.run(command, check=True)
    return program
