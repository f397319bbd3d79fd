"""SparseGPT (Frantar and Alistarh, arXiv 2301.00774): prune column by column, the rest makes up for the error."""

import torch
from torch import Tensor

from cutwork.train.obs import Factor, Fix, sweep
from cutwork.train.prune.pattern import Unstructured


def sparsegpt(
    weight: Tensor, statistics: Factor, pattern: Unstructured, block_size: int = 128
) -> tuple[Tensor, Tensor]:
    """Prune a weight [out, in], given the factor of its inputs' inverse Hessian.

    In each block of columns those weights go whose removal costs least, w²/U_jj²; a block's quota follows its share of
    the live weights, so the total is exact. What is zero already stays zero.

    Returns the pruned weight, float32, and the mask of live positions (bool), both [out, in].
    """
    live = (weight != 0).T.contiguous()  # as in `sweep`, a column is a row
    keep = live.clone()
    pivots = statistics.upper.diagonal()
    quota = pattern.zeros(weight) - int((~live).sum())
    remaining = int(live.sum())

    def choose(start: int, columns: Tensor) -> Fix:
        nonlocal quota, remaining
        end = start + len(columns)
        candidates = int(live[start:end].sum())
        count = round(quota * candidates / remaining) if remaining else 0
        costs = (columns / pivots[start:end, None]).square()
        costs[~live[start:end]] = torch.inf
        chosen = costs.flatten().topk(count, largest=False, sorted=False).indices
        keep[start:end].view(-1)[chosen] = False
        quota, remaining = quota - count, remaining - candidates
        return lambda j, values: values * keep[start + j]

    pruned = sweep(weight, statistics, choose, block_size)
    return pruned, keep.T.contiguous()
