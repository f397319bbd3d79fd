import numpy as np

from benchmarks.evidence import converged, feature_loss, levels, one_shot, patterns, tuned_patterns
from benchmarks.evidence.statistics import mcnemar
from cutwork.prune.rates import pattern_of
from tests.benchmarks.evidence.made import right, scores


def test_patterns_are_compared_with_zeros_anywhere_of_the_same_kind() -> None:
    def row(kind: str, pattern: str, method: str, share: float, seed: int) -> dict[str, object]:
        answers = right(share, 1, 400, seed)[0]
        return {"kind": kind, "pattern": pattern, "method": method, **scores(answers)}

    rows = [
        row("one-shot", "unstructured", "alps", 0.6, 1),
        row("one-shot", "4:16", "alps", 0.4, 2),
        row("one-shot", "4:16", "sparsegpt", 0.4, 2),
        row("tuned", "4:16", "alps", 0.7, 3),
    ]
    lines = patterns.table({"rows": rows}).splitlines()[2:]
    compared = [line.split("|")[4].strip() != "" for line in lines]
    assert compared == [False, True, False, False]  # there is nothing to compare the others with
    difference = 100 * (rows[1]["right"] - rows[0]["right"]) / 400  # type: ignore[operator]
    assert f"{difference:+.1f} [" in lines[1]


def test_seeds_of_a_pattern_are_compared_with_their_own_zeros_anywhere() -> None:
    def row(pattern: str, seed: int, share: float) -> dict[str, object]:
        answers = right(share, 1, 400, 7 + seed)[0]
        return {"kind": "tuned", "pattern": pattern, "method": "alps", "seed": seed, "steps": 249, **scores(answers)}

    free = [row("unstructured", seed, 0.8) for seed in (0, 1, 2)]
    rows = [*free, row("4:16", 0, 0.5), row("4:16", 1, 0.6)]
    line = patterns.table({"rows": rows}).splitlines()[3]
    shares = [each["right"] / 400 for each in rows]  # type: ignore[operator]
    difference = 50 * (shares[3] + shares[4] - shares[0] - shares[1])
    assert f"({shares[3]:.1%} / {shares[4]:.1%})" in line and f"{difference:+.1f} [" in line
    assert "alps, then fine-tuned for 249 steps" in line and line.split("|")[5].count("/") == 1


def test_patterns_are_held_against_zeros_anywhere_by_the_seeds_that_both_have() -> None:
    free, four = right(0.7, 3, 600), right(0.6, 2, 600, seed=1)

    def row(pattern: str, answers: np.ndarray, seed: int) -> dict[str, object]:
        return {
            "variant": feature_loss.NOT_CLIPPED,
            "pattern": pattern,
            "seed": seed,
            "split": "test",
            **scores(answers),
        }

    rows = [row("4:16", answers, seed) for seed, answers in enumerate(four)]
    (alone,) = tuned_patterns.table({"rows": rows}).splitlines()[2:]
    assert alone.endswith("|  |  |")
    rows += [row(tuned_patterns.FREE, answers, seed) for seed, answers in enumerate(free)]
    first, second = tuned_patterns.table({"rows": rows}).splitlines()[2:]
    change = 100 * float(np.mean(np.stack(four)) - np.mean(np.stack(free[:2])))
    assert f"| {change:+.1f} [" in first and first.endswith("| **missed** |") and second.endswith("|  |  |")


def test_levels_are_held_against_dense_and_against_zeros_anywhere() -> None:
    dense, free, eight = right(0.72, 3, 600), right(0.7, 3, 600, seed=1), right(0.5, 2, 600, seed=2)

    def row(kind: str, answers: np.ndarray, seed: int) -> dict[str, object]:
        return {"variant": feature_loss.NOT_CLIPPED, "pattern": kind, "seed": seed, "split": "test", **scores(answers)}

    made = {levels.HALVES[0]: eight, levels.DENSE: dense, levels.HALVES[1]: free}
    rows = [row(kind, answers, seed) for kind, of in made.items() for seed, answers in enumerate(of)]
    first, second, third = levels.table({"rows": rows}).splitlines()[2:]
    change = 100 * float(np.mean(np.stack(eight)) - np.mean(np.stack(free[:2])))
    assert first.startswith("| 50% 8:16 |") and f"| {change:+.1f} [" in first
    assert second.startswith("| dense, trained alike |") and second.endswith("|  |  |")
    assert third.startswith("| 50% anywhere |") and third.endswith("] |  |")
    [_, lost] = levels.verdicts({"rows": rows}).splitlines()[2:]
    assert "50% 8:16 at most 2 points below 50% anywhere" in lost and lost.endswith(" 2 seeds | **missed** |")
    assert len(set(levels.KINDS)) == 9


def test_losses_are_held_against_dense_trained_alike_and_the_teacher_against_that() -> None:
    plain, both, dense = right(0.6, 2, 900), right(0.8, 2, 900, seed=1), right(0.82, 2, 900, seed=2)

    def row(kind: str, loss: str, answers: np.ndarray, seed: int) -> dict[str, object]:
        return {"variant": loss, "pattern": kind, "seed": seed, "split": "test", **scores(answers)}

    kind, both_losses = converged.KINDS[0], (feature_loss.CE, feature_loss.NOT_CLIPPED)
    rows = [row(converged.TEACHER, feature_loss.CE, dense[1], 0)]
    made = dict(zip(both_losses, (plain, both), strict=True))
    rows += [row(kind, loss, answers, seed) for loss, of in made.items() for seed, answers in enumerate(of)]
    rows += [row(converged.DENSE, loss, answers, seed) for loss in both_losses for seed, answers in enumerate(dense)]
    teacher, first, second, *others = converged.table({"rows": rows}).splitlines()[2:]
    assert teacher.startswith("| the teacher |  |") and first.endswith("] |  |") and len(others) == 2
    gain, lost = (100 * float(np.mean(np.stack(both)) - np.mean(np.stack(other))) for other in (plain, dense))
    assert f"| {lost:+.1f} [" in second and f"| {gain:+.1f} [" in second
    below_teacher = 100 * float(np.mean(np.stack(both)) - np.mean(dense[1]))
    assert f"%] | {below_teacher:+.1f} [" in second and "%] |  | " in teacher
    ahead, below, gate = converged.verdicts({"rows": rows}).splitlines()[2:]
    assert ahead.startswith("| 75% anywhere, SquareHead 2 points ahead") and ahead.endswith("2 seeds | met |")
    assert f" {lost:+.1f} [" in below and "2 seeds" in gate


def test_one_shot_patterns_are_held_against_zeros_anywhere_of_the_same_level_and_pruner() -> None:
    free, four = right(0.7, 1, 300)[0], right(0.6, 1, 300, seed=1)[0]

    def row(level: float, method: str, pattern: str, answers: np.ndarray) -> dict[str, object]:
        return {"level": level, "method": method, "pattern": pattern, **scores(answers)}

    rows = [row(0.75, "alps", "unstructured", free), row(0.75, "alps", "4:16", four), row(0.5, "alps", "8:16", four)]
    first, second, third = one_shot.table({"rows": rows}).splitlines()[2:]
    assert first.startswith(f"| 75% | alps | unstructured | {free.mean():.1%} [") and first.endswith("|  |  | 1.050 |")
    assert f"| {100 * (four.mean() - free.mean()):+.1f} [" in second and f"| {mcnemar(four, free):.2g} |" in second
    assert third.startswith("| 50% | alps | 8:16 |") and third.endswith("|  |  | 1.050 |")
    for level, names in one_shot.PATTERNS.items():
        assert {pattern_of(name, level).sparsity for name in names} == {level}
