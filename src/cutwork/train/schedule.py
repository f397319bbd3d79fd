"""Zeros that change while a model is trained: more and more of them, or as many in other places.

Both are functions of the optimiser step, the weights and the data alone, so that a resumed run does what the
uninterrupted one would have done.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from rich.console import Console
from torch import Tensor, nn

from cutwork.errors import CutworkError
from cutwork.recipe import Evolve, Gradual, TuneSettings
from cutwork.tasks.task import Sample
from cutwork.train.blocks import block_linears, out_in
from cutwork.train.calibrate import calibration_batches, walk
from cutwork.train.family import family_of
from cutwork.train.masks import Masks
from cutwork.train.obs import Statistics, factorise
from cutwork.train.prune.magnitude import magnitude
from cutwork.train.prune.pattern import cheapest
from cutwork.train.prune.sparsegpt import sparsegpt
from cutwork.train.rates import pattern_of


@dataclass(frozen=True)
class Schedule:
    """When and how zeros change during a run; steps are optimiser steps, counted from 0."""

    gradual: Gradual | None
    evolve: Evolve | None
    start: float  # the sparsity of the model that the run began with
    bfloat16: bool = False  # of the calibrating forward passes
    batches: Sequence[dict[str, Tensor]] = ()  # what second-order pruning is calibrated with

    def before_step(self, model: nn.Module, masks: Masks, step: int, steps: int) -> Masks:
        """Prune further if the step is due; returns the masks to train with."""
        if self.gradual is None or not _due(step, steps, self.gradual):
            return masks
        sparsity = cubic(step, steps, self.start, self.gradual)
        return prune_further(model, masks, self.batches, sparsity, self.gradual, self.bfloat16)

    def after_backward(self, model: nn.Module, masks: Masks, step: int, steps: int) -> None:
        """Let masks evolve if the step is due: it needs the gradients of pruned weights, before they are masked."""
        if self.evolve is not None and _due(step, steps, self.evolve):
            first, last = _range(steps, self.evolve)
            moved = self.evolve.fraction * (1 + math.cos(math.pi * (step - first) / max(1, last - first))) / 2
            evolve(model, masks, moved)


def plan_schedule(
    settings: TuneSettings, model: Any, tokenizer: Any, samples: Sequence[Sample], max_length: int, bfloat16: bool
) -> Schedule | None:
    """How zeros change during a fine-tuning of `model`; None if they stay. CutworkError for settings that cannot be."""
    gradual = settings.gradual
    if gradual is None and settings.evolve is None:
        return None
    if settings.lora or not settings.keep_zeros:
        raise CutworkError("gradual and evolve train the weights and hold their zeros; set keep_zeros, and no lora")
    start = Masks(model).sparsity
    if gradual and gradual.sparsity < start:
        raise CutworkError(f"gradual ends at {gradual.sparsity:g} zeros, and the model has {start:.3g} already")
    batches: list[dict[str, Tensor]] = []
    if gradual and gradual.method == "sparsegpt":
        count, family = gradual.calibration_samples, family_of(model.config)
        batches = calibration_batches(tokenizer, samples, count, max_length, settings.seed, family)
    return Schedule(gradual, settings.evolve, start, bfloat16, batches)


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

    By magnitude, or as optimal brain surgery on the Hessian of each layer's output over `batches` (SparseGPT's sweep):
    what is left makes up for what goes.
    """
    live: dict[str, Tensor] = {}

    def put(name: str, linear: nn.Module, weight: Tensor, keep: Tensor) -> None:
        out_in(linear).copy_(weight)
        stored = keep if isinstance(linear, nn.Linear) else keep.T
        live[name] = stored & masks.live[name] if name in masks.live else stored.contiguous()

    pattern = pattern_of(settings.pattern, sparsity)
    if settings.method == "magnitude":
        for name, linear in block_linears(model).items():
            put(name, linear, *magnitude(out_in(linear), None, pattern))
        return Masks(model, live)

    def visit(group: dict[str, nn.Module], statistics: Statistics) -> None:
        factor = factorise(statistics, settings.damping)
        for name, linear in group.items():
            put(name, linear, *sparsegpt(out_in(linear), factor, pattern))

    training = model.training
    walk(model, batches, visit, Console(quiet=True), "", bfloat16=bfloat16)
    model.train(training)
    return Masks(model, live)


def evolve(model: nn.Module, masks: Masks, fraction: float) -> None:
    """Move a fraction of each layer's live weights: drop those of least |weight · gradient|, grow most |gradient|.

    What SEFT (arXiv 2505.24037) drops, and what RigL (arXiv 1911.11134) grows. Grown weights begin at zero; those just
    dropped do not grow. Changes the masks, weights and gradients in place; the number of zeros stays.
    """
    linears = block_linears(model)
    for name, live in masks.live.items():
        parameter = linears[name].get_parameter("weight")
        if parameter.grad is None:
            continue
        weight, gradient = parameter.data, parameter.grad.abs()
        count = min(round(fraction * int(live.sum())), int((~live).sum()))
        dropped = cheapest((weight.abs() * gradient).masked_fill(~live, torch.inf), count)
        grown = cheapest((-gradient).masked_fill(live, torch.inf), count)
        weight.mul_(live.logical_and_(~dropped).logical_or_(grown))


def _range(steps: int, settings: Gradual | Evolve) -> tuple[int, int]:
    return math.floor(settings.begin * steps), math.ceil(settings.end * steps)


def _due(step: int, steps: int, settings: Gradual | Evolve) -> bool:
    first, last = _range(steps, settings)
    return first <= step <= last and ((step - first) % settings.every == 0 or step == last)
