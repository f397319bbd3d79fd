"""A packed model behind the protocol of this folder."""

import time
from typing import Any

import numpy as np
from protocol import serve

from cutwork import Model, __version__


class Engine:
    """One model, driven as the server drives it: through its session, sampling included."""

    def __init__(self, spec: dict[str, Any]) -> None:
        self._model = Model.load(
            spec["model"],
            threads=spec["threads"],
            max_context=spec["context"],
            max_batch=spec["batch"],
            reorder_weights=spec["reorder_weights"],
        )

    def about(self) -> dict[str, Any]:
        read = {name: weight for name, weight in self._model.weights.items() if "embed_tokens" not in name}
        return {
            "version": __version__,
            "isa": self._model.isa,
            "bytes_per_token": sum(self._bytes(weight) for weight in read.values()),
            "cache": self._model.cache_dtype,
        }

    def _bytes(self, weight: Any) -> int:
        """What is read of a weight for one token."""
        shape = (weight.encoding, weight.dtype, weight.rows, weight.cols, weight.nonzeros)
        reordered = int(weight.reordered_bytes)
        return (
            reordered
            if reordered and self._model.costs.choose(*shape, 1, reordered) == "spmm_rows"
            else int(weight.nbytes)
        )

    def logits(self, tokens: list[int]) -> np.ndarray:
        return self._model.logits(tokens)[-1]

    def generate(self, prompts: list[list[int]], count: int) -> tuple[list[list[int]], float, float]:
        session = self._model.session
        requests = [session.add(prompt, max_new_tokens=count + 1, ignore_eos=True) for prompt in prompts]
        start = time.perf_counter()
        while any(not request.tokens for request in requests):
            session.step()
        between = time.perf_counter()
        while session.busy:
            session.step()
        return [list(r.tokens) for r in requests], between - start, time.perf_counter() - between


if __name__ == "__main__":
    serve(Engine)
