"""What every candidate costs each linear: KL divergence in the model's answers, from one walk through the dense.

SparseGPT and GPTQ give the weight W' that a candidate would leave; at tokens that it was not made with, (W - W')x is
how far outputs move, and the linear's influence (`sensitivity.py`) what that costs. How much less than SparseGPT's
another pruner's is, some blocks tell for all. Activations that are rounded to int8 add their own. Some rows of a weight
tell the error of all; every linear is judged alone, with inputs that nothing before it has spoiled.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from rich.console import Console
from torch import Tensor, nn

from cutwork.compress.candidates import SCHEMES, ZEROS, Candidate, parse
from cutwork.compress.sensitivity import Influence
from cutwork.errors import CutworkError
from cutwork.prune.adaptive import SIDE
from cutwork.prune.calibrate import walk
from cutwork.prune.input_statistics import Hessian
from cutwork.prune.pruners import Prune
from cutwork.prune.second_order import output_error
from cutwork.prune.sparsegpt import sparsegpt
from cutwork.quantize.gptq import gptq
from cutwork.quantize.schemes import grid_of, kept
from cutwork.recipe import Scheme
from cutwork.store.block_names import place
from cutwork.torch_models.blocks import out_in

_EVERY = 6  # of so many blocks one tells how a pruner compares with SparseGPT
_TILES = 16  # of 16 rows, at most, whose error stands for that of all


@dataclass(frozen=True)
class Cost:
    """KL divergence in answers, in nats per token: what pruning, rounding of weights and of inputs have of it."""

    pruned: float
    rounded: float
    inputs: float

    def times(self, by: "Cost") -> float:
        """All of it, each part so many times."""
        return self.pruned * by.pruned + self.rounded * by.rounded + self.inputs * by.inputs


@dataclass(frozen=True)
class LinearErrors:
    """One linear: its shape, and what each candidate costs it by label."""

    rows: int
    columns: int
    costs: dict[str, Cost]


def linear_errors(
    model: Any,
    batches: Sequence[dict[str, Tensor]],
    held_out: Sequence[dict[str, Tensor]],
    influences: Mapping[str, Influence],
    console: Console,
    *,
    prune: Prune = sparsegpt,
    group_size: int = 128,
    damping: float = 0.01,
    weights: Mapping[str, Tensor] | None = None,
) -> dict[str, LinearErrors]:
    """The errors of every linear of the blocks of a model, which stays as it is.

    In memory are one block's Hessians, and the inputs of its linears at all tokens that judge.

    held_out: what judges, the batches that `influences` are of; those that candidates are made with would flatter them.
    weights: of the tokens that candidates are made with, as `walk` takes them.
    prune: what is to make the choice; pruners differ by several times, and ALPS takes ten times as long as SparseGPT.
    Raises CutworkError for activations that are not finite or a Hessian that cannot be made positive definite.
    """
    found: dict[str, LinearErrors] = {}
    ratios: dict[tuple[str, str], dict[int, float]] = defaultdict(dict)  # of the pruner's errors to SparseGPT's

    def visit(group: dict[str, nn.Module], statistics: Hessian) -> None:
        for name, linear in group.items():
            schemes = (None,) if kept(name, model) else SCHEMES
            try:
                judge = _Judge(out_in(linear), statistics, influences[name])
                costs = _costs(out_in(linear), statistics, judge, schemes, group_size)
                own = found[name] = LinearErrors(len(out_in(linear)), out_in(linear).shape[1], costs)
                block, kind = place(name)
                if prune is not sparsegpt and block % _EVERY == 0:
                    for label, error in _pruned_errors(out_in(linear), statistics, judge, prune).items():
                        if min(own.costs[label].pruned, error) > 0:  # not where there are zeros enough already
                            ratios[kind, label][block] = error / own.costs[label].pruned
            except CutworkError as error:
                raise CutworkError(f"{name}: {error}") from None

    walk(
        model, batches, visit, console, "errors of candidates", damping=damping, changes=False, held_out=held_out,
        weights=weights,
    )  # fmt: skip
    for name, linear in found.items():
        _scale(linear.costs, *place(name), ratios)
    return found


class _Judge:
    """What changes of some rows of a weight cost, taken for those of all rows."""

    def __init__(self, weight: Tensor, statistics: Hessian, influence: Influence) -> None:
        assert statistics.held_out is not None
        rows = _some_rows(len(weight))
        self.some = weight[rows].float()
        x = statistics.held_out * influence.tokens.sqrt()[:, None]
        self._matrix = x.T @ x / max(len(x), 1)
        outputs = influence.outputs[rows]
        self._outputs = outputs * (len(weight) / outputs.sum().clamp_min(1e-30))
        self.rounded_inputs = influence.rounded_inputs

    def cost(self, left: Tensor) -> float:
        """Of what is left of `some`."""
        return float((0.5 * self._outputs @ output_error(self.some - left, self._matrix)).item())


def _pruned_errors(weight: Tensor, statistics: Hessian, judge: _Judge, prune: Prune) -> dict[str, float]:
    """The errors of a pruner alone, in floats, by label."""
    rows, columns = weight.shape
    candidates = [
        Candidate(pattern, rate) for pattern, rate in ZEROS if rate and Candidate(pattern, rate).fits(rows, columns)
    ]
    return {each.label: judge.cost(prune(judge.some, statistics, each.as_pattern())[0]) for each in candidates}


def _scale(
    costs: dict[str, Cost], block: int, kind: str, ratios: Mapping[tuple[str, str], Mapping[int, float]]
) -> None:
    """Make what pruning has of each cost that of another pruner; what rounding adds stays.

    By the ratios of linears of the same kind, between the blocks where they are known.
    """
    for label, cost in list(costs.items()):
        if known := ratios.get((kind, replace(parse(label), scheme=None).label)):
            ratio = float(np.exp(np.interp(block, list(known), np.log(list(known.values())))))
            costs[label] = replace(cost, pruned=ratio * cost.pruned)


def _costs(
    weight: Tensor, statistics: Hessian, judge: _Judge, schemes: Sequence[Scheme | None], group_size: int
) -> dict[str, Cost]:
    rows, columns = weight.shape
    pruned: dict[tuple[str, float], Tensor] = {}
    for pattern, rate in ZEROS:
        candidate = Candidate(pattern, rate)
        if candidate.fits(rows, columns):
            pruned[pattern, rate] = sparsegpt(judge.some, statistics, candidate.as_pattern())[0] if rate else judge.some
    costs: dict[str, Cost] = {}
    of_pruning = {zeros: judge.cost(left) for zeros, left in pruned.items()}
    for scheme in schemes:
        of_inputs = judge.rounded_inputs if scheme else 0.0  # also w4a16: the engine's int4 kernels read int8, too
        for zeros, left in zip(pruned, _quantized(pruned, statistics, scheme, group_size), strict=True):
            of_rounding = max(judge.cost(left) - of_pruning[zeros], 0.0)
            costs[Candidate(*zeros, scheme).label] = Cost(of_pruning[zeros], of_rounding, of_inputs)
    return costs


def _some_rows(rows: int) -> Tensor:
    """Tiles of rows from all over a weight, whole ones, which the adaptive pattern needs."""
    tiles = torch.arange(rows).split(SIDE)
    step = max(1, -(-len(tiles) // _TILES))
    return torch.cat(tiles[::step])


def _quantized(
    pruned: Mapping[Any, Tensor], statistics: Hessian, scheme: Scheme | None, group_size: int
) -> list[Tensor]:
    """What a scheme makes of pruned weights. Rows know nothing of each other, so all weights are swept as one."""
    if scheme is None:
        return list(pruned.values())
    together = torch.cat(list(pruned.values()))
    grid = grid_of(scheme, together.shape[1], group_size, torch.float32)
    return list(gptq(together, statistics, grid).weight().chunk(len(pruned)))
