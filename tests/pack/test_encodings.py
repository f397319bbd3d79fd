import time
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cutwork import _native
from cutwork.errors import CutworkError
from cutwork.pack.decode import decode
from cutwork.pack.masked import BLOCK_COLS, GROUP_ROWS, encode
from cutwork.pack.reader import verify
from cutwork.pack.record import EncodedWeight
from cutwork.pack.zeros import negative_zeros, restore_negative_zeros
from cutwork.store import bfloat16

STORAGE = {"f32": np.uint32, "bf16": np.uint16, "i8": np.uint8}
VALUES = {"f32": np.float32, "bf16": np.uint16, "i8": np.int8}


@st.composite
def matrices(draw: st.DrawFn) -> np.ndarray:
    """Matrices of arbitrary bits (NaN payloads, infinities, denormals, zeros of both signs) and any density."""
    dtype = draw(st.sampled_from(sorted(STORAGE)))
    shape = draw(st.integers(1, 40)), draw(st.integers(1, 300))
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    bits = random.integers(0, np.iinfo(STORAGE[dtype]).max, shape, dtype=STORAGE[dtype], endpoint=True)
    bits[random.random(shape) < draw(st.sampled_from([0.0, 0.3, 0.5, 0.75, 0.95, 1.0]))] = 0
    if dtype != "i8":
        negative_zero = 1 << (8 * bits.itemsize - 1)
        bits[random.random(shape) < draw(st.sampled_from([0.0, 0.2]))] = negative_zero
    return bits.view(VALUES[dtype])


def as_bits(array: np.ndarray) -> bytes:
    return np.ascontiguousarray(array).tobytes()


@settings(max_examples=200, deadline=None)
@given(matrices())
def test_a_round_trip_keeps_every_bit(dense: np.ndarray) -> None:
    before = dense.copy()
    scale = np.ones(len(dense), np.float32) if dense.dtype == np.int8 else None
    weight = encode(dense, scale)
    verify("w", weight)
    back = decode(weight).copy()
    signs = negative_zeros(dense)
    if signs is not None and weight.encoding != "dense":
        restore_negative_zeros(back, signs)
    assert as_bits(back) == as_bits(before) == as_bits(dense)
    assert weight.nbytes <= weight.dense_nbytes
    assert weight.shape == dense.shape


def test_the_order_of_values_is_the_documented_one() -> None:
    random = np.random.default_rng(7)
    dense = random.integers(1, 100, (7, 130)).astype(np.int8)
    dense[random.random(dense.shape) < 0.5] = 0
    weight = encode(dense, np.ones(7, np.float32))
    assert weight.encoding == "bitmask" and weight.mask is not None and weight.offsets is not None
    assert weight.mask.shape == (2, 3, 4) and weight.mask.dtype == np.uint64
    expected = []
    for group, block, r, bit in np.ndindex(2, 3, GROUP_ROWS, BLOCK_COLS):
        row, col = GROUP_ROWS * group + r, BLOCK_COLS * block + bit
        value = dense[row, col] if row < 7 and col < 130 else 0
        assert int(weight.mask[group, block, r]) >> bit & 1 == (value != 0)
        expected += [value] if value else []
    assert weight.values[: len(expected)].tolist() == expected
    assert weight.values.nbytes == len(expected) + 64 and not weight.values[len(expected) :].any()
    assert weight.offsets.tolist() == [0, np.count_nonzero(dense[:4]), len(expected)]


@pytest.mark.parametrize("dtype", ["f32", "bf16", "i8"])
def test_the_native_module_reads_it(dtype: str) -> None:
    random = np.random.default_rng(1)
    dense = random.integers(1, 100, (37, 201)).astype(VALUES[dtype])
    dense[random.random(dense.shape) < 0.8] = 0
    weight = encode(dense, np.ones(37, np.float32) if dtype == "i8" else None)
    loaded = _native.Weight.masked("bitmask", 37, 201, weight.values, weight.mask, weight.offsets, weight.scale)
    assert loaded.nonzeros == weight.nonzeros == np.count_nonzero(dense)
    assert as_bits(loaded.to_dense()) == as_bits(dense)


def test_dense_is_chosen_when_the_mask_would_not_pay() -> None:
    dense = np.ones((64, 640), np.int8)
    assert encode(dense, np.ones(64, np.float32)).encoding == "dense"
    dense[np.random.default_rng(1).random(dense.shape) < 0.06] = 0  # less than the mask's eighth
    assert encode(dense, np.ones(64, np.float32)).encoding == "dense"
    dense[np.random.default_rng(2).random(dense.shape) < 0.5] = 0
    assert encode(dense, np.ones(64, np.float32)).encoding == "bitmask"
    assert encode(np.zeros(640, np.float32)).encoding == "dense"  # a vector
    assert encode(np.zeros((4, 65537), np.float32)).encoding == "dense"  # wider than the kernels' accumulators


def test_bits_per_weight_are_those_promised() -> None:
    random = np.random.default_rng(2)
    dense = random.integers(1, 100, (512, 2048)).astype(np.int8)
    dense[random.random(dense.shape) < 0.75] = 0
    weight = encode(dense, np.ones(512, np.float32))
    assert weight.sparsity == pytest.approx(0.75, abs=0.01)
    assert 8 * weight.nbytes / dense.size == pytest.approx(8 * 0.25 + 1, abs=0.1)


def test_a_billion_weights_take_well_under_a_minute() -> None:
    random = np.random.default_rng(3)
    dense = random.integers(1, 100, (2048, 4096)).astype(np.int8)
    dense[random.random(dense.shape) < 0.75] = 0
    start = time.process_time()
    encode(dense, np.ones(2048, np.float32))
    assert (time.process_time() - start) * 1e9 / dense.size < 50


def damage(weight: EncodedWeight, part: str, index: tuple[int, ...] | int, value: int) -> EncodedWeight:
    arrays = {name: np.array(getattr(weight, name)) for name in ("values", "mask", "offsets", "scale")}
    arrays[part][index] = value
    return EncodedWeight(weight.encoding, weight.dtype, weight.shape, nonzeros=weight.nonzeros, **arrays)


@pytest.mark.parametrize(
    ("part", "index", "value", "problem"),
    [
        ("mask", (0, 0, 0), 0, "mask of rows 0"),
        ("mask", (0, 1, 0), 2**63, "beyond the last row or column"),
        ("mask", (1, 0, 3), 1, "beyond the last row or column"),
        ("offsets", 0, 1, "offsets"),
        ("offsets", 1, 10**9, "offsets"),
        ("offsets", -1, 3, "offsets"),
        ("values", -1, 1, "padding"),
        ("scale", 0, -np.inf, "scale"),
        ("scale", 0, np.nan, "scale"),
    ],
)
def test_damage_is_found(part: str, index: tuple[int, ...] | int, value: int, problem: str) -> None:
    random = np.random.default_rng(8)
    dense = (random.random((7, 100)) < 0.4).astype(np.int8)
    weight = encode(dense, np.ones(7, np.float32))
    assert weight.encoding == "bitmask"
    if problem.startswith("beyond"):  # keep the count right, so that only the stray bit is wrong
        group = 0 if part == "mask" and index[0] == 0 else 1  # type: ignore[index]
        assert weight.mask is not None
        first = int(weight.mask[group, 0, 0])
        weight = damage(weight, "mask", (group, 0, 0), first & (first - 1))
        value |= int(weight.mask[index]) if weight.mask is not None else 0
    with pytest.raises(CutworkError, match=problem):
        verify("w", damage(weight, part, index, value))


def test_bfloat16_rounds_to_nearest_even_like_torch() -> None:
    torch = pytest.importorskip("torch")
    random = np.random.default_rng(4)
    bits = random.integers(0, 2**32, 100_000, dtype=np.uint32)
    bits[:6] = [0x3F808000, 0x3F818000, 0x7F7FFFFF, 0xFF800000, 0x80000000, 0x00000001]
    values = bits.view(np.float32)
    expected = torch.from_numpy(values.copy()).to(torch.bfloat16).view(torch.int16).numpy().view(np.uint16)
    ours, numbers = bfloat16.from_float32(values), ~np.isnan(values)
    assert (ours[numbers] == expected[numbers]).all()
    assert np.isnan(bfloat16.to_float32(ours[~numbers])).all()
    assert (bfloat16.from_float32(bfloat16.to_float32(expected))[numbers] == expected[numbers]).all()


@pytest.mark.parametrize("kind", [np.float32, np.uint16, np.int8])
@pytest.mark.parametrize(("encoding", "high", "wide"), [("block1x4", 1, 4), ("block4x1", 4, 1)])
def test_zeros_in_blocks_are_stored_as_blocks(kind, encoding, high, wide):
    rng = np.random.default_rng(3)
    rows, cols = 38, 202
    keep = np.kron(rng.random((-(-rows // high), -(-cols // wide))) < 0.3, np.ones((high, wide), bool))
    dense = np.where(keep[:rows, :cols], rng.integers(1, 100, (rows, cols)), 0).astype(kind)
    scale = np.ones(rows, np.float32) if kind == np.int8 else None
    weight = encode(dense, scale)
    assert weight.encoding == encoding and weight.nonzeros >= np.count_nonzero(dense)
    np.testing.assert_array_equal(decode(weight), dense)
    verify("w", weight)
    loaded = _native.Weight.masked(encoding, rows, cols, weight.values, weight.mask, weight.offsets, scale)
    np.testing.assert_array_equal(loaded.to_dense(), dense)
    damaged = replace(weight, values=np.ones_like(weight.values))
    with pytest.raises(CutworkError, match=r"beyond the last row or column|padding"):
        verify("w", damaged)
