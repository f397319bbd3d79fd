"""More and more zeros while a model is trained.

A function of the optimiser step, the weights and the data alone, so that a resumed run does what the uninterrupted one
would have done.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from torch import Tensor, nn

from cutwork.errors import CutworkError
from cutwork.prune.calibrate import calibration_batches, calibration_examples, walk
from cutwork.prune.input_statistics import Hessian
from cutwork.prune.magnitude import magnitude
from cutwork.prune.pruners import pruner
from cutwork.prune.rates import pattern_of
from cutwork.recipe import Gradual, Long, TuneSettings
from cutwork.tasks.task import Sample
from cutwork.torch_models.blocks import block_linears, check_linear, out_in
from cutwork.torch_models.model_inputs import inputs_of
from cutwork.tune.masks import Masks


@dataclass(frozen=True)
class Schedule:
    """When and how zeros grow during a run; steps are optimiser steps, counted from 0."""

    gradual: Gradual
    start: float  # the sparsity of the model that the run began with
    bfloat16: bool = False  # of the calibrating forward passes
    batches: Sequence[dict[str, Tensor]] = ()  # what pruning is calibrated with

    def before_step(self, model: nn.Module, masks: Masks, step: int, steps: int) -> Masks:
        """Prune further if the step is due; returns the masks to train with."""
        if not _due(step, steps, self.gradual):
            return masks
        sparsity = cubic(step, steps, self.start, self.gradual)
        return prune_further(model, masks, self.batches, sparsity, self.gradual, self.bfloat16)


def schedule_of(
    settings: TuneSettings,
    model: Any,
    tokenizer: Any,
    samples: Sequence[Sample],
    max_length: int,
    long: Long,
    bfloat16: bool,
) -> Schedule | None:
    """How zeros grow during a fine-tuning of `model`; None if they stay. CutworkError for settings that cannot be."""
    gradual = settings.gradual
    if gradual is None:
        return None
    check_fits(gradual, model)
    start = Masks(model).sparsity
    if gradual.sparsity < start:
        raise CutworkError(f"gradual ends at {gradual.sparsity:g} zeros, and the model has {start:.3g} already")
    batches: list[dict[str, Tensor]] = []
    if gradual.method != "magnitude":
        count, model_inputs = gradual.calibration_samples, inputs_of(model.config)
        batches = calibration_batches(
            calibration_examples(tokenizer, samples, count, max_length, settings.seed, model_inputs, long)
        )
    return Schedule(gradual, start, bfloat16, batches)


def check_fits(gradual: Gradual, model: nn.Module) -> None:
    """Raise CutworkError for a model of which a large part is in no linear, or whose linears the pattern does not fit;
    of its weights only the shapes are looked at."""
    check_linear(model)
    pattern = pattern_of(gradual.pattern, gradual.sparsity)
    for name, linear in block_linears(model).items():
        rows, columns = out_in(linear).shape
        try:
            pattern.check(rows, columns)
        except CutworkError:
            raise CutworkError(
                f"gradual: pattern {gradual.pattern} does not fit {name} of {rows}×{columns}; choose another"
            ) from None


def cubic(step: int, steps: int, start: float, settings: Gradual) -> float:
    """The sparsity wanted at a step: quickly away from `start`, slowly up to the last (arXiv 1710.01878)."""
    first, last = _range(steps, settings)
    left = 1 - min(1.0, max(0.0, (step - first + settings.every) / max(1, last - first + settings.every)))
    return settings.sparsity + (start - settings.sparsity) * left**3


def prune_further(
    model: nn.Module,
    masks: Masks,
    batches: Sequence[dict[str, Tensor]],
    sparsity: float,
    settings: Gradual,
    bfloat16: bool = False,
) -> Masks:
    """Prune every linear of the blocks to a sparsity, in place; what was pruned stays pruned. Returns the new masks.

    By `settings.method`: magnitude, or a pruner that looks at the inputs of each layer over `batches`.
    """
    live: dict[str, Tensor] = {}

    def put(name: str, linear: nn.Module, weight: Tensor, keep: Tensor) -> None:
        out_in(linear).copy_(weight + 0.0)  # no -0, as in prune
        stored = keep if isinstance(linear, nn.Linear) else keep.T
        live[name] = stored & masks.live[name] if name in masks.live else stored.contiguous()

    pattern = pattern_of(settings.pattern, sparsity)
    if settings.method == "magnitude":
        for name, linear in block_linears(model).items():
            put(name, linear, *magnitude(out_in(linear), None, pattern))
        return Masks(model, live)
    prune = pruner(settings.method)

    def visit(group: dict[str, nn.Module], statistics: Hessian) -> None:
        for name, linear in group.items():
            put(name, linear, *prune(out_in(linear), statistics, pattern))

    training = model.training
    walk(model, batches, visit, Console(quiet=True), "", damping=settings.damping, bfloat16=bfloat16)
    model.train(training)
    return Masks(model, live)


def _range(steps: int, settings: Gradual) -> tuple[int, int]:
    last = min(math.ceil(settings.end * steps), steps - 1)
    return min(math.floor(settings.begin * steps), last), last


def _due(step: int, steps: int, settings: Gradual) -> bool:
    first, last = _range(steps, settings)
    return first <= step <= last and ((step - first) % settings.every == 0 or step == last)
