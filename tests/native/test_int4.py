"""Int4 weights against an exact reference: integers per group, float32 sums over the groups in order."""

import numpy as np
import pytest

from cutwork import _native
from cutwork.pack.int4 import encode_int4

from .test_kernels import ISAS
from .weights import quantize_tokens

SEGMENT = 1024  # columns after which a sum of integers becomes a float even inside a group
# Tails of every kind: beside tiles of 16 rows and panels of three, beside runs of 32 columns and segments.
SHAPES = ((1, 1), (3, 63), (16, 64), (17, 100), (49, 576), (130, 2200))


def make(rng, rows, cols, density, group, scale_type="f32", allow_bitmask=True):
    """A native weight, its codes and its scales in float32 [rows, groups]."""
    codes = np.where(rng.random((rows, cols)) < density, rng.integers(-8, 8, (rows, cols)), 0).astype(np.int8)
    scale = rng.uniform(-1, 1, (rows, -(-cols // group))).astype(np.float32)
    stored = scale
    if scale_type == "f16":
        stored = scale.astype(np.float16)
        scale = stored.astype(np.float32)
    elif scale_type == "bf16":
        stored = (scale.view(np.uint32) >> 16).astype(np.uint16)
        scale = (stored.astype(np.uint32) << 16).view(np.float32)
    return native(encode_int4(codes, stored, group, allow_bitmask=allow_bitmask)), codes, scale


def native(weight):
    return _native.Weight.int4(
        *weight.shape, weight.values, weight.scale, weight.group, weight.mask, weight.offsets
    )  # fmt: skip


def assert_matches(weight, x, codes, scale, group, isa):
    expected = reference(x, codes, scale, group)
    for kernel in (*weight.kernels(isa), None):
        np.testing.assert_array_equal(weight.matmul(x, isa=isa, kernel=kernel), expected)


def reference(x, codes, scale, group):
    x_codes, x_scale = quantize_tokens(x)
    total = np.zeros((len(x), len(codes)), np.float32)
    start, cols = 0, codes.shape[1]
    while start < cols:
        end = min((start // group + 1) * group, (start // SEGMENT + 1) * SEGMENT, cols)
        exact = x_codes[:, start:end].astype(np.int64) @ codes[:, start:end].T.astype(np.int64)
        total += exact.astype(np.int32).astype(np.float32) * scale[:, start // group]
        start = end
    return total * x_scale[:, None]


@pytest.mark.parametrize("isa", ISAS)
def test_scales_too_small_for_a_normal_half_count_even_where_subnormals_are_flushed(isa):
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(3)
    codes = rng.integers(-8, 8, (16, 64)).astype(np.int8)
    halves = rng.integers(1, 0x800, (16, 2)).astype(np.uint16).view(np.float16)  # about half of them subnormal
    scale = halves.astype(np.float32)
    x = rng.standard_normal((3, 64)).astype(np.float32)
    expected = reference(x, codes, scale, 32)
    weight = native(encode_int4(codes, halves, 32, allow_bitmask=False))
    assert torch.set_flush_denormal(True)
    try:
        products = [weight.matmul(x, isa=isa, kernel=kernel) for kernel in weight.kernels(isa)]
    finally:
        torch.set_flush_denormal(False)
    for product in products:
        np.testing.assert_array_equal(product, expected)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("density", [0.0, 0.1, 0.5, 1.0])
def test_matches_the_reference_bit_for_bit(isa, density):
    rng = np.random.default_rng(1)
    for rows, cols in SHAPES:
        group = int(rng.choice([32, 96, 128, 8192]))
        weight, codes, scale = make(rng, rows, cols, density, group, allow_bitmask=density < 1)
        for tokens in (1, 2, 3, 4, 5, 8, 9, 16, 17, 35):
            x = rng.standard_normal((tokens, cols)).astype(np.float32)
            assert_matches(weight, x, codes, scale, group, isa)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("scale_type", ["f32", "bf16", "f16"])
def test_scales_of_every_type(isa, scale_type):
    rng = np.random.default_rng(2)
    weight, codes, scale = make(rng, 35, 300, 0.5, 128, scale_type)
    for tokens in (1, 40):
        x = rng.standard_normal((tokens, 300)).astype(np.float32)
        assert_matches(weight, x, codes, scale, 128, isa)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("density", [0.3, 1.0])
def test_threads_do_not_change_a_bit(isa, density):
    rng = np.random.default_rng(3)
    weight, _, _ = make(rng, 150, 320, density, 128, allow_bitmask=density < 1)
    for tokens in (1, 6, 40):
        x = rng.standard_normal((tokens, 320)).astype(np.float32)
        alone = weight.matmul(x, isa=isa)
        for threads in (2, 3):
            np.testing.assert_array_equal(weight.matmul(x, threads, isa=isa), alone)


@pytest.mark.parametrize("isa", ISAS)
def test_extremes_do_not_saturate(isa):
    cols = 65536
    for code in (-8, 7):
        codes = np.full((17, cols), code, np.int8)
        scale = np.ones((17, 1), np.float32)
        weight = native(encode_int4(codes, scale, cols))
        for tokens in (1, 20):
            x = np.full((tokens, cols), -3.0, np.float32)
            assert_matches(weight, x, codes, scale, cols, isa)


@pytest.mark.parametrize("isa", ISAS)
def test_a_token_that_is_not_finite_spoils_itself_only(isa):
    rng = np.random.default_rng(5)
    for tokens in (3, 30):
        weight, codes, scale = make(rng, 20, 130, 0.5, 32)
        x = rng.standard_normal((tokens, 130)).astype(np.float32)
        x[1, 77] = np.nan
        y = weight.matmul(x, isa=isa)
        assert np.isnan(y[1]).all()
        good = np.arange(tokens) != 1
        np.testing.assert_array_equal(y[good], reference(x[good], codes, scale, 32))


@pytest.mark.parametrize("density", [0.3, 1.0])
def test_properties_and_round_trip(density):
    encoding = "dense" if density == 1 else "bitmask"
    weight, codes, scale = make(np.random.default_rng(6), 37, 130, density, 64, allow_bitmask=density < 1)
    assert (weight.rows, weight.cols, weight.encoding, weight.dtype) == (37, 130, encoding, "i4")
    assert weight.nonzeros == np.count_nonzero(codes)
    np.testing.assert_array_equal(weight.to_dense(), codes)
    assert scale.shape == (37, 3)


@pytest.mark.parametrize("scale_type", ["f32", "f16", "bf16"])
def test_zeros_are_written_out(scale_type):
    rng = np.random.default_rng(8)
    for rows, cols in SHAPES:
        weight, codes, scale = make(rng, rows, cols, 0.2, 64, scale_type)
        if weight.encoding == "bitmask":
            dense = weight.in_dense()
            del weight
            assert (dense.encoding, dense.dtype, dense.nonzeros) == ("dense", "i4", np.count_nonzero(codes))
            np.testing.assert_array_equal(dense.to_dense(), codes)
            x = rng.standard_normal((2, cols)).astype(np.float32)
            assert_matches(dense, x, codes, scale, 64, None)
    assert make(rng, 16, 64, 1.0, 64, allow_bitmask=False)[0].in_dense() is None


def corrupt(density, **changes):
    """A valid [20, 70] weight with some arguments replaced by functions of them."""
    rng = np.random.default_rng(7)
    codes = np.where(rng.random((20, 70)) < density, rng.integers(1, 8, (20, 70)), 0).astype(np.int8)
    weight = encode_int4(codes, np.ones((20, 3), np.float32), 32, allow_bitmask=density < 1)
    arguments = dict(
        rows=20, cols=70, values=weight.values, scale=weight.scale, group=32, mask=weight.mask, offsets=weight.offsets
    )
    for name, change in changes.items():
        arguments[name] = change(arguments[name])
    return arguments


def changed(index, value):
    def change(array):
        array = array.copy()
        array[index] = value
        return array

    return change


def test_the_uncorrupted_weights_are_accepted():
    assert _native.Weight.int4(**corrupt(0.4)).encoding == "bitmask"
    assert _native.Weight.int4(**corrupt(1.0)).encoding == "dense"


@pytest.mark.parametrize(
    ("density", "changes", "sentence"),
    [
        (0.4, {"rows": lambda _: 0}, "is empty"),
        (0.4, {"rows": lambda _: 2**62}, "does not fit in memory"),
        (0.4, {"cols": lambda _: 65537}, "more than 65536 columns"),
        (0.4, {"rows": lambda _: 33}, "mask has 48 elements, expected 72"),
        (0.4, {"rows": lambda _: 17}, "bits beyond the weight's shape"),
        (0.4, {"cols": lambda _: 66}, "bits beyond the weight's shape"),
        (0.4, {"mask": lambda m: m.reshape(-1)[:-1]}, "mask has 47 elements"),
        (0.4, {"mask": changed((0, 0, 0), 0)}, "row tile 0 ends at offset"),
        (0.4, {"mask": lambda m: m.astype(np.int64)}, "mask must be"),
        (0.4, {"mask": lambda _: None}, "come together"),
        (0.4, {"offsets": changed(0, 1)}, "begin at 1"),
        (0.4, {"offsets": changed(1, 2**63)}, "row tile 0 ends at offset"),
        (0.4, {"offsets": changed(2, 0)}, "row tile 1 ends at offset 0"),
        (0.4, {"values": lambda v: v[:-1]}, "values has"),
        (0.4, {"values": lambda v: v.astype(np.int8)}, "values must be"),
        (0.4, {"scale": lambda s: s[:1]}, "scale has 48 elements, expected 96"),
        (0.4, {"scale": lambda s: s.astype(np.float64)}, "must be float32, uint16"),
        (0.4, {"scale": changed((0, 1, 2), np.inf)}, "scale 18 is not finite"),
        (0.4, {"group": lambda _: 48}, "no multiple of 32"),
        (0.4, {"group": lambda _: 0}, "no multiple of 32"),
        (1.0, {"values": lambda v: v[:1]}, "values has 768 elements, expected 1536"),
        (1.0, {"rows": lambda _: 2**40}, "values has 1536 elements"),
    ],
)
def test_corrupt_weights_are_refused(density, changes, sentence):
    with pytest.raises(ValueError, match=sentence):
        _native.Weight.int4(**corrupt(density, **changes))
