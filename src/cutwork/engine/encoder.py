"""Inputs of encoder-decoder models: read once, and then a memory that any number of sequences attend to."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import numpy as np

from cutwork.architectures.whisper import FRAMES
from cutwork.engine.decoding.blocks import BlockCache, Table
from cutwork.errors import CutworkError
from cutwork.plan.builder import Plan

_ids = count(1)


@dataclass(eq=False, frozen=True)
class Memory:
    """A handle of what an encoder reads, made by `Model.encode_input`: token ids int32 [N] or features float32 [N, D].

    It is encoded when the first sequence that attends to it starts. Its keys and values stay as long as any sequence
    uses them, and afterwards until their room is wanted; they are computed again if they are needed again.
    """

    source: np.ndarray
    id: int = field(default_factory=lambda: next(_ids))

    @property
    def length(self) -> int:
        """Entries that a decoder attends to."""
        return len(self.source)


class Encoder:
    """Runs an encoder's executor, and keeps what it has read in its cache. Not thread-safe, like the scheduler.

    max_tokens: per step, at least `max_length`, the longest input.
    """

    def __init__(
        self, plan: Plan, executor: Any, cache: BlockCache, *, max_tokens: int, max_length: int, vocabulary: int
    ) -> None:
        self.plan, self.executor, self.cache = plan, executor, cache
        self.max_tokens, self.max_length, self.vocabulary = max_tokens, max_length, vocabulary
        inputs = [op["out"] for op in plan.ops if op["kind"] == "input"]
        self.features = plan.buffers[inputs[0]].width if inputs else 0  # per entry; 0: it reads tokens
        self._pending: dict[Memory, Table] = {}

    def memory(self, source: Sequence[int] | np.ndarray) -> Memory:
        """A handle of token ids, or of a spectrogram float [mels, frames] if that is what the encoder reads.

        Nothing is computed yet. Raises CutworkError if the input is empty, too long, or of the wrong kind.
        """
        entries = self._tokens(source) if self.features == 0 else self._frames(source)
        if len(entries) == 0:
            raise CutworkError("the input is empty; give at least one token")
        if len(entries) > self.max_length:
            raise CutworkError(
                f"the input has {len(entries)} tokens, but at most {self.max_length} are read at once; "
                "shorten it or load the model with a larger max_input"
            )
        return Memory(entries)

    def example(self, length: int) -> Memory:
        """A memory of so many entries with nothing in it, for measurements."""
        source = np.zeros((self.features // FRAMES, FRAMES * length), np.float32) if self.features else [0] * length
        return self.memory(source)

    def _tokens(self, source: Sequence[int] | np.ndarray) -> np.ndarray:
        tokens = [int(token) for token in source]
        for token in tokens:
            if not 0 <= token < self.vocabulary:
                raise CutworkError(f"token {token} is not in the vocabulary of {self.vocabulary} tokens")
        return np.asarray(tokens, np.int32)

    def _frames(self, source: Sequence[int] | np.ndarray) -> np.ndarray:
        """Rows of as many frames as the encoder makes an entry of."""
        spectrogram = np.asarray(source, np.float32)
        mels = self.features // FRAMES
        if spectrogram.ndim != 2 or spectrogram.shape[0] != mels or spectrogram.shape[1] % FRAMES:
            raise CutworkError(
                f"this model reads a spectrogram of shape [{mels}, an even number of frames], "
                f"not {list(spectrogram.shape)}"
            )
        if not np.isfinite(spectrogram).all():
            raise CutworkError("the spectrogram has values that are not finite; the audio is damaged")
        return np.ascontiguousarray(spectrogram.T).reshape(-1, self.features)

    def open(self, memory: Memory) -> Table:
        """The blocks of a memory, which are filled once `run` has been called. Raises OutOfBlocks."""
        if memory in self._pending:
            return self.cache.fork(self._pending[memory])
        size = self.cache.blocks_for(memory.length) * self.cache.block_size
        table = self.cache.open([0] * (size + 1), root=-memory.id)
        if table.length < size:
            self.cache.close(table)
            table = Table(prefix=-memory.id)
            self.cache.extend(table, size)
            self._pending[memory] = self.cache.fork(table)
        return table

    def close(self, table: Table) -> None:
        """Give back what `open` gave."""
        self.cache.close(table)

    def run(self) -> None:
        """Encode what has been opened, as many inputs per step as fit."""
        pending, self._pending = self._pending, {}
        try:
            batch: list[tuple[Memory, Table]] = []
            for item in pending.items():
                if sum(memory.length for memory, _ in batch) + item[0].length > self.max_tokens:
                    self._step(batch)
                    batch = []
                batch.append(item)
            self._step(batch)
        finally:
            for table in pending.values():
                self.cache.close(table)

    def _step(self, batch: list[tuple[Memory, Table]]) -> None:
        if not batch:
            return
        self._execute(batch)
        for _, table in batch:
            size = len(table.blocks) * self.cache.block_size
            self.cache.commit(table, [0] * size, size)

    def profile(self, memory: Memory, repeats: int) -> list[list[float]]:
        """Seconds per op of the step that encodes a memory, of each of so many repeats. Raises OutOfBlocks."""
        table, times = self.open(memory), []
        try:
            self.run()
            for _ in range(repeats):
                self._execute([(memory, table)], profile=True)
                times.append(list(self.executor.profile))
        finally:
            self.close(table)
        return times

    def _execute(self, batch: list[tuple[Memory, Table]], *, profile: bool = False) -> None:
        tables = np.full((len(batch), max(len(table.blocks) for _, table in batch)), -1, np.int32)
        for row, (_, table) in enumerate(batch):
            tables[row, : len(table.blocks)] = table.blocks
        source = np.concatenate([memory.source for memory, _ in batch])
        more = {"features": source} if self.features else {}
        self.executor.step(
            np.zeros(len(source), np.int32) if self.features else source,
            np.concatenate([np.arange(memory.length, dtype=np.int32) for memory, _ in batch]),
            np.repeat(np.arange(len(batch), dtype=np.int32), [memory.length for memory, _ in batch]),
            tables,
            np.empty(0, np.int32),
            profile=profile,
            **more,
        )


def check_memory(encoder: Encoder | None, memory: Memory | None) -> None:
    """Raise CutworkError unless there is a memory just where there is an encoder, and it fits."""
    if encoder is None and memory is not None:
        raise CutworkError("this model has no encoder, so it takes no memory; give one prompt")
    if encoder is not None and memory is None:
        raise CutworkError("this model answers an input that its encoder reads; make a memory with encode_input")
    if encoder is not None and memory is not None and memory.length > encoder.max_length:
        raise CutworkError(
            f"the memory has {memory.length} entries, but this model was loaded for {encoder.max_length}"
        )
