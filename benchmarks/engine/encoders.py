"""What sparsity gives encoders: time of Whisper-base's and T5-base's, dense to 90% sparse, fp32 and int8.

    python -m benchmarks.engine.encoders [--rounds 7] [--output FILE]  # minutes; interrupt it, run it again

Random weights of those shapes, made in memory; int8 as `cutwork quantize` leaves it, with T5's `wo` and Whisper's
convolutions in fp32; "int8 all" with `wo` in int8 too (`--override '*.wo=w8a8'`). A step reads 30 seconds (1500
entries) or 512 tokens. Every round times each variant once, in turn, so that all share the machine's good and bad
moments; medians are shown. Leaves encoders.json and encoders.png in results/.
"""

import argparse
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from rich.console import Console

from benchmarks.common import figures
from benchmarks.common.results import RESULTS, resume, save, where
from benchmarks.common.shapes import T5_BASE, WHISPER_BASE
from cutwork import _native
from cutwork.architectures import build_encoder_plan
from cutwork.engine.weights.bind import make_weight
from cutwork.engine.weights.cache_size import BLOCK_SIZE
from cutwork.engine.weights.costs import load_costs
from cutwork.pack.masked import encode
from cutwork.plan.builder import Plan
from cutwork.plan.ops import Input
from cutwork.store.block_names import in_block

SPARSITIES = (0, 50, 67, 75, 80, 90)  # percent
DTYPES = ("fp32", "int8", "int8 all")
THREADS = (1, 2)
SHAPES = {"whisper-base": (1500, WHISPER_BASE), "t5-base": (512, T5_BASE)}  # entries of a step, config


def main() -> None:
    """Measure what is missing, write, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--shape", choices=SHAPES, help="only this encoder; the file keeps the other")
    parser.add_argument("--output", type=Path, default=RESULTS / "encoders.json")
    options = parser.parse_args()
    seconds: dict[str, list[float]] = resume(options.output).get("seconds", {})
    for shape in [options.shape] if options.shape else SHAPES:
        variants = [(s, d, t) for s in SPARSITIES for d in dtypes(shape) for t in THREADS]
        missing = [each for each in variants if len(seconds.get(_key(shape, *each), [])) < options.rounds]
        if not missing:
            continue
        Console(stderr=True).print(f"making {shape} at {len(SPARSITIES)} sparsities in {' and '.join(DTYPES)}")
        encoders = {each: Encoder(shape, *each) for each in missing}
        for encoder in encoders.values():
            encoder.step()
        for number in range(options.rounds):
            for each, encoder in encoders.items():
                found = seconds.setdefault(_key(shape, *each), [])
                if len(found) <= number:
                    found.append(encoder.step())
            save(options.output, {"seconds": seconds})
    result = resume(options.output)
    report(seconds)
    plot(result, options.output.with_suffix(".png"))


def dtypes(shape: str) -> tuple[str, ...]:
    """Whisper has no `wo`."""
    return DTYPES if shape.startswith("t5") else DTYPES[:2]


class Encoder:
    """An encoder's executor over random weights, with `sparsity` percent zeros in the linears of its blocks."""

    _weights: dict[tuple[str, int, str], list[Any]] = {}  # noqa: RUF012  # shared by numbers of threads

    def __init__(self, shape: str, sparsity: int, dtype: str, threads: int) -> None:
        self._entries, config = SHAPES[shape]
        found = build_encoder_plan(config)
        assert found
        self._plan = found
        random = np.random.default_rng(sparsity)
        key = (shape, sparsity, dtype)
        if key not in self._weights:
            self._weights[key] = [_weight(found, name, sparsity, dtype, random) for name in found.weights]
        blocks = -(-self._entries // BLOCK_SIZE)
        cache = {"layers": found.cache_layers, "kv_heads": found.kv_heads, "head_dim": found.head_dim}
        self._executor = _native.Executor(
            found.op_dicts(),
            found.spans(),
            self._weights[key],
            [random.uniform(0.5, 1.5, length).astype(np.float32) for length in found.vectors.values()],
            threads=threads,
            max_tokens=self._entries,
            max_logits=1,
            cache={**cache, "block_size": BLOCK_SIZE, "blocks": blocks, "dtype": "f32" if dtype == "fp32" else "bf16"},
            costs=load_costs(),
        )
        self._table = np.arange(blocks, dtype=np.int32)[None]
        self._more: dict[str, Any] = {}
        first = found.ops[0]
        if isinstance(first, Input):
            width = found.buffers[first.out].width
            self._more["features"] = random.standard_normal((self._entries, width)).astype(np.float32)

    def step(self) -> float:
        """Seconds of reading one whole input."""
        ids = np.arange(self._entries, dtype=np.int32)
        start = time.perf_counter()
        self._executor.step(ids, ids, np.zeros_like(ids), self._table, ids[:0], **self._more)
        return time.perf_counter() - start


def _weight(plan: Plan, name: str, sparsity: int, dtype: str, random: np.random.Generator) -> Any:
    rows, cols = plan.weights[name]
    block = in_block(name)
    zero = random.random((rows, cols), np.float32) < (sparsity / 100 if block else 0)
    if block and (dtype == "int8 all" or (dtype == "int8" and not name.endswith(".wo.weight"))):
        codes = np.where(zero, np.int8(0), random.integers(1, 128, (rows, cols), np.int8))
        stored = encode(codes, np.full(rows, 1e-4, np.float32))
    else:
        stored = encode(np.where(zero, np.float32(0), random.standard_normal((rows, cols), np.float32) / 32))
    return make_weight(name, (rows, cols), stored, _native.Weight)


def _key(shape: str, sparsity: int, dtype: str, threads: int) -> str:
    return f"{shape} {sparsity}% {dtype} {threads} threads"


def report(seconds: dict[str, list[float]]) -> None:
    """A table of medians, and how many times the speed of dense fp32 and of the same dtype without zeros they are."""
    for shape in SHAPES:
        for threads in THREADS:
            for dtype in dtypes(shape):
                cells = []
                for sparsity in SPARSITIES:
                    found = seconds.get(_key(shape, sparsity, dtype, threads))
                    if found:
                        dense = [median(seconds[_key(shape, 0, d, threads)]) for d in ("fp32", dtype)]
                        times = [f"{each / median(found):.2f}x" for each in dense]
                        cells.append(f"{sparsity}%: {1e3 * median(found):.0f} ms ({', '.join(times)})")
                if cells:
                    print(f"{shape}, {dtype}, {threads} threads: {', '.join(cells)}")


def plot(result: dict[str, Any], file: Path) -> None:
    """Speed against sparsity, dense fp32 as 1."""
    seconds = result["seconds"]
    figure = figures.new_figure(11, 4.5)
    for ax, shape in zip(figure.subplots(1, len(SHAPES)), SHAPES, strict=True):
        for dtype, colour in zip(dtypes(shape), (figures.BLUE, figures.GREEN, figures.ORANGE), strict=False):
            for threads, style in zip(THREADS, (":", "-"), strict=True):
                found = [(s, seconds.get(_key(shape, s, dtype, threads))) for s in SPARSITIES]
                points = [(s, median(times)) for s, times in found if times]
                if points and points[0][0] == 0:
                    base = median(seconds[_key(shape, 0, "fp32", threads)])
                    label = f"{dtype}, {threads} thread{'s' * (threads > 1)}"
                    ax.plot(
                        *zip(*[(s, base / t) for s, t in points], strict=True),
                        style,
                        color=colour,
                        marker="o",
                        label=label,
                    )
        ax.set_title(shape)
        ax.set_xlabel("zeros in the linears of the blocks, %")
        ax.set_ylabel("speed, times dense fp32")
        ax.set_ylim(bottom=0)
        figures.frame(ax)
        if ax.get_legend_handles_labels()[0]:
            ax.legend()
    figure.suptitle(where(result), fontsize=11, x=0.01, ha="left")
    figures.save(figure, file)


def table(result: dict[str, Any], sparsities: tuple[int, ...] = (50, 75, 90)) -> str:
    """Milliseconds without zeros, and how many times as fast zeros make it; one / two threads."""
    seconds = {key: median(found) for key, found in result["seconds"].items()}
    lines = [
        "| | no zeros, ms | " + " | ".join(f"{s}%" for s in sparsities) + " |",
        "|---|--:|" + "--:|" * len(sparsities),
    ]
    for shape in reversed(SHAPES):
        for dtype in dtypes(shape):
            dense = [seconds[_key(shape, 0, dtype, threads)] for threads in THREADS]
            cells = [" / ".join(f"{1e3 * each:.0f}" for each in dense)]
            for sparsity in sparsities:
                found = [seconds[_key(shape, sparsity, dtype, threads)] for threads in THREADS]
                cells.append(" / ".join(f"{a / b:.2f}×" for a, b in zip(dense, found, strict=True)))
            lines.append(f"| {shape}, {dtype} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
