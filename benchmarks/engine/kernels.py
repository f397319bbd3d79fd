"""Speed of the linear kernels: python -m benchmarks.engine.kernels [--threads 2] [--repeats 7] [--output FILE].

Decode streams one weight much larger than the last-level cache; prefill multiplies a 4096 x 4096 weight. All encodings
of the same shape are timed in turn, and medians are compared: absolute times belong to one machine.
"""

import argparse
import statistics
import time
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.common.results import BUILD, save, where
from benchmarks.common.timing import interleaved
from cutwork import _native
from cutwork.pack.int4 import GROUP, encode_int4
from cutwork.pack.masked import encode

COLS = 4096
BLOCK_ROWS = 512  # rows that are drawn at random; larger weights repeat them
SPARSITIES = (0.0, 0.5, 0.6, 0.75, 0.9)
DECODE_TOKENS = (1, 4, 16)
PREFILL_TOKENS = (128, 512)
BYTES = {"f32": 4, "bf16": 2, "i8": 1, "i4": 0.5}
BLOCKS = {"block1x4": (1, 4), "block4x1": (4, 1)}  # rows and columns that are zero together; not for i4


@dataclass
class Timing:
    """Medians of one encoding. Speeds count every weight, zeros included."""

    phase: str
    dtype: str
    tokens: int
    encoding: str
    sparsity: float
    rows: int
    megabytes: float
    milliseconds: float
    giga_multiply_adds: float  # per second
    gigabytes: float  # of the weight, per second
    of_memory: float  # those gigabytes as a fraction of what the machine reads, measured in the same run
    speedup: float  # over dense


def last_level_cache() -> int:
    """Bytes; 32 MiB where the system does not say."""
    sizes = Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size")
    return max((int(path.read_text().strip().rstrip("K")) << 10 for path in sizes), default=32 << 20)


def random_block(rng: np.random.Generator, dtype: str, sparsity: float, zeros: tuple[int, int] = (1, 1)) -> np.ndarray:
    """[BLOCK_ROWS, COLS] in the dtype's stored form, with zeros in blocks of so many rows and columns."""
    rows, cols = zeros
    keep = (rng.random((BLOCK_ROWS // rows, COLS // cols)) >= sparsity).repeat(rows, 0).repeat(cols, 1)
    if dtype == "i4":
        codes = rng.integers(-8, 7, keep.shape)
        return np.where(keep, codes + (codes >= 0), 0).astype(np.int8)
    if dtype == "i8":
        return np.where(keep, rng.integers(1, 128, keep.shape), 0).astype(np.int8)
    values = np.where(keep, rng.standard_normal(keep.shape), 0).astype(np.float32)
    return values if dtype == "f32" else (values.view(np.uint32) >> 16).astype(np.uint16)


def repeated(block: np.ndarray, times: int, encoding: str) -> "_native.Weight":
    """A weight of `times` copies of the block, encoded once. Its zeros must suit the encoding."""
    scale = np.full(times * BLOCK_ROWS, 1e-3, np.float32) if block.dtype == np.int8 else None
    if encoding == "dense":
        return _native.Weight.dense(np.tile(block, (times, 1)), scale)
    encoded = encode(block)
    if encoded.mask is None or encoded.offsets is None:  # no zeros: every bit is set, and the tiles follow each other
        mask = np.full((BLOCK_ROWS // 4, COLS // 64, 4), 2**64 - 1, np.uint64)
        offsets = np.arange(BLOCK_ROWS // 4 + 1, dtype=np.uint64) * np.uint64(4 * COLS)
        values = np.ascontiguousarray(block.reshape(-1, 4, COLS // 64, 64).transpose(0, 2, 1, 3)).reshape(-1)
    else:
        assert encoded.encoding == encoding
        mask, offsets, values = encoded.mask, encoded.offsets, encoded.values[: int(encoded.offsets[-1])]
    stored = offsets[-1]
    starts = [offsets[:-1] + np.uint64(i) * stored for i in range(times)]
    return _native.Weight.masked(
        encoding,
        times * BLOCK_ROWS,
        COLS,
        np.concatenate([np.tile(values, times), np.zeros(64 // block.itemsize, block.dtype)]),
        np.tile(mask, (times, *(1,) * (mask.ndim - 1))),
        np.concatenate([*starts, np.array([stored * np.uint64(times)])]),
        scale,
    )


def repeated_int4(block: np.ndarray, times: int, encoding: str) -> "_native.Weight":
    """The same of int4 codes, with scales for groups of 128."""
    scale = np.full((BLOCK_ROWS, COLS // GROUP), 0x3C00, np.uint16)
    one = encode_int4(block, scale, GROUP, allow_bitmask=encoding == "bitmask")
    shape, scales = (times * BLOCK_ROWS, COLS), np.tile(one.scale, (times, 1, 1))
    if one.mask is None or one.offsets is None:
        return _native.Weight.int4(*shape, np.tile(one.values, (times, 1, 1, 1)), scales, GROUP)
    length = one.offsets[-1]
    starts = [one.offsets[:-1] + np.uint64(i) * length for i in range(times)]
    values = np.concatenate([np.tile(one.values[: int(length)], times), np.zeros(64, np.uint8)])
    offsets = np.concatenate([*starts, np.array([length * np.uint64(times)])])
    return _native.Weight.int4(*shape, values, scales, GROUP, np.tile(one.mask, (times, 1, 1)), offsets)


def measure(phase: str, dtype: str, copies: int, tokens: tuple[int, ...], threads: int, repeats: int) -> list[Timing]:
    """All encodings and sparsities of one shape, in turn."""
    rng = np.random.default_rng(0)
    blocks = {s: random_block(rng, dtype, s) for s in SPARSITIES}
    make = repeated_int4 if dtype == "i4" else repeated
    weights = {("dense", 0.0): make(blocks[0.0], copies, "dense")}
    # Int4 without zeros has no bitmask that is smaller.
    weights |= {("bitmask", s): make(blocks[s], copies, "bitmask") for s in SPARSITIES if s or dtype != "i4"}
    for encoding, zeros in BLOCKS.items() if dtype != "i4" else ():
        for s in SPARSITIES[1:]:
            weights[encoding, s] = make(random_block(rng, dtype, s, zeros), copies, encoding)
    bandwidth = _native.read_bandwidth(threads)
    timings = []
    for count in tokens:
        x = rng.standard_normal((count, COLS)).astype(np.float32)
        jobs = {key: partial(seconds_of, weight, x, threads) for key, weight in weights.items()}
        seconds = interleaved(jobs, repeats)
        dense = statistics.median(seconds["dense", 0.0])
        for (encoding, sparsity), weight in weights.items():
            median = statistics.median(seconds[encoding, sparsity])
            timings.append(
                Timing(
                    phase=phase,
                    dtype=dtype,
                    tokens=count,
                    encoding=encoding,
                    sparsity=sparsity,
                    rows=weight.rows,
                    megabytes=round(weight.nbytes / 1e6, 3),
                    milliseconds=round(median * 1e3, 4),
                    giga_multiply_adds=round(weight.rows * COLS * count / median / 1e9, 2),
                    gigabytes=round(weight.nbytes / median / 1e9, 2),
                    of_memory=round(weight.nbytes / median / bandwidth, 3),
                    speedup=round(dense / median, 3),
                )
            )
    return timings


def seconds_of(weight: "_native.Weight", x: np.ndarray, threads: int, kernel: str | None = None) -> float:
    """Of one multiplication, by the kernel that is chosen for it unless one is named."""
    begin = time.perf_counter()
    weight.matmul(x, threads, kernel=kernel)
    return time.perf_counter() - begin


def table_of(timings: list[Timing], title: str) -> Table:
    """One line per phase, dtype and token count."""
    caption = (
        "G multiply-adds/s, zeros included (times the speed of dense); for decode, of the memory's bytes per second"
    )
    table = Table(title=title, caption=caption)
    for column in ("phase", "dtype", "tokens", "encoding", *(f"{s:.0%}" for s in SPARSITIES)):
        table.add_column(column, justify="left" if column in ("phase", "dtype", "encoding") else "right")
    lines: dict[tuple[str, str, int, str], dict[float, str]] = {}
    for timing in timings:
        text = f"{timing.giga_multiply_adds:.0f}"
        if timing.encoding != "dense":
            text += f" ({timing.speedup:.2f}x)"
        if timing.phase == "decode":
            text += f" {timing.of_memory:.0%}"
        line = timing.phase, timing.dtype, timing.tokens, timing.encoding
        lines.setdefault(line, {})[timing.sparsity] = text
    for (phase, dtype, tokens, encoding), cells in lines.items():
        table.add_row(phase, dtype, str(tokens), encoding, *(cells.get(s, "") for s in SPARSITIES))
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=_native.default_threads(), help="default: the usable CPUs")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--dtypes", nargs="+", choices=list(BYTES), default=list(BYTES))
    parser.add_argument("--tokens", type=int, nargs="+", default=DECODE_TOKENS, help="of decode")
    parser.add_argument("--decode-only", action="store_true")
    parser.add_argument("--output", type=Path, default=BUILD / "kernels.json")
    options = parser.parse_args()

    timings = []
    for dtype in options.dtypes:
        smallest = (1 - max(SPARSITIES)) * BYTES[dtype] + 1 / 8  # bytes per weight
        copies = int(3 * last_level_cache() / (smallest * BLOCK_ROWS * COLS)) + 1
        timings += measure("decode", dtype, copies, tuple(options.tokens), options.threads, options.repeats)
        if not options.decode_only:
            timings += measure("prefill", dtype, 4096 // BLOCK_ROWS, PREFILL_TOKENS, options.threads, options.repeats)
    content = {"repeats": options.repeats, "timings": [asdict(timing) for timing in timings]}
    result = save(options.output, content, threads=options.threads)
    Console(width=150).print(table_of(timings, f"{where(result)}, medians of {options.repeats}"))


if __name__ == "__main__":
    main()
