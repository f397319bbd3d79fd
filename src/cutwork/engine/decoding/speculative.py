"""Speculative decoding (arXiv 2211.17192): a quick model guesses some tokens, the target checks them in one step."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from cutwork.engine.adapters import NO_ADAPTER
from cutwork.engine.backend import Executor
from cutwork.engine.decoding.blocks import BlockCache, OutOfBlocks, Table
from cutwork.engine.decoding.draft_length import DraftLength
from cutwork.engine.decoding.sampling import Logprob, Sampler
from cutwork.engine.step import Part, run_step, table_rows


@dataclass
class Guess:
    """A token of the draft model, and the distribution float64 [V] that it was drawn from, None if it was the best."""

    token: int
    distribution: np.ndarray | None


class Wanted(NamedTuple):
    """At most `limit` guesses that are asked for of a sequence. salt: what it shares its prefix under."""

    key: Any
    tokens: Sequence[int]
    sampler: Sampler
    limit: int
    salt: str = ""


@dataclass
class _Draft:
    """What the draft model has of one sequence."""

    reach: int  # how many tokens to guess next
    table: Table
    fed: list[int] = field(default_factory=list)  # guesses that were computed beyond the table's length


class Drafter:
    """The draft model's side of every sequence.

    Its cache holds verified tokens; what it computed for guesses counts once the target has chosen the same tokens.
    It guesses fewer tokens for a sequence after a wrong guess and more when all were right, up to `tokens`, and no more
    than pay (`DraftLength`). None for a request with a logits processor, which may remember what it was called with.

    executor, cache: of the draft model, nobody else's. max_tokens: its tokens per step. max_context: its tokens per
    sequence.
    """

    def __init__(
        self, executor: Executor, cache: BlockCache, *, tokens: int, max_tokens: int, max_context: int
    ) -> None:
        self._executor, self.cache = executor, cache
        self._tokens, self._max_tokens, self._max_context = tokens, max_tokens, max_context
        self.length = DraftLength(tokens)
        self._drafts: dict[Any, _Draft] = {}

    def guess(self, sequences: Iterable[Wanted]) -> dict[Any, list[Guess]]:
        """Guesses for each sequence by its key; none where memory or context lack."""
        work = {each.key: each for each in sequences if each.sampler.settings.logits_processor is None}
        pays = self.length.choose(len(work)) if work else 0
        wanted = {key: self._prepare(each, min(each.limit, pays)) for key, each in work.items()}
        guesses: dict[Any, list[Guess]] = {key: [] for key in work}
        rows = self._catch_up({key: work[key].tokens for key, count in wanted.items() if count > 0})
        while rows:
            for key, logits in rows.items():
                past = [*work[key].tokens, *(guess.token for guess in guesses[key])]
                try:
                    guesses[key].append(Guess(*work[key].sampler.guess(logits, past)))
                except Exception:  # the target's own choice will tell what is wrong with this request
                    wanted[key] = 0
            on = {key: guesses[key][-1].token for key in rows if len(guesses[key]) < wanted[key]}
            for key, token in on.items():
                self._drafts[key].fed.append(token)
            rows = self._run(
                {key: ([token], len(work[key].tokens) + len(guesses[key]) - 1) for key, token in on.items()}
            )
        return {key: drafted for key, drafted in guesses.items() if drafted}

    def learn(self, key: Any, guessed: int, accepted: int) -> None:
        """How many of a sequence's guesses were right."""
        self.length.note(guessed, accepted)
        draft = self._drafts[key]
        draft.reach = min(self._tokens, draft.reach + 2) if accepted == guessed else max(1, draft.reach - 1)

    def forget(self, key: Any) -> None:
        """Free what a sequence holds; harmless if that is nothing."""
        draft = self._drafts.pop(key, None)
        if draft is not None:
            self.cache.close(draft.table)

    def _prepare(self, wanted: Wanted, limit: int) -> int:
        """Room for a sequence; returns how many guesses it holds, 0 for none."""
        tokens, draft = wanted.tokens, self._drafts.get(wanted.key)
        if draft is None:
            table = self.cache.open(tokens, (0, wanted.salt, NO_ADAPTER))
            draft = self._drafts[wanted.key] = _Draft(self._tokens, table)
        right = 0
        for fed, token in zip(draft.fed, tokens[draft.table.length : -1], strict=False):
            if fed != token:
                break
            right += 1
        draft.fed = []
        self.cache.commit(draft.table, tokens, draft.table.length + right)
        count = min(draft.reach, limit, self._max_context - len(tokens))
        if count > 0:
            try:
                copies = self.cache.extend(draft.table, len(tokens) + count)
            except OutOfBlocks:
                return 0
            if copies:
                self._executor.copy_blocks(copies)
        return count

    def _catch_up(self, sequences: dict[Any, Sequence[int]]) -> dict[Any, np.ndarray]:
        """Logits after the last token of those whose tokens are all computed within one step's budget."""
        budget, chunks, complete = self._max_tokens, {}, {}
        for key, tokens in sorted(
            sequences.items(), key=lambda item: len(item[1]) - self._drafts[item[0]].table.length
        ):
            start = self._drafts[key].table.length
            chunk = list(tokens[start : start + budget])
            if chunk:
                chunks[key] = (chunk, start)
                budget -= len(chunk)
                complete[key] = start + len(chunk) == len(tokens)
        rows = self._run(chunks)
        for key, (chunk, start) in chunks.items():
            self.cache.commit(self._drafts[key].table, sequences[key], start + len(chunk))
        return {key: logits for key, logits in rows.items() if complete[key]}

    def _run(self, chunks: dict[Any, tuple[list[int], int]]) -> dict[Any, np.ndarray]:
        """Logits [V] after the last of each sequence's tokens, given as (tokens, position of the first)."""
        if not chunks:
            return {}
        parts = [Part(tokens, start, row, logits=1) for row, (tokens, start) in enumerate(chunks.values())]
        logits = run_step(self._executor, parts, table_rows([self._drafts[key].table for key in chunks]))
        return dict(zip(chunks, logits, strict=True))


def judge(
    sampler: Sampler, tokens: Sequence[int], guesses: Sequence[Guess], logits: np.ndarray, stop_tokens: frozenset[int]
) -> list[tuple[int, Logprob | None]]:
    """What the target model says after `tokens`, from its logits float32 [1 + guesses, V] after these and each guess.

    As many guesses as it agrees with and one token of its own, unless a stop token comes first.
    """
    picked: list[tuple[int, Logprob | None]] = []
    for row, guess in zip(logits, [*guesses, None], strict=True):
        past = [*tokens, *(token for token, _ in picked)]
        if guess is None:
            picked.append(sampler.choose(row, past))
            break
        picked.append(sampler.judge(row, past, guess.token, guess.distribution))
        if picked[-1][0] != guess.token or guess.token in stop_tokens:
            break
    return picked
