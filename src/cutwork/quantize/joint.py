"""SparseGPT and GPTQ together: what is pruned and what is rounded make up for each other's errors.

Frantar and Alistarh, arXiv 2301.00774, §3.5: those of a column's weights that stay are rounded to the grid, and the
whole error is passed on. The published single sweep has to choose a row's scale before it knows what the compensation
for pruning will make of the row, and clips it; so SparseGPT goes first here, for the mask and the scales, and a second
sweep of the dense weight prunes and rounds. The model itself is walked once.
"""

from torch import Tensor

from cutwork.prune.input_statistics import Hessian
from cutwork.prune.pattern import Pattern
from cutwork.prune.second_order import Fix, sweep
from cutwork.prune.sparsegpt import sparsegpt
from cutwork.quantize.grid import Grid, Quantized, better_rows, fix_to
from cutwork.quantize.rtn import rtn

_BLOCK_SIZE = 128  # columns that are swept at a time


def prune_and_quantize(weight: Tensor, statistics: Hessian, grid: Grid, pattern: Pattern) -> Quantized:
    """Prune a weight [out, in] to a pattern and quantise what stays; what is zero already stays zero.

    `statistics` is the Hessian of its inputs. A row keeps SparseGPT's weights, rounded, where feedback would not lower
    its output error.
    """
    pruned, keep = sparsegpt(weight, statistics, pattern, _BLOCK_SIZE)
    nearest = rtn(pruned, grid, statistics.squares)
    scales, live = nearest.scales, keep.T

    def round_live(start: int, _: Tensor) -> Fix:
        return fix_to(grid, scales, start, live)

    fed_back = grid.nearest(sweep(weight, statistics.upper, round_live, _BLOCK_SIZE), scales)
    return better_rows(weight, fed_back, nearest, statistics.matrix)
