"""Intervals and tests for answers that are right or wrong, of models that were asked the same questions."""

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from math import comb
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm, t

from cutwork.measure.interval import wilson

DRAWS = 10_000
Pairs = list[tuple[NDArray[np.bool_], NDArray[np.bool_]]]  # of two models, seed by seed: right or wrong [questions]


def paired_bootstrap(
    ours: NDArray[Any], theirs: NDArray[Any], *, draws: int = DRAWS, seed: int = 0
) -> tuple[float, float, float]:
    """Difference of two accuracies and its 95% interval, over questions and seeds.

    `ours` and `theirs`: [seeds, questions], right or wrong or a score, the same questions and seeds in the same order.
    Each draw takes seeds and questions with replacement (a hierarchical bootstrap, the pairs kept together),
    with `seed_weights`. What a few seeds say of how far seeds lie apart is itself uncertain: the interval is wider than
    the draws are by as much as Student's t is than a normal distribution, with Satterthwaite's degrees of freedom.
    """
    drawn, freedom = _differences(ours, theirs, draws, seed)
    mean, wider = float(ours.mean() - theirs.mean()), t.ppf(0.975, freedom) / norm.ppf(0.975)
    low, high = mean + wider * (np.quantile(drawn, [0.025, 0.975]) - mean)
    return mean, float(low), float(high)


def seed_pairs(ours: Iterable[Mapping[str, Any]], theirs: Iterable[Mapping[str, Any]]) -> Pairs:
    """The answers [questions] of both for each seed that both have; a row without a seed, the teacher's, is held
    against each of the other's."""
    first, second = ({row.get("seed"): unpacked(row) for row in rows} for rows in (ours, theirs))
    if None in first:
        first = dict.fromkeys(second, first[None])
    if None in second:
        second = dict.fromkeys(first, second[None])
    return [(first[seed], second[seed]) for seed in first if seed in second]


def points_above(pairs: Pairs) -> tuple[float, float, float]:
    """`paired_bootstrap` of `seed_pairs`, in points."""
    mean, low, high = paired_bootstrap(*map(np.stack, zip(*pairs, strict=True)))
    return 100 * mean, 100 * low, 100 * high


def right_share(rows: Sequence[Mapping[str, Any]]) -> tuple[float, float, float]:
    """Accuracy of a model's seeds and its 95% interval: Wilson's for one, else over questions and seeds, as seeds that
    answer the same questions are not independent."""
    mean = sum(row["right"] for row in rows) / sum(row["samples"] for row in rows)
    if len(rows) == 1:
        return (mean, *wilson(rows[0]["right"], rows[0]["samples"]))
    answers = np.stack([unpacked(row) for row in rows])
    _, low, high = paired_bootstrap(answers, np.zeros_like(answers))
    return mean, max(0.0, low), min(1.0, high)


def mcnemar(ours: NDArray[np.bool_], theirs: NDArray[np.bool_]) -> float:
    """McNemar's exact two-sided p for two models' answers [questions] to the same questions."""
    better, worse = int((ours & ~theirs).sum()), int((theirs & ~ours).sum())
    disagree, fewer = better + worse, min(better, worse)
    tail = sum(comb(disagree, count) for count in range(fewer + 1))
    return min(1.0, 2 * tail / 2**disagree)


def bootstrap_p(ours: NDArray[np.bool_], theirs: NDArray[np.bool_], *, draws: int = DRAWS, seed: int = 0) -> float:
    """Two-sided p that goes with `paired_bootstrap`: of the mean over the draws' standard deviation, by Student's t."""
    drawn, freedom = _differences(ours, theirs, draws, seed)
    mean, error = float(ours.mean() - theirs.mean()), float(drawn.std())
    return 1.0 if mean == 0 else 2 * float(t.sf(abs(mean) / error, freedom)) if error else 0.0


def _differences(ours: NDArray[Any], theirs: NDArray[Any], draws: int, seed: int) -> tuple[NDArray[np.float64], float]:
    """Differences as they are drawn, and the degrees of freedom of their spread."""
    if ours.shape != theirs.shape or ours.ndim != 2:
        raise ValueError(f"expected two arrays [seeds, questions] of one shape, not {ours.shape} and {theirs.shape}")
    difference = ours.astype(np.float64) - theirs.astype(np.float64)
    by_question, by_seed = _weights(*difference.shape, draws, seed)
    drawn: NDArray[np.float64] = ((by_question @ difference.T) * by_seed).sum(1)
    seeds, questions = difference.shape
    parts = [(difference.mean(0).var() / max(1, questions - 1), max(1, questions - 1))]
    if seeds > 1:
        parts.append((difference.mean(1).var() / (seeds - 1), seeds - 1))
    whole = sum(part for part, _ in parts)
    freedom = whole**2 / sum(part**2 / each for part, each in parts) if whole else 1.0
    return drawn, float(freedom)


@lru_cache(2)  # which take longer to draw than to use
def _weights(seeds: int, questions: int, draws: int, seed: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """[draws, questions] and [draws, seeds]: how much each counts in a draw."""
    random = np.random.default_rng(seed)
    by_question = random.multinomial(questions, np.full(questions, 1 / questions), size=draws) / questions
    return by_question, seed_weights(random, seeds, draws)


def seed_weights(random: np.random.Generator, seeds: int, draws: int) -> NDArray[np.float64]:
    """[draws, seeds] that add up to 1: how much each seed counts in a draw with replacement.

    Drawn from S seeds, means vary by (S - 1) / S of what seeds do; how far weights are from 1 / S is raised by as much.
    """
    drawn = random.multinomial(seeds, np.full(seeds, 1 / seeds), size=draws) / seeds
    return 1 / seeds + (drawn - 1 / seeds) * np.sqrt(seeds / max(1, seeds - 1))


def holm(values: Mapping[str, float]) -> dict[str, float]:
    """Holm's correction of several p-values."""
    result: dict[str, float] = {}
    worst = 0.0
    for rank, name in enumerate(sorted(values, key=values.__getitem__)):
        worst = max(worst, min(1.0, values[name] * (len(values) - rank)))
        result[name] = worst
    return result


def packed(right: NDArray[np.bool_]) -> str:
    """Right or wrong of every question as hexadecimal digits, four questions each."""
    return np.packbits(right).tobytes().hex()


def unpacked(row: Mapping[str, Any]) -> NDArray[np.bool_]:
    """Back from a row's `answers` and `samples`."""
    bits = np.unpackbits(np.frombuffer(bytes.fromhex(row["answers"]), np.uint8), count=row["samples"])
    return bits.astype(bool)
