import numpy as np
import pytest

from benchmarks.evidence.statistics import bootstrap_p, holm, mcnemar, packed, paired_bootstrap, unpacked
from cutwork.measure.interval import wilson
from tests.benchmarks.evidence.made import right


def test_wilson_is_the_textbooks() -> None:
    assert wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=1e-4)  # Newcombe 1998, table I
    assert wilson(0, 20)[0] == pytest.approx(0, abs=1e-12)


def test_the_bootstrap_agrees_with_the_normal_interval_of_one_seed() -> None:
    ours, theirs = right(0.7, 1, 2000), right(0.6, 1, 2000, seed=1)
    mean, low, high = paired_bootstrap(ours, theirs)
    difference = ours.astype(float) - theirs
    half = 1.96 * difference.std() / np.sqrt(difference.size)
    assert mean == pytest.approx(difference.mean())
    assert (low, high) == pytest.approx((mean - half, mean + half), abs=0.004)
    assert bootstrap_p(ours, theirs) < 0.001
    assert bootstrap_p(ours, ours) == 1.0


def test_seeds_that_disagree_widen_the_interval() -> None:
    theirs = right(0.5, 3, 2000)
    steady = np.stack([row | (right(0.1, 1, 2000, seed)[0]) for seed, row in enumerate(theirs, 10)])
    moody = np.stack([steady[0] | right(0.2, 1, 2000, 20)[0], theirs[1], theirs[2]])
    widths = [np.diff(paired_bootstrap(ours, theirs)[1:])[0] for ours in (steady, moody)]
    assert widths[1] > 2 * widths[0]


def test_few_seeds_that_differ_are_covered() -> None:
    """Of experiments without a difference but that of seeds, the interval holds 0 nearly as often as it says."""
    random, held = np.random.default_rng(0), 0
    easy = random.beta(2, 2, 400)
    for _ in range(100):
        moods = np.clip(easy + random.normal(0, 0.05, (3, 1)), 0, 1)
        ours, theirs = random.random((3, 400)) < moods, random.random((3, 400)) < easy
        _, low, high = paired_bootstrap(ours, theirs, draws=1000)
        held += low <= 0 <= high
    assert held >= 93  # with the seeds as they are drawn it would be 91


def test_questions_of_one_problem_are_drawn_together() -> None:
    """Each problem asked three times tells as much as asked once, and the mean is over questions all the same."""
    ours, theirs = right(0.7, 1, 300), right(0.6, 1, 300, seed=1)
    thrice = [np.repeat(answers, 3, axis=1) for answers in (ours, theirs)]
    problems = np.repeat(np.arange(300), 3).tolist()
    assert paired_bootstrap(thrice[0], thrice[1], alike=problems) == pytest.approx(paired_bootstrap(ours, theirs))
    apart = paired_bootstrap(*thrice)
    assert np.diff(paired_bootstrap(ours, theirs)[1:])[0] > 1.5 * np.diff(apart[1:])[0]
    uneven = [0] * 100 + list(range(1, 201))
    assert paired_bootstrap(ours, theirs, alike=uneven)[0] == pytest.approx(ours.mean() - theirs.mean())


def test_the_bootstrap_refuses_what_is_not_paired() -> None:
    with pytest.raises(ValueError, match="seeds, questions"):
        paired_bootstrap(right(0.5, 2, 10), right(0.5, 3, 10))


def test_mcnemar_counts_the_questions_that_only_one_has_right() -> None:
    ours = np.array([True] * 9 + [False] * 1 + [True] * 50)
    theirs = np.array([False] * 9 + [True] * 1 + [True] * 50)
    assert mcnemar(ours, theirs) == pytest.approx(2 * 11 / 1024)
    assert mcnemar(ours, ours) == 1.0


def test_holm() -> None:
    assert holm({"a": 0.01, "b": 0.04, "c": 0.03}) == pytest.approx({"a": 0.03, "c": 0.06, "b": 0.06})


def test_answers_survive_a_file() -> None:
    answers = right(0.5, 1, 2001)[0]
    assert (unpacked({"answers": packed(answers), "samples": 2001}) == answers).all()
