"""Which pruner a recipe's name stands for."""

from collections.abc import Callable
from functools import partial

from torch import Tensor

from cutwork.prune.alps import alps
from cutwork.prune.input_statistics import Hessian
from cutwork.prune.magnitude import magnitude
from cutwork.prune.pattern import Pattern
from cutwork.prune.rose import rose
from cutwork.prune.sparsegpt import sparsegpt
from cutwork.prune.wanda import wanda
from cutwork.recipe import Pruner

# (weight [out, in], statistics of its inputs, pattern) -> (pruned weight, mask of live positions), both [out, in]
Prune = Callable[[Tensor, Hessian, Pattern], tuple[Tensor, Tensor]]


def pruner(name: Pruner, block_size: int = 128) -> Prune:
    """The pruner of this name; `block_size` columns at a time where it works in blocks.

    All but magnitude look at the statistics.
    """
    pruners: dict[Pruner, Prune] = {
        "sparsegpt": partial(sparsegpt, block_size=block_size),
        "alps": alps,
        "rose": partial(rose, block_size=block_size),
        "wanda": wanda,
        "magnitude": magnitude,
    }
    return pruners[name]
