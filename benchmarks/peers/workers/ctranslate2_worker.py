"""A converted model in CTranslate2 behind the protocol of this folder."""

import time
from typing import Any

import ctranslate2
import numpy as np
from protocol import serve


class Engine:
    """One generator. Tokens go in as the made-up words of the checkpoint's tokenizer."""

    def __init__(self, spec: dict[str, Any]) -> None:
        self._generator = ctranslate2.Generator(
            spec["model"], device="cpu", compute_type="int8", inter_threads=1, intra_threads=spec["threads"]
        )

    def about(self) -> dict[str, Any]:
        return {"version": ctranslate2.__version__, "compute_type": self._generator.compute_type}

    def logits(self, tokens: list[int]) -> np.ndarray:
        return np.asarray(self._generator.forward_batch([_words(tokens)]))[0, -1]

    def generate(self, prompts: list[list[int]], count: int) -> tuple[list[list[int]], float, float]:
        times: list[float] = []

        def note(step: ctranslate2.GenerationStepResult) -> bool:
            if step.batch_id == len(prompts) - 1:
                times.append(time.perf_counter())
            return False

        start = time.perf_counter()
        results = self._generator.generate_batch(
            [_words(prompt) for prompt in prompts],
            beam_size=1,
            sampling_topk=1,
            min_length=count + 1,
            max_length=count + 1,
            include_prompt_in_result=False,
            callback=note,
        )
        return [result.sequences_ids[0] for result in results], times[0] - start, times[-1] - times[0]


def _words(tokens: list[int]) -> list[str]:
    return [f"t{token}" for token in tokens]


if __name__ == "__main__":
    serve(Engine)
