"""A model built by onnxruntime-genai's builder behind the protocol of this folder."""

import json
import time
from typing import Any

import numpy as np
import onnxruntime_genai as og
from protocol import serve


class Engine:
    """One model."""

    def __init__(self, spec: dict[str, Any]) -> None:
        config = og.Config(spec["model"])
        threads = {"intra_op_num_threads": spec["threads"]}
        config.overlay(json.dumps({"model": {"decoder": {"session_options": threads}}}))
        self._model = og.Model(config)

    def about(self) -> dict[str, Any]:
        return {"version": og.__version__}

    def logits(self, tokens: list[int]) -> np.ndarray:
        generator = self._generator(1, len(tokens) + 1)
        generator.append_tokens(np.asarray([tokens], np.int32))
        return np.asarray(generator.get_logits()).reshape(-1, self._vocabulary(generator))[-1]

    def generate(self, prompts: list[list[int]], count: int) -> tuple[list[list[int]], float, float]:
        generator = self._generator(len(prompts), len(prompts[0]) + count + 1)
        ids = np.asarray(prompts, np.int32)
        start = time.perf_counter()
        generator.append_tokens(ids)
        generator.generate_next_token()
        between = time.perf_counter()
        for _ in range(count):
            generator.generate_next_token()
        seconds = time.perf_counter() - between
        sequences = [generator.get_sequence(i)[len(prompts[0]) :] for i in range(len(prompts))]
        return [[int(token) for token in tokens] for tokens in sequences], between - start, seconds

    def _generator(self, batch: int, length: int) -> Any:
        params = og.GeneratorParams(self._model)
        params.set_search_options(batch_size=batch, min_length=length, max_length=length, do_sample=False)
        return og.Generator(self._model, params)

    @staticmethod
    def _vocabulary(generator: Any) -> int:
        return int(np.asarray(generator.get_logits()).shape[-1])


if __name__ == "__main__":
    serve(Engine)
