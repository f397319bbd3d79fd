"""Wanda (Sun et al., arXiv 2306.11695): the smallest |weight| · ‖input‖ go, compared within each output."""

from torch import Tensor

from cutwork.prune.input_statistics import MeanSquares
from cutwork.prune.pattern import Pattern
from cutwork.prune.second_order import check_finite


def wanda_costs(weight: Tensor, statistics: MeanSquares) -> Tensor:
    """What zeroing each entry of a weight [out, in] adds to the squared output error if inputs are uncorrelated.

    Raises CutworkError for inputs that are not finite.
    """
    check_finite(statistics.squares)
    return weight.float().square() * statistics.squares


def wanda(weight: Tensor, statistics: MeanSquares, pattern: Pattern) -> tuple[Tensor, Tensor]:
    """Prune a weight [out, in] given its inputs' second moments; what stays is not changed, zeros stay zeros.

    Every output loses the same share of its live weights, as published. Returns the pruned weight, in the weight's
    dtype, and the mask of live positions (bool), both [out, in].
    """
    keep = pattern.keep(wanda_costs(weight, statistics), weight != 0, by_row=True)
    return weight * keep, keep
