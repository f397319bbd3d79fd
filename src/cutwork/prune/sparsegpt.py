"""SparseGPT (Frantar and Alistarh, arXiv 2301.00774): prune column by column, the rest makes up for the error."""

import torch
from torch import Tensor

from cutwork.prune.input_statistics import Hessian
from cutwork.prune.pattern import KeepNOfM, Pattern
from cutwork.prune.second_order import Fix, sweep


def sparsegpt(weight: Tensor, statistics: Hessian, pattern: Pattern, block_size: int = 128) -> tuple[Tensor, Tensor]:
    """Prune a weight [out, in] given the Hessian of its inputs.

    In each block of columns those weights go whose removal costs least, w²/U_jj²; a block's quota follows its share of
    the live weights, so the total is exact. Groups of keep-n-of-m are chosen one by one, each when all before it are
    fixed. What is zero already stays zero.

    Returns the pruned weight, float32, and the mask of live positions (bool), both [out, in].
    """
    live = weight != 0
    keep = torch.empty_like(live.T)  # as in `sweep`, a column is a row
    pivots = statistics.upper.diagonal()
    choice = pattern.choice(live)
    width = block_width(pattern, block_size)

    def choose(start: int, columns: Tensor) -> Fix:
        end = start + len(columns)
        keep[start:end] = choice((columns / pivots[start:end, None]).square().T).T
        return lambda j, values: values * keep[start + j]

    pruned = sweep(weight, statistics.upper, choose, width)
    return pruned, keep.T.contiguous()


def block_width(pattern: Pattern, block_size: int) -> int:
    """How many columns are chosen at a time: about `block_size`, or one group of keep-n-of-m."""
    return pattern.width if isinstance(pattern, KeepNOfM) else max(1, block_size // pattern.width) * pattern.width
