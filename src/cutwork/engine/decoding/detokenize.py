"""From tokens to text as they come: never half a character, never a piece of a stop string."""

from collections.abc import Sequence
from typing import Any

REPLACEMENT = "\ufffd"  # what a decoder puts in place of bytes that are not (yet) a character
PATIENCE = 8  # tokens after the beginning of a character without its end: there is none, as UTF-8 has at most 4 bytes
CONTEXT = 4  # pieces, or tokens of the prompt, decoded again before the new tokens


class Detokenizer:
    """Decodes a growing sequence of tokens piece by piece.

    The pieces joined equal the text decoded at once, for byte-level and sentencepiece vocabularies alike, but for half
    a character at the end. Bytes that are not yet a whole character are held back until they are, or until it is clear
    that they never will be. How a token is written can depend on those before it (sentencepiece drops a leading space),
    so a few of them are decoded again each time; `prompt` gives those before the first. `skip_special_tokens` leaves
    special tokens out, or the `hidden` tokens instead.
    """

    def __init__(
        self,
        tokenizer: Any,
        prompt: Sequence[int] = (),
        skip_special_tokens: bool = True,
        hidden: frozenset[int] | None = None,
    ) -> None:
        self._tokenizer, self._skip = tokenizer, skip_special_tokens and hidden is None
        self._hidden = hidden if skip_special_tokens and hidden is not None else frozenset()
        self._new: list[int] = []
        self._waited = 0  # for the end of a character, in tokens
        for count in range(CONTEXT, CONTEXT + PATIENCE):
            self._pieces = [list(prompt[-count:])]  # tokens already written; each piece ends a character
            self._context = self._decode([])
            if not self._context.startswith(REPLACEMENT):  # it would begin inside a character
                break

    def push(self, token: int) -> str:
        """The text that this token completes; may be empty."""
        self._new.append(token)
        text = self._decode(self._new)
        self._waited = self._waited + 1 if text.endswith(REPLACEMENT) else 0
        if 0 < self._waited < PATIENCE:
            return ""
        return self._write(text)

    def flush(self) -> str:
        """The rest, at the end of the sequence; bytes that will never become a character are dropped."""
        return self._write(self._decode(self._new)).rstrip(REPLACEMENT) if self._new else ""

    def _write(self, text: str) -> str:
        piece = text[len(self._context) :]
        if piece:
            self._pieces = [*self._pieces, self._new][-CONTEXT:]
            self._new, self._waited = [], 0
            self._context = self._decode([])
        elif len(self._new) >= PATIENCE:  # special tokens that are skipped leave nothing to remember
            self._new = []
        return piece

    def _decode(self, new: list[int]) -> str:
        if self._tokenizer is None:
            return ""
        tokens = [token for piece in [*self._pieces, new] for token in piece if token not in self._hidden]
        return str(self._tokenizer.decode(tokens, skip_special_tokens=self._skip, clean_up_tokenization_spaces=False))


class StopStrings:
    """Passes text through until one of the stop strings appears, which is cut off with all that follows; if they are to
    be kept, only what follows.

    Text that could be the beginning of a stop string is held back until it cannot be one any more.
    """

    def __init__(self, stop: Sequence[str], keep: bool = False) -> None:
        self._stop, self._keep = [text for text in stop if text], keep
        self._held = ""
        self.found: str | None = None  # the stop string that appeared

    @property
    def stopped(self) -> bool:
        """Whether one has appeared."""
        return self.found is not None

    def push(self, text: str) -> str:
        """The text that is certainly before any stop string."""
        if self.stopped:
            return ""
        self._held += text
        places = [(at, stop) for stop in self._stop if (at := self._held.find(stop)) >= 0]
        if places:
            at, self.found = min(places)
            return self._take(at + len(self.found) * self._keep, discard=True)
        return self._take(len(self._held) - self._suspect())

    def flush(self) -> str:
        """What was held back, once no more text can come."""
        return self._take(len(self._held))

    def _take(self, count: int, discard: bool = False) -> str:
        text, rest = self._held[:count], self._held[count:]
        self._held = "" if discard else rest
        return text

    def _suspect(self) -> int:
        """Length of the longest end of the held text that begins a stop string."""
        longest = max((len(stop) - 1 for stop in self._stop), default=0)
        return next(
            (n for n in range(min(longest, len(self._held)), 0, -1) if self._begins_stop(self._held[-n:])),
            0,
        )

    def _begins_stop(self, text: str) -> bool:
        return any(stop.startswith(text) for stop in self._stop)
