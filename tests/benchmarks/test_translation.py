"""BLEU's counts and intervals, and that nothing is trained on, chosen by and tested on."""

from typing import Any

import numpy as np
import pytest

pytest.importorskip("sacrebleu")

from benchmarks.translation.bleu import bleu_interval, bleu_of, counts
from benchmarks.translation.report import differences, losses, table
from cutwork.tasks.translation import translation_quality

REFERENCES = [
    "Das rote Auto kostet 12,50 Euro und steht vor dem Haus.",
    "Am 3. Mai 1999 fährt der Zug um 14:05 Uhr nach Berlin.",
    "Sie kauft jeden Montag ein frisches Brot.",
    "Heute ist Dienstag.",
]
GOOD = [REFERENCES[0], REFERENCES[1], "Sie kauft montags ein frisches Brot.", "Heute ist Dienstag."]
BAD = [
    "Das Auto kostet 12 Euro.",
    "Der Zug fährt nach Berlin um 14:05 Uhr.",
    "Er kauft Brot.",
    "Heute ist es Dienstag.",
]


@pytest.mark.parametrize("replies", [GOOD, BAD, REFERENCES])
def test_the_sum_of_the_sentences_has_the_bleu_of_the_corpus(replies: list[str]) -> None:
    found = counts(replies, REFERENCES)
    assert found.shape == (4, 10)
    assert bleu_of(found.sum(0)) == pytest.approx(translation_quality(replies, REFERENCES)["bleu"])


def test_an_interval_holds_the_difference_of_the_corpora() -> None:
    good, bad = counts(GOOD, REFERENCES), counts(BAD, REFERENCES)
    difference, low, high = bleu_interval([good, good], [bad, good], draws=300)
    whole = [translation_quality(some, REFERENCES)["bleu"] for some in (GOOD, BAD)]
    assert difference == pytest.approx((whole[0] - whole[1]) / 2)
    assert low < 0 < difference < high, "a draw may take the seed without a difference twice"
    assert bleu_interval([good], [good], draws=10) == (0, 0, 0)


def test_models_are_held_against_the_teacher_and_losses_against_each_other() -> None:
    def row(method: str, level: float, seed: int | None, replies: list[str]) -> dict[str, Any]:
        beam = {"replies": replies, "bleu": 50.0, "chrf": 60.0, "right": 2, "samples": 4}
        return {"method": method, "level": level, "seed": seed, "rate": 1e-3, "beam": beam, "greedy": beam}

    rows = [row("teacher", 0.0, None, REFERENCES), row("CE", 0.75, 0, BAD), row("SquareHead", 0.75, 0, GOOD)]
    rows.append(row("SquareHead", 0.75, 1, GOOD))  # whose pair is not there yet
    rows.append(row("dense, trained on", 0.0, 0, REFERENCES))
    found = differences(rows, REFERENCES)
    assert [(each["method"], each["against"], each["seeds"]) for each in found] == [
        ("CE", "teacher", [0]),
        ("CE", "dense, trained on", [0]),
        ("SquareHead", "teacher", [0, 1]),
        ("SquareHead", "dense, trained on", [0]),
        ("SquareHead", "CE", [0]),
        ("dense, trained on", "teacher", [0]),
    ]
    assert found[0]["bleu"] == found[1]["bleu"] < found[2]["bleu"] < 0 < found[4]["bleu"]
    result = {"rows": rows, "differences": found}
    assert f"| 75% | 1 | {found[4]['bleu']:+.1f} [" in losses(result)
    assert "| SquareHead | 75% | 0.001 | 50.0 / 50.0 | 50.0 |" in table(result)


def test_seeds_that_are_not_of_both_are_refused() -> None:
    good = counts(GOOD, REFERENCES)
    with pytest.raises(ValueError):
        bleu_interval([good, good], [good])


def test_training_validation_and_test_are_apart() -> None:
    pytest.importorskip("num2words")
    pytest.importorskip("babel")
    from benchmarks.translation.data import TEST, VALIDATION, make_task

    task = make_task(2000, None)
    parts = [{sample.prompt for sample in part} for part in (task.train, task.validation, task.test)]
    assert [len(part) for part in parts] == [2000, len(VALIDATION), len(TEST)]
    assert not parts[0] & parts[1] and not parts[0] & parts[2] and not parts[1] & parts[2]
    assert np.all([sample.answer for sample in task.test])
