"""Inputs of encoder-decoder models: read once, and then the memory that any number of sequences attend to."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import count

import numpy as np

from cutwork.engine.adapters import NO_ADAPTER
from cutwork.engine.backend import Executor
from cutwork.engine.decoding.blocks import BlockCache, Table
from cutwork.engine.step import Part, check_padding, run_step, table_rows
from cutwork.engine.tokenizer import token_ids
from cutwork.errors import CutworkError
from cutwork.plan.builder import Plan
from cutwork.plan.ops import Input

_ids = count(1)


@dataclass(eq=False, frozen=True)
class EncodedInput:
    """A handle of what an encoder reads, made by `Model.encode_input`: token ids int32 [N] or features float32 [N, D].

    It is encoded when the first sequence that attends to it starts. Its keys and values stay as long as any sequence
    uses them, and afterwards until their room is wanted; they are computed again if they are needed again.
    """

    entries: np.ndarray
    id: int = field(default_factory=lambda: next(_ids))

    @property
    def length(self) -> int:
        """Entries that a decoder attends to."""
        return len(self.entries)


class Encoder:
    """Runs an encoder's executor, and keeps what it has read in its cache. Not thread-safe, like the scheduler.

    max_tokens: per step, at least `max_length`, the longest input. frames: of a spectrogram in an entry, 0 if it reads
    tokens. padding: the token that positions do not count.
    """

    def __init__(
        self,
        plan: Plan,
        executor: Executor,
        cache: BlockCache,
        *,
        max_tokens: int,
        max_length: int,
        vocabulary: int,
        frames: int,
        padding: int | None = None,
    ) -> None:
        self.plan, self.executor, self.cache = plan, executor, cache
        self.max_tokens, self.max_length, self.vocabulary = max_tokens, max_length, vocabulary
        self.frames, self._padding = frames, padding
        widths = [plan.buffers[op.out].width for op in plan.ops if isinstance(op, Input)]
        self.mels = widths[0] // frames if frames else 0  # of a frame
        self._pending: dict[EncodedInput, Table] = {}

    def input(self, source: Sequence[int] | np.ndarray) -> EncodedInput:
        """A handle of token ids, or of a spectrogram float [mels, frames] if that is what the encoder reads.

        Nothing is computed yet. Raises CutworkError if the input is empty, too long, or of the wrong kind.
        """
        entries = self._entries(source) if self.frames else self._tokens(source)
        if len(entries) == 0:
            raise CutworkError("the input is empty; give at least one token")
        if len(entries) > self.max_length:
            raise CutworkError(
                f"the input has {len(entries)} tokens, but at most {self.max_length} are read at once; "
                "shorten it or load the model with a larger max_input"
            )
        return EncodedInput(entries)

    def example(self, length: int) -> EncodedInput:
        """An input of so many entries with nothing in it, for measurements."""
        if self.frames:
            return self.input(np.zeros((self.mels, self.frames * length), np.float32))
        return self.input([int(self._padding == 0)] * length)

    def _tokens(self, source: Sequence[int] | np.ndarray) -> np.ndarray:
        tokens = token_ids(source)
        for token in tokens:
            if not 0 <= token < self.vocabulary:
                raise CutworkError(f"token {token} is not in the vocabulary of {self.vocabulary} tokens")
        ids = np.asarray(tokens, np.int32)
        check_padding(ids, self._padding)
        return ids

    def _entries(self, source: Sequence[int] | np.ndarray) -> np.ndarray:
        """Rows of as many frames of a spectrogram as the encoder makes an entry of."""
        spectrogram = np.asarray(source, np.float32)
        if spectrogram.ndim != 2 or spectrogram.shape[0] != self.mels or spectrogram.shape[1] % self.frames:
            raise CutworkError(
                f"this model reads a spectrogram of shape [{self.mels}, a multiple of {self.frames} frames], "
                f"not {list(spectrogram.shape)}"
            )
        if not np.isfinite(spectrogram).all():
            raise CutworkError("the spectrogram has values that are not finite; the audio is damaged")
        return np.ascontiguousarray(spectrogram.T).reshape(-1, self.frames * self.mels)

    def open(self, source: EncodedInput) -> Table:
        """The blocks of an input, which are filled once `run` has been called. Raises OutOfBlocks."""
        if source in self._pending:
            return self.cache.fork(self._pending[source])
        size = self.cache.blocks_for(source.length) * self.cache.block_size
        table = self.cache.open([0] * (size + 1), root=(source.id, "", NO_ADAPTER))
        if table.length < size:
            self.cache.close(table)
            table = Table(prefix=(source.id, "", NO_ADAPTER))
            self.cache.extend(table, size)
            self._pending[source] = self.cache.fork(table)
        return table

    def close(self, table: Table) -> None:
        """Give back what `open` gave."""
        self.cache.close(table)
        for source, own in list(self._pending.items()):
            if not self.cache.is_shared(own):  # a step failed, and nobody is left who waits for what it was to read
                self.cache.close(self._pending.pop(source))

    def run(self) -> None:
        """Encode what has been opened, as many inputs per step as fit; what a step fails with, the next call does."""
        batch: list[tuple[EncodedInput, Table]] = []
        for item in list(self._pending.items()):
            if sum(source.length for source, _ in batch) + item[0].length > self.max_tokens:
                self._step(batch)
                batch = []
            batch.append(item)
        self._step(batch)

    def _step(self, batch: list[tuple[EncodedInput, Table]]) -> None:
        if not batch:
            return
        self._execute(batch)
        for source, table in batch:
            size = len(table.blocks) * self.cache.block_size
            self.cache.commit(table, [0] * size, size)
            self.cache.close(self._pending.pop(source))

    def profile(self, source: EncodedInput, repeats: int) -> list[list[float]]:
        """Seconds per op of the step that encodes an input, of each of so many repeats. Raises OutOfBlocks."""
        table, times = self.open(source), []
        try:
            self.run()
            for _ in range(repeats):
                self._execute([(source, table)], profile=True)
                times.append(list(self.executor.profile))
        finally:
            self.close(table)
        return times

    def _execute(self, batch: list[tuple[EncodedInput, Table]], *, profile: bool = False) -> None:
        parts = [Part(source.entries, sequence=row) for row, (source, _) in enumerate(batch)]
        run_step(self.executor, parts, table_rows([table for _, table in batch]), profile=profile)


def check_memory(encoder: Encoder | None, memory: EncodedInput | None) -> None:
    """Raise CutworkError unless there is a memory just where there is an encoder, and it fits."""
    if encoder is None and memory is not None:
        raise CutworkError("this model has no encoder, so it takes no memory; give one prompt")
    if encoder is not None and memory is None:
        raise CutworkError("this model answers an input that its encoder reads; make a memory with encode_input")
    if encoder is not None and memory is not None and memory.length > encoder.max_length:
        raise CutworkError(
            f"the memory has {memory.length} entries, but this model was loaded for {encoder.max_length}"
        )
