"""Rounding to nearest."""

from torch import Tensor

from cutwork.quantize.grid import Grid, Quantized


def rtn(weight: Tensor, grid: Grid, importance: Tensor | None = None) -> Quantized:
    """Round every entry of a weight [out, in] to the nearest code of its row or group; zeros get code 0.

    `importance` [in] tells which columns' errors matter when a range is clipped.
    """
    return grid.nearest(weight, grid.scales(weight, importance))
