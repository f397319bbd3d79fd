"""The n-th largest of every group of neighbours, by a sorting network over whole columns: several times `topk`."""

from functools import cache

import torch
from torch import Tensor


def nth_largest(groups: Tensor, n: int) -> Tensor:
    """Of values [..., m] the n-th largest of each group [...], 1 ≤ n ≤ m."""
    size = groups.shape[-1]
    columns = list(groups.reshape(-1, size).T.contiguous())
    spare = torch.empty_like(columns[0])
    for low, high in _comparators(size, size - n):
        torch.minimum(columns[low], columns[high], out=spare)
        torch.maximum(columns[low], columns[high], out=columns[high])
        columns[low], spare = spare, columns[low]
    return columns[size - n].reshape(groups.shape[:-1])


@cache
def _comparators(size: int, wanted: int) -> tuple[tuple[int, int], ...]:
    """Batcher's odd-even merge sort (Knuth, volume 3, algorithm 5.2.2M), without what does not reach `wanted`."""
    pairs = []
    merged = 1  # runs of so many are sorted
    while merged < size:
        apart = merged
        while apart:
            for start in range(apart % merged, size - apart, 2 * apart):
                for low in range(start, min(start + apart, size - apart)):
                    if low // (2 * merged) == (low + apart) // (2 * merged):
                        pairs.append((low, low + apart))
            apart //= 2
        merged *= 2
    needed, used = {wanted}, []
    for pair in reversed(pairs):
        if needed.intersection(pair):
            used.append(pair)
            needed.update(pair)
    return tuple(reversed(used))
