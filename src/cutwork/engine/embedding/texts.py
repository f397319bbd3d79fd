"""Texts, and pairs of them, as the tokens that an encoder reads."""

import reprlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cutwork.engine.tokenizer import token_ids
from cutwork.errors import CutworkError, check_text

Text = str | tuple[str, str]


@dataclass(frozen=True)
class Tokens:
    """Token ids int32 [T] and their types int32 [T] (1: of the second text of a pair).

    special: which are none of the text's, bool [T]. offsets: where in their text the others are, in characters [T, 2].
    truncated: whether there were more.
    """

    ids: np.ndarray
    types: np.ndarray
    special: np.ndarray
    offsets: np.ndarray
    truncated: bool = False

    def __len__(self) -> int:
        return len(self.ids)

    def first(self, count: int) -> "Tokens":
        """So many of them."""
        parts = (self.ids[:count], self.types[:count], self.special[:count], self.offsets[:count])
        return Tokens(*parts, truncated=self.truncated)

    @classmethod
    def of_ids(cls, ids: Sequence[int]) -> "Tokens":
        """Of token ids alone. Raises CutworkError for what is none."""
        for token in (ids := token_ids(ids)):
            if not 0 <= token < 1 << 31:
                raise CutworkError(f"token {token} is not in the vocabulary")
        array = np.asarray(ids, np.int32)
        return cls(array, 0 * array, array < 0, np.zeros((len(array), 2), np.int32))


class TextReader:
    """Cuts texts at `max_length` tokens, special ones included, of a pair the longer one first.

    It has a tokenizer of its own, since cutting is a state of it. May be used from several threads. Raises CutworkError
    for a model without a tokenizer that tells where it is in the text.
    """

    def __init__(self, tokenizer: Any, max_length: int, *, lower: bool = False) -> None:
        self._tokenizer = own_tokenizer(tokenizer)
        self.max_length, self._lower = max_length, lower
        self._types = "token_type_ids" in tokenizer.model_input_names
        for pair in (False, True):
            if self._tokenizer.num_special_tokens_to_add(pair) >= max_length:
                raise CutworkError(f"a context of {max_length} tokens has no room for the special ones; raise it")
        side = getattr(tokenizer, "truncation_side", "right")
        self._tokenizer.enable_truncation(max_length, strategy="longest_first", direction=side)

    def read(self, texts: Sequence[Text]) -> list[Tokens]:
        """The tokens of each text, special ones included."""
        found = self._tokenizer.encode_batch([self._plain(text) for text in texts])
        return [
            Tokens(
                np.asarray(each.ids, np.int32),
                np.asarray(each.type_ids if self._types else [0] * len(each.ids), np.int32),
                np.asarray(each.special_tokens_mask, bool),
                np.asarray(each.offsets, np.int32).reshape(-1, 2),
                truncated=bool(each.overflowing),
            )
            for each in found
        ]

    def _plain(self, text: Text) -> Text:
        if isinstance(text, tuple):
            first, second = map(self._plain, text)
            assert isinstance(first, str) and isinstance(second, str)
            return first, second
        if not isinstance(text, str):
            raise CutworkError(f"expected a text, or a pair of them as a tuple, not {reprlib.repr(text)}")
        check_text(text, "a text")
        return text.lower() if self._lower else text


def own_tokenizer(tokenizer: Any) -> Any:
    """The inner tokenizer of one of transformers', copied, which neither pads nor cuts. CutworkError if it has none."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise CutworkError("this model directory has no tokenizer.json; reading texts needs one, or token ids")
    from tokenizers import Tokenizer

    copied = Tokenizer.from_str(backend.to_str())
    copied.no_padding()
    copied.no_truncation()
    return copied
