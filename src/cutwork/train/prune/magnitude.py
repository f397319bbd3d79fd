"""Magnitude pruning: the smallest weights of a layer go. The baseline of every other method."""

import torch
from torch import Tensor

from cutwork.train.prune.pattern import Unstructured


def magnitude(weight: Tensor, statistics: None, pattern: Unstructured) -> tuple[Tensor, Tensor]:
    """Zero the smallest entries of a weight [out, in]; zeros stay zeros because nothing is smaller.

    Returns the pruned weight, in the weight's dtype, and the mask of live positions (bool), both [out, in].
    """
    smallest = weight.abs().flatten().topk(pattern.zeros(weight), largest=False, sorted=False).indices
    keep = torch.ones_like(weight, dtype=torch.bool)
    keep.view(-1)[smallest] = False
    return weight * keep, keep
