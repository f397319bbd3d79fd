"""Sparse against dense on every instruction set, whole models: decode, 16 sequences at once and a prompt.

    python -m benchmarks.engine.isa [--layers 22] [--threads 1 2] [--rounds 5] [--output FILE]

Random weights of TinyLlama-1.1B's shape in int8 and int4, kept in build/: without zeros, with a fraction of zeros
anywhere, and with n of every 16 neighbours kept. Each instruction set has a process of its own, which loads one model
at a time; all of them take turns; medians count. Leaves isa.json in results/.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from rich.console import Console

from benchmarks.common.provenance import ROOT
from benchmarks.common.random_llama import DType, write_packed
from benchmarks.common.results import RESULTS, save
from benchmarks.common.shapes import SHAPES
from benchmarks.engine.threads import step
from cutwork import _native
from cutwork.engine.model import Model

MODELS: tuple[tuple[DType, str], ...] = (
    ("int8", "dense"),
    ("int8", "50%"),
    ("int8", "8:16"),
    ("int8", "75%"),
    ("int8", "4:16"),
    ("int8", "90%"),
    ("int4", "dense"),
    ("int4", "75%"),
    ("int4", "4:16"),
)  # dtype, zeros
PROMPT, STEPS, BATCH = 128, 12, 16
WHAT = ("decode", "batch", "prefill")  # tokens per second
SLOW_ROUNDS = 1  # of scalar, which takes seconds


def main() -> None:
    """Measure and write; with --worker, answer another process."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=22)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--isa", nargs="+", default=_native.isas(), help="instruction sets; scalar takes minutes")
    parser.add_argument("--output", type=Path, default=RESULTS / "isa.json")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        return work(options.layers, options.threads[0])

    for dtype, zeros in MODELS:
        path = model_path(options.layers, dtype, zeros)
        if not path.exists():
            Console(stderr=True).print(f"writing {path}")
            path.parent.mkdir(parents=True, exist_ok=True)
            fraction = float(zeros.removesuffix("%")) / 100 if zeros.endswith("%") else 0.0
            keep = int(zeros.split(":")[0]) if ":" in zeros else 0
            write_packed(path, replace(SHAPES["1.1b"], layers=options.layers), dtype, fraction, keep)
    rows = [row for threads in options.threads for row in measure(options.isa, options.layers, threads, options.rounds)]
    content = {"layers": options.layers, "rounds": options.rounds, "isas": rows}
    print(table(save(options.output, content, threads=max(options.threads))))


def model_path(layers: int, dtype: str, zeros: str) -> Path:
    """Where a packed model is kept."""
    return ROOT / "build" / f"random-{layers}" / f"{dtype}-{zeros.replace(':', 'of').removesuffix('%')}"


def measure(isas: list[str], layers: int, threads: int, rounds: int) -> list[dict[str, Any]]:
    """One row per instruction set and model, from processes that take turns."""
    worker_options = ["--worker", "--layers", str(layers), "--threads", str(threads)]
    command = [sys.executable, "-m", "benchmarks.engine.isa", *worker_options]
    workers = {
        isa: subprocess.Popen(
            command,
            cwd=ROOT,
            env=os.environ | {"CUTWORK_ISA": isa, "CUTWORK_COSTS": "default"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for isa in isas
    }
    runs: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for turn in range(rounds):
        for number in range(len(MODELS)):
            for isa, worker in workers.items():
                if isa == "scalar" and turn >= SLOW_ROUNDS:
                    continue
                assert worker.stdin and worker.stdout
                worker.stdin.write(f"{number}\n")
                worker.stdin.flush()
                answer = worker.stdout.readline()
                if not answer:
                    raise SystemExit(f"the process of {isa} ended, see above")
                runs.setdefault((isa, number), []).append(json.loads(answer))
    for worker in workers.values():
        worker.communicate()
    return [
        {
            "isa": isa,
            "threads": threads,
            "dtype": MODELS[number][0],
            "zeros": MODELS[number][1],
            "encodings": measured[0]["encodings"],
            "megabytes": measured[0]["megabytes"],
            **{what: median(run[what] for run in measured) for what in WHAT},
            "runs": [{what: run[what] for what in WHAT} for run in measured],
        }
        for (isa, number), measured in runs.items()
    ]


def work(layers: int, threads: int) -> None:
    """Answers the number of a model with its tokens per second."""
    for line in sys.stdin:
        dtype, zeros = MODELS[int(line)]
        with Model.load(model_path(layers, dtype, zeros), threads=threads, max_context=512, max_batch=BATCH) as model:
            blocks = [weight for name, weight in model.weights.items() if name.endswith("_proj.weight")]
            step(model, 1, PROMPT)  # wakes the pages
            answer = {
                "decode": 1 / some(lambda i: step(model, 1, PROMPT + i), STEPS),
                "batch": BATCH / some(lambda i: batch_step(model, PROMPT + i), STEPS // 2),
                "prefill": PROMPT / some(lambda _: step(model, PROMPT, 0), 3),
                "encodings": sorted({weight.encoding for weight in blocks}),
                "megabytes": round(sum(weight.nbytes for weight in blocks) / 1e6, 1),
            }
        print(json.dumps(answer), flush=True)


def some(measure: Callable[[int], float], most: int) -> float:
    """The median of measurements that take a second together, or of `most` of them."""
    found = [measure(0)]
    while len(found) < most and sum(found) < 1:
        found.append(measure(len(found)))
    return median(found)


def batch_step(model: Model, context: int) -> float:
    """Seconds of a step that decodes a token of each of 16 sequences."""
    rows = np.arange(BATCH, dtype=np.int32)
    tables = np.arange(BATCH * -(-(context + 1) // 32), dtype=np.int32).reshape(BATCH, -1)
    start = time.perf_counter()
    model.executor.step(rows + 3, np.full(BATCH, context, np.int32), rows, tables, rows)
    return time.perf_counter() - start


def table(result: dict[str, Any]) -> str:
    """The table: tokens per second, and how many times dense of the same dtype."""
    rows = {(row["threads"], row["isa"], row["dtype"], row["zeros"]): row for row in result["isas"]}
    lines = [
        "| threads | instructions | weights | in memory as | decode | batch of 16 | prefill 128 |",
        "|--:|---|---|---|--:|--:|--:|",
    ]
    for (threads, isa, dtype, zeros), row in rows.items():
        cells = []
        for what in WHAT:
            ratio = row[what] / rows[threads, isa, dtype, "dense"][what]
            cells.append(f"{row[what]:.3g}" + (f" ({ratio:.2f}×)" if zeros != "dense" else ""))
        kept = ", ".join(row["encodings"])
        lines.append(f"| {threads} | {isa} | {dtype} {zeros} | {kept} | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
