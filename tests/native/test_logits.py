"""Log-probabilities against float64, the largest values against a whole sort, on every instruction set; the same in
NumPy."""

import numpy as np
import pytest

from cutwork import _native
from cutwork.engine.decoding.logits import log_softmax
from cutwork.engine.reference import executor as reference

from .executor_plans import ISAS

SIZES = (1, 3, 16, 65, 2000, 50_257)
NUMPY = "numpy"


@pytest.fixture(params=[*ISAS, NUMPY])
def isa(request):
    return request.param


def largest(values, count, isa):
    return reference.largest(values, count) if isa == NUMPY else _native.largest(values, count, isa=isa)


def log_sum_exp(x, isa):
    return reference.log_sum_exp(x) if isa == NUMPY else _native.log_sum_exp(x, isa=isa)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("spread", [0.01, 10, 300])
def test_log_probabilities(isa, size, spread):
    random = np.random.default_rng(size)
    x = (random.standard_normal(size) * spread + 40).astype(np.float32)
    x[1:][random.random(size - 1) < 0.2] = -np.inf
    shifted = x.astype(np.float64) - x.max()
    expected = shifted - np.log(np.exp(shifted).sum())
    total = log_sum_exp(x, isa)
    assert abs(total - (x.max() + np.log(np.exp(shifted).sum()))) < 1e-6
    result = log_softmax(x, total)
    assert (np.isneginf(result) == np.isneginf(x)).all()
    finite = np.isfinite(x)
    np.testing.assert_allclose(result[finite], expected[finite], rtol=3e-7, atol=2e-6)
    np.testing.assert_array_equal(log_softmax(x[:5], total), result[:5])


@pytest.mark.parametrize("size", SIZES)
def test_the_largest_are_those_of_a_whole_sort(isa, size):
    random = np.random.default_rng(size)
    for levels in (3, 1 << 20):  # with many equal values, and with hardly any
        values = random.integers(0, levels, size).astype(np.float32)
        values[random.random(size) < 0.2] = -np.inf
        for count in (1, 6, 20, min(size, 2000) + 1):
            assert largest(values, count, isa).tolist() == np.argsort(-values, kind="stable")[:count].tolist()


def test_what_cannot_be_is_refused():
    x = np.zeros(8, np.float32)
    for wrong in (x.astype(np.float64), x.reshape(2, 4), x[::2]):
        with pytest.raises(TypeError):
            _native.largest(wrong, 1)
        with pytest.raises(TypeError):
            _native.log_sum_exp(wrong)
    with pytest.raises(ValueError, match="at least 1"):
        _native.largest(x, 0)
    with pytest.raises(ValueError, match="empty"):
        _native.log_sum_exp(x[:0])
    assert _native.largest(x[:0], 3).tolist() == []
