"""Which sets of zeros a pruner may choose."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Unstructured:
    """Any positions; `sparsity` is the fraction of zeros, exact to the rounding in every layer."""

    sparsity: float

    def zeros(self, weight: Tensor) -> int:
        """How many zeros a weight shall have; never fewer than it has."""
        size = int(weight.numel())
        return max(round(self.sparsity * size), size - int(weight.count_nonzero()))
