"""Weights in slots: the same sums, bit for bit, as the dense weight's, on every instruction set."""

import numpy as np
import pytest

from cutwork import _native
from cutwork.pack import slots
from cutwork.pack.int4 import encode_int4

from .executor_plans import Plan, run_rows
from .test_int4 import reference as int4_reference
from .test_kernels import ISAS
from .weights import make_weight, quantize_tokens, sparse_values, uneven_codes

SHAPES = ((1, 1), (16, 16), (3, 63), (40, 100), (33, 1040), (130, 2064))
TOKENS = (1, 2, 3, 4, 5, 7, 8, 9, 16, 17, 33)


def keep_of_16(rng, rows, cols, keep, low=-127, high=127):
    """Codes [rows, cols] of which each 16 neighbours hold `keep` nonzeros."""
    codes = np.zeros((rows, -(-cols // 16) * 16), np.int8)
    for window in codes.reshape(-1, 16):
        values = rng.integers(low, high + 1, keep)
        window[rng.permutation(16)[:keep]] = np.where(values == 0, 1, values)
    return np.ascontiguousarray(codes[:, :cols])


def in_slots(codes, scale, steps, keep=0, group=0):
    """The native weight of codes, written as files hold it."""
    per_tile = steps.sum(axis=1, dtype=np.int64)
    columns, values = slots.split(codes, steps)
    stored = slots.bytes_of(columns, values) if group else slots.records_of(columns, values, per_tile)
    given = {"keep": keep} if keep else {"steps": steps}
    return _native.Weight.slots(*codes.shape, np.ascontiguousarray(stored), scale, group=group, **given)


def exact(x, codes, scale):
    x_codes, x_scale = quantize_tokens(x)
    sums = (x_codes.astype(np.int64) @ codes.T.astype(np.int64)).astype(np.int32).astype(np.float32)
    return sums * (x_scale[:, None] * scale[None])


def assert_each_kernel(weight, isa, x, expected):
    """Of all that multiply slots, and so of what the costs choose."""
    kernels = weight.kernels(isa)
    written_out = (weight.dtype == "i8" and isa.startswith("avx512")) or isa == "amx"
    assert kernels == (["gemm", "slots"] if written_out else ["slots"])
    for kernel in (*kernels, None):
        np.testing.assert_array_equal(weight.matmul(x, kernel=kernel, isa=isa), expected)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("keep", slots.KEEP)
def test_int8_matches_the_reference_bit_for_bit(isa, keep):
    rng = np.random.default_rng(keep)
    for rows, cols in SHAPES:
        codes, scale = keep_of_16(rng, rows, cols, keep), rng.random(rows).astype(np.float32)
        needed = slots.steps_needed(codes != 0)
        written = [
            in_slots(codes, scale, np.full_like(needed, keep // 4), keep=keep),
            in_slots(codes, scale, needed),
            make_weight(codes, "bitmask", scale).in_slots(),
            make_weight(codes, "dense", scale).in_slots(),
        ]
        for tokens in TOKENS:
            x = rng.standard_normal((tokens, cols)).astype(np.float32)
            expected = exact(x, codes, scale)
            for weight in written:
                assert_each_kernel(weight, isa, x, expected)
        for weight in written:
            np.testing.assert_array_equal(weight.to_dense(), codes)
            assert weight.nonzeros == np.count_nonzero(codes)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("density", [0.0, 0.01, 0.05, 0.12, 0.25, 0.5, 1.0])
@pytest.mark.parametrize("make", [sparse_values, uneven_codes])
def test_any_mask_goes_into_slots(isa, density, make):
    rng = np.random.default_rng(7)
    for rows, cols in (*SHAPES, (600, 31), (270, 300)):
        codes = make(rng, rows, cols, density, *(["i8"] if make is sparse_values else []))
        scale = rng.random(rows).astype(np.float32)
        weight = make_weight(codes, "bitmask", scale).in_slots()
        np.testing.assert_array_equal(weight.to_dense(), codes)
        assert weight.nonzeros == np.count_nonzero(codes)
        for tokens in (1, 3, 8, 20, 33):
            x = rng.standard_normal((tokens, cols)).astype(np.float32)
            assert_each_kernel(weight, isa, x, exact(x, codes, scale))


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("columns", [(0, 64, 128), (1, 65, 66, 130, 190, 191, 250), (70,), (0, 300, 700)])
def test_an_odd_number_of_steps_ends_where_the_last_began(isa, columns):
    """Kernels of four steps look at the first and the last of them."""
    rng = np.random.default_rng(11)
    codes = np.zeros((64, 768), np.int8)
    codes[:, ::16] = rng.integers(1, 9, (64, 48))  # other tiles take all windows
    codes[16:32] = 0
    codes[16:32, columns] = rng.integers(1, 127, (16, len(columns)))
    x = rng.standard_normal((8, 768)).astype(np.float32)
    for rows in (codes, codes[16:32]):
        scale = np.ones(len(rows), np.float32)
        weight = make_weight(np.ascontiguousarray(rows), "dense", scale).in_slots()
        for tokens in (1, 4, 8):
            assert_each_kernel(weight, isa, x[:tokens], exact(x[:tokens], rows, scale))


def slots_per_nonzero(codes):
    weight = make_weight(codes, "bitmask", np.ones(len(codes), np.float32)).in_slots()
    return weight.form, weight.stored / weight.nonzeros


def test_few_slots_are_empty():
    rng = np.random.default_rng(5)
    for density, form, most in ((0.5, "strips", 1.12), (0.25, "strips", 1.36), (0.1, "wide", 1.57)):
        assert slots_per_nonzero(sparse_values(rng, 512, 2048, density, "i8")) == (form, pytest.approx(most, rel=0.04))
    in_order = slots_per_nonzero(uneven_codes(rng, 512, 2048, 0.25))[1]  # in place it would be 2.4
    assert in_order < 1.6


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("density", [0.04, 0.3])
def test_what_comes_of_rows_in_an_order_matches_others(isa, density):
    rng = np.random.default_rng(9)
    codes, scale = uneven_codes(rng, 300, 90, density), rng.uniform(0.01, 0.02, 300).astype(np.float32)
    x, extra = (rng.standard_normal((37, width)).astype(np.float32) for width in (90, 300))
    bias, answers = rng.standard_normal(300), []
    for encoding in ("bitmask", "slots"):
        plan = Plan()
        data = {"x": plan.table(x), "residual": plan.table(extra)}
        weights = [plan.weight(codes, encoding, scale)]
        outs, biases = [plan.buffer(300)], [plan.vector(bias)]
        plan.add("linear", outs=outs, weights=weights, biases=biases, activation="gelu", **data)
        plan.show(outs[0])
        embedding = Plan()
        embedding.show(embedding.emit("embed", 90, weight=embedding.weight(codes, encoding, scale), scale=0.5))
        for threads in (1, 3):
            answers.append([run_rows(each.executor(isa=isa, threads=threads), 37) for each in (plan, embedding)])
    for linear, embedded in answers[1:]:
        np.testing.assert_array_equal(linear, answers[0][0])
        np.testing.assert_array_equal(embedded, answers[0][1])


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("group", [32, 128, 4096])
def test_int4_matches_the_reference_bit_for_bit(isa, group):
    rng = np.random.default_rng(group)
    for rows, cols in SHAPES:
        codes = keep_of_16(rng, rows, cols, 4, -8, 7)
        scale = rng.uniform(-1, 1, (rows, -(-cols // group))).astype(np.float32)
        stored = encode_int4(codes, scale, group).scale
        needed = slots.steps_needed(codes != 0)
        for weight in (
            in_slots(codes, stored, np.ones_like(needed), keep=4, group=group),
            in_slots(codes, stored, needed, group=group),
        ):
            np.testing.assert_array_equal(weight.to_dense(), codes)
            for tokens in (1, 3, 8, 9, 20, 37):
                x = rng.standard_normal((tokens, cols)).astype(np.float32)
                assert_each_kernel(weight, isa, x, int4_reference(x, codes, scale, group))


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("group", [32, 64, 128, 4096])
@pytest.mark.parametrize("density", [0.0, 0.01, 0.1, 0.25, 0.5, 1.0])
def test_any_int4_mask_goes_into_slots(isa, group, density):
    """Steps keep to the segments of columns that share a scale, and scales go with the rows that are in an order."""
    rng = np.random.default_rng(13)
    for rows, cols in (*SHAPES, (600, 40), (270, 300)):
        for drawn in (uneven_codes(rng, rows, cols, density), sparse_values(rng, rows, cols, density, "i8")):
            codes = np.where(drawn < 0, -(-drawn.astype(np.int16) % 9), drawn % 8).astype(np.int8)
            scale = rng.uniform(-1, 1, (rows, -(-cols // group))).astype(np.float32)
            encoded = encode_int4(codes, scale, group, allow_bitmask=True)
            given = {"mask": encoded.mask, "offsets": encoded.offsets} if encoded.mask is not None else {}
            weight = _native.Weight.int4(rows, cols, encoded.values, encoded.scale, group, **given).in_slots()
            np.testing.assert_array_equal(weight.to_dense(), codes)
            assert weight.nonzeros == np.count_nonzero(codes) and weight.stored >= weight.nonzeros
            for tokens in (1, 3, 8, 20):
                x = rng.standard_normal((tokens, cols)).astype(np.float32)
                assert_each_kernel(weight, isa, x, int4_reference(x, codes, scale, group))


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("cols", [1000, 1024])
def test_strips_that_are_far_apart_wait_for_each_other(isa, cols):
    """A lookup of 64 inputs serves all strips of a step, the last of which end where the inputs do."""
    rng = np.random.default_rng(17)
    codes = sparse_values(rng, 32, cols, 0.3, "i8") % 8
    codes[:4, 100:] = codes[4:8, :-100] = codes[8:12, 20:-20] = 0
    codes = codes.astype(np.int8)
    scale = rng.uniform(-1, 1, (32, 1)).astype(np.float32)
    encoded = encode_int4(codes, scale, 4096, allow_bitmask=True)
    made = _native.Weight.int4(32, cols, encoded.values, encoded.scale, 4096, encoded.mask, encoded.offsets)
    weight = made.in_slots()
    np.testing.assert_array_equal(weight.to_dense(), codes)
    for tokens in (1, 4, 17):
        x = rng.standard_normal((tokens, cols)).astype(np.float32)
        assert_each_kernel(weight, isa, x, int4_reference(x, codes, scale, 4096))


@pytest.mark.parametrize("isa", ISAS)
def test_threads_do_not_change_a_bit(isa):
    rng = np.random.default_rng(11)
    codes, scale = sparse_values(rng, 700, 1500, 0.25, "i8"), rng.random(700).astype(np.float32)
    weight = make_weight(codes, "bitmask", scale).in_slots()
    x = rng.standard_normal((40, 1500)).astype(np.float32)
    alone = weight.matmul(x, isa=isa)
    for threads in (2, 3, 8):
        np.testing.assert_array_equal(weight.matmul(x, isa=isa, threads=threads), alone)


def test_what_a_kernel_would_trust_is_refused():
    rng = np.random.default_rng(3)
    codes, scale = keep_of_16(rng, 20, 40, 4), np.ones(20, np.float32)
    steps = np.ones((2, 3), np.uint8)
    columns, values = slots.split(codes, steps)
    good = np.ascontiguousarray(slots.records_of(columns, values, np.array([3, 3])))

    def refused(message, records=good, cols=40, rows=20, scale=scale, **given):
        with pytest.raises(ValueError, match=message):
            _native.Weight.slots(rows, cols, records, scale, **(given or {"keep": 4}))

    _native.Weight.slots(20, 40, good, scale, keep=4)
    refused("keep 4, 8 or 12", keep=5)
    refused("elements, expected", good[:-1])
    refused("more than 4 steps", steps=np.full((2, 3), 5, np.uint8))
    refused("elements, expected", steps=np.ones((2, 2), np.uint8))
    refused("beyond the last row", rows=19, scale=scale[:19])
    refused("beyond the last row", cols=39)
    lowest = good.copy()
    lowest[0, 64:][lowest[0, 64:] != 0] = 0x80
    refused("-128", lowest)
    refused("not finite", scale=np.full(20, np.nan, np.float32))
    spare = good.copy()  # the third step of each tile is half a record
    spare[-1, -1] = 1
    refused("after its tile's last step", spare)
    refused("after its tile's last step", spare, steps=steps)
    again = columns.copy()
    again[0, 1] = again[0, 0]
    refused("two slots for one column", slots.records_of(again, values, np.array([3, 3])))
    with pytest.raises(ValueError, match="two slots for one column"):
        _native.Weight.slots(
            20, 40, slots.bytes_of(again, values >> 4 | 1), np.ones((2, 2, 16), np.float16), 4, group=32
        )
    for group in (16, 48):  # of which a tile of int4 has no whole number of runs
        with pytest.raises(ValueError, match="multiple of 32"):
            _native.Weight.slots(20, 96, good, np.ones((20, 96 // group), np.float16), keep=4, group=group)


def test_only_int8_goes_into_slots_when_it_is_loaded():
    assert _native.Weight.dense(np.ones((4, 4), np.float32)).in_slots() is None
