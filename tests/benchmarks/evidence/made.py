"""Answers and files that never were, for tests of the tables."""

import numpy as np

from benchmarks.evidence.statistics import packed


def right(share: float, seeds: int, questions: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random((seeds, questions)) < share


def scores(answers: np.ndarray) -> dict[str, object]:
    """What a row says of a model's answers."""
    found = {"right": int(answers.sum()), "samples": len(answers), "answers": packed(answers)}
    return {**found, "answer_perplexity": 1.05}


def model(
    engine: str, weights: str, zeros: float, share: float, decode: float, seed: int | None = 0
) -> dict[str, object]:
    answers = np.arange(1000) < 1000 * share
    return {
        "engine": engine,
        "weights": weights,
        "zeros": zeros,
        "seed": seed,
        "right": int(answers.sum()),
        "samples": 1000,
        "answers": packed(answers),
        "bytes": 10**8,
        "decode, 1 threads": [decode - 1, decode, decode + 5],
        "prefill, 1 threads": [1000.0],
    }


FILES = [  # dense ones are the teacher, from which all seeds began
    model("cutwork", "bf16", 0.0, 0.8, 100, seed=None),
    model("cutwork", "int8", 0.75, 0.765, 330, seed=0),
    model("cutwork", "int8", 0.75, 0.775, 330, seed=1),
    model("cutwork", "int4", 0.75, 0.70, 500),
    model("llama.cpp", "Q4_K_M", 0.0, 0.79, 150, seed=None),
    model("llama.cpp", "Q4_0", 0.0, 0.775, 200, seed=None),
]
