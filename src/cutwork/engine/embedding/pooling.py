"""From the hidden states of a text to its vector."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

# By sentence-transformers' names, in the order in which it puts several side by side.
MODES = ("cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken")


@dataclass(frozen=True)
class Dense:
    """A linear layer behind the pooling: weight float32 [out, in], bias [out] or None, and whether tanh follows."""

    weight: np.ndarray
    bias: np.ndarray | None
    tanh: bool

    def __call__(self, vectors: np.ndarray) -> np.ndarray:
        """Float32 [n, in] → [n, out]."""
        out = vectors @ self.weight.T
        out = out if self.bias is None else out + self.bias
        return np.asarray(np.tanh(out) if self.tanh else out, np.float32)


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
