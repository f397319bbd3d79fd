"""Where a token's time goes: per weight its shape, sparsity, encoding, bytes moved, measured time and bandwidth."""

from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np

from cutwork.engine.model import Model
from cutwork.errors import CutworkError


@dataclass(frozen=True)
class OpTime:
    """One op of the plan: its kind, the weights it reads and the median seconds it took."""

    kind: str
    weights: tuple[str, ...]
    seconds: float


@dataclass(frozen=True)
class StepProfile:
    """A forward pass of `tokens` tokens after `context` others."""

    tokens: int
    context: int
    ops: tuple[OpTime, ...]

    @property
    def seconds(self) -> float:
        """Of the whole step."""
        return sum(op.seconds for op in self.ops)


def profile_step(model: Model, *, tokens: int = 1, context: int = 16, repeats: int = 20) -> StepProfile:
    """Run the same step `repeats` times and take the median of every op.

    Raises CutworkError if context + tokens exceed the model's context.
    """
    total = context + tokens
    if total > model.max_context:
        raise CutworkError(f"{context} + {tokens} tokens exceed the context of {model.max_context}; profile fewer")
    random = np.random.default_rng(0)
    ids = random.integers(0, model.plan.vocabulary, total).astype(np.int32)
    positions = np.arange(total, dtype=np.int32)
    scheduler = model.session.scheduler
    if tokens > scheduler.max_tokens:
        raise CutworkError(f"a step takes at most {scheduler.max_tokens} tokens, not {tokens}; profile fewer")
    table = scheduler.cache.open([])
    try:
        scheduler.cache.extend(table, total)
        blocks = np.asarray([table.blocks], np.int32)
        for start in range(0, context, scheduler.max_tokens):
            part = slice(start, min(start + scheduler.max_tokens, context))
            _step(model, ids[part], positions[part], blocks)
        times = []
        for _ in range(repeats + 1):
            _step(model, ids[context:], positions[context:], blocks, profile=True)
            times.append(list(model.executor.profile))
    finally:
        scheduler.cache.close(table)
    names = list(model.plan.weights)
    ops = tuple(
        OpTime(op["kind"], tuple(names[i] for i in _weight_ids(op)), median(column))
        for op, column in zip(model.plan.ops, zip(*times[1:], strict=True), strict=True)
    )
    return StepProfile(tokens, context, ops)


def _step(model: Model, ids: np.ndarray, positions: np.ndarray, blocks: np.ndarray, *, profile: bool = False) -> None:
    last = np.asarray([len(ids) - 1], np.int32)
    model.executor.step(ids, positions, np.zeros_like(ids), blocks, last, profile=profile)


def _weight_ids(op: dict[str, Any]) -> list[int]:
    if op["kind"] == "embed":
        return []  # reads one row, not the weight
    return list(op.get("weights", [])) or ([op["weight"]] if op["kind"] == "logits" else [])
