"""Sums of codes and checks of masks, by the instruction set of the process: each gets a process of its own."""

import os
import subprocess
import sys

import numpy as np
import pytest

from cutwork import _native

from .weights import int8_reference, make_weight, masked_arrays, sparse_values


@pytest.mark.parametrize("isa", [isa for isa in _native.isas() if isa != _native.isa()])
def test_in_every_other_instruction_set(isa):
    environment = {**os.environ, "CUTWORK_ISA": isa}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__, "-k", "not other"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("density", [0.0, 0.02, 0.5, 1.0])
@pytest.mark.parametrize(("rows", "cols"), [(1, 1), (3, 63), (5, 64), (17, 65), (9, 700), (4, 4099)])
@pytest.mark.parametrize("encoding", ["dense", "bitmask"])
def test_sums_of_rows_are_exact(encoding, rows, cols, density):
    random = np.random.default_rng(rows * cols)
    codes = sparse_values(random, rows, cols, density, "i8")
    scale = random.random(rows, np.float32)
    x = random.standard_normal((2, cols), np.float32) + 3  # a wrong sum would shift everything
    weight = make_weight(codes, encoding, scale)
    np.testing.assert_array_equal(weight.matmul(x, isa=_native.isa()), int8_reference(x, codes, scale))


@pytest.mark.parametrize("at", [0, 63, 64, 699, 700 * 8 + 350])
@pytest.mark.parametrize("encoding", ["dense", "bitmask"])
def test_the_lowest_code_is_found_anywhere(encoding, at):
    codes = np.ones((9, 700), np.int8)
    codes.flat[at] = -128
    with pytest.raises(ValueError, match="code -128"):
        make_weight(codes, encoding, np.ones(9, np.float32))


@pytest.mark.parametrize("place", ["last column", "last row"])
def test_bits_beyond_the_shape_are_found(place):
    values, mask, offsets = masked_arrays(np.ones((6, 70), np.float32))
    word, bit = ((0, 1, 3), 6) if place == "last column" else ((1, 0, 2), 0)
    mask[word] |= np.uint64(1 << bit)
    mask[(word[0], 0, 0)] ^= np.uint64(1)  # as many bits as before
    with pytest.raises(ValueError, match="beyond the weight's shape"):
        _native.Weight.masked("bitmask", 6, 70, values, mask, offsets)
