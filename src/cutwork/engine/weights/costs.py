"""What the kernels cost on this machine: measured once, kept in the user's cache, used to choose kernels."""

import hashlib
import json
import os
from collections.abc import Sequence
from itertools import combinations, product
from pathlib import Path

import numpy as np

from cutwork import __version__
from cutwork.engine.backend import Costs, TimedWeight, native
from cutwork.engine.weights.bind import make_weight
from cutwork.errors import CutworkError
from cutwork.machine import cpu_name
from cutwork.pack.int4 import GROUP, encode_int4
from cutwork.pack.masked import encode
from cutwork.pack.slots import TAKE, bytes_of, split, tiles_of, windows_of
from cutwork.store import bfloat16
from cutwork.store.atomic import write_atomically
from cutwork.store.cache import cache_directory

ENVIRONMENT = "CUTWORK_COSTS"  # a file to read instead of the cache, or "default": the built-in costs

# Rows and columns of the weights that are timed. Those stay in cache, so that arithmetic is what is measured; where
# zeros are skipped, few rows would be over before branches and prefetches behave as they will.
_SHAPES = ((480, 2048), (1920, 512))
_SKIPPING_SHAPES = ((768, 3072), (3072, 768), (2048, 512))
_DENSITIES = (0.5, 0.2)
_ZEROS = {"bitmask": (1, 1), "block1x4": (1, 4), "block4x1": (4, 1)}  # rows and columns that are zero together
_ENCODINGS = {
    "f32": ("dense", *_ZEROS),
    "bf16": ("dense", *_ZEROS),
    "i8": ("dense", *_ZEROS, "slots"),
    "i4": ("dense", "bitmask", "slots"),
}
_TOKENS = {
    "gemv": (1, 2, 4, 8, 16, 64),
    "gemm": (8, 32, 128),
    "spmm_tokens": (32, 128, 512),
    "spmm_rows": (16, 32, 128, 512),
    "slots": (1, 2, 4, 8, 16, 64),
}
_SKIPPING = ("spmm_tokens", "spmm_rows")


def load_costs() -> Costs:
    """The `cutwork._native.Costs` of this process's instruction set.

    From the file that CUTWORK_COSTS names, else as measured before (`measure_costs`), else the built-in ones. Raises
    CutworkError if the file that was named cannot be used; a damaged cache counts as none.
    """
    named = os.environ.get(ENVIRONMENT, "")
    if named == "default":
        return native().Costs()
    try:
        return _read(Path(named) if named else cache_path())
    except (OSError, ValueError, TypeError, KeyError) as error:
        if named:
            problem = error.strerror if isinstance(error, OSError) else error
            raise CutworkError(f"the costs in {named} (from {ENVIRONMENT}) cannot be used: {problem}") from None
        return native().Costs()


def have_measured() -> bool:
    """Whether this machine's own costs, or those of a file, are in use."""
    if os.environ.get(ENVIRONMENT):
        return True
    try:
        _read(cache_path())
    except (OSError, ValueError, TypeError, KeyError):
        return False
    return True


def measure_costs() -> Costs:
    """Time every kernel with every encoding for five seconds, keep the costs for later processes and return them."""
    backend = native()
    costs = backend.Costs()
    constants = {}
    for dtype in ("f32", "bf16", "i8", "i4"):
        for encoding in _ENCODINGS[dtype]:
            weights = _weights(dtype, encoding, _SHAPES)
            for kernel in weights[0].kernels():
                timed = _weights(dtype, encoding, _SKIPPING_SHAPES) if kernel in _SKIPPING else weights
                constants[f"{kernel} {encoding} {dtype}"] = _fit(costs, kernel, timed)
    threads = backend.default_threads()
    one = backend.read_bandwidth(1, 256, 4)
    bandwidth = (one, max(one, backend.read_bandwidth(threads, 256, 4)))
    measured = backend.Costs(constants, bandwidth)
    content = {
        "cpu": cpu_name(),
        "isa": measured.isa,
        "version": __version__,
        "bandwidth": bandwidth,
        "constants": constants,
    }
    path = cache_path()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, json.dumps(content, indent=1) + "\n")
    except OSError:
        pass  # a home that cannot be written to: they serve this process
    return measured


def cache_path() -> Path:
    """Where costs are kept: by processor, instruction set and build of the native module."""
    backend = native()
    build = Path(str(backend.__file__)).stat()
    key = f"{cpu_name()} {__version__} {build.st_size} {build.st_mtime_ns}"
    return cache_directory() / f"costs-{backend.isa()}-{hashlib.sha256(key.encode()).hexdigest()[:12]}.json"


def _read(path: Path) -> Costs:
    """Raises OSError, or for what are no costs of this process's instruction set ValueError, TypeError or KeyError."""
    try:
        content = json.loads(path.read_text())
    except RecursionError:
        raise ValueError("the file is nested too deeply") from None
    if not isinstance(content, dict) or not isinstance(content.get("constants"), dict):
        raise ValueError("the file has no object 'constants'")
    if content["isa"] != native().isa():
        raise ValueError(f"they were measured with {content['isa']}, not {native().isa()}")
    constants = {name: tuple(values) for name, values in content["constants"].items()}
    return native().Costs(constants, tuple(content["bandwidth"]))


def _weights(dtype: str, encoding: str, shapes: Sequence[tuple[int, int]]) -> list[TimedWeight]:
    weights = []
    if encoding == "slots":
        return [_in_slots(dtype, keep, *shape) for keep, shape in product((4, 8), shapes)]
    for density, (rows, cols) in product(_DENSITIES if encoding in _ZEROS else (1.0,), shapes):
        random = np.random.default_rng(0)
        high, wide = _ZEROS.get(encoding, (1, 1))
        keep = (random.random((rows // high, cols // wide)) < density).repeat(high, 0).repeat(wide, 1)
        values = np.where(keep, random.integers(1, 8, (rows, cols)), 0)
        if dtype == "i4":
            scale = np.ones((rows, -(-cols // GROUP)), np.float32)
            encoded = encode_int4(values.astype(np.int8), scale, GROUP, allow_bitmask=encoding == "bitmask")
        else:
            stored = values.astype(np.int8 if dtype == "i8" else np.float32)
            stored = bfloat16.from_float32(stored) if dtype == "bf16" else stored
            rows_scale = np.ones(rows, np.float32) if dtype == "i8" else None
            encoded = encode(stored, rows_scale, allow_bitmask=encoding in _ZEROS)
        weights.append(make_weight("timed", (rows, cols), encoded, native().Weight))
    return weights


def _in_slots(dtype: str, keep: int, rows: int, cols: int) -> TimedWeight:
    """A weight of which so many of 16 columns live: int4 the same number of every 16, int8, which is what is laid out
    in slots when a model is loaded, any of them."""
    random = np.random.default_rng(0)
    values = random.integers(1, 8, (rows, cols))
    if dtype == "i8":
        codes = np.where(random.random((rows, cols)) < keep / 16, values, 0).astype(np.int8)
        weight = make_weight("timed", (rows, cols), encode(codes, np.ones(rows, np.float32)), native().Weight)
        slots = weight.in_slots()
        assert slots is not None
        return slots
    lives = random.permuted(np.broadcast_to(np.arange(16) < keep, (rows, cols // 16, 16)), axis=2)
    codes = np.where(lives.reshape(rows, cols), values, 0).astype(np.int8)
    steps = np.full((tiles_of(rows), windows_of(cols)), keep // TAKE, np.uint8)
    scale = np.ones((tiles_of(rows), -(-cols // GROUP), 16), np.float32)
    return native().Weight.slots(rows, cols, bytes_of(*split(codes, steps)), scale, keep, None, GROUP)


def _fit(costs: Costs, kernel: str, weights: Sequence[TimedWeight]) -> tuple[float, ...]:
    """Constants that explain the times of a kernel, in picoseconds: least squares of the relative errors."""
    work, times = [], []
    for weight in weights:
        shape = (weight.encoding, weight.dtype, weight.rows, weight.cols, weight.stored)
        for tokens in _TOKENS[kernel]:
            work.append(costs.work(kernel, *shape, tokens, weight.form))
            times.append(1e12 * weight.time(tokens, kernel, repeats=3 if tokens > 16 else 8))
    relative = np.asarray(work) / np.asarray(times)[:, None]
    if weights[0].encoding == "dense":
        relative[:, 1] = 0  # as many nonzeros as positions: one constant tells it all
    if (weights[0].encoding, weights[0].dtype) == ("slots", "i8"):
        relative[:, 3] = 0  # nothing is listed, and int4's segments, which take as long for each token, it has not
    return tuple(_nonnegative_least_squares(relative, np.ones(len(times))))


def _nonnegative_least_squares(a: np.ndarray, b: np.ndarray) -> list[float]:
    """The best of the unconstrained solutions over every subset of the columns that has no negative entry."""
    columns = range(a.shape[1])
    least, best = float("inf"), np.zeros(a.shape[1])
    for count in columns:
        for some in combinations(columns, count + 1):
            solution = np.zeros(a.shape[1])
            solution[list(some)] = np.linalg.lstsq(a[:, some], b, rcond=None)[0]
            error = float(np.linalg.norm(a @ solution - b))
            if error < least and (solution >= 0).all():
                least, best = error, solution
    return [float(x) for x in best]
