"""What every candidate costs each linear: the error of its output, from one walk through the dense model.

The pruners and quantisers that there are give the weight W' that a candidate would leave; its error is
tr((W - W') H (W - W')ᵀ) of tr(W H Wᵀ), with H from calibration data. Activations that are rounded to int8 add their own
error, as if it were independent from input to input. Some rows of a weight tell the error of all; every linear is
judged alone, with inputs that nothing before it has spoiled.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from rich.console import Console
from torch import Tensor, nn

from cutwork.compress.candidates import SCHEMES, ZEROS, Candidate
from cutwork.errors import CutworkError
from cutwork.prune.adaptive import SIDE
from cutwork.prune.calibrate import walk
from cutwork.prune.input_statistics import Hessian
from cutwork.prune.pattern import Unstructured
from cutwork.prune.pruners import Prune
from cutwork.prune.second_order import output_error
from cutwork.prune.wanda import wanda
from cutwork.quantize.gptq import gptq
from cutwork.quantize.schemes import grid_of, kept
from cutwork.recipe import Scheme
from cutwork.torch_models.blocks import out_in

_TILES = 16  # of 16 rows, at most, whose error stands for that of all
PROBE = Unstructured(0.3)  # the damage by which `sensitivity` measures: what Wanda does, which is quick to do again


@dataclass(frozen=True)
class LinearErrors:
    """One linear: its shape, the relative output error of each candidate by label, and what a probe has to know."""

    rows: int
    columns: int
    errors: dict[str, float]
    probe: float  # the error that PROBE leaves
    squares: Tensor  # of the inputs, mean, float32 [in]


def linear_errors(
    model: Any,
    batches: Sequence[dict[str, Tensor]],
    console: Console,
    *,
    prune: Prune,
    group_size: int = 128,
    damping: float = 0.01,
) -> dict[str, LinearErrors]:
    """The errors of every linear of the blocks of a model, which stays as it is; one block's Hessians in memory.

    prune: what is to make the choice; pruners differ by several times. Raises CutworkError for activations that are not
    finite or a Hessian that cannot be made positive definite.
    """
    found: dict[str, LinearErrors] = {}

    def visit(group: dict[str, nn.Module], statistics: Hessian) -> None:
        for name, linear in group.items():
            schemes = (None,) if kept(name, model) else SCHEMES
            try:
                found[name] = _errors_of(out_in(linear), statistics, prune, schemes, group_size)
            except CutworkError as error:
                raise CutworkError(f"{name}: {error}") from None

    walk(model, batches, visit, console, "errors of candidates", damping=damping, changes=False, rounding=True)
    return found


def _errors_of(
    weight: Tensor, statistics: Hessian, prune: Prune, schemes: Sequence[Scheme | None], group_size: int
) -> LinearErrors:
    rows, columns = weight.shape
    some = weight[_some_rows(rows)].float()
    whole = output_error(some, statistics.matrix).sum().clamp_min(1e-30)
    pruned: dict[tuple[str, float], Tensor] = {}
    for pattern, rate in ZEROS:
        candidate = Candidate(pattern, rate)
        if candidate.fits(rows, columns):
            pruned[pattern, rate] = prune(some, statistics, candidate.as_pattern())[0] if rate else some
    errors: dict[str, float] = {}
    for scheme in schemes:
        for (pattern, rate), left in zip(pruned, _quantized(pruned, statistics, scheme, group_size), strict=True):
            lost = output_error(some - left, statistics.matrix).sum()
            if scheme:  # also w4a16: the engine's int4 kernels read int8, too
                assert statistics.rounding is not None
                lost = lost + (left.square() @ statistics.rounding).sum()
            errors[Candidate(pattern, rate, scheme).label] = (lost / whole).item()
    damaged = wanda(some, statistics, PROBE)[0]
    probe = output_error(some - damaged, statistics.matrix).sum() / whole
    return LinearErrors(rows, columns, errors, probe.item(), statistics.squares.clone())


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
