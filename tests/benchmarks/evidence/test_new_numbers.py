import numpy as np
import pytest

from benchmarks.evidence import new_numbers
from benchmarks.evidence.statistics import paired_bootstrap
from tests.benchmarks.evidence.made import FILES, model, right, scores


def test_zeros_are_held_against_a_dense_model_trained_for_as_long() -> None:
    dense, sparse = right(0.8, 2, 1000), right(0.7, 3, 1000, seed=1)
    teacher = dense[:1]

    def row(kind: str, pattern: str | None, answers: np.ndarray, seed: int | None) -> dict[str, object]:
        about = {"kind": kind, "encoding": "int8", "pattern": pattern, "seed": seed}
        return {**{key: value for key, value in about.items() if value is not None}, **scores(answers)}

    rows = [row("teacher", None, teacher[0], None)]
    rows += [row("tuned", "unstructured", answers, seed) for seed, answers in enumerate(sparse)]
    rows += [row("tuned", "dense", answers, seed) for seed, answers in enumerate(dense)]
    found = new_numbers.difference({"rows": rows}, new_numbers.ANYWHERE, new_numbers.CONTROL)
    assert found == pytest.approx([100 * value for value in paired_bootstrap(sparse[:2], dense)])
    teachers = new_numbers.difference({"rows": rows}, new_numbers.TEACHER, new_numbers.CONTROL)
    assert teachers == pytest.approx([100 * value for value in paired_bootstrap(teacher.repeat(2, axis=0), dense)])
    against, converged = new_numbers.verdicts({"rows": rows}).splitlines()[2:]  # neither 4:16 nor int4 yet
    assert against.endswith("2 seeds | **missed** |") and converged.endswith("2 seeds | not told |")
    files = {"models": [*FILES, model("cutwork", "int4", 0.0, 0.76, 300)]}
    announced, *beside = new_numbers.verdicts({"rows": rows}, files).splitlines()[4:]
    assert "most accurate" in announced and announced.endswith("| **missed** |")
    assert [line.startswith("| beside it: ") and line.endswith("|  |") for line in beside] == [True, True]
    assert "| int8, 75% zeros anywhere, trained on | " in new_numbers.table({"rows": rows})
