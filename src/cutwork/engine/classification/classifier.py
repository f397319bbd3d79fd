"""What a classifier says of texts, in words and numbers."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from cutwork.engine.classification.head import Head
from cutwork.engine.classification.question import Question, QuestionReader
from cutwork.engine.embedding.hidden_states import HiddenStates
from cutwork.engine.embedding.texts import Text, TextReader, Tokens
from cutwork.errors import CutworkError


@dataclass(frozen=True)
class Label:
    """A class of a text, and how sure the model is of it: from 0 to 1, unless it gives other numbers."""

    label: str
    score: float


@dataclass(frozen=True)
class Span:
    """A part of a text of one class: characters [start, end), and the mean score of its tokens."""

    label: str
    score: float
    text: str
    start: int
    end: int


class Classifier:
    """Gives classes of texts of at most `max_length` tokens, or of pairs of texts. May be used from several threads."""

    def __init__(
        self, states: HiddenStates, tokenizer: Any, head: Head, max_length: int, question: Question | None = None
    ) -> None:
        if head.layers[0].weight.shape[1] != states.width:
            raise CutworkError(
                f"the head of the model reads {head.layers[0].weight.shape[1]} numbers, but there are {states.width}"
            )
        self.states, self._tokenizer, self.head = states, tokenizer, head
        self.max_length, self._question = max_length, question

    @cached_property
    def reader(self) -> TextReader | QuestionReader:
        """Reads texts; CutworkError if the model has no tokenizer for them."""
        if self._tokenizer is None:
            raise CutworkError("this model directory has no tokenizer, so it reads no text")
        if self._question:
            return QuestionReader(self._tokenizer, self.max_length, self._question)
        return TextReader(self._tokenizer, self.max_length)

    def read(self, texts: Sequence[Text]) -> list[Tokens]:
        """What the model reads of each, as far as its head looks. Raises CutworkError for an empty one."""
        found = [tokens.first(self.head.end(tokens.ids)) for tokens in self.reader.read(texts)]
        for number, tokens in enumerate(found):
            if not len(tokens):
                raise CutworkError(f"text {number + 1} is empty; give at least one token")
        self.states.check(found)
        return found

    def logits(self, inputs: Sequence[Tokens], progress: Callable[[int], None] | None = None) -> list[np.ndarray]:
        """The head's numbers for each, float32 [1, labels] or [T, labels]; `progress` is told how many are done."""
        found: dict[int, np.ndarray] = {}
        for states in self.states.of(inputs, last=self.head.last_only):
            found |= {place: self.head.logits(hidden) for place, hidden in states.items()}
            if progress:
                progress(len(found))
        return [found[place] for place in range(len(inputs))]

    def labels(self, logits: np.ndarray) -> list[Label]:
        """All classes of a text, the likeliest first."""
        scores = self.head.scores(logits)[0].tolist()
        labels = [Label(label, score) for label, score in zip(self.head.labels, scores, strict=True)]
        return sorted(labels, key=lambda label: -label.score)

    def spans(self, text: str, tokens: Tokens, logits: np.ndarray) -> list[Span]:
        """The parts of a text that are of a class: neighbours of one class are one part, B- begins another, and O is
        none, as transformers' `simple` aggregation has it."""
        scores = self.head.scores(logits)
        spans: list[tuple[str, list[float], int, int]] = []
        before = ""  # the class of the token before, if that was part of one
        for best, score, special, (start, end) in zip(
            scores.argmax(axis=1), scores.max(axis=1).tolist(), tokens.special, tokens.offsets.tolist(), strict=True
        ):
            label = self.head.labels[best]
            if special or label == "O":
                before = "" if not special else before
                continue
            kind = label[2:] if label[:2] in ("B-", "I-") else label
            if spans and kind == before and not label.startswith("B-"):
                spans[-1] = (kind, [*spans[-1][1], score], spans[-1][2], end)
            else:
                spans.append((kind, [score], start, end))
            before = kind
        return [Span(kind, sum(each) / len(each), text[start:end], start, end) for kind, each, start, end in spans]

    def relevance(self, logits: Sequence[np.ndarray], *, raw: bool = False) -> np.ndarray:
        """Float32 [n]: how well each document answers its query, from 0 to 1, or as the head gives it if `raw`.

        Raises CutworkError unless the model has a single class, as cross-encoders have.
        """
        self.check_ranks()
        numbers = np.asarray([each[0, 0] for each in logits], np.float32)
        return numbers if raw else np.asarray(self.head.scores(numbers, "sigmoid"), np.float32)

    def check_ranks(self) -> None:
        """Raise CutworkError unless it tells how well a document answers a query."""
        if self.head.of != "text" or len(self.head.labels) != 1:
            raise CutworkError(
                f"this model tells {len(self.head.labels)} classes of a {self.head.of}, not how well a text answers a "
                "query; use classify"
            )
