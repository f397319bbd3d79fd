"""Intervals and tests for answers that are right or wrong, of models that were asked the same questions."""

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from math import comb
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm, t

from cutwork.measure.interval import wilson

DRAWS = 10_000


class Pair(NamedTuple):
    """Two models' answers [questions] with one seed: right or wrong; `alike`: the problem of each question, where
    several are one."""

    ours: NDArray[np.bool_]
    theirs: NDArray[np.bool_]
    alike: Sequence[int] | None = None


Pairs = list[Pair]  # seed by seed


def paired_bootstrap(
    ours: NDArray[Any],
    theirs: NDArray[Any],
    *,
    alike: Sequence[int] | None = None,
    draws: int = DRAWS,
    seed: int = 0,
) -> tuple[float, float, float]:
    """Difference of two accuracies and its 95% interval, over questions and seeds.

    `ours` and `theirs`: [seeds, questions], right or wrong or a score, the same questions and seeds in the same order.
    Each draw takes seeds and questions with replacement (a hierarchical bootstrap, the pairs kept together), with
    `seed_weights`; questions that are `alike`, which have the same number there, are drawn together. What a few seeds
    say of how far seeds lie apart is itself uncertain: the interval is wider than the draws are by as much as Student's
    t is than a normal distribution, with Satterthwaite's degrees of freedom.
    """
    drawn, freedom = _differences(ours, theirs, alike, draws, seed)
    mean, wider = float(ours.mean() - theirs.mean()), t.ppf(0.975, freedom) / norm.ppf(0.975)
    low, high = mean + wider * (np.quantile(drawn, [0.025, 0.975]) - mean)
    return mean, float(low), float(high)


def seed_pairs(ours: Sequence[Mapping[str, Any]], theirs: Sequence[Mapping[str, Any]]) -> Pairs:
    """The answers [questions] of both for each seed that both have; a row without a seed, the teacher's, is held
    against each of the other's."""
    problems = alike([*ours, *theirs])
    first, second = ({row.get("seed"): unpacked(row) for row in rows} for rows in (ours, theirs))
    if None in first:
        first = dict.fromkeys(second, first[None])
    if None in second:
        second = dict.fromkeys(first, second[None])
    return [Pair(first[seed], second[seed], problems) for seed in first if seed in second]


def points_above(pairs: Pairs) -> tuple[float, float, float]:
    """`paired_bootstrap` of `seed_pairs`, in points."""
    ours, theirs = (np.stack(each) for each in zip(*(pair[:2] for pair in pairs), strict=True))
    mean, low, high = paired_bootstrap(ours, theirs, alike=pairs[0].alike)
    return 100 * mean, 100 * low, 100 * high


def right_share(rows: Sequence[Mapping[str, Any]]) -> tuple[float, float, float]:
    """Accuracy of a model's seeds and its 95% interval: Wilson's for one whose questions all differ, else over
    questions and seeds, as neither those of one problem nor seeds that answer the same ones are independent."""
    mean = sum(row["right"] for row in rows) / sum(row["samples"] for row in rows)
    if len(rows) == 1 and not alike(rows):
        return (mean, *wilson(rows[0]["right"], rows[0]["samples"]))
    answers = np.stack([unpacked(row) for row in rows])
    _, low, high = paired_bootstrap(answers, np.zeros_like(answers), alike=alike(rows))
    return mean, max(0.0, low), min(1.0, high)


def alike(rows: Iterable[Mapping[str, Any]]) -> Sequence[int] | None:
    """The problem of each question that rows are answers to, where the result knows of any that are one."""
    found: Sequence[int] | None = next((row["alike"] for row in rows if "alike" in row), None)
    return found if found and len(set(found)) < len(found) else None


def mcnemar(ours: NDArray[np.bool_], theirs: NDArray[np.bool_]) -> float:
    """McNemar's exact two-sided p for two models' answers [questions] to the same questions."""
    better, worse = int((ours & ~theirs).sum()), int((theirs & ~ours).sum())
    disagree, fewer = better + worse, min(better, worse)
    tail = sum(comb(disagree, count) for count in range(fewer + 1))
    return min(1.0, 2 * tail / 2**disagree)


def bootstrap_p(
    ours: NDArray[np.bool_],
    theirs: NDArray[np.bool_],
    *,
    alike: Sequence[int] | None = None,
    draws: int = DRAWS,
    seed: int = 0,
) -> float:
    """Two-sided p that goes with `paired_bootstrap`: of the mean over the draws' standard deviation, by Student's t."""
    drawn, freedom = _differences(ours, theirs, alike, draws, seed)
    mean, error = float(ours.mean() - theirs.mean()), float(drawn.std())
    return 1.0 if mean == 0 else 2 * float(t.sf(abs(mean) / error, freedom)) if error else 0.0


def _differences(
    ours: NDArray[Any], theirs: NDArray[Any], alike: Sequence[int] | None, draws: int, seed: int
) -> tuple[NDArray[np.float64], float]:
    """Differences as they are drawn, and the degrees of freedom of their spread."""
    if ours.shape != theirs.shape or ours.ndim != 2:
        raise ValueError(f"expected two arrays [seeds, questions] of one shape, not {ours.shape} and {theirs.shape}")
    difference = ours.astype(np.float64) - theirs.astype(np.float64)
    seeds, questions = difference.shape
    problems = np.arange(questions) if alike is None else np.unique(alike, return_inverse=True)[1]
    count = int(problems.max()) + 1
    sizes = np.bincount(problems)
    by_problem, by_seed = _weights(seeds, count, draws, seed)
    sums = np.stack([np.bincount(problems, each, count) for each in difference])
    drawn: NDArray[np.float64] = ((by_problem @ sums.T) / (by_problem @ sizes)[:, None] * by_seed).sum(1)
    # Of a mean over problems of several sizes, each problem's part, about 0.
    parts_of = (np.bincount(problems, difference.mean(0), count) - difference.mean() * sizes) * count / questions
    parts = [(parts_of.var() / max(1, count - 1), max(1, count - 1))]
    if seeds > 1:
        parts.append((difference.mean(1).var() / (seeds - 1), seeds - 1))
    whole = sum(part for part, _ in parts)
    freedom = whole**2 / sum(part**2 / each for part, each in parts) if whole else 1.0
    return drawn, float(freedom)


@lru_cache(2)  # which take longer to draw than to use
def _weights(seeds: int, problems: int, draws: int, seed: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """[draws, problems] and [draws, seeds]: how much each counts in a draw."""
    random = np.random.default_rng(seed)
    by_problem = random.multinomial(problems, np.full(problems, 1 / problems), size=draws) / problems
    return by_problem, seed_weights(random, seeds, draws)


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
