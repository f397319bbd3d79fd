"""What every candidate costs each linear: the error of its output, from one walk through the dense model.

SparseGPT and GPTQ give the weight W' that a candidate would leave; its error is tr((W - W') H (W - W')ᵀ) of tr(W H
Wᵀ), with H from samples that it was not made with and tokens that count alike. How much less than SparseGPT's another
pruner's is, some blocks tell for all. Activations that are rounded to int8 add their own error, as if it were
independent from input to input. Some rows of a weight tell the error of all; every linear is judged alone, with inputs
that nothing before it has spoiled.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from rich.console import Console
from torch import Tensor, nn

from cutwork.compress.candidates import SCHEMES, ZEROS, Candidate, parse
from cutwork.errors import CutworkError
from cutwork.prune.adaptive import SIDE
from cutwork.prune.calibrate import walk
from cutwork.prune.input_statistics import Hessian
from cutwork.prune.pattern import Unstructured
from cutwork.prune.pruners import Prune
from cutwork.prune.second_order import output_error
from cutwork.prune.sparsegpt import sparsegpt
from cutwork.prune.wanda import wanda
from cutwork.quantize.gptq import gptq
from cutwork.quantize.rtn import rtn
from cutwork.quantize.schemes import grid_of, kept
from cutwork.recipe import Scheme
from cutwork.torch_models.blocks import out_in

_EVERY = 8  # of so many blocks one tells how a pruner compares with SparseGPT
_TILES = 16  # of 16 rows, at most, whose error stands for that of all
PROBE = Unstructured(0.3)  # the damage by which `sensitivity` measures: what Wanda does, which is quick to do again


@dataclass(frozen=True)
class LinearErrors:
    """One linear: its shape, the relative output error of each candidate by label, and what a probe has to know."""

    rows: int
    columns: int
    errors: dict[str, float]
    rounded: dict[str, float]  # what of it is the weights' rounding, of each candidate with a number format
    probe: float  # the error that PROBE leaves
    rounding_probe: float  # that of weights rounded to the nearest in 4 bits
    squares: Tensor  # of the inputs, mean, float32 [in]


def linear_errors(
    model: Any,
    batches: Sequence[dict[str, Tensor]],
    console: Console,
    *,
    held_out: Sequence[dict[str, Tensor]] = (),
    prune: Prune = sparsegpt,
    group_size: int = 128,
    damping: float = 0.01,
) -> dict[str, LinearErrors]:
    """The errors of every linear of the blocks of a model, which stays as it is; one block's Hessians in memory.

    held_out: what judges; by default the statistics that candidates are made with, which flatters them.
    prune: what is to make the choice; pruners differ by several times, and ALPS takes ten times as long as SparseGPT.
    Raises CutworkError for activations that are not finite or a Hessian that cannot be made positive definite.
    """
    found: dict[str, LinearErrors] = {}
    ratios: dict[str, list[float]] = {}  # of the pruner's errors to SparseGPT's

    def visit(group: dict[str, nn.Module], statistics: Hessian) -> None:
        for name, linear in group.items():
            schemes = (None,) if kept(name, model) else SCHEMES
            try:
                own = found[name] = _errors_of(out_in(linear), statistics, schemes, group_size)
                if prune is not sparsegpt and _block(name) % _EVERY == 0:
                    for label, error in _pruned_errors(out_in(linear), statistics, prune).items():
                        if own.errors[label] > 0:  # not where there are zeros enough already
                            ratios.setdefault(label, []).append(error / own.errors[label])
            except CutworkError as error:
                raise CutworkError(f"{name}: {error}") from None

    walk(
        model, batches, visit, console, "errors of candidates", damping=damping, changes=False, rounding=True,
        held_out=held_out,
    )  # fmt: skip
    means = {label: float(np.mean(each)) for label, each in ratios.items()}
    for linear in found.values():
        _scale(linear.errors, means)
    return found


def _block(name: str) -> int:
    numbers = [int(part) for part in name.split(".") if part.isdigit()]
    return numbers[0] if numbers else 0


def _pruned_errors(weight: Tensor, statistics: Hessian, prune: Prune) -> dict[str, float]:
    """The errors of a pruner alone, in floats, by label."""
    rows, columns = weight.shape
    some, judge = weight[_some_rows(rows)].float(), statistics.held_out or statistics
    whole = output_error(some, judge.matrix).sum().clamp_min(1e-30)
    candidates = [
        Candidate(pattern, rate) for pattern, rate in ZEROS if rate and Candidate(pattern, rate).fits(rows, columns)
    ]
    left = {each.label: prune(some, statistics, each.as_pattern())[0] for each in candidates}
    lost = {label: output_error(some - pruned, judge.matrix).sum() for label, pruned in left.items()}
    return {label: (error / whole).item() for label, error in lost.items()}


def _scale(errors: dict[str, float], ratios: Mapping[str, float]) -> None:
    """Make what pruning has of each error that of another pruner; what rounding adds stays."""
    for label, error in list(errors.items()):
        floats = replace(parse(label), scheme=None).label
        if floats in ratios and floats != label:
            pruning = ratios[floats] * errors[floats]
            errors[label] = max(error - errors[floats] + pruning, pruning)
    for label, ratio in ratios.items():
        if label in errors:
            errors[label] *= ratio


def _errors_of(weight: Tensor, statistics: Hessian, schemes: Sequence[Scheme | None], group_size: int) -> LinearErrors:
    rows, columns = weight.shape
    some, judge = weight[_some_rows(rows)].float(), statistics.held_out or statistics
    whole = output_error(some, judge.matrix).sum().clamp_min(1e-30)
    pruned: dict[tuple[str, float], Tensor] = {}
    for pattern, rate in ZEROS:
        candidate = Candidate(pattern, rate)
        if candidate.fits(rows, columns):
            pruned[pattern, rate] = sparsegpt(some, statistics, candidate.as_pattern())[0] if rate else some

    def error(left: Tensor) -> float:
        return float((output_error(some - left, judge.matrix).sum() / whole).item())

    errors: dict[str, float] = {}
    rounded: dict[str, float] = {}
    for scheme in schemes:
        for (pattern, rate), left in zip(pruned, _quantized(pruned, statistics, scheme, group_size), strict=True):
            label, lost = Candidate(pattern, rate, scheme).label, error(left)
            if scheme:  # also w4a16: the engine's int4 kernels read int8, too
                assert judge.rounding is not None
                rounded[label] = max(lost - errors[Candidate(pattern, rate).label], 0.0)
                lost += ((left.square() @ judge.rounding).sum() / whole).item()
            errors[label] = lost
    probe, rounding_probe = error(wanda(some, statistics, PROBE)[0]), error(rounded_to_int4(some, group_size))
    return LinearErrors(rows, columns, errors, rounded, probe, rounding_probe, statistics.squares.clone())


def rounded_to_int4(weight: Tensor, group_size: int) -> Tensor:
    """A weight [out, in] rounded to the nearest in 4 bits, in floats: the other damage that `sensitivity` does."""
    return rtn(weight.float(), grid_of("w4a16", weight.shape[1], group_size, torch.float32)).weight()


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
