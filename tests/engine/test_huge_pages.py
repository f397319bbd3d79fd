"""Weights copied to huge pages are the same weights."""

import numpy as np
import pytest

from cutwork.engine.model import Model
from cutwork.engine.weights import huge_pages
from cutwork.pack.pack import pack
from cutwork.pack.reader import read_packed

from ..tiny_checkpoint import write_tiny_checkpoint

pytestmark = pytest.mark.skipif(not huge_pages._offered(), reason="this system has no huge pages")


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    directory = tmp_path_factory.mktemp("huge")
    write_tiny_checkpoint(directory / "tiny", seed=0)
    pack(directory / "tiny", directory / "packed")
    return directory / "packed"


@pytest.mark.parametrize("threads", [1, 3])
def test_copies_are_equal_aligned_and_nobody_can_write_to_them(packed, threads, monkeypatch):
    monkeypatch.setattr(huge_pages, "_LEAST", 0)
    before = read_packed(packed).weights
    after = huge_pages.in_huge_pages(before, threads)
    assert list(after) == list(before)
    for name, weight in after.items():
        for (part, copy), (_, array) in zip(huge_pages._arrays(weight), huge_pages._arrays(before[name]), strict=True):
            assert not np.shares_memory(copy, array)
            assert copy.ctypes.data % 64 == 0 and not copy.flags.writeable
            np.testing.assert_array_equal(copy, array, err_msg=f"{name} {part}")  # let go, and read once more
        assert weight.nonzeros == before[name].nonzeros


def test_a_model_says_the_same(packed, monkeypatch):
    monkeypatch.setattr(huge_pages, "_LEAST", 0)
    with Model.load(packed) as copied, Model.load(packed, huge_pages=False) as mapped:
        np.testing.assert_array_equal(copied.logits([5, 6, 7]), mapped.logits([5, 6, 7]))


def test_weights_stay_where_they_are_if_memory_is_short(packed, monkeypatch):
    weights = read_packed(packed).weights
    monkeypatch.setattr(huge_pages, "_LEAST", 0)
    monkeypatch.setattr(huge_pages, "available_memory", lambda: 1000)
    assert huge_pages.in_huge_pages(weights) is weights
