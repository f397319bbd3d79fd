"""Guessing without a model: what followed the last tokens where they stood before, in the prompt or the answer."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from cutwork.engine.decoding.draft_length import DraftLength
from cutwork.engine.decoding.speculative import Guess, Wanted

RUN = 3  # tokens that must have stood together before


@dataclass
class _Seen:
    """The runs of one sequence: where each ended last. `indexed`: tokens whose runs are known."""

    reach: int  # how many tokens to guess next
    ends: dict[tuple[int, ...], int] = field(default_factory=dict)
    indexed: int = RUN


class LookupDrafter:
    """Guesses for every sequence, as `Drafter` makes them with a model: up to `tokens`, and no more than pay.

    Guesses are not drawn: the target chooses as if there were none, so its draws are the same with and without.
    """

    def __init__(self, tokens: int) -> None:
        self._tokens = tokens
        self.length = DraftLength(tokens)
        self._seen: dict[Any, _Seen] = {}

    def guess(self, sequences: Iterable[Wanted]) -> dict[Any, list[Guess]]:
        """Guesses for each sequence, by its key, whose last tokens stood before."""
        found = {each.key: self._find(each.key, each.tokens, each.limit) for each in sequences}
        found = {key: tokens for key, tokens in found.items() if tokens}
        pays = self.length.choose(len(found)) if found else 0
        return {key: [Guess(token, None) for token in tokens[:pays]] for key, tokens in found.items() if pays}

    def learn(self, key: Any, guessed: int, accepted: int) -> None:
        """How many of a sequence's guesses were right."""
        self.length.note(guessed, accepted)
        seen = self._seen[key]
        seen.reach = min(self._tokens, seen.reach + 2) if accepted == guessed else max(1, seen.reach - 1)

    def forget(self, key: Any) -> None:
        """Let go of what is known of a sequence; harmless if that is nothing."""
        self._seen.pop(key, None)

    def _find(self, key: Any, tokens: Sequence[int], limit: int) -> Sequence[int]:
        """What followed a sequence's last tokens where they stood before, and so on if that is their own repetition."""
        seen = self._seen.setdefault(key, _Seen(self._tokens))
        for end in range(seen.indexed, len(tokens)):  # all runs but the last
            seen.ends[tuple(tokens[end - RUN : end])] = end
        seen.indexed = max(RUN, len(tokens))
        before = seen.ends.get(tuple(tokens[-RUN:]))
        if before is None:
            return []
        return [tokens[before + place % (len(tokens) - before)] for place in range(min(seen.reach, limit))]
