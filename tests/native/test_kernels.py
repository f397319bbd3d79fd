"""The linear kernels against float64 and exact integer references, on every instruction set this machine has."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from cutwork import _native

from .weights import (
    DTYPES,
    ENCODINGS,
    int8_reference,
    make_weight,
    quantize_tokens,
    sparse_blocks,
    sparse_values,
    to_float,
)

ISAS = tuple(_native.isas())
# Tails of every kind: below and beside a block of 64 columns, below and beside 4- and 16-row tiles and 48-row panels.
SHAPES = ((1, 1), (3, 63), (4, 64), (5, 65), (17, 100), (49, 576), (130, 2200))
TOKENS = (1, 2, 3, 7, 9, 16, 35, 131)


def weight_and_input(rng, rows, cols, tokens, density, dtype):
    dense = sparse_values(rng, rows, cols, density, dtype)
    scale = rng.uniform(1e-3, 1, rows).astype(np.float32) if dtype == "i8" else None
    return dense, scale, rng.standard_normal((tokens, cols)).astype(np.float32)


def every_product(weight, x, isa, threads=1):
    """The product by each algorithm for the weight and by the one chosen for it, reordered too."""
    algorithms = weight.kernels(isa)
    assert algorithms[0] == "gemv"
    products = [weight.matmul(x, threads, isa=isa, kernel=algorithm) for algorithm in (*algorithms, None)]
    if "spmm_rows" in algorithms and weight.reorder():
        products += [weight.matmul(x, threads, isa=isa, kernel=algorithm) for algorithm in ("spmm_rows", None)]
    return products


def assert_matches_reference(y, x, dense, scale):
    if scale is not None:
        np.testing.assert_array_equal(y, int8_reference(x, dense, scale))
        return
    w = to_float(dense).astype(np.float64)
    exact = x.astype(np.float64) @ w.T
    # An inner product of n terms in float32, in any order, errs by less than n eps sum |x||w| (Higham, ch. 3).
    bound = dense.shape[1] * np.finfo(np.float32).eps * (np.abs(x).astype(np.float64) @ np.abs(w).T)
    assert (np.abs(y - exact) <= bound).all()


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_matches_the_reference_at_every_tail(isa, encoding, dtype):
    rng = np.random.default_rng(1)
    for rows, cols in SHAPES:
        for tokens in TOKENS:
            density = rng.choice([0.1, 0.25, 0.5, 1.0])
            dense, scale, x = weight_and_input(rng, rows, cols, tokens, density, dtype)
            for y in every_product(make_weight(dense, encoding, scale), x, isa):
                assert y.shape == (tokens, rows)
                assert_matches_reference(y, x, dense, scale)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_prefill_that_skips_zeros(isa, dtype):
    # Beside 64-token tiles and their 16-token lines, 128-row panels, runs of 128 and 512 columns.
    rng = np.random.default_rng(6)
    for rows, cols, tokens, density in (
        (1, 1, 64, 1.0),
        (129, 127, 65, 0.3),
        (140, 200, 81, 0.1),
        (300, 450, 250, 0.02),
        (261, 1090, 70, 0.25),
        (20, 520, 20, 0.9),
    ):
        for encoding in ENCODINGS[1:]:
            _, scale, x = weight_and_input(rng, rows, cols, tokens, density, dtype)
            dense = sparse_blocks(rng, rows, cols, density, dtype, encoding)
            for y in every_product(make_weight(dense, encoding, scale), x, isa, threads=2):
                assert_matches_reference(y, x, dense, scale)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("tokens", [2, 7, 9, 13, 18])
def test_rows_of_uneven_density(isa, dtype, tokens):
    # Rows that share lanes advance together, so full rows beside nearly empty ones are the worst case; columns of two
    # runs and a tail, and every remainder of 16 tokens that has a kernel of its own.
    rng = np.random.default_rng(8)
    dense, scale, x = weight_and_input(rng, 150, 1111, tokens, 1.0, dtype)
    keep = rng.random(dense.shape) < np.where(np.arange(150) % 7 == 0, 1.0, 0.03)[:, None]
    keep[:, 700:760] |= (np.arange(150) % 16 == 3)[:, None]  # and bursts
    dense = np.where(keep, dense, 0).astype(dense.dtype)
    for y in every_product(make_weight(dense, "bitmask", scale), x, isa, threads=2):
        assert_matches_reference(y, x, dense, scale)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("tokens", [1, 5, 40])
def test_extreme_densities(isa, dtype, tokens):
    rng = np.random.default_rng(2)
    full, scale, x = weight_and_input(rng, 50, 300, tokens, 1.0, dtype)
    empty = np.zeros_like(full)
    one = empty.copy()
    one[37, 299] = full[37, 299]
    some_rows = full.copy()
    some_rows[::3] = 0
    some_rows[16:32] = 0
    for dense in (empty, one, some_rows, full):
        for encoding in ENCODINGS:
            for y in every_product(make_weight(dense, encoding, scale), x, isa):
                assert_matches_reference(y, x, dense, scale)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_threads_do_not_change_a_bit(isa, encoding, dtype):
    rng = np.random.default_rng(3)
    for tokens in (1, 6, 70, 300):
        dense, scale, x = weight_and_input(rng, 150, 320, tokens, 0.3, dtype)
        weight = make_weight(dense, encoding, scale)
        alone = every_product(weight, x, isa)
        for threads in (2, 3):
            np.testing.assert_array_equal(every_product(weight, x, isa, threads), alone)


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_int8_is_the_same_on_every_instruction_set(encoding):
    rng = np.random.default_rng(4)
    dense, scale, _ = weight_and_input(rng, 70, 700, 1, 0.4, "i8")
    weight = make_weight(dense, encoding, scale)
    for tokens in (1, 4, 33):
        x = (rng.standard_normal((tokens, 700)) * 10.0 ** rng.integers(-30, 30, (tokens, 1))).astype(np.float32)
        x[:, ::7] = np.round(x[:, ::7])
        results = [y for isa in ISAS for y in every_product(weight, x, isa)]
        np.testing.assert_array_equal(results[0], int8_reference(x, dense, scale))
        for result in results[1:]:
            np.testing.assert_array_equal(result, results[0])


@pytest.mark.parametrize("isa", ISAS)
def test_int8_codes_round_half_to_even(isa):
    # With a largest magnitude of 127 the scale is 1 and an identity weight shows the codes.
    x = np.array([[127, 0.5, 1.5, 2.5, -0.5, -1.5, -2.5, 126.5, 3.49999]], np.float32)
    identity = np.eye(9, dtype=np.int8)
    codes = make_weight(identity, "dense", np.ones(9, np.float32)).matmul(x, isa=isa)
    np.testing.assert_array_equal(codes, [[127, 0, 2, 2, 0, -2, -2, 126, 3]])


@pytest.mark.parametrize("isa", ISAS)
def test_int8_codes_are_those_of_a_division(isa):
    """Also beside ties, where multiplying by the inverse of the scale may round to the other side."""
    rng = np.random.default_rng(9)
    scale = rng.uniform(1e-3, 1e3, (40, 1)).astype(np.float32)
    x = (rng.integers(-127, 127, (40, 200)) + 0.5).astype(np.float32) * scale
    x = np.where(rng.random(x.shape) < 0.5, np.nextafter(x, np.float32(0)), x)
    x[:, :1] = 127 * scale
    expected, x_scale = quantize_tokens(x)
    codes = make_weight(np.eye(200, dtype=np.int8), "dense", np.ones(200, np.float32)).matmul(x, isa=isa)
    np.testing.assert_array_equal(codes, expected.astype(np.float32) * x_scale[:, None])


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_int8_extremes_do_not_saturate(isa, encoding):
    cols = 65536
    for sign in (1, -1):
        dense = np.full((17, cols), 127, np.int8)
        x = np.full((10, cols), sign * 3.0, np.float32)
        for y in every_product(make_weight(dense, encoding, np.ones(17, np.float32)), x, isa):
            assert_matches_reference(y, x, dense, np.ones(17, np.float32))
        one = make_weight(-dense, encoding, np.ones(17, np.float32)).matmul(x[:1], isa=isa)
        assert_matches_reference(one, x[:1], -dense, np.ones(17, np.float32))


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_token_that_is_not_finite_spoils_itself_only(isa, dtype, bad):
    rng = np.random.default_rng(5)
    for tokens in (3, 30):
        dense, scale, x = weight_and_input(rng, 20, 130, tokens, 1.0, dtype)
        x[1, 77] = bad
        good = np.arange(tokens) != 1
        for y in every_product(make_weight(dense, "bitmask", scale), x, isa):
            assert not np.isfinite(y[1]).any()
            assert_matches_reference(y[good], x[good], dense, scale)


@pytest.mark.parametrize("isa", ISAS)
def test_int8_of_zero_and_vanishing_tokens_is_zero(isa):
    dense = np.full((5, 70), 3, np.int8)
    x = np.zeros((3, 70), np.float32)
    x[1] = 1e-45
    x[2] = -0.0
    y = make_weight(dense, "bitmask", np.ones(5, np.float32)).matmul(x, isa=isa)
    np.testing.assert_array_equal(y, np.zeros((3, 5)))


def test_no_tokens_give_no_rows():
    weight = make_weight(np.ones((3, 5), np.float32), "dense")
    assert weight.matmul(np.zeros((0, 5), np.float32)).shape == (0, 3)


def test_the_reference_quantiser_reaches_both_ends():
    codes, scale = quantize_tokens(np.array([[-2, 1, 2]], np.float32))
    assert codes.tolist() == [[-127, 64, 127]]
    assert scale[0] == np.float32(2) / np.float32(127)


def test_a_kernel_that_the_weight_has_not_is_refused():
    weight = make_weight(np.ones((3, 5), np.float32), "dense")
    with pytest.raises(ValueError, match="no spmm_tokens kernel for a dense f32 weight"):
        weight.matmul(np.zeros((1, 5), np.float32), kernel="spmm_tokens")
    with pytest.raises(ValueError, match="unknown kernel 'gemx'; choose one of gemv, gemm, spmm_tokens, spmm_rows"):
        weight.matmul(np.zeros((1, 5), np.float32), kernel="gemx")
    assert weight.kernels("scalar") == ["gemv", "gemm"]


def run_isa(value):
    command = [sys.executable, "-c", "from cutwork import _native; print(_native.isa())"]
    environment = {**os.environ, "CUTWORK_ISA": value}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def test_the_first_instruction_set_is_the_one_in_use():
    assert ISAS[-1] == "scalar"
    assert run_isa("").stdout.strip() == ISAS[0]


@pytest.mark.parametrize("isa", ISAS)
def test_the_environment_forces_an_instruction_set(isa):
    assert run_isa(isa).stdout.strip() == isa


def test_an_unknown_instruction_set_is_an_error():
    result = run_isa("avx9000")
    assert result.returncode != 0
    assert f"no instruction set 'avx9000' (in CUTWORK_ISA or isa=); choose one of {', '.join(ISAS)}" in result.stderr
    with pytest.raises(ValueError, match=f"choose one of {', '.join(ISAS)}"):
        make_weight(np.ones((1, 1), np.float32), "dense").matmul(np.ones((1, 1), np.float32), isa="sse")


SMALL_SIGNAL_STACK = """
import ctypes
from cutwork import _native
class Stack(ctypes.Structure):
    _fields_ = [("start", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t)]
_native.isa(), _native.isas()
room = ctypes.create_string_buffer(8192)
print(ctypes.CDLL(None).sigaltstack(ctypes.byref(Stack(ctypes.addressof(room), 0, 8192)), None))
"""


@pytest.mark.skipif(sys.platform != "linux" or "avx2" not in ISAS, reason="Linux on x86 alone asks for tile registers")
def test_who_uses_no_tile_registers_may_have_small_signal_stacks():
    environment = {**os.environ, "CUTWORK_ISA": "avx2"}
    command = [sys.executable, "-c", SMALL_SIGNAL_STACK]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "0"


def test_two_threads_reorder_a_weight_once():
    rng = np.random.default_rng(0)
    values = sparse_values(rng, 1024, 1024, 0.4, "i8")
    x = rng.standard_normal((64, 1024)).astype(np.float32)
    weight = make_weight(values, "bitmask", np.ones(1024, np.float32))
    if "spmm_rows" not in weight.kernels():
        pytest.skip("this processor has no kernel that reorders weights")
    expected = weight.matmul(x, kernel="spmm_rows")
    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(lambda _: weight.reorder(), range(4)))
    np.testing.assert_array_equal(weight.matmul(x, kernel="spmm_rows"), expected)
