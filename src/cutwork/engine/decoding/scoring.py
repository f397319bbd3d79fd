"""What a model makes of tokens that are given: logits, log-probabilities, what they attend to."""

import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from cutwork.engine.decoding.blocks import BlockCache, OutOfBlocks, Table
from cutwork.engine.decoding.sampling import Logprob, log_probability
from cutwork.engine.encoder import Encoder, Memory, check_memory
from cutwork.errors import CutworkError


class Scorer:
    """Runs sequences through an executor, `chunk` tokens at a time, beside whatever else uses it.

    lock: held while it computes. check: raises CutworkError for tokens that the model does not know.
    """

    def __init__(
        self,
        executor: Any,
        cache: BlockCache,
        encoder: Encoder | None,
        lock: threading.Lock,
        check: Callable[[Sequence[int]], None],
        chunk: int,
        max_context: int,
    ) -> None:
        self._executor, self._cache, self._encoder = executor, cache, encoder
        self._lock, self._check = lock, check
        self.chunk, self._max_context = chunk, max_context

    def logits(self, tokens: Sequence[int], memory: Memory | None = None, **more: np.ndarray) -> Iterator[np.ndarray]:
        """Logits of consecutive chunks of a sequence, each float32 [chunk, vocabulary]. `more` goes to the executor."""
        if not tokens:
            raise CutworkError("there are no tokens to compute logits of")
        if len(tokens) > self._max_context:
            raise CutworkError(f"{len(tokens)} tokens exceed the context of {self._max_context}")
        self._check(tokens)
        check_memory(self._encoder, memory)
        ids = np.asarray(tokens, np.int32)
        with self._lock:
            table, memory_table = self._cache.open([]), Table()
            try:
                if self._encoder and memory:
                    memory_table = self._encoder.open(memory)
                    self._encoder.run()
                    more["memory_tables"] = np.asarray([memory_table.blocks], np.int32)
                    more["memory_lengths"] = np.asarray([memory.length], np.int32)
                self._cache.extend(table, len(ids))
                blocks = np.asarray([table.blocks], np.int32)
                for start in range(0, len(ids), self.chunk):
                    part = ids[start : start + self.chunk]
                    rows = np.arange(len(part), dtype=np.int32)
                    yield self._executor.step(part, rows + np.int32(start), np.zeros_like(rows), blocks, rows, **more)
            except OutOfBlocks:
                raise CutworkError("the KV cache is in use by other requests; try again when they have ended") from None
            finally:
                self._cache.close(table)
                if self._encoder:
                    self._encoder.close(memory_table)

    def cross_attention(
        self, tokens: Sequence[int], memory: Memory, heads: Sequence[tuple[int, int]]
    ) -> tuple[np.ndarray, np.ndarray]:
        """See `Model.cross_attention`."""
        self._check(tokens)
        if self._encoder is None:
            raise CutworkError("this model has no encoder, so no cross attention")
        limits = (self._encoder.plan.cache_layers, self._encoder.plan.kv_heads)
        if any(not (0 <= layer < limits[0] and 0 <= head < limits[1]) for layer, head in heads):
            raise CutworkError(f"heads must be pairs (layer below {limits[0]}, head below {limits[1]})")
        watch = np.asarray(heads, np.int32).reshape(-1, 2)
        chunks = self.logits(tokens, memory, watch=watch)
        parts = [(self._executor.watched, logits) for logits in chunks]
        weights, logits = zip(*parts, strict=True)
        return np.concatenate(weights, axis=1), np.concatenate(logits)

    def token_logprobs(
        self, tokens: Sequence[int], alternatives: int, memory: Memory | None
    ) -> Iterator[list[Logprob | None]]:
        """See `Model.token_logprobs`."""
        before: np.ndarray | None = None
        start = 0
        for logits in self.logits(tokens, memory):
            rows = logits if before is None else np.concatenate([before, logits])
            targets = tokens[start + (before is None) : start + len(logits)]
            logprobs: list[Logprob | None] = [None] if before is None else []
            yield logprobs + [log_probability(rows[i], token, alternatives) for i, token in enumerate(targets)]
            before, start = logits[-1:], start + len(logits)

    def close(self) -> None:
        """Let go of the executor."""
        self._executor = self._encoder = None
