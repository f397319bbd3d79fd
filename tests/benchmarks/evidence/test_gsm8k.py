import numpy as np

from benchmarks.evidence import gsm8k
from tests.benchmarks.evidence.made import right, scores


def test_gsm8k_is_told_beside_a_dense_model_trained_for_as_long() -> None:
    names = [wanted.name for wanted in gsm8k.ORDER]
    assert names[:3] == ["75% zeros, anywhere, CE", gsm8k.DENSE, "75% zeros, 4:16, CE"] and len(set(names)) * 2 == len(
        names
    )
    dense, sparse, teacher = right(0.4, 2, 1319), right(0.3, 1, 1319, seed=1), right(0.35, 1, 1319, seed=2)

    def row(model: str, answers: np.ndarray, seed: int | None = None) -> dict[str, object]:
        found = {"model": model, "encoding": "int8", **scores(answers)}
        return {**found, **({} if seed is None else {"seed": seed})}

    rows = [row(gsm8k.TEACHER, teacher[0]), row(names[0], sparse[0], 0)]
    rows += [row(gsm8k.DENSE, answers, seed) for seed, answers in enumerate(dense)]
    first, ours, control = gsm8k.table({"rows": rows}).splitlines()[2:]
    assert first.startswith("| int8, dense, the teacher |") and first.count(" / ") == 1  # McNemar's p of both seeds
    change = 100 * float(sparse[0].mean() - dense[0].mean())
    assert f"| {change:+.1f} [" in ours and control.endswith("|  |  |")


def test_gsm8k_says_what_was_announced_of_what_has_run() -> None:
    dense, behind, ahead = (np.arange(1319) < count for count in (400, 300, 390))

    def row(model: str, answers: np.ndarray, seed: int | None = 0) -> dict[str, object]:
        found = {"model": model, "encoding": "int8", **scores(answers)}
        return {**found, **({} if seed is None else {"seed": seed})}

    names = {loss: gsm8k.Wanted(loss, 0.75, "unstructured", 0).name for loss in gsm8k.LOSSES}
    rows = [row(gsm8k.TEACHER, behind, None), row(gsm8k.DENSE, dense), row(names["CE"], behind)]
    near, converged = gsm8k.verdicts({"rows": rows}).splitlines()[2:]
    assert near.startswith("| 75% zeros, anywhere, CE: at most 5 points below dense") and near.endswith("**missed** |")
    assert converged.startswith("| the dense teacher has converged") and "-7.6 [" in converged
    first, *_ = gsm8k.verdicts({"rows": [*rows, row(names["CE+SquareHead"], ahead)]}).splitlines()[2:]
    assert "2 points ahead of CE" in first and "+6.8 [" in first and first.endswith("1 seed | met |")
