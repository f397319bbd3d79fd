"""Turns sequences into ragged steps: decoding ones first, then chunks of prompts, as many as memory and batch allow."""

import time
from collections import Counter, deque
from collections.abc import Callable, Sequence, Set
from dataclasses import replace
from functools import partial

import numpy as np

from cutwork.engine.adapters import NO_ADAPTER
from cutwork.engine.backend import Executor
from cutwork.engine.decoding.beam import Beams, BeamSearch
from cutwork.engine.decoding.blocks import BlockCache, OutOfBlocks, Table
from cutwork.engine.decoding.lookup import LookupDrafter
from cutwork.engine.decoding.prefill_budget import PrefillBudget, passes, share
from cutwork.engine.decoding.running import NO_TOKEN, Chosen, FinishReason, Running
from cutwork.engine.decoding.sampling import Sampler, Sampling
from cutwork.engine.decoding.speculative import Drafter, Wanted, judge
from cutwork.engine.decoding.table_rows import TableRows
from cutwork.engine.encoder import EncodedInput, Encoder, check_memory
from cutwork.engine.step import Part, run_step
from cutwork.errors import CutworkError

PASSED = 8  # sequences that wait to share a prefix, whom those behind them may pass


class Scheduler:
    """Continuous batching over an executor. Not thread-safe: one caller adds, cancels and steps.

    Sequences wait in a queue until a row and blocks for their whole prompt are free. One that cannot grow because
    memory ran out makes the youngest give its blocks back and wait again, its tokens kept: nothing is lost or cut.

    max_tokens: tokens per step. max_batch: sequences at a time. max_context: tokens per sequence. With an encoder a
    sequence also waits for room for its memory, and what is to be read is encoded before the step that needs it. May be
    set later: drafter, which guesses tokens that the executor then checks, at most `max_guesses` in a step; and
    `prefill_budget.target`, seconds of a step beyond which prompts are taken in more slowly while others decode.
    """

    def __init__(
        self,
        executor: Executor,
        cache: BlockCache,
        *,
        max_tokens: int,
        max_batch: int,
        max_context: int,
        encoder: Encoder | None = None,
    ) -> None:
        self._executor: Executor | None = executor
        self.cache, self.encoder = cache, encoder
        self.prefill_budget = PrefillBudget(0.0)
        self.drafter: Drafter | LookupDrafter | None = None
        self.max_guesses = 0
        self.max_tokens, self.max_batch, self.max_context = max_tokens, max_batch, max_context
        self.waiting: deque[Running] = deque()
        self.running: list[Running] = []  # oldest first
        self._chosen: list[Chosen] = []
        self._interrupt: BaseException | None = None
        self.preemptions = 0  # how often a sequence gave its blocks back to wait again
        memory_width = encoder.cache.blocks_for(encoder.max_length) if encoder else None
        self._rows = TableRows(max_batch, cache.blocks_for(max_context), memory_width)

    @property
    def busy(self) -> bool:
        """Whether a step would do anything."""
        return bool(self.running or self.waiting)

    def add(
        self,
        prompt: Sequence[int],
        *,
        max_new_tokens: int,
        sampling: Sampling,
        stop_tokens: frozenset[int] = frozenset(),
        priority: int = 0,
        client: str = "",
        cache_salt: str = "",
        beams: Beams | None = None,
        memory: EncodedInput | None = None,
        adapter: int = NO_ADAPTER,
    ) -> Running:
        """Queue a prompt. It ends with "length" after `max_new_tokens` or at the end of the context.

        With `beams` its answers are those of its `search`. Raises CutworkError for an empty prompt, one that leaves no
        room for an answer, and a memory that is missing or that the model cannot use.
        """
        check_memory(self.encoder, memory)
        room = min(self.max_context, self.cache.blocks * self.cache.block_size)
        if not prompt:
            raise CutworkError("the prompt is empty; give at least one token")
        if len(prompt) >= room:
            raise CutworkError(
                f"the prompt has {len(prompt)} tokens, but the context holds {room} with the answer; "
                "shorten it or load the model with a larger max_context"
            )
        if max_new_tokens < 1:
            raise CutworkError(f"max_new_tokens must be at least 1, not {max_new_tokens}")
        limit = min(room, len(prompt) + max_new_tokens)
        sampler = Sampler(sampling, len(prompt), limit, stop_tokens)
        sequence = Running(
            list(prompt), len(prompt), limit, stop_tokens, sampler, priority, client, cache_salt, memory, adapter
        )
        if beams is not None:
            beams.check(len(prompt), limit, self.max_batch, self.cache)
            sequence.search = BeamSearch(beams, sampler, prompt, limit, stop_tokens)
        self.waiting.append(sequence)
        return sequence

    def finish(self, sequence: Running, reason: FinishReason = "cancelled") -> None:
        """End a sequence between steps, wherever it is; its blocks are free at once. Does nothing if it has ended."""
        if sequence.finish_reason is not None:
            return
        for member in sequence.beams:
            if member.row >= 0:
                self._leave(member)
            else:
                self.waiting.remove(member)
            member.finish_reason = reason
            member.finished = time.perf_counter()

    def close(self) -> None:
        """End everything and let go of the executor."""
        for sequence in [*self.running, *self.waiting]:
            self.finish(sequence)
        self._executor = self.encoder = self.drafter = None

    def step(self) -> list[Chosen]:
        """One forward pass over what fits; a token for every sequence whose tokens are all computed.

        Of a beam search only its end is told, by the last token of its best hypothesis. What goes wrong with the
        choice of one sequence's token ends that sequence only, with the reason "error".
        """
        start = time.perf_counter()
        batch = self._compose()
        if not batch:
            return []
        if self.encoder:
            self.encoder.run()
        began = time.perf_counter()
        logits = self._run(batch)
        decoding = sum(count for sequence, count in batch if sequence.pending == 1)
        prompt = sum(count for _, count in batch) - decoding
        self.prefill_budget.note(decoding, prompt, time.perf_counter() - began)
        row = 0
        for sequence, count in batch:
            if sequence.guesses:
                rows = logits[row : row + count]
                self._chosen += self._isolated(sequence, partial(self._judge, sequence, rows))
                row += count
                continue
            length = sequence.table.length + count
            self.cache.commit(sequence.table, sequence.tokens, length)
            if length == len(sequence.tokens):
                self._chosen += self._continue(sequence, logits[row])
                row += 1
        if self.drafter is not None and not prompt:
            self.drafter.length.took(time.perf_counter() - start)
        interrupt, self._interrupt = self._interrupt, None
        if interrupt:
            raise interrupt
        return self.take()

    def take(self) -> list[Chosen]:
        """What has been chosen and not been told: after a step that raised, what it had come to before."""
        chosen, self._chosen = self._chosen, []
        return chosen

    def _compose(self) -> list[tuple[Running, int]]:
        """(sequence, how many of its pending tokens) for the next step."""
        for sequence in self.running:
            sequence.guesses = []  # of a step that failed
        self._grow()
        self._admit()
        self._guess()
        decoding = [(s, 1 + len(s.guesses)) for s in self.running if s.pending == 1]
        rows = sum(count for _, count in decoding)
        budget = self.prefill_budget.tokens(rows, self.max_tokens - rows)
        batch = decoding[: self.max_tokens] + share(self.running, budget)
        return sorted(batch, key=lambda part: part[0].adapter)  # neighbours with an adapter are multiplied together

    def _guess(self) -> None:
        """The draft model's guesses for those that decode, as far as there is room for them."""
        if self.drafter is None:
            return
        able = [
            s
            for s in self.running
            if s.pending == 1 and s.first_token and s.search is None and s.sampler.settings.constraint is None
        ]
        limit = self.max_guesses // max(len(able), 1)
        wanted = [Wanted(s, s.tokens, s.sampler, min(limit, s.limit - len(s.tokens) - 1), s.cache_salt) for s in able]
        for sequence, guesses in self.drafter.guess(each for each in wanted if each.limit > 0).items():
            sequence.guesses = guesses
            try:
                self._extend(sequence)
            except OutOfBlocks:
                sequence.guesses = []

    def _judge(self, sequence: Running, logits: np.ndarray) -> list[Chosen]:
        """The target's tokens from its logits [1 + guesses, V]: as many guesses as it agrees with, and one of its own.

        Keys and values of the rest stay in blocks that nobody will read: the next tokens are written over them.
        """
        assert self.drafter is not None
        guesses, sequence.guesses = sequence.guesses, []
        picked = judge(sequence.sampler, sequence.tokens, guesses, logits, sequence.stop_tokens)
        sequence.tokens += [token for token, _ in picked]
        accepted = sum(token == guess.token for (token, _), guess in zip(picked, guesses, strict=False))
        sequence.guessed, sequence.accepted = sequence.guessed + len(guesses), sequence.accepted + accepted
        self.drafter.learn(sequence, len(guesses), accepted)
        self.cache.commit(sequence.table, sequence.tokens, len(sequence.tokens) - 1)
        self._end(sequence)
        reasons = [None] * (len(picked) - 1) + [sequence.finish_reason]
        return [Chosen(sequence, *choice, reason) for choice, reason in zip(picked, reasons, strict=True)]

    def _grow(self) -> None:
        """Room for every running sequence's pending tokens, oldest first; without it the last of the lowest priority
        yields."""
        for sequence in list(self.running):
            while sequence.row >= 0:
                try:
                    self._extend(sequence)
                    break
                except OutOfBlocks:
                    self._preempt(max(reversed(self.running), key=lambda s: s.priority))

    def _admit(self) -> None:
        """Start waiting sequences, in turn, while there is a row and room for all their tokens and one more.

        No more of them than a step has tokens for, those that they pass (see `share`) not counted, and none that can
        soon share what another computes: those behind it need not wait for that. Of searches that gave their blocks
        back only one begins again at a time, as two that have half of their beams each would wait for each other.
        """
        sharing: set[Running] = set()
        half = any(beam.row >= 0 for sequence in self.waiting for beam in sequence.beams)
        while self._rows.free and len(sharing) < PASSED:
            sequence = self._next(sharing, [running for running in self.running if running.pending > 1])
            if sequence is None:
                return
            resumed = len(sequence.beams) > 1 and all(beam.row < 0 for beam in sequence.beams)
            if resumed and half:
                sharing.add(sequence)
                continue
            table = self.cache.open(sequence.tokens, sequence.root)
            if self._being_computed(sequence, table):
                self.cache.close(table)
                sharing.add(sequence)
                continue
            wanted = self.cache.blocks_for(min(len(sequence.tokens) + 1, sequence.limit))
            rows = len(sequence.search.tokens) if sequence.search and len(sequence.beams) == 1 else 1
            if (
                wanted - len(table.blocks) > self.cache.free
                or rows > len(self._rows.free)
                or (memory_table := self._recall(sequence)) is None
            ):
                self.cache.close(table)
                return
            self._start(sequence, table, memory_table)
            half = half or resumed
            sequence.reserved = [self._rows.free.pop() for _ in range(rows - 1)]
            self._extend(sequence)

    def _next(self, but: Set[Running] = frozenset(), prompts: Sequence[Running] = ()) -> Running | None:
        """Whose turn it is, of all that wait `but` these and those behind so much of `prompts` as a step takes in:
        beams whose siblings run, then by priority, then whose client has the least running, then who came first."""
        running = Counter(sequence.client for sequence in self.running)

        def behind(sequence: Running) -> int:
            return sum(prompt.pending for prompt in prompts if not passes(sequence, prompt))

        return min(
            (s for s in self.waiting if s not in but and behind(s) < self.max_tokens),
            key=lambda s: (all(beam.row < 0 for beam in s.beams), s.priority, running[s.client]),
            default=None,
        )

    def _start(self, sequence: Running, table: Table, memory_table: Table) -> None:
        self.waiting.remove(sequence)
        sequence.table, sequence.memory_table, sequence.row = table, memory_table, self._rows.free.pop()
        self._rows.write(sequence)
        if sequence.started is None:  # later it finds what it has computed itself
            sequence.reused_tokens = min(table.length, sequence.prompt_tokens)
            sequence.started = time.perf_counter()
        self.running.append(sequence)

    def _recall(self, sequence: Running) -> Table | None:
        """The blocks of a sequence's memory, none if it has none; None if there is no room for it now."""
        if self.encoder is None or sequence.memory is None:
            return Table()
        try:
            return self.encoder.open(sequence.memory)
        except OutOfBlocks:
            return None

    def _being_computed(self, sequence: Running, table: Table) -> bool:
        """Whether another sequence's next steps compute what this one needs next: then it waits to share it."""
        alike = [other for other in self.running if other.alike(sequence)]
        if any(other.pending and other.tokens == sequence.tokens for other in alike):
            return True
        end = table.length + self.cache.block_size
        if end >= len(sequence.tokens):
            return False
        return any(
            other.table.length < end <= len(other.tokens) and other.tokens[:end] == sequence.tokens[:end]
            for other in alike
        )

    def _extend(self, sequence: Running) -> None:
        blocks = sequence.table.blocks
        before = len(blocks)
        copies = self.cache.extend(sequence.table, len(sequence.tokens) + len(sequence.guesses))
        if copies and self._executor:
            self._executor.copy_blocks(copies)
        if copies or len(blocks) > before:
            self._rows.write(sequence)

    def _preempt(self, sequence: Running) -> None:
        self.preemptions += 1
        for member in reversed(sequence.beams):
            if member.row >= 0:
                self._leave(member)
                self.waiting.appendleft(member)

    def _leave(self, sequence: Running) -> None:
        """Give back the row and the blocks."""
        self.running.remove(sequence)
        sequence.guesses = []
        self._rows.give_back(sequence)
        self.cache.close(sequence.table)
        if self.encoder:
            self.encoder.close(sequence.memory_table)
        if self.drafter is not None:
            self.drafter.forget(sequence)

    def _run(self, batch: list[tuple[Running, int]]) -> np.ndarray:
        parts = []
        for sequence, count in batch:
            start = sequence.table.length
            pending = [*sequence.tokens[start:], *(guess.token for guess in sequence.guesses)]
            wanted = max(0, start + count + 1 - len(sequence.tokens))
            parts.append(Part(pending[:count], start, sequence.row, wanted))
        assert self._executor is not None
        adapters = self._rows.adapters if any(sequence.adapter != NO_ADAPTER for sequence, _ in batch) else None
        return run_step(self._executor, parts, self._rows.tables, attended=self._rows.attended, adapters=adapters)

    def _continue(self, sequence: Running, logits: np.ndarray) -> list[Chosen]:
        """What follows from the logits [V] after a sequence's last token."""
        if sequence.search is None:
            twins = (sequence, *self._twins(sequence))
            return [c for twin in twins for c in self._isolated(twin, partial(self._choose, twin, logits))]
        sequence.logits = logits
        if any(beam.pending for beam in sequence.beams):
            return []
        search, beams = sequence.search, sequence.beams
        return self._isolated(beams[0], partial(self._advance, search, beams))

    def _isolated(self, sequence: Running, choose: Callable[[], list[Chosen]]) -> list[Chosen]:
        """What `choose` gives; if it fails, the end of this sequence, and of no other."""
        try:
            return choose()
        except BaseException as error:
            sequence.error = error
            if not isinstance(error, Exception):
                self._interrupt = error  # is for the process, once the step is done
            self.finish(sequence, "error")
            return [Chosen(sequence, NO_TOKEN, None, "error")]

    def _twins(self, sequence: Running) -> list[Running]:
        """Starts those whose turn is next if they have the same tokens: they share what has been computed."""
        twins = []
        while self._rows.free and self.cache.free and (twin := self._next()):
            if twin.search is not None or twin.tokens != sequence.tokens or not twin.alike(sequence):
                break
            self._start(twin, self.cache.fork(sequence.table), self._share_memory(sequence))
            twins.append(twin)
        return twins

    def _share_memory(self, sequence: Running) -> Table:
        return self.encoder.cache.fork(sequence.memory_table) if self.encoder else Table()

    def _advance(self, search: BeamSearch, beams: list[Running]) -> list[Chosen]:
        """One more token for every beam: those that go on take over the blocks of those they continue."""
        first = beams[0]
        first.first_token = first.first_token or time.perf_counter()
        while len(beams) < len(search.tokens):
            table, memory_table = self.cache.fork(first.table), self._share_memory(first)
            beam = replace(first, table=table, memory_table=memory_table, row=first.reserved.pop(), reserved=[])
            self._rows.write(beam)
            self.running.insert(self.running.index(first) + len(beams), beam)
            beams.append(beam)
        parents = search.advance([beam.logits for beam in beams if beam.logits is not None])
        tables = self.cache.reorder([beam.table for beam in beams], parents)
        for beam, table, tokens in zip(beams, tables, search.tokens, strict=True):
            changed, beam.table, beam.tokens = table is not beam.table, table, tokens
            if changed:
                self._rows.write(beam)
        if not search.done:
            return []
        token = search.best()[0].tokens[-1]
        self.finish(first, "stop" if token in first.stop_tokens else "length")
        return [Chosen(first, token, None, first.finish_reason)]

    def _choose(self, sequence: Running, logits: np.ndarray) -> list[Chosen]:
        token, logprob = sequence.sampler.choose(logits, sequence.tokens)
        sequence.tokens.append(token)
        sequence.first_token = sequence.first_token or time.perf_counter()
        self._end(sequence)
        return [Chosen(sequence, token, logprob, sequence.finish_reason)]

    def _end(self, sequence: Running) -> None:
        """End it if its last token says so."""
        if sequence.tokens[-1] in sequence.stop_tokens:
            self.finish(sequence, "stop")
        elif len(sequence.tokens) >= sequence.limit:
            self.finish(sequence, "length")
