"""What errors of all linears cost together, measured, beside what was predicted for each alone.

Predictions (`sensitivity.py`) take tokens as if their errors knew nothing of each other, weights from some rows and
blocks, and errors to be small; and where a model is made, each block is made with what those before it give by then,
which evens errors out. So three models are made as they would be: with half of the weights zero, with three quarters,
and in int4. How many times as much as predicted each costs, those parts of all candidates' costs are multiplied by:
what pruning has of them by the share of zeros, since more zeros cost more than their parts.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from rich.console import Console
from torch import Tensor, nn

from cutwork.compress.candidates import Candidate, parse
from cutwork.compress.linear_errors import Cost, LinearErrors
from cutwork.compress.sensitivity import Damage, divergences
from cutwork.prune.calibrate import walk
from cutwork.prune.input_statistics import Hessian
from cutwork.prune.pruners import Prune
from cutwork.quantize.gptq import gptq
from cutwork.quantize.schemes import grid_of, kept
from cutwork.torch_models.blocks import block_linears, out_in

PRUNED, ROUNDED = ("50 bf16", "4:16 bf16"), "dense w4a16"  # what all linears are made, in turn
_MOST = 10.0  # times as much, or as little: more is noise


def corrected(
    model: Any,
    linears: Mapping[str, LinearErrors],
    batches: Sequence[dict[str, Tensor]],
    held_out: Sequence[dict[str, Tensor]],
    console: Console,
    *,
    prune: Prune,
    group_size: int = 128,
    damping: float = 0.01,
    weights: Mapping[str, Tensor] | None = None,
) -> dict[str, dict[str, float]]:
    """KL divergence that each candidate costs each linear, in nats per token, by label.

    What makes models and what judges them, as `linear_errors` has it. The model stays as it is; in memory are two more
    weights for each of the linears.
    """
    times: dict[str, float] = {}
    how: Any = {"prune": prune, "group_size": group_size, "damping": damping, "weights": weights}
    for label in (*PRUNED, ROUNDED):
        told = sum(_told(linear.costs, label) for linear in linears.values())
        if told > 0:
            left = made(model, batches, parse(label), console, **how)
            [measured] = divergences(model, held_out, {label: with_weights(model, left)}, console).values()
            times[label] = min(max(measured / told, 1 / _MOST), _MOST)
    return {
        name: {label: cost.times(_of(label, times)) for label, cost in linear.costs.items()}
        for name, linear in linears.items()
    }


def made(
    model: Any,
    batches: Sequence[dict[str, Tensor]],
    candidate: Candidate,
    console: Console,
    *,
    prune: Prune,
    group_size: int,
    damping: float,
    weights: Mapping[str, Tensor] | None,
) -> dict[str, Tensor]:
    """Every linear's weight [out, in] once all are this candidate, either pruned or rounded; the model stays as it is.

    Linears that the candidate does not fit stay, too.
    """
    linears = block_linears(model)

    def visit(group: dict[str, nn.Module], statistics: Hessian) -> None:
        for name, linear in group.items():
            weight = out_in(linear)
            if candidate.scheme is None and candidate.fits(*weight.shape):
                weight.copy_(prune(weight, statistics, candidate.as_pattern())[0])
            elif candidate.scheme and not kept(name, model):
                grid = grid_of(candidate.scheme, weight.shape[1], group_size, torch.float32)
                weight.copy_(gptq(weight.float(), statistics, grid).weight())

    with torch.no_grad(), with_weights(model, {name: out_in(linear) for name, linear in linears.items()})():
        walk(model, batches, visit, console, f"all {candidate.label}", damping=damping, weights=weights)
        return {name: out_in(linear).clone() for name, linear in linears.items()}


def _told(costs: Mapping[str, Cost], label: str) -> float:
    """What was predicted for a linear of what is measured."""
    cost = costs.get(label, Cost(0.0, 0.0, 0.0))
    return cost.rounded if label == ROUNDED else cost.pruned


def _of(label: str, times: Mapping[str, float]) -> Cost:
    """How many times as much each part of a candidate's cost is."""
    known = [part for part in PRUNED if part in times]
    rates, logs = [parse(part).sparsity for part in known], [np.log(times[part]) for part in known]
    pruned = float(np.exp(np.interp(parse(label).sparsity, rates, logs))) if known else 1.0
    return Cost(pruned, times.get(ROUNDED, 1.0), 1.0)


def with_weights(model: nn.Module, weights: Mapping[str, Tensor]) -> Damage:
    """Linears, by name, with other weights [out, in]."""

    @contextmanager
    def damage() -> Iterator[None]:
        whole: list[tuple[Tensor, Tensor]] = []
        for name, left in weights.items():
            weight = out_in(model.get_submodule(name))
            whole.append((weight, weight.clone()))
            weight.copy_(left)
        try:
            yield
        finally:
            for weight, before in whole:
                weight.copy_(before)

    return damage
