"""A task: prompts, reference answers, and what counts as right."""

import hashlib
import json
import re
from dataclasses import dataclass, field
from typing import Any, Literal

MARK = "####"  # before the number that an answer comes to
# What else goes on after a number, a fraction or a time, is no number.
_NUMBER = re.compile(MARK + r"\s*(-?)[^\d\s.,-]{0,3}\s*(-?[\d,]*\.?\d+)(?![\d/:])")

LABELS = {"bleu": "BLEU", "chrf": "chrF", "wer": "WER"}  # what measures other than accuracy are called


@dataclass(frozen=True)
class Sample:
    """A question and the answer that a model is to give.

    Of a conversation of more than that, `turns` are all its messages as chat templates take them, the last one an
    assistant's; every assistant's turn is learned, but for those with "weight": 0. `prompt` then is what comes before
    the last answer, to be read by people and to tell samples apart.
    """

    prompt: str
    answer: str
    audio: Any = field(default=None, compare=False, repr=False)  # of speech: mono, 16 kHz, a float32 array
    turns: tuple[dict[str, Any], ...] = field(default=(), hash=False, repr=False)
    tools: tuple[dict[str, Any], ...] = field(default=(), hash=False, repr=False)  # JSON schemas of what may be called
    languages: tuple[str, ...] = ()  # of a translation: the prompt's and the answer's, as the tokenizer names them

    @property
    def is_empty(self) -> bool:
        """Whether a row had nothing in it to learn."""
        return not (self.prompt or self.answer or self.turns) and self.audio is None

    def texts(self) -> list[str]:
        """All that is said, which tells one sample from another."""
        more = [json.dumps([self.turns, self.tools], sort_keys=True, default=str)] if self.turns else []
        return [self.prompt, self.answer, *more]

    def asked(self) -> tuple[str, ...]:
        """What no other split may hold: the prompt, or all that is said where nothing is asked or only a language."""
        return (self.prompt,) if self.prompt and self.audio is None else tuple(self.texts())

    def contents(self) -> list[str]:
        """What a measurement of it depends on: all that is said, in what languages, and a hash of its sound."""
        sound = [] if self.audio is None else [hashlib.sha256(self.audio).hexdigest()]
        return [*self.texts(), *self.languages, *sound]


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
    validation: tuple[Sample, ...] = field(default=(), kw_only=True)  # neither trained on nor tested with


def final_number(text: str) -> float | None:
    """The number after the first `####` of an answer, as GSM8K's authors and lm-eval read it, or None.

    A model that has answered may go on with another question and its answer.
    """
    numbers = ["".join(found) for found in _NUMBER.findall(text)]
    return float(numbers[0].replace(",", "").replace("--", "")) if numbers else None


def is_right(reply: str, answer: str) -> bool:
    """Whether a model's reply matches the reference: the same number after `####` or, without one, the same text."""
    expected = final_number(answer)
    return reply.strip() == answer.strip() if expected is None else final_number(reply) == expected
