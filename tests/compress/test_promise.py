"""Points lost, and how sure that is."""

from dataclasses import astuple
from math import comb
from pathlib import Path
from statistics import NormalDist

import pytest
from transformers import AutoTokenizer

from cutwork.compress.promise import Metric, check_lengths, loss, samples_to_tell
from cutwork.errors import CutworkError
from cutwork.tasks.task import Sample
from tests.tiny_checkpoint import write_tiny_checkpoint


def test_points_are_what_the_mean_falls() -> None:
    lost = loss([1, 1, 1, 0] * 50, [1, 1, 0, 0] * 50)
    assert lost.points == pytest.approx(25)
    assert 15 < lost.low < 25 < lost.high < 35
    assert loss([0, 0], [1, 0]).points == -50
    assert loss([1.0] * 200, [0.0] * 14 + [1.0] * 186).points == 7  # a budget of 7 is kept


def test_more_samples_say_more_and_none_is_ever_certain() -> None:
    few, many = loss([1.0] * 10, [1.0] * 10), loss([1.0] * 1000, [1.0] * 1000)
    assert few.low < many.low < 0 < many.high < few.high
    assert many.high < 0.5 and few.high > 7
    # By hand, from counts with a half added to each of the four: (6 ± 1.96 sqrt(9 - 6² / 23)) / 23.
    before, after = (
        [1] * 1 + [1] * 1 + [0] * 7 + [0] * 11 + [0.5],
        [1] * 1 + [0] * 1 + [1] * 7 + [0] * 11 + [0.5 + 1e-9],
    )
    lost = loss(before, after)
    assert (lost.low, lost.high) == pytest.approx((-49.32, -2.85), abs=0.01)


def pairs(worse: int, better: int, count: int) -> tuple[list[float], list[float]]:
    same = [1.0] * (count - worse - better)
    return [1.0] * worse + [0.0] * better + same, [0.0] * worse + [1.0] * better + same


@pytest.mark.parametrize(("worse", "better", "budget"), [(30, 24, 2.0), (2, 1, 0.5), (0, 0, 1.0)])
def test_as_many_samples_as_are_told_leave_the_interval_asked_for(worse: int, better: int, budget: float) -> None:
    needed = samples_to_tell(*pairs(worse, better, 200), budget)
    many = loss(*pairs(needed * worse // 200, needed * better // 200, needed))
    assert needed > 200 and (many.high - many.low) / 2 == pytest.approx(budget, rel=0.05)
    if not worse:
        assert needed == 381  # z² (100 - 1), as where none differ 100 z² / (n + z²) points are left


def test_as_many_samples_as_are_told_leave_the_interval_of_shares_asked_for() -> None:
    before, after = [0.5] * 200, [0.4, 0.7, 0.5, 0.5] * 50
    needed = samples_to_tell(before, after, 0.4)
    many = loss(before[:4] * (needed // 4), after[:4] * (needed // 4))
    assert needed > 1000 and (many.high - many.low) / 2 == pytest.approx(0.4, rel=0.01)


def test_shares_that_differ_by_little_are_told_by_few_samples() -> None:
    same = loss([0.5] * 200, [0.5] * 200)
    assert same.points == 0 and 0.1 < same.high == -same.low < 0.3
    lost = loss([0.8, 0.9] * 100, [0.79, 0.89] * 100)
    assert lost.low < 1 < lost.high < 1.3


@pytest.mark.parametrize("flips", [(0.03, 0.02), (0.01, 0.005), (0.002, 0.001)])
def test_the_interval_of_shares_holds_the_truth_as_often_as_it_says(flips: tuple[float, float]) -> None:
    """Tokens of short answers or long, lost and gained much more often in some than in others."""
    import numpy as np

    draw = np.random.default_rng(0)

    def differences(count: int) -> "np.ndarray":
        tokens, harder = draw.integers(2, 100, count), draw.gamma(0.3, 1 / 0.3, count)
        lost, gained = (draw.binomial(tokens, np.minimum(each * harder, 1)) for each in flips)
        return np.clip((lost - gained) / tokens, -0.5, 0.5)

    truth = 100 * differences(400_000).mean()
    intervals = [loss([0.5] * 200, list(0.5 - differences(200))) for _ in range(400)]
    assert sum(each.low <= truth <= each.high for each in intervals) / 400 > 0.93


@pytest.mark.parametrize(
    ("count", "share", "lost"), [(200, 0.005, 0.9), (200, 0.01, 0.9), (500, 0.005, 0.9), (200, 0.05, 0.5)]
)
@pytest.mark.parametrize("looks", [1, 8])
def test_who_must_be_sure_is_told_of_losses_that_few_samples_have(
    count: int, share: float, lost: float, looks: int
) -> None:
    """How often the truth lies above the interval's end, though none of the samples at hand may lose so much."""
    import numpy as np

    draw, above = np.random.default_rng(0), 0
    for _ in range(300):
        after = np.where(draw.random(count) < share, 0.95 - lost, 0.95 - draw.choice([0, 0.02, -0.02], count))
        above += loss([0.95] * count, list(after), looks, sure=True).high < 100 * share * lost
    assert above / 300 < 0.03


def test_what_surely_holds_of_shares_is_what_does_of_answers() -> None:
    same, few, nearly = [0.5] * 200, pairs(3, 0, 200), [1.0] * 197 + [1.0 - 1e-12] * 3
    assert astuple(loss(same, same, sure=True)) == pytest.approx(astuple(loss(*pairs(0, 0, 200))))
    assert loss(few[0], [*few[1][:-1], 1 - 1e-12], sure=True).high == pytest.approx(loss(*few).high)
    assert loss([1.0] * 200, nearly, sure=True).high == pytest.approx(loss(*pairs(0, 0, 200)).high)
    small = loss([0.5] * 2000, [0.49, 0.5] * 1000, sure=True)
    assert small.low < small.points < small.high < 0.8
    assert loss(*few, sure=True) == loss(*few)


def test_the_interval_of_right_answers_is_that_of_a_score_test() -> None:
    # Where none differ, n d = z sqrt(n d (1 - d)), so that d = z² / (n + z²).
    square = NormalDist().inv_cdf(0.975) ** 2
    lost = loss(*pairs(0, 0, 200))
    assert (lost.low, lost.high) == pytest.approx((-100 * square / (200 + square), 100 * square / (200 + square)))
    lost = loss(*pairs(1, 7, 21))
    assert (lost.low, lost.high) == pytest.approx((-51.7, -2.6), abs=0.1)  # Tango (1998), table II
    whole, nothing = loss(*pairs(5, 0, 5)), loss(*pairs(0, 5, 5))
    assert whole.high == pytest.approx(100) and whole.low == pytest.approx(-nothing.high)
    once, nine = loss(*pairs(3, 2, 200)), loss(*pairs(3, 2, 200), looks=9)
    assert nine.low < once.low < once.high < nine.high


@pytest.mark.parametrize(("share", "count"), [(0.0098, 200), (0.02, 200), (0.02, 100), (0.0098, 1000)])
def test_few_differences_are_told_apart_from_none(share: float, count: int) -> None:
    """How often all of the interval lies below the truth, added up over what can come out where nothing gets better."""
    below = sum(
        comb(count, worse) * share**worse * (1 - share) ** (count - worse)
        for worse in range(12)
        if loss(*pairs(worse, 0, count)).high < 100 * share
    )
    assert below < 0.035


def test_the_interval_holds_the_truth_as_often_as_it_says() -> None:
    import random

    draw = random.Random(0)
    inside = 0
    for _ in range(400):
        before = [float(draw.random() < 0.6) for _ in range(200)]
        after = [b if draw.random() < 0.8 else float(draw.random() < 0.45) for b in before]
        lost = loss(before, after)
        inside += lost.low <= 3 <= lost.high  # 20% of 60% - 45%
    assert inside / 400 > 0.92


@pytest.mark.parametrize(
    ("metric", "problem"), [("answers", "leaves no room for an answer"), ("tokens", "has no answer")]
)
def test_a_sample_that_cannot_be_judged_is_named(metric: Metric, problem: str, tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(write_tiny_checkpoint(tmp_path))
    samples = [Sample("1+1?", "2"), Sample("and" * 20, "2")]  # a token for each character
    check_lengths(tokenizer, "test", samples, metric, 63)
    with pytest.raises(CutworkError, match=f"test sample 2, 'andand.*{problem} within 62 tokens; leave it out"):
        check_lengths(tokenizer, "test", samples, metric, 62)
