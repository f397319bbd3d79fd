"""How the benchmark talks to an engine in another process: one JSON object per line, each way.

The worker is started with one JSON object, {"model": path, "threads": n, …}, and answers with what runs there. Then
{"check": prompt} gets the logits after the prompt and how far greedy decoding strays from them (see `check`), and
{"time": prompts, "decode": n} the seconds of one prefill of the prompts as a batch and of n decode steps after it,
{"answer": prompts, "most": n, "end": token} what an engine that can be asked answers: at most n tokens of each.
Needs NumPy only.
"""

import json
import os
import sys
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np

CHECKED_TOKENS = 6


class Engine(Protocol):
    """What a worker offers."""

    def about(self) -> dict[str, Any]:
        """Its version and what else is worth knowing."""
        ...

    def logits(self, tokens: list[int]) -> np.ndarray:
        """Of the token after these, from one prefill: float [vocabulary]."""
        ...

    def generate(self, prompts: list[list[int]], count: int) -> tuple[list[list[int]], float, float]:
        """Prefill prompts of one length as a batch, then decode `count` tokens more than the first, greedily.

        Returns the count + 1 tokens of each, and the seconds of prefill and of the decode steps.
        """
        ...


def serve(make: Callable[[dict[str, Any]], Engine]) -> None:
    """Answer requests until the input ends. Whatever a library prints goes to standard error."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def answer(value: dict[str, Any]) -> None:
        answers.write(json.dumps(value) + "\n")
        answers.flush()

    engine = make(json.loads(sys.argv[1]))
    answer(engine.about())
    for line in sys.stdin:
        request = json.loads(line)
        if "check" in request:
            answer(check(engine, request["check"], request["batch"]))
        elif "answer" in request:
            answer({"tokens": engine.answer(request["answer"], request["most"], request["end"])})  # type: ignore[attr-defined]
        else:
            _, prefill, decode = engine.generate(request["time"], request["decode"])
            answer({"prefill": prefill, "decode": decode})


def check(engine: Engine, prompt: list[int], batch: int) -> dict[str, Any]:
    """The logits after a prompt, and the regret of decoding alone and in a batch.

    Regret: by how many standard deviations the logit of the last decoded token stays below the highest one, when the
    engine is given all tokens before it at once. 0 if decoding and prefill agree; about 4 for a random token.
    """
    turned = [prompt[i:] + prompt[:i] for i in range(batch)]
    regrets = []
    for prompts in [[prompt], turned] if batch > 1 else [[prompt]]:
        tokens, _, _ = engine.generate(prompts, CHECKED_TOKENS)
        for start, ids in zip(prompts, tokens, strict=True):
            logits = np.asarray(engine.logits(start + ids[:-1]), np.float32)
            regrets.append(float((logits.max() - logits[ids[-1]]) / logits.std()))
    return {"logits": np.asarray(engine.logits(prompt), np.float32).tolist(), "regret": max(regrets)}
