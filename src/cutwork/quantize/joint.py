"""SparseGPT and GPTQ together: what is pruned and what is rounded make up for each other's errors.

Frantar and Alistarh, arXiv 2301.00774, §3.5: those of a column's weights that stay are rounded to the grid, and the
whole error is passed on. The published single sweep has to choose a row's scale before it knows what the compensation
for pruning will make of the row, and clips it; so SparseGPT goes first here, for the mask and the scales, and a second
sweep of the dense weight prunes and rounds. The model itself is walked once.
"""

import torch
from torch import Tensor

from cutwork.prune.pattern import Pattern
from cutwork.prune.second_order import Factor, Fix, output_error, sweep
from cutwork.prune.sparsegpt import sparsegpt
from cutwork.quantize.grid import Grid, Quantized
from cutwork.quantize.rtn import rtn


def prune_and_quantize(
    weight: Tensor, statistics: Factor, hessian: Tensor, grid: Grid, pattern: Pattern, block_size: int = 128
) -> Quantized:
    """Prune a weight [out, in] to a pattern and quantise what stays; what is zero already stays zero.

    `statistics` is the factor of its inputs' inverse Hessian, `hessian` [in, in] that Hessian itself. A row keeps
    SparseGPT's weights, rounded, where feedback would not lower its output error.
    """
    pruned, keep = sparsegpt(weight, statistics, pattern, block_size)
    nearest = rtn(pruned, grid, hessian.diagonal())
    scales, kept = nearest.scales, keep.T

    def round_kept(start: int, _: Tensor) -> Fix:
        def fix(column: int, values: Tensor) -> Tensor:
            scale = scales[:, (start + column) // grid.group if grid.group else 0]
            codes = (values / scale).round_().clamp_(grid.lowest, grid.highest)
            return codes.mul_(scale).mul_(kept[start + column])

        return fix

    fed_back = grid.nearest(sweep(weight, statistics, round_kept, block_size), scales)
    better = output_error(weight - fed_back.weight(), hessian) < output_error(weight - nearest.weight(), hessian)
    return Quantized(torch.where(better[:, None], fed_back.codes, nearest.codes), scales)
