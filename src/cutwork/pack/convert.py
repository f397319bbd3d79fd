"""From a weight of a checkpoint to an encoded one."""

from typing import Literal

import numpy as np

from cutwork.pack import bfloat16
from cutwork.pack.encodings import EncodedWeight, encode
from cutwork.pack.source import SourceWeight, as_float32

LOWEST = np.int8(-128)  # a code that kernels cannot negate


def convert(name: str, weight: SourceWeight, dtype: Literal["auto", "f32", "bf16"] = "auto") -> EncodedWeight:
    """Encode a weight in `dtype`, or in the checkpoint's (float16 becomes float32) for `auto`.

    Vectors are never rounded: they cost nothing. Int8 codes of -128, which some quantisers make, become -127.
    """
    array = weight.tensor.array
    if weight.scale is not None:
        return encode(np.maximum(array, np.int8(-127)) if (array == LOWEST).any() else array, weight.scale)
    if weight.tensor.dtype == "BF16":
        array = bfloat16.to_float32(array) if dtype == "f32" else array
    elif dtype == "bf16" and array.ndim > 1:
        array = bfloat16.from_float32(as_float32(weight.tensor))
    else:
        array = as_float32(weight.tensor)
    return encode(array, allow_bitmask=name.endswith(".weight"))
