"""Adaptive n of 16: more weights where they matter, in a form that runs as fast as keep-n-of-m does.

Every tile of 16 rows × 16 columns gets an n of 0, 4, 8, 12 or 16, and each of its rows keeps that many weights: what
the `slots` encoding stores without an empty slot (cutwork/pack/slots.py).
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from cutwork.errors import CutworkError
from cutwork.prune.pattern import Choice

SIDE = 16  # rows and columns of a tile
STEP = 4  # by which n grows


@dataclass(frozen=True)
class AdaptiveTiles:
    """Tiles get their n by what it saves, under one budget for the whole weight.

    `sparsity` is the fraction of zeros, in units of 64 weights: four of each row of a tile.
    """

    sparsity: float

    @property
    def width(self) -> int:
        """Columns of a tile."""
        return SIDE

    def check(self, rows: int, columns: int) -> None:
        """Tiles must tile the weight."""
        if rows % SIDE or columns % SIDE:
            raise CutworkError(
                f"a weight of {rows}×{columns} cannot be cut into tiles of {SIDE}×{SIDE}; leave this module out with a "
                "rate of 0, or choose another pattern"
            )

    def zeros(self, live: Tensor) -> int:
        """At least the fraction asked for; never fewer than there are."""
        return max(int(live.numel()) - self._units(int(live.numel())) * SIDE * STEP, int((~live).sum()))

    def keep(self, costs: Tensor, live: Tensor, *, by_row: bool = False) -> Tensor:
        """The dearest live weights that tiles of the dearest four per row make room for; `by_row` changes nothing."""
        return _keep(costs, live, self._units(int(live.numel())))

    def choice(self, live: Tensor) -> Choice:
        """A range's share of the budget is that of its live weights, so that the total is what it should be."""
        units, start = self._units(int(live.numel())), 0
        remaining = int(live.sum())

        def choose(costs: Tensor) -> Tensor:
            nonlocal units, start, remaining
            part = live[:, start : start + costs.shape[1]]
            available, start = int(part.sum()), start + costs.shape[1]
            share = min(round(units * available / remaining) if remaining else 0, part.numel() // (SIDE * STEP))
            units, remaining = units - share, remaining - available
            return _keep(costs, part, share)

        return choose

    def _units(self, size: int) -> int:
        return int((1 - self.sparsity) * size / (SIDE * STEP) + 1e-9)


def _keep(costs: Tensor, live: Tensor, units: int) -> Tensor:
    """Which weights [out, in] stay if tiles may keep four per row `units` times in all."""
    rows, columns = costs.shape
    priced = costs.float().masked_fill(~live, -torch.inf)
    tiles = priced.reshape(rows // SIDE, SIDE, columns // SIDE, SIDE).transpose(1, 2)  # [.., .., row, column]
    prices, order = tiles.sort(dim=-1, descending=True, stable=True)
    # What the first, second, … four per row of each tile are worth; never more than those before them.
    worth = prices.clamp_min(0).unflatten(-1, (SIDE // STEP, STEP)).sum((-1, -3)).permute(2, 0, 1)
    chosen = torch.zeros(worth.numel(), dtype=torch.bool, device=costs.device)
    chosen[worth.flatten().argsort(descending=True, stable=True)[:units]] = True  # of equal ones the earlier four
    steps = chosen.view(worth.shape).sum(0)
    stays = torch.arange(SIDE, device=costs.device) < STEP * steps[..., None, None]
    places = torch.zeros_like(tiles, dtype=torch.bool).scatter(-1, order, stays.expand_as(order))
    return places.transpose(1, 2).reshape(rows, columns) & live
