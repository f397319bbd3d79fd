"""One packed model timed in this process: a line of JSON with tokens per second and what was loaded.

CUTWORK_ISA=avx2 python -m benchmarks.isa.cutwork_worker MODEL THREADS
"""

import json
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from statistics import median
from typing import Any

import numpy as np

from benchmarks.common.pages import huge_share
from benchmarks.engine.threads import step
from benchmarks.isa.work import BATCHES, CONTEXT, PROMPT, STEPS, WHOLE_PROMPTS
from cutwork.engine.model import Model


def main() -> None:
    load = partial(Model.load, sys.argv[1], threads=int(sys.argv[2]), max_context=PROMPT + 64)
    with load(max_batch=1) as model:  # the loader lays weights out for as many sequences as may come
        step(model, 1, CONTEXT)  # wakes the pages
        speeds = {"decode": 1 / some(partial(decode_step, model), STEPS)}
        blocks = block_weights(model)
        answer = {
            "encodings": encodings(blocks),
            "megabytes": round(sum(weight.nbytes for weight in blocks) / 1e6, 1),
            "bytes_per_token": sum(
                weight.nbytes for name, weight in model.weights.items() if "embed_tokens" not in name
            ),
        }
    with load(max_batch=max(BATCHES), reorder_weights=None) as model:  # as `serve` and `batch` load it
        step(model, 1, CONTEXT)
        for batch in BATCHES:
            speeds[f"batch {batch}"] = batch / some(partial(batch_step, model, batch), STEPS)
        speeds["prefill"] = PROMPT / some(lambda _: step(model, PROMPT, 0), WHOLE_PROMPTS)
        answer |= {"encodings_in_batches": encodings(block_weights(model)), "huge_pages": huge_share("self")}
    print(json.dumps(answer | {"speeds": speeds}))


def block_weights(model: Model) -> list[Any]:
    """The matrices that zeros are in."""
    return [weight for name, weight in model.weights.items() if name.endswith("_proj.weight")]


def encodings(weights: Sequence[Any]) -> list[str]:
    """Those that occur."""
    return sorted({weight.encoding + ", reordered" * bool(weight.reordered_bytes) for weight in weights})


def decode_step(model: Model, number: int) -> float:
    """Seconds of the step of that number which decodes a token."""
    return step(model, 1, CONTEXT + number)


def some(measure: Callable[[int], float], most: int) -> float:
    """The median of measurements that take a second together, or of `most` of them."""
    found = [measure(0)]
    while len(found) < most and sum(found) < 1:
        found.append(measure(len(found)))
    return median(found)


def batch_step(model: Model, batch: int, number: int) -> float:
    """Seconds of the step of that number which decodes a token of each of so many sequences."""
    context = CONTEXT + number
    rows = np.arange(batch, dtype=np.int32)
    tables = np.arange(batch * -(-(context + 1) // 32), dtype=np.int32).reshape(batch, -1)
    start = time.perf_counter()
    model.executor.step(rows + 3, np.full(batch, context, np.int32), rows, tables, rows)
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
