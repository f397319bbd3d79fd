"""Slots, back and forth: what is stored is what was there, for every mask that fits and any shape."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cutwork.pack import slots


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
