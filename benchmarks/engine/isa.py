"""Sparse against dense on every instruction set: decode and a prompt of 128 tokens, int8 and float32, whole models.

    python -m benchmarks.engine.isa [--layers 8] [--threads 2] [--rounds 5] [--output FILE]

Random weights of some of TinyLlama-1.1B's layers, kept in build/. Each instruction set has a process of its own, and
all of them take turns; medians count. Leaves isa.json in results/.
"""

import argparse
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console

from benchmarks.common.provenance import ROOT
from benchmarks.common.random_llama import DType, write_packed
from benchmarks.common.results import RESULTS, save
from benchmarks.common.shapes import SHAPES
from benchmarks.engine.threads import step
from cutwork import _native
from cutwork.engine.model import Model

MODELS: tuple[tuple[DType, int], ...] = (
    ("int8", 0),
    ("int8", 50),
    ("int8", 75),
    ("f32", 0),
    ("f32", 75),
)  # dtype, percent of zeros
PROMPT, STEPS = 128, 12
SLOW_ROUNDS = 1  # of scalar, which takes seconds


def main() -> None:
    """Measure and write; with --worker, answer another process."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--output", type=Path, default=RESULTS / "isa.json")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        return work(options.layers, options.threads)

    for dtype, sparsity in MODELS:
        path = model_path(options.layers, dtype, sparsity)
        if not path.exists():
            Console(stderr=True).print(f"writing {path}")
            path.parent.mkdir(parents=True, exist_ok=True)
            write_packed(path, replace(SHAPES["1.1b"], layers=options.layers), dtype, sparsity / 100)
    rows = measure(options.layers, options.threads, options.rounds)
    content = {"layers": options.layers, "rounds": options.rounds, "isas": rows}
    print(table(save(options.output, content, threads=options.threads)))


def model_path(layers: int, dtype: str, sparsity: int) -> Path:
    """Where a packed model is kept."""
    return ROOT / "build" / f"random-{layers}" / f"{dtype}-{sparsity}"


def measure(layers: int, threads: int, rounds: int) -> list[dict[str, Any]]:
    """One row per instruction set and model, from processes that take turns."""
    command = [
        sys.executable,
        "-m",
        "benchmarks.engine.isa",
        "--worker",
        "--layers",
        str(layers),
        "--threads",
        str(threads),
    ]
    workers = {
        isa: subprocess.Popen(
            command,
            cwd=ROOT,
            env=os.environ | {"CUTWORK_ISA": isa, "CUTWORK_COSTS": "default"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for isa in _native.isas()
    }
    runs: dict[tuple[str, int], list[list[float]]] = {}
    for turn in range(rounds):
        for isa, worker in workers.items():
            if isa == "scalar" and turn >= SLOW_ROUNDS:
                continue
            for number in range(len(MODELS)):
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
            "dtype": MODELS[number][0],
            "sparsity": MODELS[number][1] / 100,
            "decode_tokens_per_second": median(decode for decode, _ in measured),
            "prefill_tokens_per_second": median(prefill for _, prefill in measured),
            "decode_runs": [decode for decode, _ in measured],
            "prefill_runs": [prefill for _, prefill in measured],
        }
        for (isa, number), measured in runs.items()
    ]


def work(layers: int, threads: int) -> None:
    """Answers the number of a model with its tokens per second, [decode, prefill]."""
    models = [
        Model.load(model_path(layers, dtype, sparsity), threads=threads, max_context=512, max_batch=1)
        for dtype, sparsity in MODELS
    ]
    for line in sys.stdin:
        model = models[int(line)]
        step(model, 1, PROMPT)  # wakes the pages
        decode = 1 / median(step(model, 1, PROMPT + i) for i in range(STEPS))
        print(json.dumps([decode, PROMPT / step(model, PROMPT, 0)]), flush=True)


def table(result: dict[str, Any]) -> str:
    """The table: tokens per second, and how many times dense of the same dtype."""
    rows = {(row["isa"], row["dtype"], row["sparsity"]): row for row in result["isas"]}
    lines = [
        "| instructions | weights | decode | prefill 128 |",
        "|---|---|--:|--:|",
    ]
    for (isa, dtype, sparsity), row in rows.items():
        cells = []
        for what in ("decode", "prefill"):
            speed = row[f"{what}_tokens_per_second"]
            ratio = speed / rows[isa, dtype, 0.0][f"{what}_tokens_per_second"]
            cells.append(f"{speed:.3g}" + (f" ({ratio:.2f}×)" if sparsity else ""))
        lines.append(f"| {isa} | {dtype} {sparsity:.0%} | {cells[0]} | {cells[1]} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
