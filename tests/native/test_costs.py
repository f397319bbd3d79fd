"""The cost model: what it predicts and which kernel it picks from given constants."""

import math
import platform

import numpy as np
import pytest

from cutwork import _native

from .weights import DTYPES, make_weight, sparse_values

ISAS = tuple(_native.isas())
WITHOUT_MEASUREMENT = {"scalar": ("gemv",)}  # kernels that have costs where nobody has measured the others
SHAPE = {"encoding": "bitmask", "dtype": "i8", "rows": 1000, "cols": 2000, "nonzeros": 500_000}
FAST = (1e30, 1e30)
pytestmark = pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="constants of x86's kernels")


def test_seconds_are_work_times_constants():
    constants = {
        "gemv bitmask i8": (3.0, 5.0, 7.0, 0.0, 19.0),
        "gemm bitmask i8": (11.0, 13.0, 17.0, 0.0, 0.0),
        "spmm_tokens bitmask i8": (23.0, 29.0, 31.0, 37.0, 41.0),
    }
    costs = _native.Costs(constants, FAST, "avx512")
    # AVX-512 decompresses once for eight tokens.
    gemv = (2 * (3 * 2_000_000 + 5 * 500_000) + 7 * 9 * 2_000_000 + 19 * 9 * 1000) * 1e-12
    assert math.isclose(costs.seconds("gemv", **SHAPE, tokens=9), gemv)
    gemm = (11 * 2_000_000 + 13 * 500_000 + 17 * 6 * 2_000_000) * 1e-12
    assert math.isclose(costs.seconds("gemm", **SHAPE, tokens=6), gemm)
    assert math.isclose(costs.seconds("gemm", **SHAPE, tokens=6, threads=2), gemm / 2)
    # spmm_tokens multiplies 16 tokens at a time.
    per_token = 31 * 500_000 + 37 * 2_000_000 + 41 * 1000
    assert math.isclose(
        costs.seconds("spmm_tokens", **SHAPE, tokens=20), (23 * 2_000_000 + 29 * 500_000 + 32 * per_token) * 1e-12
    )


def test_no_product_is_faster_than_its_weight_is_read():
    costs = _native.Costs({"gemv bitmask i8": (0.0,) * 5}, (1e9, 1.5e9), "avx512")
    read = 500_000 + 2_000_000 / 8
    assert math.isclose(costs.seconds("gemv", **SHAPE, tokens=1, threads=1), read / 1e9)
    assert math.isclose(costs.seconds("gemv", **SHAPE, tokens=1, threads=8), read / 1.5e9)
    assert math.isclose(costs.seconds("gemv", **SHAPE, tokens=99, threads=1), read / 1e9)  # its turns find rows near
    costs = _native.Costs({"gemm bitmask i8": (1.0, 0.0, 0.0, 0.0, 0.0)}, (1e9, 1e9), "avx512")
    assert math.isclose(costs.seconds("gemm", **SHAPE, tokens=99), read / 1e9 + 2e-6)


def test_reordered_weights_are_only_read_and_multiplied():
    constants = {"spmm_rows bitmask i8": (23.0, 29.0, 31.0, 37.0, 41.0)}
    seconds = _native.Costs(constants, FAST, "avx512").seconds
    per_token = 31 * 500_000 + 37 * 2_000_000 + 41 * 1000
    assert math.isclose(seconds("spmm_rows", **SHAPE, tokens=5, reordered=1), 8 * per_token * 1e-12)  # four at a time
    packing = (23 * 2_000_000 + 29 * 500_000) * 1e-12
    assert math.isclose(seconds("spmm_rows", **SHAPE, tokens=5), 8 * per_token * 1e-12 + packing)
    seconds = _native.Costs(constants, (1e3, 1e3), "avx512").seconds
    assert math.isclose(seconds("spmm_rows", **SHAPE, tokens=5, reordered=1_200_000), 1200)


def test_reordering_does_not_make_crowded_memory_slower():
    constants = {"gemv bitmask i8": (0.0, 0.0, 1000.0, 0.0, 0.0), "spmm_rows bitmask i8": (0.0,) * 5}
    constants |= {f"{kernel} bitmask i8": (1e6,) * 5 for kernel in ("gemm", "spmm_tokens")}

    def chosen(threads: int) -> list[str]:
        choose = _native.Costs(constants, (1e9, 2e9), "avx512").choose
        return [choose(**SHAPE, tokens=tokens, reordered=2_500_000, threads=threads) for tokens in (1, 2, 3, 4)]

    # gemv takes 2 ms a token, reading for spmm_rows 2.5 ms alone, twice and at most three times as much of each of
    # some threads' time.
    assert chosen(1) == ["gemv", "spmm_rows", "spmm_rows", "spmm_rows"]
    assert chosen(2) == ["gemv", "gemv", "spmm_rows", "spmm_rows"]
    assert chosen(3) == chosen(64) == ["gemv", "gemv", "gemv", "spmm_rows"]


def test_the_cheapest_kernel_is_chosen():
    shape = {**SHAPE, "dtype": "f32"}
    constants = {"gemv bitmask f32": (10.0, 0, 10.0, 0, 0), "gemm bitmask f32": (100.0, 0, 5.0, 0, 0)}
    costs = _native.Costs({**constants, "spmm_tokens bitmask f32": (100.0, 100.0, 4.0, 0.0, 0.0)}, FAST, "avx512")
    chosen = [costs.choose(**shape, tokens=tokens) for tokens in (1, 8, 16, 64)]
    assert chosen == ["gemv", "gemv", "spmm_tokens", "spmm_tokens"]
    assert costs.choose(**{**shape, "nonzeros": 2_000_000}, tokens=64) == "gemm"
    everything = [costs.seconds(k, **shape, tokens=64) for k in ("gemv", "gemm", "spmm_tokens")]
    assert min(everything) == costs.seconds("spmm_tokens", **shape, tokens=64)


def test_gemv_is_for_few_tokens_unless_it_is_all_there_is():
    constants = {"gemv dense i8": (0.0,) * 5, "gemm dense i8": (1.0, 0.0, 1.0, 0.0, 0.0)}
    choose = _native.Costs(constants, FAST, "avx512").choose
    assert [choose("dense", "i8", 1000, 2000, 2_000_000, tokens) for tokens in (64, 65)] == ["gemv", "gemm"]
    assert _native.Costs(isa="scalar").choose("dense", "i8", 1000, 2000, 2_000_000, 512) == "gemv"


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("processor", ["zen4", "intel", "other"])
def test_every_kernel_has_built_in_costs(isa, processor):
    rng = np.random.default_rng(0)
    costs = _native.Costs(isa=isa, processor=processor)
    named = set()
    for dtype in (*DTYPES, "i4"):
        for encoding in ("dense", "bitmask"):
            if dtype != "i4":
                scale = np.ones(8, np.float32) if dtype == "i8" else None
                weight = make_weight(sparse_values(rng, 8, 64, 0.5, dtype), encoding, scale)
                kernels = [k for k in weight.kernels(isa) if k in WITHOUT_MEASUREMENT.get(isa, (k,))]
                named |= {f"{kernel} {encoding} {dtype}" for kernel in kernels}
                assert weight.time(2, "gemv", isa) > 0
            chosen = costs.choose(encoding, dtype, 4096, 4096, 4096 * 1024, 1)
            assert chosen == "gemv"
            many = costs.choose(encoding, dtype, 4096, 4096, 4096 * 1024, 512)
            assert (many == "gemv") == (isa == "scalar")
    assert named <= set(costs.constants)


def test_impossible_costs_are_refused():
    for constants, bandwidth, problem in (
        ({"gemv bitmask i9": (1.0, 1.0, 1.0, 1.0, 1.0)}, None, "avx512 has no kernel 'gemv bitmask i9'"),
        ({"gemv bitmask i8": (1.0, -1.0, 1.0, 1.0, 1.0)}, None, "negative or not finite"),
        ({"gemv bitmask i8": (1.0, math.nan, 1.0, 1.0, 1.0)}, None, "negative or not finite"),
        ({}, (0.0, 1.0), "bandwidths"),
        ({}, (2.0, 1.0), "bandwidths"),
    ):
        with pytest.raises(ValueError, match=problem):
            _native.Costs(constants, bandwidth, "avx512")
    with pytest.raises(ValueError, match="no costs are built in for the processor 'zen9'"):
        _native.Costs(processor="zen9")
    with pytest.raises(ValueError, match="no kernel multiplies bitmask i9"):
        _native.Costs().choose("bitmask", "i9", 1, 1, 1, 1)
