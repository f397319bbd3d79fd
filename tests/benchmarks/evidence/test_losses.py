import numpy as np
import pytest

from benchmarks.evidence import feature_loss, new_losses, own_rates, step_times
from tests.benchmarks.evidence.made import right, scores


def test_squarehead_is_held_against_cross_entropy_for_the_same_time() -> None:
    ce, both = right(0.4, 2, 1000), right(0.5, 1, 1000, seed=1)

    def row(loss: str, steps: int, answers: np.ndarray, seed: int) -> dict[str, object]:
        return {"loss": loss, "steps": steps, "encoding": "int8", "seed": seed, **scores(answers)}

    rows = [row("CE", new_losses.STEPS, answers, seed) for seed, answers in enumerate(ce)]
    rows.append(row("CE+SquareHead", new_losses.SAME_TIME, both[0], 1))
    (verdict,) = new_losses.verdicts({"rows": rows}).splitlines()[2:]  # as many steps are not there yet
    change = 100 * float(both[0].mean() - ce[1].mean())
    assert f"{change:+.1f} [" in verdict and verdict.endswith("| met |")
    first, second = new_losses.table({"rows": rows}).splitlines()[2:]
    assert first.startswith(f"| CE | {new_losses.STEPS} | int8 |") and f"| {change:+.1f} [" in second


def test_variants_of_squarehead_have_the_same_time_and_one_is_chosen_on_validation() -> None:
    slower = feature_loss.SLOWER
    for name, phases in feature_loss.VARIANTS.items():
        time = sum(phase.steps * (slower if phase.losses.squarehead else 1) for phase in phases)
        fewer = name == feature_loss.FEWER  # steps, not time
        assert time == pytest.approx(
            feature_loss.VARIANTS["CE+SquareHead"][0].steps if fewer else feature_loss.STEPS, abs=1
        )

    def row(variant: str, split: str, answers: np.ndarray, seed: int) -> dict[str, object]:
        return {"variant": variant, "seed": seed, "split": split, **scores(answers)}

    ce, both, then = (right(share, 1, 300, seed)[0] for seed, share in enumerate((0.5, 0.4, 0.6)))
    later = "CE+SquareHead, then CE"
    rows = [row(n, "validation", a, 0) for n, a in (("CE", ce), ("CE+SquareHead", both), (later, then))]
    assert feature_loss.best([*rows, row(feature_loss.FEWER, "validation", np.ones(300, dtype=bool), 0)]) == later
    rows[2] |= {"longer": [40, 3], "longest": 108.9}
    fewer = row(feature_loss.FEWER, "validation", then, 0)
    first, second, third, last = feature_loss.choices({"rows": [*rows, fewer]}).splitlines()[2:]
    assert third.startswith(
        f"| {later} | 40 + 52 | 40 + 3 | 108.9 | {then.mean():.1%} | 300 | {100 * (then.mean() - ce.mean()):+.1f} ["
    )
    assert f"| {100 * (both.mean() - ce.mean()):+.1f} [" in second  # in the same time, and in as many steps
    assert f"| {100 * (both.mean() - then.mean()):+.1f} [" in second and third.endswith("| – |")
    assert first.endswith("| – | – |") and last.endswith("| – | – |")
    rows += [row("CE", "test", ce, 0), row("CE", "test", ce, 1), row(later, "test", then, 1)]
    plain, ours = feature_loss.table({"rows": rows}).splitlines()[2:]
    assert plain.count("/") == 1 and ours.endswith("| met |  |  |")
    assert f"{100 * (then.mean() - ce.mean()):+.1f} [" in ours
    rows.append(row(feature_loss.FEWER, "test", then, 1))  # in as many steps nothing is gained
    _, ours, steps = feature_loss.table({"rows": rows}).splitlines()[2:]
    assert ours.endswith("] | **missed** |") and "| met |" in ours and steps.endswith("|  |  |  |  |")


def test_a_step_with_squarehead_is_told_by_the_round() -> None:
    seconds = {"CE": (2.0, 2.5, 2.0), "CE+SquareHead": (2.8, 3.0, 2.4)}
    rows = [{"loss": n, "round": i, "seconds": x} for n, each in seconds.items() for i, x in enumerate(each)]
    assert step_times.ratios({"rows": rows[::-1]}) == pytest.approx([1.4, 1.2, 1.2])
    assert step_times.table({"rows": rows}).splitlines()[2:] == [
        "| CE | 2.00 / 2.50 / 2.00 | 2.00 |",
        "| CE+SquareHead | 2.80 / 3.00 / 2.40 | 2.80 |",
        "| ratio | 1.40 / 1.20 / 1.20 | 1.20 |",
    ]


def test_a_rate_is_looked_for_upwards_and_else_downwards() -> None:
    def best(right: dict[float, int]) -> tuple[float | None, list[float]]:
        asked: list[float] = []

        def of(rate: float) -> int | None:
            asked.append(rate)
            return right.get(rate)

        return own_rates.climb(of, (1, 2, 4, 8, 16), 4), asked

    assert best({4: 5, 8: 6, 16: 7}) == (16, [4, 8, 16])
    assert best({4: 5, 8: 6, 16: 6}) == (8, [4, 8, 16])
    assert best({4: 5, 8: 5, 2: 5}) == (4, [4, 8, 2])
    assert best({4: 5, 8: 1, 2: 6, 1: 9}) == (1, [4, 8, 2, 1])
    assert best({4: 5, 8: 6}) == (None, [4, 8, 16])
    assert best({}) == (None, [4])


def test_each_loss_has_the_same_time_at_every_rate_and_is_held_against_cross_entropy_at_its_own() -> None:
    for name, parts in own_rates.OwnRates.variants.items():
        time = sum(part.steps * (feature_loss.SLOWER if part.losses.squarehead else 1) for part in parts)
        assert time == pytest.approx(feature_loss.STEPS, abs=1)
        assert {part.rate for part in parts} == {own_rates.PARTS[name][1]}
    known = own_rates.OwnRates.variants
    for name in (feature_loss.CE, feature_loss.NOT_CLIPPED):  # whose models are not made again
        assert known[own_rates.variant(name, feature_loss.RATE)] == feature_loss.VARIANTS[name]

    def row(kind: str, rate: float, split: str, answers: np.ndarray, seed: int = 0) -> dict[str, object]:
        return {"variant": own_rates.variant(kind, rate), "seed": seed, "split": split, **scores(answers)}

    ce, then = right(0.5, 2, 600), right(0.6, 1, 600, seed=1)[0]
    asked = [row(own_rates.CE, 4e-4, "validation", ce[0]), row(own_rates.CE, 8e-4, "validation", ce[1])]
    asked.append(row(own_rates.THEN, 8e-4, "validation", then))
    header, _, plain, later = own_rates.choices({"rows": asked}).splitlines()
    assert header == "| loss | 0.0004 | 0.0008 | of |"
    assert plain == f"| CE | {ce[0].mean():.1%} | {ce[1].mean():.1%} | 600 |"
    assert later == f"| {own_rates.THEN} | – | {then.mean():.1%} | 600 |"
    rows = [row(own_rates.CE, 4e-4, "test", answers, seed) for seed, answers in enumerate(ce)]
    rows.append(row(own_rates.THEN, 8e-4, "test", then, 1))
    plain, later = own_rates.table({"rows": asked + rows}).splitlines()[2:]
    assert plain.startswith("| CE | 0.0004 |") and plain.endswith("|  |  |")
    assert later.startswith(f"| {own_rates.THEN} | 0.0008 |")
    assert f"| {100 * (then.mean() - ce[1].mean()):+.1f} [" in later and later.endswith("| met |")
