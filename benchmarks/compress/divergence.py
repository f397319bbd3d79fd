"""How far a packed model's next token is from the dense one's, sample by sample, and how far that may be off."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cutwork.engine.model import Model
from cutwork.tasks.rendering import IGNORED, render
from cutwork.tasks.task import Sample

DRAWS = 1000  # of the bootstrap


@dataclass(frozen=True)
class Divergence:
    """KL divergence of the next token from the dense model's, in nats: sums over each sample's tokens, and how many.

    Arrays [samples]: of the answers' tokens, and of all.
    """

    in_answers: NDArray[np.float64]
    answers: NDArray[np.int64]
    everywhere: NDArray[np.float64]
    tokens: NDArray[np.int64]

    @property
    def kl(self) -> float:
        """Per token of the answers."""
        return float(self.in_answers.sum() / self.answers.sum())

    @property
    def kl_everywhere(self) -> float:
        """Per token."""
        return float(self.everywhere.sum() / self.tokens.sum())


def divergence(dense: Model, model: Model, samples: Sequence[Sample]) -> Divergence:
    """Of a model, where the tokens of the samples were given."""
    found: list[tuple[float, int, float, int]] = []
    for sample in samples:
        ids, labels = render(dense.tokenizer, sample)
        p, q = (_log_softmax(each.logits(ids)) for each in (dense, model))
        kl = np.sum(np.exp(p) * (p - q), axis=1)
        answered = kl[:-1][np.array(labels[1:]) != IGNORED]
        found.append((float(answered.sum()), len(answered), float(kl.sum()), len(kl)))
    in_answers, answers, everywhere, tokens = zip(*found, strict=True)
    return Divergence(np.array(in_answers), np.array(answers), np.array(everywhere), np.array(tokens))


def drawn(sums: Mapping[str, Sequence[float]], tokens: Sequence[int]) -> dict[str, NDArray[np.float64]]:
    """Means per token [DRAWS] for sums of the same samples by name, drawn anew with replacement, the same for all."""
    counts = np.asarray(tokens, dtype=np.float64)
    picks = np.random.default_rng(0).integers(len(counts), size=(DRAWS, len(counts)))
    lengths = counts[picks].sum(axis=1)
    return {name: np.asarray(each)[picks].sum(axis=1) / lengths for name, each in sums.items()}


def interval(values: NDArray[np.float64]) -> tuple[float, float]:
    """The middle 95% of what was drawn."""
    low, high = np.percentile(values, [2.5, 97.5])
    return float(low), float(high)


def _log_softmax(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True)))
