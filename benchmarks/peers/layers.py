"""Single layers of 4096 x 4096, a chain of them so that the weights exceed every cache.

One thread. int8: static activation scales in ONNX (QuantizeLinear, MatMulInteger), dynamic ones per token in Cutwork.
Zeros lie anywhere, but for "cutwork 4:16", which keeps 4 of every 16 neighbours.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rich.console import Console

from benchmarks.common.provenance import build
from benchmarks.common.worker import Worker, WorkerError
from benchmarks.peers.environments import ENVIRONMENTS, PEERS, WORKERS, python_of
from benchmarks.peers.store import Store, spread

SIZE = 4096
LAYERS = {"int8": 16, "fp32": 8}  # at 90% zeros still twice a cache of 32 MiB
TOKENS = (1, 128)
SPARSITIES = (0.0, 0.5, 0.75, 0.9)
LEAST, BEST_OF = 5, 3  # rounds; calls of which a round takes the median
AGREEMENT = {"int8": 0.99, "fp32": 0.99999}
LAYER_ENGINES: dict[str, tuple[str | None, str]] = {
    "cutwork": (None, "layers_cutwork_worker.py"),
    "cutwork ahead": (None, "layers_cutwork_worker.py"),
    "cutwork 4:16": (None, "layers_cutwork_worker.py"),
    "DeepSparse": ("deepsparse", "layers_onnx_worker.py"),
    "onnxruntime": ("onnxruntime-genai", "layers_onnx_worker.py"),
    "torch": ("torch", "layers_torch_worker.py"),
}
_SECONDS = 7.0  # of one engine and case, starting included


@dataclass(frozen=True)
class Case:
    """What is multiplied."""

    dtype: str
    sparsity: float
    tokens: int
    threads: int = 1

    def key(self, engine: str) -> str:
        return f"{engine}, {self.dtype}, {self.sparsity:.0%}, {self.tokens} tokens, {self.threads} threads"

    def engines(self) -> Iterator[str]:
        """Dense engines gain nothing from zeros: they are measured once."""
        for name in LAYER_ENGINES:
            if name == "torch" and self.dtype == "int8":
                continue
            if name == "cutwork ahead" and (self.dtype != "int8" or self.sparsity == 0):
                continue
            if name == "cutwork 4:16" and (self.dtype, self.sparsity) != ("int8", 0.75):
                continue
            if self.sparsity == 0 or name.startswith("cutwork") or name == "DeepSparse":
                yield name


@dataclass
class LayerBench:
    """All cases that are missing in the store."""

    store: Store
    console: Console
    deadline: float
    only: Sequence[str]

    def run(self) -> None:
        """Measure them."""
        from benchmarks.peers.measure import OutOfTime

        for case in self._cases():
            names = [name for name in case.engines() if self._pending(case, name)]
            if not names:
                continue
            if time.monotonic() + _SECONDS * len(names) > self.deadline:
                raise OutOfTime
            self._measure(case, names)

    def estimate(self) -> float:
        """Seconds that the missing ones take."""
        return sum(_SECONDS for case in self._cases() for name in case.engines() if self._pending(case, name))

    def _cases(self) -> Iterator[Case]:
        for dtype in LAYERS:
            for tokens in TOKENS:
                for sparsity in SPARSITIES:
                    yield Case(dtype, sparsity, tokens)

    def _pending(self, case: Case, name: str) -> bool:
        wanted = not self.only or any(text in name for text in self.only)
        cell = self.store.layers.get(case.key(name))
        return wanted and cell is None

    def _measure(self, case: Case, names: Sequence[str]) -> None:
        workers: dict[str, Worker] = {}
        samples: dict[str, list[float]] = {}
        try:
            for name in names:
                with self.console.status(case.key(name)):
                    if worker := self._start(case, name):
                        workers[name] = worker
            for turn in range(LEAST):
                for name in [*workers][turn % max(len(workers), 1) :] + [*workers][: turn % max(len(workers), 1)]:
                    seconds = workers[name].ask({"calls": BEST_OF})["seconds"]
                    samples.setdefault(name, []).append(LAYERS[case.dtype] * case.tokens * SIZE**2 / seconds / 1e9)
            for name, values in samples.items():
                about = workers[name].about
                self.store.layers[case.key(name)] = {
                    "engine": name, "dtype": case.dtype, "sparsity": case.sparsity, "tokens": case.tokens,
                    "threads": case.threads, "layers": LAYERS[case.dtype], "unit": "G multiply-adds/s, zeros included",
                    **spread(values), "version": build() if name.startswith("cutwork") else about["version"],
                    "correlation": about["correlation"], "date": time.strftime("%Y-%m-%d %H:%M:%S"),
                }  # fmt: skip
            self.store.save()
        finally:
            for worker in workers.values():
                worker.kill()
        for name in samples:
            cell = self.store.layers[case.key(name)]
            self.console.print(
                f"  {case.key(name):50} {cell['median']:8.1f} ({cell['min']:.1f}–{cell['max']:.1f}) G/s",
                highlight=False,
            )

    def _start(self, case: Case, name: str) -> Worker | None:
        environment, script = LAYER_ENGINES[name]
        spec = {
            "engine": name, "dtype": case.dtype, "sparsity": case.sparsity, "tokens": case.tokens, "size": SIZE,
            "layers": LAYERS[case.dtype], "threads": case.threads, "directory": str(PEERS / "models" / "layers"),
            "kept": 4 if name == "cutwork 4:16" else None,
        }  # fmt: skip
        key = case.key(name)
        problem = ENVIRONMENTS[environment].install() if environment else None
        if not problem:
            try:
                log = PEERS / "logs" / f"layers {key}.log".replace(" ", "-").replace(",", "")
                worker = Worker(python_of(environment), WORKERS / script, spec, log, {"NM_DISABLE_ANALYTICS": "1"})
                if worker.about["correlation"] >= AGREEMENT[case.dtype]:
                    self.store.unavailable.pop(key, None)
                    return worker
                worker.kill()
                problem = f"its output is wrong (correlation {worker.about['correlation']:.4f} with NumPy)"
            except WorkerError as error:
                problem = str(error)
        self.store.unavailable[key] = problem
        self.console.print(f"[red]{key}: {problem}; it is not timed", highlight=False)
        return None
