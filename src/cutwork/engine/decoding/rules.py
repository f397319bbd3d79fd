"""Rules that forbid or force tokens, each with the meaning of transformers' logits processor for the same option."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from cutwork.errors import CutworkError


@dataclass(frozen=True)
class Rules:
    """What a request's answer must or must not hold, whatever the model says. The defaults forbid nothing.

    suppress_tokens: chosen only where they are forced. begin_suppress_tokens: not chosen as the first token that is
    free. forced_bos_token_id: the first token. forced_eos_token_id: the last one, where the answer is as long as it
    may be. forced_tokens: tokens by their place in the answer, from 0. no_repeat_ngram_size: no run of so many tokens
    occurs twice, prompt included (arXiv 1705.04304); 0 allows all. min_new_tokens: no end of sequence among the first
    tokens. min_length: none before there are so many tokens, prompt included; counts where min_new_tokens is not given.
    """

    suppress_tokens: Sequence[int] = ()
    begin_suppress_tokens: Sequence[int] = ()
    forced_bos_token_id: int | None = None
    forced_eos_token_id: int | None = None
    forced_tokens: Mapping[int, int] = field(default_factory=dict)
    no_repeat_ngram_size: int = 0
    min_new_tokens: int = 0
    min_length: int = 0

    def __post_init__(self) -> None:
        counts = (self.no_repeat_ngram_size, self.min_new_tokens, self.min_length)
        if min(counts) < 0:
            raise CutworkError(
                "no_repeat_ngram_size, min_new_tokens and min_length must be 0 or more, "
                f"not {', '.join(map(str, counts))}"
            )
        if any(place < 0 for place in self.forced_tokens):
            raise CutworkError(f"forced_tokens: places count from 0, so {min(self.forced_tokens)} is none")

    @property
    def rules(self) -> bool:
        """Whether there are any."""
        return bool(self.named_tokens() or self.no_repeat_ngram_size or self.min_new_tokens or self.min_length)

    def named_tokens(self) -> list[int]:
        """Every token id the rules name."""
        forced = [self.forced_bos_token_id, self.forced_eos_token_id]
        named = [*self.suppress_tokens, *self.begin_suppress_tokens, *self.forced_tokens.values()]
        return named + [token for token in forced if token is not None]

    def apply(
        self, scores: np.ndarray, tokens: Sequence[int], *, prompt_tokens: int, limit: int, stop_tokens: frozenset[int]
    ) -> None:
        """Change scores float32 [V] of the token after `tokens`: forbidden ones to -inf, a forced one to 0.

        The answer begins at `prompt_tokens` and may grow until there are `limit` tokens.
        """
        place = len(tokens) - prompt_tokens
        if self.no_repeat_ngram_size:
            scores[_repeating(tokens, self.no_repeat_ngram_size)] = -np.inf
        if place < self.min_new_tokens or len(tokens) < self.min_length:
            scores[list(stop_tokens)] = -np.inf
        scores[list(self.suppress_tokens)] = -np.inf
        if place == (self.forced_bos_token_id is not None):
            scores[list(self.begin_suppress_tokens)] = -np.inf
        forced = self.forced_tokens.get(place)
        if place == 0 and self.forced_bos_token_id is not None:
            forced = self.forced_bos_token_id
        if len(tokens) == limit - 1 and self.forced_eos_token_id is not None:
            forced = self.forced_eos_token_id
        if forced is not None:
            scores[:] = -np.inf
            scores[forced] = 0


def _repeating(tokens: Sequence[int], size: int) -> np.ndarray:
    """Tokens that would complete a run of `size` tokens for the second time."""
    past = np.asarray(tokens, np.int64)
    if len(past) < size:
        return past[:0]
    runs = np.lib.stride_tricks.sliding_window_view(past, size)
    begun = (runs[:, :-1] == past[len(past) - size + 1 :]).all(axis=1)
    return np.asarray(runs[begun, -1])
