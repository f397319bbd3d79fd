"""A task: prompts, reference answers, and what counts as right."""

import re
from dataclasses import dataclass, field
from typing import Any, Literal

_NUMBER = re.compile(r"####\s*[^\d\s.,-]{0,3}\s*(-?[\d,]*\.?\d+)")

LABELS = {"bleu": "BLEU", "chrf": "chrF", "wer": "WER"}  # what measures other than accuracy are called


@dataclass(frozen=True)
class Sample:
    """A question and the answer that a model is to give."""

    prompt: str
    answer: str
    audio: Any = field(default=None, compare=False, repr=False)  # of speech: mono, 16 kHz, a float32 array


@dataclass(frozen=True)
class Task:
    """What a model is trained on and what it is measured by; no prompt of `test` occurs in `train`.

    Beside how many answers are right, a translation is measured by BLEU and chrF, a transcript by the
    word error rate.
    """

    name: str
    train: tuple[Sample, ...]
    test: tuple[Sample, ...]
    metric: Literal["exact", "translation", "speech"] = field(default="exact", kw_only=True)


def final_number(text: str) -> float | None:
    """The number after the last `####` of an answer, the way GSM8K marks it, or None."""
    numbers = _NUMBER.findall(text)
    return float(numbers[-1].replace(",", "")) if numbers else None


def is_right(reply: str, answer: str) -> bool:
    """Whether a model's reply matches the reference: the same number after `####` or, without one, the same text."""
    expected = final_number(answer)
    return reply.strip() == answer.strip() if expected is None else final_number(reply) == expected
