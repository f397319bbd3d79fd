"""A packed model behind the protocol of this folder: cutwork_worker.py DIRECTORY CONTEXT."""

import sys
from typing import Any

import numpy as np
from protocol import serve

from cutwork import Model
from cutwork.engine.memory import BLOCK_SIZE


class Engine:
    """One model, loaded once per number of threads; the weights are mapped, so the copies share them."""

    def __init__(self, path: str, context: int) -> None:
        self._path, self._context = path, context
        self._models: dict[int, Model] = {}
        self._blocks = np.arange(-(-context // BLOCK_SIZE), dtype=np.int32)[None]

    def feed(self, tokens: list[int], start: int, threads: int) -> np.ndarray:
        """Run tokens at positions from `start` on; the last one's logits."""
        if threads not in self._models:
            self._models[threads] = Model.load(self._path, threads=threads, max_context=self._context, max_batch=1)
        ids = np.asarray(tokens, np.int32)
        positions = np.arange(start, start + len(tokens), dtype=np.int32)
        last = np.asarray([len(tokens) - 1], np.int32)
        return self._models[threads].executor.step(ids, positions, np.zeros_like(ids), self._blocks, last)[0]

    def forget(self) -> None:
        """Start anew: positions from 0 on are overwritten."""

    @staticmethod
    def about() -> dict[str, Any]:
        """What runs here."""
        from cutwork import __version__, _native

        return {"version": __version__, "isa": _native.isa()}


if __name__ == "__main__":
    serve(Engine(sys.argv[1], int(sys.argv[2])))
