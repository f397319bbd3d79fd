"""Which sets of zeros a pruner may choose, and the cheapest such set for given costs.

Costs are what zeroing each weight adds to an error, so those of weights that go together are summed. A `Choice` is made
from left to right: called with consecutive ranges of columns, it returns which of their weights stay (bool, [out, n]).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from cutwork.errors import CutworkError
from cutwork.prune.nth_largest import nth_largest

Choice = Callable[[Tensor], Tensor]  # costs of the next columns [out, n] -> which of their weights stay


class Pattern(Protocol):
    """What all patterns can do. `live` (bool [out, in]) are the weights not yet zero: the only ones that may stay."""

    @property
    def sparsity(self) -> float:
        """The fraction of zeros."""

    @property
    def width(self) -> int:
        """How many neighbouring columns are chosen together."""

    def check(self, rows: int, columns: int) -> None:
        """Raise CutworkError if a weight of this shape cannot have the pattern."""

    def zeros(self, live: Tensor) -> int:
        """How many zeros a weight gets; never fewer than it has."""

    def keep(self, costs: Tensor, live: Tensor, *, by_row: bool = False) -> Tensor:
        """Which weights stay, all chosen at once; `by_row` shares the zeros out over the rows first."""

    def choice(self, live: Tensor) -> Choice:
        """Which weights stay, chosen a range of columns at a time, each getting its share of the zeros."""


@dataclass(frozen=True)
class Unstructured:
    """Any weights, or any blocks of rows × columns neighbours that go together.

    `sparsity` is the fraction of zeros, exact to the rounding in every layer. A block of zeros never comes back; a
    live block may hold zeros, which count as its own.
    """

    sparsity: float
    rows: int = 1
    columns: int = 1

    @property
    def width(self) -> int:
        """Columns of a block."""
        return self.columns

    def check(self, rows: int, columns: int) -> None:
        """Blocks must tile the weight."""
        if rows % self.rows or columns % self.columns:
            raise CutworkError(
                f"a weight of {rows}×{columns} cannot be cut into blocks of {self.rows}×{self.columns}; leave this "
                "module out with a rate of 0, or choose another pattern"
            )

    def zeros(self, live: Tensor) -> int:
        """At least the fraction asked for, in whole blocks."""
        blocks = self._blocks(live).any(-1)
        size = self.rows * self.columns
        blocks_gone = max(round(self.sparsity * int(blocks.numel())), int((~blocks).sum()))
        return max(blocks_gone * size, int((~live).sum()))

    def keep(self, costs: Tensor, live: Tensor, *, by_row: bool = False) -> Tensor:
        """The dearest blocks; `by_row` compares only within a row of blocks."""
        if not by_row:
            return self.choice(live)(costs)
        blocks, prices = self._blocks(live).any(-1), self._blocks(costs * live).sum(-1)
        dead = (~blocks).sum(1)
        ends = (blocks.sum(1).cumsum(0).double() * self._quota(blocks) / max(int(blocks.sum()), 1)).round().long()
        counts = dead + ends.diff(prepend=ends.new_zeros(1))
        order = prices.masked_fill(~blocks, -torch.inf).argsort(dim=1, stable=True)
        ranks = torch.arange(blocks.shape[1], device=blocks.device).expand_as(order)
        return self._spread(torch.empty_like(blocks).scatter_(1, order, ranks >= counts[:, None])) & live

    def choice(self, live: Tensor) -> Choice:
        """A range's share of the zeros follows its share of the live blocks, so that the total is exact."""
        blocks = self._blocks(live).any(-1)
        quota, remaining = self._quota(blocks), int(blocks.sum())
        start = 0

        def choose(costs: Tensor) -> Tensor:
            nonlocal quota, remaining, start
            end = start + costs.shape[1]
            part = live[:, start:end]
            candidates = blocks[:, start // self.columns : end // self.columns]
            available = int(candidates.sum())
            count = round(quota * available / remaining) if remaining else 0
            prices = self._blocks(costs * part).sum(-1).masked_fill(~candidates, torch.inf)
            stays = candidates & ~cheapest(prices, count)
            quota, remaining, start = quota - count, remaining - available, end
            return self._spread(stays) & part

        return choose

    def _quota(self, blocks: Tensor) -> int:
        """How many live blocks have to go."""
        return max(0, round(self.sparsity * int(blocks.numel())) - int((~blocks).sum()))

    def _blocks(self, matrix: Tensor) -> Tensor:
        """[out, in] as [out / rows, in / columns, rows · columns]."""
        if self.rows == self.columns == 1:
            return matrix[..., None]
        rows, columns = matrix.shape
        cut = matrix.reshape(rows // self.rows, self.rows, columns // self.columns, self.columns)
        return cut.transpose(1, 2).flatten(2)

    def _spread(self, blocks: Tensor) -> Tensor:
        if self.rows == self.columns == 1:
            return blocks
        return blocks.repeat_interleave(self.rows, 0).repeat_interleave(self.columns, 1)


@dataclass(frozen=True)
class KeepNOfM:
    """At most n live weights in every m neighbours along the input; others write this as "prune m-n of m"."""

    n: int
    m: int

    @property
    def sparsity(self) -> float:
        """1 - n/m."""
        return 1 - self.n / self.m

    @property
    def width(self) -> int:
        """Columns of a group."""
        return self.m

    def check(self, rows: int, columns: int) -> None:
        """Groups must tile the rows."""
        if columns % self.m:
            raise CutworkError(
                f"a weight with {columns} inputs cannot keep {self.n} of every {self.m}; leave this module out with a "
                "rate of 0, or choose another pattern"
            )

    def zeros(self, live: Tensor) -> int:
        """The pattern's zeros, and those a group has beyond it."""
        alive = live.unflatten(1, (-1, self.m)).sum(-1)
        return int(live.numel()) - int(alive.clamp(max=self.n).sum())

    def keep(self, costs: Tensor, live: Tensor, *, by_row: bool = False) -> Tensor:
        """The n dearest live weights of each group."""
        groups = costs.masked_fill(~live, -torch.inf).unflatten(1, (-1, self.m))
        stays = (groups >= nth_largest(groups, self.n)[..., None]) & live.unflatten(1, (-1, self.m))
        tied = stays.sum(-1) > self.n
        if tied.any():
            some = groups[tied]
            chosen = torch.zeros_like(some, dtype=torch.bool)
            stays[tied] = chosen.scatter_(-1, some.topk(self.n, dim=-1, sorted=False).indices, value=True)
        return stays.flatten(1)

    def choice(self, live: Tensor) -> Choice:
        """Groups do not depend on each other."""
        start = 0

        def choose(costs: Tensor) -> Tensor:
            nonlocal start
            part = live[:, start : start + costs.shape[1]]
            start += costs.shape[1]
            return self.keep(costs, part)

        return choose


def cheapest(costs: Tensor, count: int) -> Tensor:
    """Mark exactly the `count` smallest entries (bool, shaped like `costs`); of equal ones the first.

    A sample brackets the threshold, so that few entries have to be sorted: twice as fast as `topk` on large weights.
    """
    flat = costs.reshape(-1)
    size = flat.numel()
    if count <= 0:
        return torch.zeros_like(costs, dtype=torch.bool)
    if count >= size:
        return torch.ones_like(costs, dtype=torch.bool)
    low, high = -torch.inf, torch.inf
    if size > 1 << 16:
        sample = flat[:: size // 8192].sort().values
        place, slack = count / size * len(sample), 4 * len(sample) ** 0.5
        if place - slack > 0:
            low = sample[int(place - slack)].item()
        if place + slack < len(sample) - 1:
            high = sample[int(place + slack) + 1].item()
    below = int((flat < low).sum())
    within = flat[(flat >= low) & (flat <= high)]
    if not below < count <= below + within.numel():  # the sample misled
        below, within = 0, flat
    threshold = within.kthvalue(count - below).values
    marked = flat < threshold
    ties = (flat == threshold).nonzero().flatten()
    marked[ties[: count - int(marked.sum())]] = True
    return marked.view(costs.shape)
