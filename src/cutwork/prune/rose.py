"""ROSE (Su and Wang, arXiv 2603.05878): SparseGPT that first fixes the columns whose pruning will cost most.

What SparseGPT removes late has few columns left that can make up for it. So the scores |w| · ‖x‖ say beforehand what is
likely to go, the smallest in each block of columns; their sum is what a column loses, and a block. Where blocks differ
much, which the paper calls a columnar layer, those that lose most go first, and so do the columns of each block; other
layers keep their order.
"""

import torch
from torch import Tensor

from cutwork.prune.input_statistics import Hessian
from cutwork.prune.pattern import Pattern
from cutwork.prune.sparsegpt import block_width, sparsegpt
from cutwork.prune.wanda import wanda_costs

_COLUMNAR = 0.5  # (largest - smallest) / largest loss of the blocks, above which a layer is reordered; as published


def rose(weight: Tensor, statistics: Hessian, pattern: Pattern, block_size: int = 128) -> tuple[Tensor, Tensor]:
    """Prune a weight [out, in] given the Hessian of its inputs, as SparseGPT does but for the order of the columns.

    Columns that the pattern chooses together stay neighbours. What is zero already stays zero. Returns the pruned
    weight, float32, and the mask of live positions (bool), both [out, in].
    """
    order = column_order(weight, statistics, pattern, block_width(pattern, block_size))
    if order is None:
        return sparsegpt(weight, statistics, pattern, block_size)
    pruned, keep = sparsegpt(weight[:, order], _reordered(statistics, order), pattern, block_size)
    back = order.argsort()
    return pruned[:, back], keep[:, back]


def column_order(weight: Tensor, statistics: Hessian, pattern: Pattern, block: int) -> Tensor | None:
    """The order in which the columns of a weight [out, in] are pruned, int64 [in]; None: as they are.

    `block` columns make a block. A shorter last one is compared by its mean.
    """
    costs = wanda_costs(weight, statistics)
    positions = torch.arange(weight.shape[1], device=weight.device)
    orders, losses = [], []
    for columns in positions.split(block):
        part = costs[:, columns]
        goes = ~pattern.keep(part, weight[:, columns] != 0)
        by_column = (part.sqrt() * goes).sum(0)
        units = by_column.unflatten(0, (-1, pattern.width)).sum(1).argsort(descending=True, stable=True)
        orders.append(columns.unflatten(0, (-1, pattern.width))[units].flatten())
        losses.append(by_column.mean())
    by_block = torch.stack(losses)
    if by_block.max() - by_block.min() <= _COLUMNAR * by_block.max():
        return None
    return torch.cat([orders[index] for index in by_block.argsort(descending=True, stable=True)])


def _reordered(statistics: Hessian, order: Tensor) -> Hessian:
    """The statistics of the same inputs in another order; what damping took is noted in both."""
    reordered = Hessian(statistics.matrix[order][:, order], statistics.tokens, statistics.damping)
    reordered.applied = statistics.applied
    return reordered
