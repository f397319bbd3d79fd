"""Intervals of BLEU, which belongs to a corpus and not to a sentence, over sentences and seeds."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from sacrebleu.metrics import BLEU

from benchmarks.evidence.statistics import seed_weights

DRAWS = 2000
_ORDER = 4  # of n-grams
Counts = NDArray[np.int64]  # [..., 10]: matches and n-grams of each order, tokens of the answer and of the reference


def counts(replies: Sequence[str], references: Sequence[str]) -> Counts:
    """[sentences, 10] whose sum has the corpus's BLEU."""
    bleu = BLEU(effective_order=True)  # else it warns of sentences, whose scores are not looked at
    found = (bleu.sentence_score(reply, [reference]) for reply, reference in zip(replies, references, strict=True))
    return np.array([[*score.counts, *score.totals, score.sys_len, score.ref_len] for score in found])


def bleu_of(total: Counts) -> float:
    """BLEU of the sum of some sentences' counts, 0 to 100."""
    matches, grams, (answer, reference) = np.split(total, [_ORDER, 2 * _ORDER])
    return float(BLEU.compute_bleu(matches.tolist(), grams.tolist(), int(answer), int(reference)).score)


def bleu_interval(
    ours: Sequence[Counts], theirs: Sequence[Counts], *, draws: int = DRAWS, seed: int = 0
) -> tuple[float, float, float]:
    """Difference of two models' BLEU, the mean of their seeds', and its 95% interval over sentences and seeds.

    `ours` and `theirs`: the counts of each seed, of the same sentences and seeds in the same order. Each draw takes
    seeds and sentences with replacement, pairs kept together, and how far its seeds are from all of them is raised as
    in benchmarks/evidence/statistics.py.
    """
    pairs = list(zip(ours, theirs, strict=True))
    random = np.random.default_rng(seed)
    sentences = len(pairs[0][0])

    def by_seed(weights: NDArray[np.int64]) -> NDArray[np.float64]:
        return np.array([bleu_of(weights @ first) - bleu_of(weights @ second) for first, second in pairs])

    drawn = [
        float(by_seed(random.multinomial(sentences, np.full(sentences, 1 / sentences))) @ weights)
        for weights in seed_weights(random, len(pairs), draws)
    ]
    low, high = np.quantile(drawn, [0.025, 0.975])
    return float(by_seed(np.ones(sentences, np.int64)).mean()), float(low), float(high)
