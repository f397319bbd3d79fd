"""Weights laid out anew when a model is loaded: where it pays, and with the same answers."""

from typing import Any

import numpy as np
import pytest

from cutwork import _native
from cutwork.engine.weights.arrange import Arrangement
from cutwork.engine.weights.bind import make_weight
from cutwork.pack.int4 import encode_int4
from cutwork.pack.masked import encode
from cutwork.pack.record import EncodedWeight

ISAS = _native.isas()
PROCESSORS = ("zen4", "intel", "other")


def sparse(zeros: float, rows: int = 512, cols: int = 2048, dtype: type = np.int8) -> EncodedWeight:
    rng = np.random.default_rng(0)
    values = np.where(rng.random((rows, cols)) >= zeros, rng.integers(1, 127, (rows, cols)), 0).astype(dtype)
    return encode(values, np.ones(rows, np.float32) if dtype is np.int8 else None)


def choice(weight: EncodedWeight, isa: str, processor: str, together: int = 1) -> str | None:
    costs = _native.Costs(isa=isa, processor=processor)
    return Arrangement.of({"w": weight}, costs, 1, together=together, budget=1 << 30).layouts.get("w")


def sparse_int4(zeros: float, rows: int = 64, cols: int = 640) -> EncodedWeight:
    rng = np.random.default_rng(2)
    codes = np.where(rng.random((rows, cols)) >= zeros, rng.integers(-8, 8, (rows, cols)), 0).astype(np.int8)
    return encode_int4(codes, rng.random((rows, -(-cols // 128))).astype(np.float16), 128)


@pytest.mark.skipif("avx2" not in ISAS, reason="the processor has no AVX2")
@pytest.mark.parametrize("processor", PROCESSORS)
@pytest.mark.parametrize("zeros", [0.5, 0.75, 0.9])
def test_avx2_goes_through_slots(zeros: float, processor: str) -> None:
    assert choice(sparse(zeros), "avx2", processor) == "slots"


@pytest.mark.skipif("avx2" not in ISAS, reason="the processor has no AVX2")
@pytest.mark.parametrize("together", [1, 16])
@pytest.mark.parametrize(("processor", "wanted"), [("zen4", "slots"), ("intel", "slots"), ("other", "dense")])
def test_avx2_goes_through_int4_in_slots_where_a_token_gains(processor: str, wanted: str, together: int) -> None:
    assert choice(sparse_int4(0.9, 512, 2048), "avx2", processor, together) == wanted


@pytest.mark.skipif("avx512" not in ISAS, reason="the processor has no AVX-512 with VBMI2")
@pytest.mark.parametrize("processor", PROCESSORS)
@pytest.mark.parametrize("zeros", [0.5, 0.75])
def test_a_bitmask_stays_where_it_is_expanded_as_fast_as_it_is_read(zeros: float, processor: str) -> None:
    assert choice(sparse(zeros), "avx512", processor, together=16) is None


@pytest.mark.parametrize(("together", "wanted"), [(1, None), (4, "dense"), (64, "dense")])
def test_int4_with_zeros_anywhere_is_written_out_for_batches_alone(together: int, wanted: str | None) -> None:
    constants = {  # as on Zen 5
        "gemv dense i4": (1.8, 0.0, 2.2, 0.0, 0.0),
        "gemm dense i4": (7.8, 0.0, 2.2, 0.0, 0.0),
        "gemv bitmask i4": (7.0, 1.0, 2.1, 0.0, 0.0),
        "gemm bitmask i4": (11.5, 1.0, 2.2, 0.0, 0.0),
    }
    costs = _native.Costs(constants, (40e9, 40e9), ISAS[0])
    weights = {"w": sparse_int4(0.75, 512, 2048)}
    assert Arrangement.of(weights, costs, 1, together=together, budget=1 << 30).layouts.get("w") == wanted


@pytest.mark.skipif("avx2" not in ISAS, reason="the processor has no AVX2")
@pytest.mark.parametrize("processor", PROCESSORS)
def test_nothing_is_written_out_for_which_memory_is_short(processor: str) -> None:
    stored = sparse_int4(0.5)
    more = stored.size // 2 - stored.nbytes
    costs = _native.Costs(isa="avx2", processor=processor)
    for budget, wanted in ((more, {"w": "dense", "v": "slots"}), (more - 1, {"v": "slots"})):
        weights = {"w": stored, "v": sparse(0.75)}
        assert Arrangement.of(weights, costs, 1, together=1, budget=budget).layouts == wanted


@pytest.mark.parametrize("processor", PROCESSORS)
def test_what_is_not_sparse_int8_stays(processor: str) -> None:
    for weight in (sparse(0.0), encode(np.ones(7, np.float32))):
        assert choice(weight, ISAS[0], processor) is None


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("processor", PROCESSORS)
@pytest.mark.parametrize("zeros", [0.3, 0.5, 0.75, 0.95])
@pytest.mark.parametrize("make", [sparse, sparse_int4])
def test_no_number_of_tokens_is_expected_to_be_slower_than_without_zeros(
    isa: str, processor: str, zeros: float, make: Any
) -> None:
    costs = _native.Costs(isa=isa, processor=processor)
    stored = make(zeros)
    arrangement = Arrangement.of({"w": stored}, costs, 1, together=16, budget=1 << 30)
    weight = arrangement.apply("w", make_weight("w", stored.shape, stored, _native.Weight))

    def seconds(encoding: str, count: int, tokens: int, form: str = "tiles") -> float:
        shape = (encoding, stored.dtype, *stored.shape, count)
        return costs.seconds(costs.choose(*shape, tokens), *shape, tokens, 1, form=form)

    for tokens in (1, 4, 16, 512):
        dense = seconds("dense", stored.size, tokens)
        # Of 16 sequences a bitmask of int8 may cost a little, where it is not reordered.
        assert seconds(weight.encoding, weight.stored, tokens, weight.form) <= dense / (0.85 if tokens == 16 else 0.95)


def test_slots_that_bring_little_are_written_out() -> None:
    constants = {
        "gemv dense i8": (0.0, 0.0, 10.0, 0.0, 0.0),
        "gemm dense i8": (0.0, 0.0, 10.0, 0.0, 0.0),
        "gemv bitmask i8": (0.0, 0.0, 30.0, 0.0, 0.0),
        "gemm bitmask i8": (0.0, 0.0, 30.0, 0.0, 0.0),
    }
    rng = np.random.default_rng(0)  # about a quarter of each row lives, in every fourth row close together
    together = np.arange(2048) < rng.integers(472, 552, (512, 1))
    lives = np.where(np.arange(512)[:, None] % 4 == 0, together, rng.random((512, 2048)) < 0.25)
    stored = encode(lives.astype(np.int8), np.ones(512, np.float32))
    weight = make_weight("w", stored.shape, stored, _native.Weight)
    # 9 / 0.36 seems the most that pays, 9 / 0.5 is; without memory for dense weights there are none
    for each, budget, wanted in ((21.0, 1 << 30, "dense"), (14.0, 1 << 30, "slots"), (21.0, 1 << 10, "slots")):
        costs = _native.Costs(constants | {"slots slots i8": (0.0, 0.0, each, 0.0, 0.0)}, (1e15, 1e15), ISAS[0])
        arrangement = Arrangement.of({"w": stored}, costs, 1, together=1, budget=budget)
        assert arrangement.layouts == {"w": "slots"}
        assert arrangement.apply("w", weight).encoding == wanted


def test_prompts_count_too() -> None:
    for slow, wanted in ((1.0, "slots"), (30.0, None)):  # picoseconds for a slot and a token
        constants = {
            "gemv dense i8": (30.0, 0.0, 1.0, 0.0, 0.0),
            "gemm dense i8": (30.0, 0.0, 1.0, 0.0, 0.0),
            "gemv bitmask i8": (20.0, 0.0, 1.0, 0.0, 0.0),
            "gemm bitmask i8": (20.0, 0.0, 1.0, 0.0, 0.0),
            "slots slots i8": (0.0, 10.0, slow, 0.0, 0.0),
        }
        costs = _native.Costs(constants, (1e12, 1e12), ISAS[-1])
        assert Arrangement.of({"w": sparse(0.75)}, costs, 1, together=1, budget=1 << 30).layouts.get("w") == wanted


@pytest.mark.skipif("avx2" not in ISAS, reason="the processor has no AVX2")
@pytest.mark.parametrize("processor", PROCESSORS)
def test_int4_is_written_out_where_zeros_would_cost_time(processor: str) -> None:
    stored = sparse_int4(0.5)
    costs = _native.Costs(isa="avx2", processor=processor)
    arrangement = Arrangement.of({"w": stored}, costs, 1, together=1, budget=1 << 30)
    assert stored.encoding == "bitmask" and arrangement.layouts == {"w": "dense"}
    weight = make_weight("w", stored.shape, stored, _native.Weight)
    dense = arrangement.apply("w", weight)
    assert (dense.encoding, dense.dtype) == ("dense", "i4")
    x = np.random.default_rng(1).standard_normal((5, 640)).astype(np.float32)
    np.testing.assert_array_equal(dense.matmul(x), weight.matmul(x))


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("layout", ["slots", "dense"])
@pytest.mark.parametrize("stored", [sparse(0.75, 70, 500), sparse_int4(0.75, 70, 500)], ids=["int8", "int4"])
def test_every_layout_gives_the_same_answers(isa: str, layout: str, stored: EncodedWeight) -> None:
    weight = make_weight("w", stored.shape, stored, _native.Weight)
    costs = _native.Costs({f"slots slots {stored.dtype}": (0.0,) * 5}, (1e15, 1e15), ISAS[-1])
    other = Arrangement({"w": layout}, costs, 1).apply("w", weight)
    assert other.encoding == layout
    x = np.random.default_rng(1).standard_normal((5, 500)).astype(np.float32)
    np.testing.assert_array_equal(other.matmul(x, isa=isa), weight.matmul(x, isa=isa, kernel="gemv"))
