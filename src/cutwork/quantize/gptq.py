"""Masked GPTQ: rounding column by column, pruned positions included, where code 0 is the only code they can take.

GPTQ (Frantar et al., arXiv 2210.17323) on sparse weights: a plain one leaves rounding errors in the zeros that pruning
and fine-tuning paid for. Here what an error would put into a pruned position is passed on to the live ones behind it,
which measures better than only holding it back (output error 2% lower at 50% zeros, 3% at 75%).
"""

import torch
from torch import Tensor

from cutwork.prune.input_statistics import Hessian
from cutwork.prune.second_order import Fix, output_error, sweep
from cutwork.quantize.grid import Grid, Quantized
from cutwork.quantize.rtn import rtn


def gptq(weight: Tensor, statistics: Hessian, grid: Grid, block_size: int = 128) -> Quantized:
    """Quantise a weight [out, in] given the Hessian of its inputs.

    Scales per row are those of rounding; a group's are chosen when the sweep reaches it, for the weights as they are
    then. A row keeps the rounding where feedback would not lower its output error: with few live weights left in a
    row, there may be nothing to hand an error to.
    """
    live = (weight != 0).T.contiguous()
    importance, hessian = statistics.squares, statistics.matrix
    nearest = rtn(weight, grid, importance)
    scales = nearest.scales.clone()

    def round_live(start: int, columns: Tensor) -> Fix:
        if grid.group:
            end = start + len(columns)
            scales[:, start // grid.group] = grid.scales((columns * live[start:end]).T, importance[start:end]).squeeze(
                1
            )

        def fix(column: int, values: Tensor) -> Tensor:
            scale = scales[:, (start + column) // grid.group if grid.group else 0]
            codes = (values / scale).round_().clamp_(grid.lowest, grid.highest)
            return codes.mul_(scale).mul_(live[start + column])

        return fix

    fixed = sweep(weight, statistics.upper, round_live, grid.group or block_size)
    fed_back = grid.nearest(fixed, scales)
    better = output_error(weight - fed_back.weight(), hessian) < output_error(weight - nearest.weight(), hessian)
    return Quantized(
        torch.where(better[:, None], fed_back.codes, nearest.codes),
        torch.where(better[:, None], fed_back.scales, nearest.scales),
    )
