"""Hidden states of many texts: those of like length in a step, without padding."""

from collections.abc import Iterator, Sequence

import numpy as np

from cutwork.engine.backend import Executor
from cutwork.engine.decoding.blocks import BlockCache
from cutwork.engine.decoding.step_lock import StepLock
from cutwork.engine.embedding.texts import Tokens
from cutwork.engine.step import Part, check_padding, run_step, table_rows
from cutwork.errors import closed
from cutwork.plan.builder import Plan
from cutwork.plan.ops import Input


class HiddenStates:
    """Runs a plan whose result are hidden states, `max_tokens` at a time.

    What sees the whole text has it in one step, so none may be longer; a causal model, which has a `cache`, reads
    longer ones in pieces. turn: held while a step's texts are read. padding: the token that positions do not count.
    """

    def __init__(
        self,
        plan: Plan,
        executor: Executor,
        cache: BlockCache,
        turn: StepLock,
        max_tokens: int,
        padding: int | None = None,
    ) -> None:
        self.width = plan.buffers[plan.ops[-1].reads[0]].width
        self._types = next((plan.buffers[op.out].width for op in plan.ops if isinstance(op, Input)), 0)
        self._executor: Executor | None = executor
        self._cache = cache if plan.cache_layers else None
        self._turn, self.max_tokens, self._padding = turn, max_tokens, padding

    def check(self, inputs: Sequence[Tokens]) -> None:
        """Raise CutworkError for what would be read otherwise than the model means it."""
        for tokens in inputs:
            check_padding(tokens.ids, self._padding)

    def of(self, inputs: Sequence[Tokens], *, last: bool = False) -> Iterator[dict[int, np.ndarray]]:
        """Hidden states float32 [T, width] by the input's place in the list, or [1, width] of its `last` token only;
        those of a step at a time, the longest first."""
        for batch in self._batches(inputs):
            with self._turn:
                states = self._run([inputs[i] for i in batch], last)
            yield dict(zip(batch, states, strict=True))

    def profile(self, text: Tokens, repeats: int) -> list[list[float]]:
        """Seconds per op of the step that reads a text, of each of so many repeats."""
        times = []
        for _ in range(repeats):
            with self._turn:
                self._run([text], last=True, profile=True)
                assert self._executor
                times.append(list(self._executor.profile))
        return times

    def close(self) -> None:
        """Let go of the executor."""
        self._executor = None

    def _batches(self, inputs: Sequence[Tokens]) -> Iterator[list[int]]:
        batch: list[int] = []
        tokens = blocks = 0
        for i in sorted(range(len(inputs)), key=lambda i: -len(inputs[i])):
            size = self._cache.blocks_for(len(inputs[i])) if self._cache else 0
            full = tokens + len(inputs[i]) > self.max_tokens or (self._cache and blocks + size > self._cache.free)
            if batch and full:
                yield batch
                batch, tokens, blocks = [], 0, 0
            batch.append(i)
            tokens, blocks = tokens + len(inputs[i]), blocks + size
        if batch:
            yield batch

    def _run(self, inputs: list[Tokens], last: bool, profile: bool = False) -> list[np.ndarray]:
        """Of each input; but for a single one, all together fit into one step."""
        if self._executor is None:
            raise closed()
        tables = [self._cache.open([]) for _ in inputs] if self._cache else []
        try:
            for table, tokens in zip(tables, inputs, strict=False):
                assert self._cache
                self._cache.extend(table, len(tokens))
            rows = table_rows(tables) if tables else np.zeros((len(inputs), 1), np.int32)
            longest = max(map(len, inputs))
            found = []
            for start in range(0, longest, self.max_tokens):
                end = start + self.max_tokens
                parts = [
                    Part(
                        tokens.ids[start:end],
                        start,
                        row,
                        logits=int(end >= longest) if last else len(tokens.ids[start:end]),
                    )
                    for row, tokens in enumerate(inputs)
                ]
                types = self._one_hot(inputs, start, end)
                found.append(run_step(self._executor, parts, rows, profile=profile, types=types))
            if len(inputs) == 1:
                return [np.concatenate(found)]
            return np.split(found[0], np.cumsum([1 if last else len(tokens) for tokens in inputs])[:-1])
        finally:
            for table in tables:
                assert self._cache
                self._cache.close(table)

    def _one_hot(self, inputs: list[Tokens], start: int, end: int) -> np.ndarray | None:
        if not self._types:
            return None
        types = np.concatenate([tokens.types[start:end] for tokens in inputs])
        return np.asarray(np.eye(self._types, dtype=np.float32)[np.minimum(types, self._types - 1)])
