"""What a model makes of tokens that are given: logits, log-probabilities, what they attend to."""

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import numpy as np

from cutwork.engine.adapters import NO_ADAPTER
from cutwork.engine.backend import Executor
from cutwork.engine.decoding.blocks import BlockCache, OutOfBlocks, Table
from cutwork.engine.decoding.sampling import Logprob, log_probability
from cutwork.engine.decoding.step_lock import StepLock
from cutwork.engine.encoder import EncodedInput, Encoder, check_memory
from cutwork.engine.step import Attended, Part, run_step, table_rows
from cutwork.errors import CutworkError, closed

Result = TypeVar("Result")


class Scorer:
    """Runs sequences through an executor, `chunk` tokens at a time, beside whatever else uses it.

    turn: held during each of its steps. check: raises CutworkError for tokens that the model does not know.
    """

    def __init__(
        self,
        executor: Executor,
        cache: BlockCache,
        encoder: Encoder | None,
        turn: StepLock,
        check: Callable[[Sequence[int]], None],
        chunk: int,
        max_context: int,
    ) -> None:
        self._executor: Executor | None = executor
        self._cache, self._encoder = cache, encoder
        self._abandoned: deque[tuple[Table, Table]] = deque()
        self._readers: list[int] = []  # threads that have begun to read what is not at its end
        self._turn, self._check = turn, check
        self.chunk, self._max_context = chunk, max_context

    def logits(
        self,
        tokens: Sequence[int],
        memory: EncodedInput | None = None,
        first: int = 0,
        adapter: int = NO_ADAPTER,
        most: Callable[[int], int] | None = None,
    ) -> Iterator[np.ndarray]:
        """Logits of consecutive chunks of a sequence, each float32 [chunk, vocabulary], from the place `first` on."""
        return self._steps(tokens, memory, lambda logits: logits, wanted=first, adapter=adapter, most=most)

    def cross_attention(
        self, tokens: Sequence[int], memory: EncodedInput, heads: Sequence[tuple[int, int]]
    ) -> tuple[np.ndarray, np.ndarray]:
        """See `Model.cross_attention`."""
        self._check(tokens)
        if self._encoder is None:
            raise CutworkError("this model has no encoder, so no cross attention")
        limits = (self._encoder.plan.cache_layers, self._encoder.plan.kv_heads)
        if any(not (0 <= layer < limits[0] and 0 <= head < limits[1]) for layer, head in heads):
            raise CutworkError(f"heads must be pairs (layer below {limits[0]}, head below {limits[1]})")
        attention_of = np.asarray(heads, np.int32).reshape(-1, 2)
        parts = self._steps(tokens, memory, lambda logits: (self._running().attention_weights, logits), attention_of)
        weights, logits = zip(*parts, strict=True)
        return np.concatenate(weights, axis=1), np.concatenate(logits)

    def token_logprobs(
        self,
        tokens: Sequence[int],
        alternatives: int,
        memory: EncodedInput | None,
        first: int = 0,
        adapter: int = NO_ADAPTER,
        most: Callable[[int], int] | None = None,
    ) -> Iterator[list[Logprob | None]]:
        """See `Model.token_logprobs`."""
        logprobs: list[Logprob | None] = [None] if first == 0 else []
        position = max(first, 1)  # of the token that the next logits predict
        for logits in self.logits(tokens, memory, position - 1, adapter, most):
            targets = tokens[position : position + len(logits)]
            yield logprobs + [log_probability(logits[i], token, alternatives) for i, token in enumerate(targets)]
            logprobs, position = [], position + len(targets)

    def _steps(
        self,
        tokens: Sequence[int],
        memory: EncodedInput | None,
        read: Callable[[np.ndarray], Result],
        attention_of: np.ndarray | None = None,
        wanted: int = 0,
        adapter: int = NO_ADAPTER,
        most: Callable[[int], int] | None = None,
    ) -> Iterator[Result]:
        """What `read` makes of the logits of each chunk, those before the place `wanted` left out, before anybody
        else's step. most: of how many tokens the next chunk is, given how many it could be.

        A turn is one step: whoever has the iterator does not have the model.
        """
        if not tokens:
            raise CutworkError("there are no tokens to compute logits of")
        if len(tokens) > self._max_context:
            raise CutworkError(f"{len(tokens)} tokens exceed the context of {self._max_context}")
        self._check(tokens)
        check_memory(self._encoder, memory)
        room, complete, reader = None, False, threading.get_ident()
        try:
            with self._turn:
                self._sweep()
                room = self._open(len(tokens), memory)
                self._readers.append(reader)
            attended = None
            if memory is not None:
                attended = Attended(table_rows([room[1]]), np.asarray([memory.length], np.int32))
            start = 0
            while start < len(tokens):
                part = tokens[start : start + (most(self.chunk) if most else self.chunk)]
                with self._turn:
                    logits = run_step(
                        self._running(),
                        [Part(part, start, logits=max(0, min(len(part), start + len(part) - wanted)))],
                        table_rows([room[0]]),
                        attended=attended,
                        attention_of=attention_of,
                        adapters=None if adapter == NO_ADAPTER else np.asarray([adapter], np.int32),
                    )
                    result = read(logits)
                yield result
                start += len(part)
            complete = True
        finally:
            if room is not None:
                self._readers.remove(reader)
                self._abandoned.append(room)
            if complete:
                with self._turn:
                    self._sweep()
            elif self._turn.take():
                try:
                    self._sweep()
                finally:
                    self._turn.give_back()

    def _open(self, length: int, memory: EncodedInput | None) -> tuple[Table, Table]:
        """Blocks for so many tokens, and those of what has been read. CutworkError if there is no room."""
        table, memory_table = self._cache.open([]), Table()
        try:
            if self._encoder and memory:
                memory_table = self._encoder.open(memory)
                self._encoder.run()
            self._cache.extend(table, length)
        except BaseException as error:
            self._abandoned.append((table, memory_table))
            self._sweep()
            if isinstance(error, OutOfBlocks):
                raise CutworkError("the KV cache is in use by other requests; try again when they have ended") from None
            raise
        return table, memory_table

    def waits_for_its_reader(self) -> bool:
        """Whether this very thread has to read on before blocks are free again."""
        return threading.get_ident() in self._readers

    def _sweep(self) -> None:
        """Give back blocks. An iterator can be dropped anywhere, even in the middle of a turn, so that must not wait:
        what it leaves then goes back before the next use."""
        while self._abandoned:
            table, memory_table = self._abandoned.popleft()
            self._cache.close(table)
            if self._encoder:
                self._encoder.close(memory_table)

    def _running(self) -> Executor:
        if self._executor is None:
            raise closed()
        return self._executor

    def close(self) -> None:
        """Let go of the executor."""
        self._executor = self._encoder = None
