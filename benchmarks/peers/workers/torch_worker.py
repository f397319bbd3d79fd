"""A checkpoint in transformers, bfloat16, eager, with a static cache, behind the protocol of this folder."""

import time
from typing import Any

import numpy as np
import torch
import transformers
from protocol import serve
from transformers import AutoModelForCausalLM, StaticCache


class Engine:
    """One model."""

    def __init__(self, spec: dict[str, Any]) -> None:
        torch.set_num_threads(spec["threads"])
        torch.set_grad_enabled(False)
        self._model = AutoModelForCausalLM.from_pretrained(
            spec["model"], dtype=torch.bfloat16, use_safetensors=True
        ).eval()

    def about(self) -> dict[str, Any]:
        return {"version": f"torch {torch.__version__}, transformers {transformers.__version__}"}

    def logits(self, tokens: list[int]) -> np.ndarray:
        return self._model(torch.tensor([tokens]), logits_to_keep=1).logits[0, -1].float().numpy()

    def generate(self, prompts: list[list[int]], count: int) -> tuple[list[list[int]], float, float]:
        cache = StaticCache(config=self._model.config, max_cache_len=len(prompts[0]) + count)
        start = time.perf_counter()
        results = [self._step(torch.tensor(prompts), cache)]
        between = time.perf_counter()
        for _ in range(count):
            results.append(self._step(results[-1][:, None], cache))
        return torch.stack(results, 1).tolist(), between - start, time.perf_counter() - between

    def _step(self, ids: torch.Tensor, cache: StaticCache) -> torch.Tensor:
        return self._model(ids, past_key_values=cache, use_cache=True, logits_to_keep=1).logits[:, -1].argmax(-1)


if __name__ == "__main__":
    serve(Engine)
