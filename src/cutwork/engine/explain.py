"""Where a token's time goes: per weight its shape, sparsity, encoding, bytes moved, measured time and bandwidth."""

from dataclasses import dataclass
from statistics import median

import numpy as np

from cutwork.engine.decoding.blocks import Table
from cutwork.engine.embedding.hidden_states import HiddenStates
from cutwork.engine.embedding.texts import Tokens
from cutwork.engine.model import Model
from cutwork.engine.step import Attended, Part, run_step, table_rows
from cutwork.errors import CutworkError, closed
from cutwork.plan.builder import Plan
from cutwork.plan.ops import Linear, Logits, Op


@dataclass(frozen=True)
class OpTime:
    """One op of the plan: its kind, the weights it reads and the median seconds it took."""

    kind: str
    weights: tuple[str, ...]
    seconds: float


@dataclass(frozen=True)
class StepProfile:
    """A forward pass of `tokens` tokens, of each sequence, after `context` others."""

    tokens: int
    context: int
    ops: tuple[OpTime, ...]

    @property
    def seconds(self) -> float:
        """Of the whole step."""
        return sum(op.seconds for op in self.ops)


def check_length(model: Model, tokens: int, context: int) -> None:
    """Raise CutworkError if that many tokens after others exceed the context of a model that writes."""
    if model.states is None and context + tokens > model.max_context:
        raise CutworkError(f"{context} + {tokens} tokens exceed the context of {model.max_context}; profile fewer")


def profile_step(
    model: Model, *, sequences: int = 1, tokens: int = 1, context: int = 16, repeats: int = 20, input_tokens: int = 64
) -> StepProfile:
    """Run the same step of so many `sequences` `repeats` times and take the median of every op.

    Of a model that only reads texts, the step that reads one. A decoder with an encoder attends to an input of
    `input_tokens`. Raises CutworkError if context + tokens exceed the model's context, or input_tokens its encoder's,
    or all sequences its KV cache.
    """
    if model.states is not None:
        return _profile_reading(model, model.states, tokens, repeats)
    check_length(model, tokens, context)
    total = context + tokens
    random = np.random.default_rng(0)
    ids = random.integers(0, model.plan.vocabulary, total).astype(np.int32)
    scheduler, executor = model.session.scheduler, model.executor
    if executor is None:
        raise closed()
    if (count := sequences * tokens) > scheduler.max_tokens:
        raise CutworkError(f"a step takes at most {scheduler.max_tokens} tokens, not {count}; profile fewer")
    if sequences > 1 and sequences * scheduler.cache.blocks_for(total) > scheduler.cache.free:
        raise CutworkError(
            f"the KV cache does not hold {sequences} sequences of {total} tokens; free some memory or raise cache_bytes"
        )
    tables, memory_table = [scheduler.cache.open([]) for _ in range(sequences)], Table()
    attended: Attended | None = None
    try:
        if model.encoder:
            source = model.encoder.example(input_tokens)
            memory_table = model.encoder.open(source)
            model.encoder.run()
            lengths = np.full(sequences, source.length, np.int32)
            attended = Attended(table_rows([memory_table] * sequences), lengths)
        for table in tables:
            scheduler.cache.extend(table, total)
        blocks = table_rows(tables)
        for start in range(0, context, scheduler.max_tokens):
            part = Part(ids[start : min(start + scheduler.max_tokens, context)], start, logits=1)
            run_step(executor, [part], blocks, attended=attended)
        # Each attends to memory of its own, whose contents need not be computed again.
        first, *others = tables
        executor.copy_blocks([pair for other in others for pair in zip(first.blocks, other.blocks, strict=True)])
        step = [Part(ids[context:], context, sequence, logits=1) for sequence in range(sequences)]
        times = []
        for _ in range(repeats + 1):
            run_step(executor, step, blocks, profile=True, attended=attended)
            times.append(list(executor.profile))
    finally:
        for table in tables:
            scheduler.cache.close(table)
        if model.encoder:
            model.encoder.close(memory_table)
    return StepProfile(tokens, context, _op_times(model.plan, times[1:]))


def _profile_reading(model: Model, states: HiddenStates, tokens: int, repeats: int) -> StepProfile:
    """Of a model that only reads texts, one of so many tokens."""
    if tokens > min(model.max_context, states.max_tokens):
        raise CutworkError(f"a step reads at most {min(model.max_context, states.max_tokens)} tokens; profile fewer")
    ids = np.random.default_rng(0).integers(0, model.plan.vocabulary, tokens).tolist()
    times = states.profile(Tokens.of_ids(ids), repeats + 1)
    return StepProfile(tokens, 0, _op_times(model.plan, times[1:]))


def profile_encoder(model: Model, *, tokens: int = 64, repeats: int = 20) -> StepProfile:
    """The same of the encoder, reading one input of so many tokens.

    Raises CutworkError if the model has no encoder or it reads fewer tokens.
    """
    if model.encoder is None:
        raise CutworkError("this model has no encoder; profile its steps")
    times = model.encoder.profile(model.encoder.example(tokens), repeats + 1)
    return StepProfile(tokens, 0, _op_times(model.encoder.plan, times[1:]))


def _op_times(plan: Plan, times: list[list[float]]) -> tuple[OpTime, ...]:
    """Medians over the repeats of a step."""
    names = list(plan.weights)
    return tuple(
        OpTime(op.kind, tuple(names[i] for i in _weight_ids(op)), median(column))
        for op, column in zip(plan.ops, zip(*times, strict=True), strict=True)
    )


def _weight_ids(op: Op) -> list[int]:
    """Of the weights that it reads whole, and not only some rows of."""
    return op.ids("weight", "weights") if isinstance(op, Linear | Logits) else []
