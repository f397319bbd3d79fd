"""One packed model timed in this process: a line of JSON with tokens per second and what was loaded.

CUTWORK_ISA=avx2 python -m benchmarks.isa.cutwork_worker MODEL THREADS
"""

import json
import sys
import time
from collections.abc import Callable
from functools import partial
from statistics import median

import numpy as np

from benchmarks.common.pages import huge_share
from benchmarks.engine.threads import step
from benchmarks.isa.work import BATCHES, CONTEXT, PROMPT, STEPS, WHOLE_PROMPTS
from cutwork.engine.model import Model


def main() -> None:
    path, threads = sys.argv[1], int(sys.argv[2])
    with Model.load(path, threads=threads, max_context=PROMPT + 64, max_batch=max(BATCHES)) as model:
        blocks = [weight for name, weight in model.weights.items() if name.endswith("_proj.weight")]
        read = sum(weight.nbytes for name, weight in model.weights.items() if "embed_tokens" not in name)
        step(model, 1, CONTEXT)  # wakes the pages
        speeds = {"decode": 1 / some(lambda i: step(model, 1, CONTEXT + i), STEPS)}
        for batch in BATCHES:
            speeds[f"batch {batch}"] = batch / some(partial(batch_step, model, batch), STEPS)
        speeds["prefill"] = PROMPT / some(lambda _: step(model, PROMPT, 0), WHOLE_PROMPTS)
        answer = {
            "encodings": sorted({weight.encoding for weight in blocks}),
            "megabytes": round(sum(weight.nbytes for weight in blocks) / 1e6, 1),
            "bytes_per_token": int(read),
            "huge_pages": huge_share("self"),
            "speeds": speeds,
        }
    print(json.dumps(answer))


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
