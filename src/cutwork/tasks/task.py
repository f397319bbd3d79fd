"""A task: prompts, reference answers, and what counts as right."""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

MARK = "####"  # before the number that an answer comes to
_MINUS = "\u2212\u2013-"  # and what typesetters write for it; the last, as between others it means a range
# What else goes on after a number, a fraction, a power or a time, is no number.
_NUMBER = re.compile(
    rf"\s*([{_MINUS}]?)[^\w\s.,{_MINUS}]{{0,3}}\s*([{_MINUS}]?)"
    r"(\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d*\.?\d+)(?!\d|[,/:^]\d)"
)

LABELS = {  # what measures other than accuracy are called
    "bleu": "BLEU",
    "bleu_zh": "BLEU (zh)",
    "bleu_ja": "BLEU (ja-mecab)",
    "bleu_ko": "BLEU (ko-mecab)",
    "chrf": "chrF",
    "wer": "WER",
    "cer": "CER",
}


def said(turn: Mapping[str, Any]) -> str:
    """What a turn says, or the calls that it makes of tools."""
    return str(turn["content"]) or json.dumps(turn.get("tool_calls", ""), default=str)


def told(turns: Sequence[Mapping[str, Any]]) -> str:
    """Turns as one text, to be read by people and to tell samples apart."""
    return "\n".join(f"{turn['role']}: {said(turn)}" for turn in turns)


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
        """What is asked in the end, which no other split may ask: the last question of `exchanges`."""
        return self.exchanges()[-1][0]

    def exchanges(self) -> list[tuple[tuple[str, ...], str]]:
        """Each question whose answer is learned, with that answer, or with a hash of the sound that is heard.

        A question has all turns before it, but no system prompt; where nothing is asked or only a language, it is all
        that is said.
        """
        if self.audio is not None:
            return [(tuple(self.texts()), self.contents()[-1])]
        turns = [turn for turn in self.turns if turn["role"] not in ("system", "developer")]
        found: list[tuple[tuple[str, ...], str]] = []
        for i, turn in enumerate(turns):
            if turn["role"] == "assistant" and i and turn.get("weight") != 0:
                found.append(((turns[0]["content"] if i == 1 else told(turns[:i]),), said(turn)))
        return found or [((self.prompt,) if self.prompt else tuple(self.texts()), self.answer)]

    def contents(self) -> list[str]:
        """What a measurement of it depends on: all that is said, in what languages, and a hash of its sound."""
        sound = [] if self.audio is None else [hashlib.sha256(self.audio).hexdigest()]
        return [*self.texts(), *self.languages, *sound]


@dataclass(frozen=True)
class Task:
    """What a model is trained on and what it is measured by; nothing that `test` asks is learned from `train`.

    Of a question that many rows ask, such as "Write a poem.", only its answers in `test` are not. Beside how many
    answers are right, a translation is measured by BLEU and chrF, a transcript by the rate of wrong words or
    characters.
    """

    name: str
    train: tuple[Sample, ...]
    test: tuple[Sample, ...]
    metric: Literal["exact", "translation", "speech"] = field(default="exact", kw_only=True)
    validation: tuple[Sample, ...] = field(default=(), kw_only=True)  # neither trained on nor tested with


def final_number(text: str) -> float | None:
    """The number after the first `####` of an answer, which alone decides, or None if none comes there.

    A model that has answered may go on with another question and its answer. This is more lenient than GSM8K's authors
    and lm-eval, who compare what they find as text: a number is right without the space before it, with up to three
    characters such as $ there, but no letters, with zeros after its point, with a minus that is typeset. It is stricter
    with commas, which stand between groups of three digits or make it none, with fractions, powers and times, which are
    none, and with a first `####` that has no number, which they pass over.
    """
    found = _NUMBER.match(text.partition(MARK)[2])
    if found is None:
        return None
    number = float(found[3].replace(",", ""))
    return -number if bool(found[1]) != bool(found[2]) else number


def is_right(reply: str, answer: str) -> bool:
    """Whether a model's reply matches the reference: the same number after `####` or, without one, the same text."""
    expected = final_number(answer)
    return reply.strip() == answer.strip() if expected is None else final_number(reply) == expected
