"""Magnitude pruning: the smallest weights of a layer go. The baseline of every other method."""

from torch import Tensor

from cutwork.prune.pattern import Pattern


def magnitude(weight: Tensor, _: object, pattern: Pattern) -> tuple[Tensor, Tensor]:
    """Zero the smallest entries of a weight [out, in], or the blocks of least energy; zeros stay zeros.

    Its inputs do not matter. Returns the pruned weight, in the weight's dtype, and the mask of live positions (bool),
    both [out, in].
    """
    keep = pattern.keep(weight.float().square(), weight != 0)
    return weight * keep, keep
