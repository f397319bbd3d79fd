"""Chains of square layers: the same random weights in every worker, and the loop that times them. NumPy only."""

import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

ACTIVATION_SCALE = 1 / 24  # of static quantisation: codes of ±127 reach 5.3 standard deviations


def specification() -> dict[str, Any]:
    """What this worker was asked for."""
    return json.loads(sys.argv[1])


def weights(spec: dict[str, Any]) -> list[np.ndarray]:
    """[layers] of [size, size], rows are outputs: float32, or int8 codes. Outputs keep the inputs' variance.

    Zeros lie anywhere, or so many of every 16 columns are kept.
    """
    n, keep = spec["size"], 1 - spec["sparsity"]
    rng = np.random.default_rng(0)
    block = rng.standard_normal((n, n), np.float32)
    if spec["kept"]:
        lives = rng.permuted(np.broadcast_to(np.arange(16) < spec["kept"], (n, n // 16, 16)), axis=2).reshape(n, n)
    else:
        lives = rng.random((n, n), np.float32) < keep
    block[~lives] = 0
    if spec["dtype"] == "int8":
        block = np.clip(np.rint(block * 30), -127, 127).astype(np.int8)
    else:
        block *= np.float32((keep * n) ** -0.5)
    shifts = rng.integers(1, n, (spec["layers"], 2))
    if spec["kept"]:
        shifts[:, 1] *= 16  # whole windows
    return [np.ascontiguousarray(np.roll(block, (a, b), (0, 1))) for a, b in shifts]


def scale(spec: dict[str, Any]) -> float:
    """What an int8 code stands for."""
    return float(1 / 30 * ((1 - spec["sparsity"]) * spec["size"]) ** -0.5)


def serve(version: str, spec: dict[str, Any], run: Callable[[np.ndarray], np.ndarray]) -> None:
    """Say how well the output agrees with NumPy's, then time calls."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    x = np.random.default_rng(1).standard_normal((spec["tokens"], spec["size"]), np.float32)
    expected = x
    for w in weights(spec):
        expected = expected @ w.T.astype(np.float32)
        if spec["dtype"] == "int8":
            expected *= np.float32(scale(spec))
    correlation = float(np.corrcoef(np.asarray(run(x)).ravel(), expected.ravel())[0, 1])
    print(json.dumps({"version": version, "correlation": correlation}), file=answers, flush=True)
    for line in sys.stdin:
        run(x)  # after standing still: threads awake, clock up
        seconds = []
        for _ in range(json.loads(line)["calls"]):
            start = time.perf_counter()
            run(x)
            seconds.append(time.perf_counter() - start)
        print(json.dumps({"seconds": statistics.median(seconds)}), file=answers, flush=True)
