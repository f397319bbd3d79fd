"""The n-th largest of groups, and patterns that keep n of m by it."""

import pytest
import torch

from cutwork.prune.nth_largest import nth_largest
from cutwork.prune.pattern import KeepNOfM


@pytest.mark.parametrize("size", [1, 2, 3, 5, 8, 12, 16, 32, 64])
def test_it_is_what_sorting_finds(size: int) -> None:
    values = torch.randn(7, 11, size).round(decimals=1)  # with some equal ones
    values[0, 0, 0] = -torch.inf
    ordered = values.sort(-1, descending=True).values
    for n in range(1, size + 1):
        assert torch.equal(nth_largest(values, n), ordered[..., n - 1])


def test_of_equal_weights_as_many_stay_as_the_pattern_says() -> None:
    costs, live = torch.randn(64, 64).round(decimals=1), torch.rand(64, 64) > 0.5
    costs[0], live[1] = 1.0, False
    keep = KeepNOfM(4, 16).keep(costs, live)
    groups, alive, prices = (each.reshape(-1, 16) for each in (keep, live, costs))
    assert torch.equal(groups.sum(1), alive.sum(1).clamp(max=4)) and not (keep & ~live).any()
    left = prices.masked_fill(groups | ~alive, -torch.inf).amax(1)
    assert (prices.masked_fill(~groups, torch.inf).amin(1) >= left).all()
