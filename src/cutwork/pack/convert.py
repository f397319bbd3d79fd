"""From a weight of a checkpoint to an encoded one."""

from typing import Literal

import numpy as np

from cutwork.errors import CutworkError
from cutwork.pack.floats import as_float32
from cutwork.pack.int4 import GROUP, encode_int4
from cutwork.pack.masked import encode
from cutwork.pack.record import EncodedWeight
from cutwork.pack.slots import in_slots
from cutwork.pack.source import SourceWeight
from cutwork.store import bfloat16

LOWEST = np.int8(-128)  # a code that kernels cannot negate

_ROWS = 1024  # rounded at a time, so that the temporaries stay small


def convert(
    name: str, weight: SourceWeight, dtype: Literal["auto", "f32", "bf16", "i8", "i4"] = "auto"
) -> EncodedWeight:
    """Encode a weight in `dtype`, or in the checkpoint's (float16 becomes float32) for `auto`.

    Vectors are never rounded: they cost nothing. Int8 codes of -128, which some quantisers make, become -127. `i8`
    rounds to the nearest of 255 multiples of a scale per row, `i4` to that of 16 of a scale per row and 128 columns.
    Raises CutworkError for weights to be rounded that are not finite.
    """
    array = weight.tensor.array
    if weight.group and weight.stored_scale is not None:
        return in_slots(array, encode_int4(array, weight.stored_scale.array, weight.group))
    if weight.scale is not None:
        codes = np.maximum(array, np.int8(-127)) if (array == LOWEST).any() else array
        return in_slots(codes, encode(codes, weight.scale))
    if dtype in ("i8", "i4"):
        values = as_float32(weight.tensor)
        if not np.isfinite([values.min(), values.max()]).all():
            raise CutworkError(f"{name} has weights that are not finite; the model is damaged")
        codes, scale = _round(values) if dtype == "i8" else _round_int4(values)
        return in_slots(codes, encode(codes, scale) if dtype == "i8" else encode_int4(codes, scale, GROUP))
    if weight.tensor.dtype == "BF16":
        array = bfloat16.to_float32(array) if dtype == "f32" else array
    elif dtype == "bf16" and array.ndim > 1:
        array = bfloat16.from_float32(as_float32(weight.tensor))
    else:
        array = as_float32(weight.tensor)
    return encode(array, allow_bitmask=name.endswith(".weight"))


def _round(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(int8 codes [rows, cols], float32 scales [rows]) of a matrix, some rows at a time."""
    codes = np.empty(values.shape, np.int8)
    scales = np.empty(len(values), np.float32)
    for start in range(0, len(values), _ROWS):
        part = slice(start, start + _ROWS)
        scales[part] = np.abs(values[part]).max(axis=1) / 127
        codes[part] = np.rint(values[part] / np.where(scales[part] == 0, 1, scales[part])[:, None])
    return codes, scales


def _round_int4(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(int8 codes [rows, cols] from -8 to 7, bfloat16 scales [rows, groups]) of a matrix, some rows at a time."""
    rows, cols = values.shape
    codes = np.empty(values.shape, np.int8)
    starts = np.arange(0, cols, GROUP)
    scales = np.empty((rows, len(starts)), np.uint16)
    for start in range(0, rows, _ROWS):
        part = slice(start, start + _ROWS)
        scales[part] = bfloat16.from_float32(np.maximum.reduceat(np.abs(values[part]), starts, axis=1) / 7.5)
        steps = bfloat16.to_float32(scales[part])
        steps = np.where(steps == 0, 1, steps).repeat(GROUP, axis=1)[:, :cols]
        codes[part] = np.rint(values[part] / steps).clip(-8, 7)
    return codes, scales
