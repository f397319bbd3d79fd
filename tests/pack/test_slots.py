"""Slots, back and forth: what is stored is what was there, for every mask that fits and any shape."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cutwork import _native
from cutwork.engine.reference.weight import Weight as Reference
from cutwork.engine.weights.bind import make_weight
from cutwork.errors import CutworkError
from cutwork.pack import slots
from cutwork.pack.decode import decode
from cutwork.pack.int4 import encode_int4, scales_of
from cutwork.pack.masked import encode
from cutwork.pack.pack import PackWriter, pack
from cutwork.pack.reader import read_packed, verify
from cutwork.pack.restore import restore
from cutwork.store import bfloat16
from cutwork.store.directory import read_config
from cutwork.store.packed_codes import unpack_codes
from cutwork.store.safetensors import Tensor, open_tensors

from .models import llama_checkpoint, plain_tensors, write_checkpoint


def weight(rng: np.random.Generator, rows: int, cols: int, density: float, low: int, high: int) -> np.ndarray:
    codes = rng.integers(low, high + 1, (rows, cols)).astype(np.int8)
    return np.where(rng.random((rows, cols)) < density, codes, 0).astype(np.int8)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 70), st.integers(1, 100), st.floats(0, 1), st.integers(0, 2**32 - 1))
def test_int8_records_hold_the_weight(rows: int, cols: int, density: float, seed: int) -> None:
    codes = weight(np.random.default_rng(seed), rows, cols, density, -127, 127)
    steps = slots.steps_needed(codes != 0)
    columns, values = slots.split(codes, steps)
    per_tile = steps.sum(axis=1, dtype=np.int64)
    records = slots.records_of(columns, values, per_tile)
    assert records.shape == (int((-(-per_tile // 2)).sum()), slots.RECORD_BYTES)
    for found, wanted in zip(slots.steps_of(records, per_tile), (columns, values), strict=True):
        np.testing.assert_array_equal(found, wanted)
    np.testing.assert_array_equal(slots.join(columns, values, steps, (rows, cols)), codes)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 40), st.integers(1, 70), st.floats(0, 1), st.integers(0, 2**32 - 1))
def test_an_int4_slot_is_a_byte(rows: int, cols: int, density: float, seed: int) -> None:
    codes = weight(np.random.default_rng(seed), rows, cols, density, -8, 7)
    steps = slots.steps_needed(codes != 0)
    columns, values = slots.split(codes, steps)
    again = slots.split_bytes(slots.bytes_of(columns, values))
    np.testing.assert_array_equal(slots.join(*again, steps, (rows, cols)), codes)


@pytest.mark.parametrize("keep", [4, 8, 12])
def test_windows_get_what_they_are_given(keep: int) -> None:
    rng = np.random.default_rng(keep)
    codes = np.zeros((32, 64), np.int8)
    for row in codes.reshape(-1, 16):
        row[rng.permutation(16)[:keep]] = rng.integers(1, 127, keep)
    needed = slots.steps_needed(codes != 0)
    assert (needed == keep // 4).all()
    _, values = slots.split(codes, needed)
    assert values.shape == (codes.size * keep // 16 // 64, 64)
    assert (values != 0).all()  # nothing is padded
    roomy = np.full_like(needed, 4)
    np.testing.assert_array_equal(slots.join(*slots.split(codes, roomy), roomy, codes.shape), codes)


def sparse_codes(keep: int, low: int, high: int, rows: int = 64, cols: int = 320) -> np.ndarray:
    rng = np.random.default_rng(keep)
    codes = np.zeros((rows, -(-cols // 16) * 16), np.int8)
    for window in codes.reshape(-1, 16):
        window[rng.permutation(16)[:keep]] = rng.choice([low, high, 1], keep)
    return np.ascontiguousarray(codes[:, :cols])


def test_slots_are_taken_where_they_fit() -> None:
    scale = np.ones(64, np.float32)
    codes = sparse_codes(4, -127, 127)
    stored = slots.in_slots(codes, encode(codes, scale))
    assert (stored.encoding, stored.keep, stored.steps) == ("slots", 4, None)
    np.testing.assert_array_equal(decode(stored), codes)
    assert stored.nonzeros == np.count_nonzero(codes)
    verify("w", stored)
    half = sparse_codes(8, -127, 127)  # 0.75 bytes a weight, where a bitmask takes 0.625
    assert slots.in_slots(half, encode(half, scale)).encoding == "bitmask"
    full = sparse_codes(16, -127, 127)
    assert slots.in_slots(full, encode(full, scale)).encoding == "dense"
    scattered = np.where(np.random.default_rng(0).random((64, 320)) < 0.25, 3, 0).astype(np.int8)
    assert slots.in_slots(scattered, encode(scattered, scale)).encoding == "bitmask"


def test_nonzeros_are_codes_not_those_of_the_blocks_slots_take_the_place_of() -> None:
    codes = np.zeros((64, 320), np.int8)
    for column in (0, 5, 10, 15):
        codes[:, column::16] = 1
    codes[::4, 15::16], codes[::4, 14::16] = 0, 1  # so that blocks of four rows hold some zeros
    other = encode(codes, np.ones(64, np.float32))
    stored = slots.in_slots(codes, other)
    assert (other.encoding, stored.encoding) == ("block4x1", "slots")
    assert stored.nonzeros == np.count_nonzero(codes) < other.nonzeros
    verify("w", stored)
    verify("w", replace(stored, nonzeros=other.nonzeros))  # as older files have it
    with pytest.raises(CutworkError, match="another number of nonzeros"):
        verify("w", replace(stored, nonzeros=other.nonzeros + 1))


def test_windows_with_steps_of_their_own() -> None:
    codes = sparse_codes(12, -127, 127, 64, 320)
    codes[:32, 64:] = 0  # of half of the tiles only four windows are left
    codes[
        32:,
        :,
    ] = np.where(sparse_codes(4, 1, 1, 32, 320) != 0, codes[32:], 0)
    stored = slots.in_slots(codes, encode(codes, np.ones(64, np.float32)))
    assert stored.encoding == "slots" and stored.steps is not None
    np.testing.assert_array_equal(decode(stored), codes)
    verify("w", stored)


@pytest.mark.parametrize("dtype", ["i8", "i4"])
def test_through_a_file(tmp_path: Path, dtype: str) -> None:
    low, high = (-127, 127) if dtype == "i8" else (-8, 7)
    codes = sparse_codes(4, low, high)
    scale = np.ones((64, 10), np.float32)
    other = encode(codes, scale[:, 0].copy()) if dtype == "i8" else encode_int4(codes, scale, 32)
    with PackWriter(tmp_path, {"model_type": "llama"}, 1) as writer:
        writer.add("w", slots.in_slots(codes, other))
    read = read_packed(tmp_path).weights["w"]
    assert (read.encoding, read.dtype, read.keep) == ("slots", dtype, 4)
    np.testing.assert_array_equal(decode(read), codes)
    verify("w", read)
    native = make_weight("w", (64, 320), read, _native.Weight)
    np.testing.assert_array_equal(native.to_dense(), codes)
    assert native.encoding == "slots"
    x = np.random.default_rng(0).standard_normal((3, 320)).astype(np.float32)
    np.testing.assert_allclose(
        native.matmul(x), make_weight("w", (64, 320), read, Reference).matmul(x), rtol=1e-5, atol=1e-4
    )
    manifest = tmp_path / "cutwork.json"
    manifest.write_text(manifest.read_text().replace('"keep":4', '"keep":8').replace('"keep": 4', '"keep": 8'))
    with pytest.raises(CutworkError, match=r"tensor 'w\.slots' is U8 .* and should be U8"):
        read_packed(tmp_path)


def test_damage_is_named() -> None:
    codes = sparse_codes(4, -127, 127)
    stored = slots.in_slots(codes, encode(codes, np.ones(64, np.float32)))
    lost = stored.values.reshape(-1, slots.RECORD_BYTES).copy()
    lost[0, 64] = 0
    with pytest.raises(CutworkError, match="another number of nonzeros"):
        verify("w", replace(stored, values=lost))
    with pytest.raises(CutworkError, match="not as many as its steps"):
        verify("w", replace(stored, values=stored.values[:-1]))
    with pytest.raises(CutworkError, match="not as many as its steps"):
        verify("w", replace(stored, shape=(1 << 50, 320)))  # whose steps no memory holds
    with pytest.raises(CutworkError, match="beyond the last row or column"):
        verify("w", replace(stored, shape=(63, 320)))


@pytest.mark.parametrize("dtype", ["i8", "i4"])
def test_one_weight_has_one_slot(dtype: str) -> None:
    codes = sparse_codes(4, -7, 7)
    scale = np.ones((64, 10), np.float32)
    stored = slots.in_slots(
        codes, encode(codes, scale[:, 0].copy()) if dtype == "i8" else encode_int4(codes, scale, 32)
    )
    twice = stored.values.copy()
    twice[0, 1] ^= (twice[0, 0] ^ twice[0, 1]) & 15  # the column of the second slot is now that of the first
    with pytest.raises(CutworkError, match="two slots for one column"):
        verify("w", replace(stored, values=twice))


@pytest.mark.parametrize("keep", [4, 0])
def test_what_fills_up_a_tiles_last_record_is_empty(keep: int) -> None:
    codes = sparse_codes(4, -127, 127, cols=304)  # 19 windows
    stored = slots.in_slots(codes, encode(codes, np.ones(64, np.float32)))
    if not keep:
        stored = replace(stored, keep=0, steps=slots.steps_of_weight(stored))
    verify("w", stored)
    values = stored.values.copy()
    values[-1, -1] = 1
    with pytest.raises(CutworkError, match="codes after its tile's last step"):
        verify("w", replace(stored, values=values))


def test_int4_in_slots_is_restored_as_floats_beside_what_no_kernel_reads(tmp_path: Path) -> None:
    tensors: dict[str, Tensor] = dict(open_tensors(llama_checkpoint(tmp_path / "plain", "I4", "4:16")))
    odd, name = "model.layers.0.self_attn.q_proj.weight", "model.layers.0.self_attn.k_proj.weight"
    tensors[f"{odd}_g_idx"] = Tensor("I32", np.arange(128, dtype=np.int32) // 32)
    source = write_checkpoint(tmp_path / "source", tensors, read_config(tmp_path / "plain"))
    pack(source, tmp_path / "packed")
    stored = read_packed(tmp_path / "packed").weights[name]
    assert (stored.encoding, stored.dtype) == ("slots", "i4")
    restore(tmp_path / "packed", tmp_path / "back")
    scale = bfloat16.to_float32(tensors[f"{name}_scale"].array).repeat(32, axis=1)
    expected = bfloat16.from_float32(unpack_codes(tensors[f"{name}_packed"].array, 4, 128) * scale)
    np.testing.assert_array_equal(open_tensors(tmp_path / "back")[name].array, expected + 0)


def test_a_head_rounded_to_int4_in_slots_is_restored(tmp_path: Path) -> None:
    tensors = plain_tensors("F32")
    head = 0.1 * sparse_codes(4, -7, 7, 50, 320).astype(np.float32)
    tensors["lm_head.weight"] = Tensor("F32", head)
    pack(write_checkpoint(tmp_path / "source", tensors), tmp_path / "packed", head="i4")
    stored = read_packed(tmp_path / "packed").weights["lm_head.weight"]
    assert (stored.encoding, stored.dtype) == ("slots", "i4")
    restore(tmp_path / "packed", tmp_path / "back")
    restored = open_tensors(tmp_path / "back")["lm_head.weight"].array
    np.testing.assert_array_equal(restored, decode(stored) * scales_of(stored).repeat(128, axis=1)[:, :320])
    np.testing.assert_allclose(restored, head, atol=0.1)
