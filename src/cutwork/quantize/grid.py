"""The values a quantised weight may take: integer codes times a scale per row, or per group of columns of a row."""

from dataclasses import dataclass

import torch
from torch import Tensor

from cutwork.prune.second_order import Fix, output_error

_CLIPS = torch.linspace(1.0, 0.5, 26)  # fractions of the range tried when its ends may be given up


@dataclass(frozen=True)
class Grid:
    """Symmetric codes of `bits`, zero being code 0; `group` columns of a row share a scale, None: all of them.

    Scales are rounded to `scale_dtype` before anything is rounded to them, so that what is stored is what was weighed.
    """

    bits: int = 8
    group: int | None = None
    scale_dtype: torch.dtype = torch.float32

    @property
    def highest(self) -> int:
        """The largest code."""
        return (1 << (self.bits - 1)) - 1

    @property
    def lowest(self) -> int:
        """The smallest code; -127 with 8 bits, whose negation is exact, but -8 with 4, which can spare no code."""
        return -self.highest - (self.bits < 8)

    def scales(self, weight: Tensor, importance: Tensor | None = None) -> Tensor:
        """The scales of a weight [out, in], float32 [out, groups].

        With 8 bits the largest magnitude gets the largest code. With fewer, clipping it may pay: of some clipped ranges
        that with the least squared error wins, weighted by the `importance` [in] of the inputs if given. A group of
        zeros gets scale 1: any scale would do, and dividing by it must not.
        """
        groups = weight.float().unflatten(1, (-1, self.group or weight.shape[1]))
        largest = groups.abs().amax(dim=2)
        scales = torch.where(largest > 0, largest / ((self.highest - self.lowest) / 2), torch.ones_like(largest))
        if self.bits >= 8:
            return self._rounded(scales)
        weights = torch.ones(weight.shape[1]) if importance is None else importance.float()
        weights = weights.to(weight.device).unflatten(0, groups.shape[1:])
        best, least = scales, torch.full_like(scales, torch.inf)
        for clip in _CLIPS.tolist():
            tried = self._rounded(scales * clip)
            codes = (groups / tried[..., None]).round_().clamp_(self.lowest, self.highest)
            error = codes.mul_(tried[..., None]).sub_(groups).square_().mul_(weights).sum(dim=2)
            best = torch.where(error < least, tried, best)
            least = torch.minimum(error, least)
        return best

    def nearest(self, weight: Tensor, scales: Tensor) -> "Quantized":
        """Every entry of a weight [out, in] rounded to the nearest code; zeros get code 0."""
        codes = (weight.float() / spread(scales, weight.shape[1])).round().clamp(self.lowest, self.highest)
        return Quantized(codes.to(torch.int8), scales)

    def _rounded(self, scales: Tensor) -> Tensor:
        # A tiny scale must not become 0; in half precision it may lose four of ten bits, which costs a row less than
        # codes that it cannot use.
        tiny = torch.finfo(self.scale_dtype).tiny
        least = tiny / 64 if self.scale_dtype == torch.float16 else tiny
        return scales.clamp_min(least).to(self.scale_dtype).float()


@dataclass(frozen=True)
class Quantized:
    """Codes int8 [out, in] and scales float32 [out, groups]; the weight is each code times its group's scale."""

    codes: Tensor
    scales: Tensor

    def weight(self) -> Tensor:
        """The weight that the codes stand for, float32 [out, in]."""
        return self.codes.float() * spread(self.scales, self.codes.shape[1])


def spread(scales: Tensor, columns: int) -> Tensor:
    """Scales [out, groups] for every column, [out, in] or, with one group, [out, 1]."""
    groups = scales.shape[1]
    return scales if groups == 1 else scales.repeat_interleave(columns // groups, dim=1)


def fix_to(grid: Grid, scales: Tensor, start: int, live: Tensor) -> Fix:
    """Rounds columns from `start` on to the grid as a sweep fixes them; `live` [in, out] is 0 where zeros stay."""

    def fix(column: int, values: Tensor) -> Tensor:
        scale = scales[:, (start + column) // grid.group if grid.group else 0]
        codes = (values / scale).round_().clamp_(grid.lowest, grid.highest)
        return codes.mul_(scale).mul_(live[start + column])

    return fix


def better_rows(weight: Tensor, fed_back: Quantized, nearest: Quantized, hessian: Tensor) -> Quantized:
    """Of two quantisations of a weight each row of the one that changes its outputs less; the nearest where both do."""
    better = output_error(weight - fed_back.weight(), hessian) < output_error(weight - nearest.weight(), hessian)
    return Quantized(
        torch.where(better[:, None], fed_back.codes, nearest.codes),
        torch.where(better[:, None], fed_back.scales, nearest.scales),
    )
