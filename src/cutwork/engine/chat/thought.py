"""A thought that ends within its budget, and an answer after it that may have to follow a grammar."""

from collections.abc import Callable, Sequence

import numpy as np

from cutwork.engine.decoding.sampling import Constraint

TAIL = 12  # tokens in which a mark is looked for


class Thought:
    """A `Constraint` that lets a model think freely, for at most `budget` tokens, and closes the thought for it then.

    After the thought, or at once if there is none, the answer follows the constraint `then`, if there is one.

    marks: around a thought. thinking: whether the prompt has opened it; else the model may, with its first token.
    encode: token ids of a text, without special ones around it; called at once. decode: the text of ids, special ones
    included; called by whoever chooses tokens. vocabulary: tokens the model knows.
    """

    def __init__(
        self,
        marks: tuple[str, str],
        encode: Callable[[str], list[int]],
        decode: Callable[[Sequence[int]], str],
        *,
        thinking: bool,
        budget: int | None,
        then: Constraint | None,
        vocabulary: int,
    ) -> None:
        self._decode, self._vocabulary = decode, vocabulary
        self._opening, self._closing = marks[0].strip(), marks[1].strip()
        self._close = encode(f"\n{marks[1]}\n\n")
        self._open = encode(self._opening)
        self._left = budget
        self._then = then
        self._state = "thinking" if thinking else "undecided"
        self._tokens: list[int] = []  # of the answer, those that matter
        self._forced: list[int] = []
        if thinking and budget == 0:
            self._forced = list(self._close)

    def copy(self) -> "Thought":
        """The same state, on its own from here."""
        other: Thought = object.__new__(Thought)
        other.__dict__ = {**self.__dict__, "_tokens": list(self._tokens), "_forced": list(self._forced)}
        copied = getattr(self._then, "copy", None)
        if copied is not None:
            other._then = copied()
        return other

    def allowed(self) -> np.ndarray:
        """Which tokens may come next, bool [V]."""
        if self._forced:
            return self._only(self._forced[0])
        if self._state == "thinking" or self._then is None:
            return np.ones(self._vocabulary, bool)
        mask = self._then.allowed()
        if self._state == "undecided" and len(self._open) == 1 and not self._tokens:
            mask = mask | self._only(self._open[0])
        return mask

    def accept(self, token: int) -> None:
        """Note the token that was chosen."""
        if self._forced:
            self._forced.pop(0)
            self._state = "thinking" if self._forced else "answer"
            return
        self._tokens = [*self._tokens, token][-TAIL:]
        if self._state == "thinking":
            self._think()
        elif self._state == "undecided":
            self._decide(token)
        elif self._then is not None:
            self._then.accept(token)

    def _think(self) -> None:
        if self._left is not None:
            self._left -= 1
        if self._closing in self._decode(self._tokens):
            self._state = "answer"
        elif self._left is not None and self._left <= 0:
            self._forced = list(self._close)

    def _decide(self, token: int) -> None:
        text = self._decode(self._tokens).lstrip()
        if text.startswith(self._opening):
            self._state, self._tokens = "thinking", []
            if self._left == 0:
                self._forced = list(self._close)
        elif self._then is not None or not self._opening.startswith(text):
            self._state = "answer"
            if self._then is not None:
                self._then.accept(token)

    def _only(self, token: int) -> np.ndarray:
        mask = np.zeros(self._vocabulary, bool)
        mask[token] = True
        return mask
