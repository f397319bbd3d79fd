"""Measured costs: kept in the user's cache, replaced by a file, never trusted when damaged."""

import json
from pathlib import Path

import numpy as np
import pytest

from cutwork.engine.backend import native
from cutwork.engine.weights import costs
from cutwork.errors import CutworkError
from cutwork.pack.record import DType, break_even
from cutwork.store import bfloat16


@pytest.fixture
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.delenv(costs.ENVIRONMENT)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(costs, "_SHAPES", [(16, 64)])
    monkeypatch.setattr(costs, "_SKIPPING_SHAPES", [(16, 64)])
    return costs.cache_path()


def test_measured_costs_are_found_again(cache: Path) -> None:
    default = costs.load_costs()
    assert not costs.have_measured() and not cache.exists()
    measured = costs.measure_costs()
    assert costs.have_measured() and [path.name for path in cache.parent.iterdir()] == [cache.name]
    assert measured.constants.keys() >= default.constants.keys(), "measured where nobody has, a kernel may be new"
    assert any(measured.constants[kernel] != cost for kernel, cost in default.constants.items())
    again = costs.load_costs()
    assert again.constants == measured.constants and again.bandwidth == measured.bandwidth


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        "{}",
        '{"constants": {"gemv x": [1]}, "bandwidth": 3, "isa": 2}',
        '{"constants": [], "bandwidth": [1, 1], "isa": ISA}',
        '{"constants": null, "bandwidth": [1, 1], "isa": ISA}',
        '{"constants": {}, "bandwidth": null, "isa": ISA}',
        '{"constants": {}, "bandwidth": [1, 1], "isa": "another"}',
        pytest.param("[" * 100_000, id="deep"),
    ],
)
def test_a_damaged_cache_counts_as_none(cache: Path, content: str, monkeypatch: pytest.MonkeyPatch) -> None:
    cache.parent.mkdir()
    cache.write_text(content.replace("ISA", json.dumps(native().isa())))
    assert not costs.have_measured()
    assert costs.load_costs().constants == native().Costs().constants
    monkeypatch.setenv(costs.ENVIRONMENT, str(cache))
    with pytest.raises(CutworkError, match=r"\(from CUTWORK_COSTS\) cannot be used: "):
        costs.load_costs()


def test_costs_of_another_instruction_set_are_not_the_models_fault(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    costs.measure_costs()
    another = next(isa for isa in native().isas() if isa != native().isa())
    cache.write_text(json.dumps(json.loads(cache.read_text()) | {"isa": another}))
    monkeypatch.setenv(costs.ENVIRONMENT, str(cache))
    with pytest.raises(CutworkError, match=f"cannot be used: they were measured with {another}, not {native().isa()}"):
        costs.load_costs()


@pytest.mark.parametrize("dtype", ["f32", "bf16", "i8"])
def test_kernels_are_timed_on_the_same_small_numbers(dtype: str) -> None:
    """Those of bfloat16 once were its subnormals, which some processors multiply slowly."""
    for encoding in ("dense", "bitmask", "block1x4", "block4x1"):
        for weight in costs._weights(dtype, encoding, [(16, 64)]):
            dense = np.asarray(weight.to_dense())  # type: ignore[attr-defined]
            assert set(np.unique(bfloat16.widen(dense))) <= set(range(8))


def test_a_file_overrides_the_cache(cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    costs.measure_costs()
    own = json.loads(cache.read_text())
    own["constants"] = {"gemv dense f32": [1.0, 2.0, 3.0, 4.0, 5.0]}
    path = tmp_path / "own.json"
    path.write_text(json.dumps(own))
    monkeypatch.setenv(costs.ENVIRONMENT, str(path))
    assert costs.load_costs().constants["gemv dense f32"] == (1.0, 2.0, 3.0, 4.0, 5.0)
    path.write_text("no")
    with pytest.raises(CutworkError, match=r"own\.json \(from CUTWORK_COSTS\) cannot be used"):
        costs.load_costs()


def test_an_unwritable_home_is_no_error(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache.parent.write_text("a file")
    assert costs.measure_costs().constants
    assert not costs.have_measured()


@pytest.mark.skipif(native().isa() not in ("amx", "avx512"), reason="elsewhere a bitmask may save memory only")
@pytest.mark.parametrize("dtype", ["f32", "bf16", "i8", "i4"])
def test_a_bitmask_is_faster_where_it_is_smaller(dtype: DType) -> None:
    default = native().Costs()
    rows, cols, threads = 4096, 4096, 2
    dense = default.seconds("gemv", "dense", dtype, rows, cols, rows * cols, 1, threads)
    for zeros, faster in ((break_even(dtype) - 0.02, False), (break_even(dtype) + 0.03, True)):
        nonzeros = round(rows * cols * (1 - zeros))
        assert (default.seconds("gemv", "bitmask", dtype, rows, cols, nonzeros, 1, threads) < dense) is faster
