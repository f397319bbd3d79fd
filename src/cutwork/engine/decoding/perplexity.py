"""Perplexity of a text under a model."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from cutwork.errors import CutworkError


@dataclass(frozen=True)
class Perplexity:
    """exp of the mean negative log-likelihood (nats) over the `tokens` that were predicted."""

    perplexity: float
    nll: float
    tokens: int


def perplexity(
    logits: Callable[[Sequence[int]], Iterable[np.ndarray]], tokens: Sequence[int], *, window: int, stride: int
) -> Perplexity:
    """Slide a window over the tokens; each token but those without context is predicted once.

    logits: gives the logits [chunk, V] of consecutive chunks of a sequence. Raises CutworkError for fewer than 2
    tokens, or a stride that is not from 1 to the window.
    """
    if len(tokens) < 2:
        raise CutworkError("perplexity needs a text of at least 2 tokens")
    if window < 2 or not 1 <= stride <= window:
        raise CutworkError(f"window must be at least 2 and stride from 1 to window, not {window} and {stride}")
    total, count, done = 0.0, 0, 0
    for begin in range(0, len(tokens), stride):
        part = tokens[begin : begin + window]
        first = max(done - begin, 1)  # the first position of this window that has not been predicted yet
        position = 0
        for chunk in logits(part):
            targets = np.asarray(part[position + 1 : position + 1 + len(chunk)], np.int64)
            losses = _losses(chunk[: len(targets)], targets)[max(0, first - 1 - position) :]
            total += float(losses.sum())
            count += len(losses)
            position += len(chunk)
        done = begin + len(part)
        if done >= len(tokens):
            break
    return Perplexity(math.exp(min(total / count, 700.0)), total / count, count)


def _losses(logits: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Negative log-likelihood, float64 [n], of targets [n] under logits [n, V]."""
    highest = logits.max(axis=1, keepdims=True) if len(logits) else logits[:, :1]
    sums = np.exp(logits - highest).sum(axis=1, dtype=np.float64)
    chosen = np.take_along_axis(logits, targets[:, None], axis=1)[:, 0].astype(np.float64)
    return np.asarray(np.log(sums) + highest[:, 0] - chosen)
