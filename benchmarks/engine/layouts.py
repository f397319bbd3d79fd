"""In which layout int8 zeros pay, by how many tokens come at once: python -m benchmarks.engine.layouts.

One weight of 4,096 columns, in every layout larger than the last-level cache, with zeros anywhere or n of every 16
neighbours kept: as a bitmask, as one that is reordered for many tokens (`--reorder-weights`, which keeps the bitmask
too), and in slots. Each by its fastest kernel, beside no zeros; all in turn, medians. Leaves layouts.json in results/;
takes minutes on a quiet machine.
"""

import argparse
from collections.abc import Mapping
from functools import partial
from statistics import median
from typing import Any

import numpy as np

from benchmarks.common.results import RESULTS, save
from benchmarks.common.timing import interleaved
from benchmarks.engine.kernels import BLOCK_ROWS, COLS, last_level_cache, random_block, repeated, seconds_of
from cutwork import _native

MASKS = ("50%", "75%", "90%", "8:16", "4:16")
TOKENS = (1, 4, 16, 128)
DENSE = ("0%", "dense")
SMALLEST = 0.23  # of a dense weight's bytes: 90% zeros as a bitmask


def block_of(mask: str, rng: np.random.Generator) -> np.ndarray:
    """Random codes int8 [BLOCK_ROWS, COLS] with zeros anywhere, or all but n of every 16 neighbours."""
    if mask.endswith("%"):
        return random_block(rng, "i8", float(mask[:-1]) / 100)
    kept = int(mask.partition(":")[0])
    lives = rng.permuted(np.broadcast_to(np.arange(16) < kept, (BLOCK_ROWS, COLS // 16, 16)), axis=2)
    return np.where(lives.reshape(BLOCK_ROWS, COLS), random_block(rng, "i8", 0), 0).astype(np.int8)


def weights_of(copies: int) -> dict[tuple[str, str], "_native.Weight"]:
    """By mask and layout; a layout that the instruction set does not have is left out."""
    rng = np.random.default_rng(0)
    weights = {DENSE: repeated(random_block(rng, "i8", 0), copies, "dense")}
    for mask in MASKS:
        block = block_of(mask, rng)
        weights[mask, "bitmask"] = repeated(block, copies, "bitmask")
        reordered = repeated(block, copies, "bitmask")
        if reordered.reorder():
            weights[mask, "reordered"] = reordered
        slots = weights[mask, "bitmask"].in_slots()
        assert slots is not None
        weights[mask, "slots"] = slots
    return weights


def fastest(
    weights: Mapping[tuple[str, str], "_native.Weight"], tokens: int, threads: int, repeats: int
) -> dict[tuple[str, str], tuple[float, str]]:
    """(seconds, kernel) of each weight's fastest kernel."""
    x = np.random.default_rng(tokens).standard_normal((tokens, COLS)).astype(np.float32)
    jobs = {
        (*key, kernel): partial(seconds_of, weight, x, threads, kernel)
        for key, weight in weights.items()
        for kernel in weight.kernels()
    }
    found: dict[tuple[str, str], tuple[float, str]] = {}
    for (mask, layout, kernel), seconds in interleaved(jobs, repeats).items():
        found[mask, layout] = min(found.get((mask, layout), (float("inf"), "")), (median(seconds), kernel))
    return found


def table(result: dict[str, Any]) -> str:
    """By threads, mask and layout: megabytes beside dense, and times as fast."""
    heads = " | ".join(f"{tokens} token{'s' * (tokens > 1)}" for tokens in TOKENS)
    lines = [f"| threads | zeros | layout | memory | {heads} |", "|--:|---|---|--:" + "|--:" * len(TOKENS) + "|"]
    dense = {(row["threads"], row["tokens"]): row for row in result["rows"] if row["layout"] == "dense"}
    speeds: dict[tuple[int, str, str], dict[int, float]] = {}
    memory = {}
    for row in result["rows"]:
        if row["layout"] == "dense":
            continue
        base = dense[row["threads"], row["tokens"]]
        key = row["threads"], row["mask"], row["layout"]
        speeds.setdefault(key, {})[row["tokens"]] = base["seconds"] / row["seconds"]
        memory[key] = row["nbytes"] / base["nbytes"]
    best = {
        (threads, mask, tokens): max(each[tokens] for key, each in speeds.items() if key[:2] == (threads, mask))
        for threads, mask, _ in speeds
        for tokens in TOKENS
    }
    for (threads, mask, layout), each in speeds.items():
        cells = (
            f"**{each[tokens]:.2f}×**" if each[tokens] == best[threads, mask, tokens] else f"{each[tokens]:.2f}×"
            for tokens in TOKENS
        )
        lines.append(
            f"| {threads} | {mask} | {layout} | {memory[threads, mask, layout]:.0%} | " + " | ".join(cells) + " |"
        )
    return "\n".join(lines)


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--output", default=RESULTS / "layouts.json")
    options = parser.parse_args()
    weights = weights_of(int(1.5 * last_level_cache() / (SMALLEST * BLOCK_ROWS * COLS)) + 1)
    rows = []
    for threads in options.threads:
        for tokens in TOKENS:
            for (mask, layout), (seconds, kernel) in fastest(weights, tokens, threads, options.repeats).items():
                weight = weights[mask, layout]
                nbytes = weight.nbytes + weight.reordered_bytes
                about = {"threads": threads, "tokens": tokens, "mask": mask, "layout": layout}
                rows.append({**about, "kernel": kernel, "seconds": seconds, "nbytes": nbytes})
    print(table(save(options.output, {"repeats": options.repeats, "rows": rows})))


if __name__ == "__main__":
    main()
