"""BLEU's counts and intervals, and that nothing is trained on, chosen by and tested on."""

import numpy as np
import pytest

pytest.importorskip("sacrebleu")

from benchmarks.translation.bleu import bleu_interval, bleu_of, counts
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
    assert low <= difference <= high
    assert low == 0, "a draw may take the seed without a difference twice"
    assert bleu_interval([good], [good], draws=10) == (0, 0, 0)


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
