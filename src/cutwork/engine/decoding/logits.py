"""What is done with the logits of one place."""

import numpy as np

from cutwork.engine.backend import quickest


def log_sum_exp(logits: np.ndarray) -> float:
    """The logarithm of the sum of e^x over logits x float32 [V], some of which may be -inf."""
    return float(quickest().log_sum_exp(logits))


def log_softmax(logits: np.ndarray, total: float | np.ndarray | None = None) -> np.ndarray:
    """Log-probabilities float32 of logits float32 [V], or of some of them whose `total` is log_sum_exp of all: of rows
    float32 [R, V] one each, float64 [R, 1]."""
    exact = np.asarray(log_sum_exp(logits) if total is None else total)
    near = exact.astype(np.float32)  # two subtractions, as one of a rounded total would err by as much as it is rounded
    return np.asarray(logits - near - (exact - near).astype(np.float32))


def largest(values: np.ndarray, count: int) -> np.ndarray:
    """Places of the `count` largest of float32 [V], the largest first; of equal ones the first first."""
    return np.asarray(quickest().largest(values, count))
