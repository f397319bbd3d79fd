"""What is done with the logits of one place: natively, or in NumPy where the native module was not built."""

import numpy as np

try:
    from cutwork import _native
except ImportError:
    _native = None  # type: ignore[assignment]


def log_sum_exp(logits: np.ndarray) -> float:
    """The logarithm of the sum of e^x over logits x float32 [V], some of which may be -inf."""
    if _native is not None:
        return float(_native.log_sum_exp(logits))
    top = logits.max()
    return float(top) + float(np.log(np.exp(logits - top).sum(dtype=np.float64)))


def log_softmax(logits: np.ndarray, total: float | None = None) -> np.ndarray:
    """Log-probabilities float32 of logits float32 [V], or of some of them whose `total` is log_sum_exp of all."""
    total = log_sum_exp(logits) if total is None else total
    near = np.float32(total)  # two subtractions, as one of a rounded total would err by as much as that is rounded
    return np.asarray(logits - near - np.float32(total - float(near)))


def largest(values: np.ndarray, count: int) -> np.ndarray:
    """Places of the `count` largest of float32 [V], the largest first; of equal ones the first first."""
    if _native is not None:
        return np.asarray(_native.largest(values, count))
    return np.argsort(-values, kind="stable")[:count]
