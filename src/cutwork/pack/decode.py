"""From any encoding back to the dense array."""

import numpy as np

from cutwork.pack.int4 import decode_int4
from cutwork.pack.masked import decode_masked
from cutwork.pack.record import EncodedWeight
from cutwork.pack.slots import decode_slots


def decode(weight: EncodedWeight) -> np.ndarray:
    """The dense array, of `values`' type and of any shape for the dense encoding; codes are int8 and not scaled."""
    if weight.encoding == "slots":
        return decode_slots(weight)
    if weight.dtype == "i4":
        return decode_int4(weight)
    return weight.values if weight.encoding == "dense" else decode_masked(weight)
