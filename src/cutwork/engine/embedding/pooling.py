"""From the hidden states of a text to its vector, and layers on the way."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from cutwork.errors import CutworkError

# By sentence-transformers' names, in the order in which it puts several side by side.
MODES = ("cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken")


def _gelu(x: np.ndarray) -> np.ndarray:
    return np.asarray(0.5 * x * (1.0 + np.vectorize(math.erf, otypes=[np.float32])(x / math.sqrt(2.0))))


ACTIVATIONS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "none": np.asarray,
    "tanh": np.tanh,
    "relu": lambda x: np.maximum(x, 0),
    "silu": lambda x: x / (1.0 + np.exp(-x)),
    "gelu": _gelu,
}


@dataclass(frozen=True)
class Norm:
    """A layer norm: weight float32 [width], bias [width] or None, and what is added to the variance."""

    weight: np.ndarray
    bias: np.ndarray | None
    eps: float

    def __call__(self, rows: np.ndarray) -> np.ndarray:
        """Float32 [n, width], each row normalised."""
        spread = np.sqrt(rows.var(axis=1, keepdims=True) + np.float32(self.eps))
        out = (rows - rows.mean(axis=1, keepdims=True)) / spread * self.weight
        return np.asarray(out if self.bias is None else out + self.bias, np.float32)


@dataclass(frozen=True)
class Dense:
    """A linear layer behind the pooling: weight float32 [out, in], bias [out] or None, an activation, and a norm."""

    weight: np.ndarray
    bias: np.ndarray | None
    activation: str = "none"
    norm: Norm | None = None

    def __post_init__(self) -> None:
        """Raises CutworkError for an unknown activation."""
        if self.activation not in ACTIVATIONS:
            raise CutworkError(
                f"this engine does not know the activation {self.activation!r} in a head; it knows "
                f"{', '.join(ACTIVATIONS)}"
            )

    def __call__(self, rows: np.ndarray) -> np.ndarray:
        """Float32 [n, in] → [n, out]."""
        out = rows @ self.weight.T
        out = ACTIVATIONS[self.activation](out if self.bias is None else out + self.bias)
        return np.asarray(self.norm(out) if self.norm else out, np.float32)


def pool(hidden: np.ndarray, modes: Sequence[str]) -> np.ndarray:
    """Of the hidden states float32 [T, width] of a text, its vector float32 [width · modes].

    cls: the first; lasttoken: the last; max: the largest in each place; mean; mean_sqrt_len_tokens: the sum over √T;
    weightedmean: by 1, 2, …, T.
    """
    return np.concatenate([_one(hidden, mode) for mode in modes]).astype(np.float32, copy=False)


def _one(hidden: np.ndarray, mode: str) -> np.ndarray:
    match mode:
        case "cls":
            return np.asarray(hidden[0])
        case "lasttoken":
            return np.asarray(hidden[-1])
        case "max":
            return np.asarray(hidden.max(axis=0))
        case "mean":
            return np.asarray(hidden.mean(axis=0))
        case "mean_sqrt_len_tokens":
            return np.asarray(hidden.sum(axis=0) / np.sqrt(len(hidden)))
        case "weightedmean":
            weights = np.arange(1, len(hidden) + 1, dtype=np.float32)
            return np.asarray(weights @ hidden / weights.sum())
    raise ValueError(f"{mode!r} is none of {', '.join(MODES)}")


def normalized(vectors: np.ndarray) -> np.ndarray:
    """Float32 [n, width], each of length 1 (a vector of zeros stays so)."""
    lengths = np.sqrt(np.einsum("ij,ij->i", vectors, vectors, dtype=np.float32))
    return np.asarray(vectors / np.maximum(lengths, np.float32(1e-12))[:, None], np.float32)
