"""How evenly the rows of a model's linears fall to many threads.

    python -m benchmarks.engine.partition MODEL [--output FILE]

A simulation, no timing: the parts that native/runtime/linear_group.cpp makes of each op's linears (four per thread, cut
at multiples of 16 rows, of about equal cost by nonzeros), handed in order to whichever thread is free. Reported per
number of threads: how much longer than the mean the busiest thread works, over all ops of a decode step.
"""

import argparse
import heapq
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common.results import RESULTS, save
from cutwork.architectures import build_plan
from cutwork.pack.reader import read_packed
from cutwork.pack.record import EncodedWeight
from cutwork.plan.ops import Linear, Logits

ROW_TILE, GROUP_ROWS, PARTS_PER_THREAD = 16, 4, 4
THREADS = (2, 4, 8, 16, 32, 64)


def tile_costs(weight: EncodedWeight) -> np.ndarray:
    """What each tile of rows costs, in elements read."""
    rows, cols = weight.shape
    ends = np.minimum(np.arange(ROW_TILE, rows + ROW_TILE, ROW_TILE), rows)
    own = np.diff(ends, prepend=0) * cols
    if weight.offsets is None:
        return np.asarray(own, np.float64)
    offsets = weight.offsets.astype(np.int64)[-(-ends // GROUP_ROWS)]
    return np.asarray(np.diff(offsets, prepend=0) + own / 8, np.float64)


def busiest(costs: np.ndarray, threads: int) -> float:
    """Cost that the last thread to finish has worked off, with the executor's split."""
    count = threads * PARTS_PER_THREAD
    middle = np.cumsum(costs) - costs / 2
    parts = np.bincount(np.minimum(middle / costs.sum() * count, count - 1).astype(int), costs, count)
    free = [0.0] * threads
    for part in parts:
        heapq.heapreplace(free, free[0] + part)
    return max(free)


def main() -> None:
    """Simulate and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="a packed model")
    parser.add_argument("--output", type=Path, default=RESULTS / "partition.json")
    options = parser.parse_args()
    packed = read_packed(options.model)
    plan = build_plan(packed.config)
    names = list(plan.weights)
    groups: dict[str, list[np.ndarray]] = {}
    for op in plan.ops:
        if isinstance(op, Linear | Logits):
            members = [names[i] for i in op.ids("weight", "weights")]
            kind = " ".join(name.split(".")[-2] for name in members)
            groups.setdefault(kind, []).append(np.concatenate([tile_costs(packed.weights[name]) for name in members]))
    rows: list[dict[str, Any]] = []
    for threads in THREADS:
        row: dict[str, Any] = {"threads": threads}
        longest = total = 0.0
        for kind, ops in groups.items():
            slowest = sum(busiest(costs, threads) for costs in ops)
            work = sum(float(costs.sum()) for costs in ops)
            row[kind] = slowest / (work / threads) - 1
            longest, total = longest + slowest, total + work
        row["step"] = longest / (total / threads) - 1
        rows.append(row)
        print(*(f"{key} {value:.1%}" if key != "threads" else f"{value:3d} threads:" for key, value in row.items()))
    nonzeros = [np.diff(w.offsets.astype(np.int64)) for w in packed.weights.values() if w.offsets is not None]
    spread = float(np.mean([n.std() / n.mean() for n in nonzeros])) if nonzeros else 0.0
    result = {"model": options.model.name, "nonzeros_per_row_group_deviation": spread, "excess": rows}
    save(options.output, result)


def table(result: dict[str, Any], from_threads: int = 8) -> str:
    """How much longer than the mean the busiest thread works."""
    kinds = [kind for kind in result["excess"][0] if kind != "threads"]
    lines = ["| threads | " + " | ".join(kinds).replace("_proj", "") + " |", "|--:|" + "--:|" * len(kinds)]
    for row in result["excess"]:
        if row["threads"] >= from_threads:
            lines.append(f"| {row['threads']} | " + " | ".join(f"{row[kind]:.1%}" for kind in kinds) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
