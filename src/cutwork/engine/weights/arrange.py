"""Weights laid out anew where the processor at hand goes through them faster than as they are stored.

A bitmask is the smallest form of most zeros, but only AVX-512's VBMI2 expands it as fast as memory is read. Elsewhere
slots are (`pack.slots`), and where neither is faster than no zeros at all, the weight is written out dense.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Self

import numpy as np

from cutwork.engine.backend import Costs, TimedWeight, native
from cutwork.engine.weights.huge_pages import copied
from cutwork.pack.int4 import encode_int4, row_scales
from cutwork.pack.record import EncodedWeight

Layout = Literal["slots", "dense"]

# Slots per nonzero of a mask without a pattern, by its fraction of zeros: strips of four rows, whose windows of 16
# columns go on from the next nonzero (random masks of 2,048 columns).
_ZEROS = (0.0, 0.5, 0.6, 0.7, 0.75, 0.8, 0.9, 1.0)
_SLOTS = (1.0, 1.08, 1.13, 1.23, 1.31, 1.47, 2.31, 6.0)
_STARTS = 13 / 12  # of the bytes of slots, with where each strip's windows start
_WORTH = 0.9  # of the time of the stored form, which takes less memory, and of dense, which never disappoints
_AT_ONCE = (1, 16, 512)  # as many tokens come alone as in batches of 16 and in prompts of 512


@dataclass(frozen=True)
class Arrangement:
    """Which weights to lay out anew, by their stored name, and how; every layout gives the same sums.

    copies: nothing of their file is kept, neither their scales nor what stays as it is in the end.
    """

    layouts: Mapping[str, Layout]
    costs: Costs
    threads: int
    copies: bool = False

    @classmethod
    def of(cls, weights: Mapping[str, EncodedWeight], costs: Costs, threads: int, *, copies: bool = False) -> Self:
        """What is fastest with so many threads, for tokens that are decoded and for prompts together."""
        fastest = {name: _fastest(weight, costs, threads) for name, weight in weights.items()}
        return cls({name: layout for name, layout in fastest.items() if layout}, costs, threads, copies)

    def source(self, name: str, stored: EncodedWeight) -> EncodedWeight:
        """What the weight of this name is to be made of."""
        return copied(stored) if self.copies and name in self.layouts else stored

    def apply(self, name: str, weight: TimedWeight, stored: EncodedWeight) -> TimedWeight:
        """The weight of this name as it should be; what is to be in slots is judged again by how many there are.

        Raises MemoryError.
        """
        layout = self.layouts.get(name)
        if layout == "slots":
            stays = self._seconds(weight, weight.encoding, weight.stored)
            dense = self._seconds(weight, "dense", weight.rows * weight.cols)
            slots = weight.in_slots()
            if slots and self._seconds(slots, slots.encoding, slots.stored) < _WORTH * min(stays, dense):
                return slots
            layout = "dense" if dense < _WORTH * stays else None
        return _dense(weight, stored) if layout == "dense" else weight

    def _seconds(self, weight: TimedWeight, encoding: str, count: int) -> float:
        return _seconds(self.costs, encoding, weight.dtype, weight.rows, weight.cols, count, self.threads)


def _dense(weight: TimedWeight, stored: EncodedWeight) -> TimedWeight:
    if stored.dtype == "i8":
        return native().Weight.dense(weight.to_dense(), stored.scale)
    codes = encode_int4(weight.to_dense(), row_scales(stored), stored.group, allow_bitmask=False)
    assert codes.scale is not None
    return native().Weight.int4(weight.rows, weight.cols, codes.values, codes.scale, codes.group)


def _fastest(weight: EncodedWeight, costs: Costs, threads: int) -> Layout | None:
    if weight.encoding != "bitmask" or weight.dtype not in ("i8", "i4"):
        return None  # sums of floats depend on the layout, and answers must not depend on the threads
    rows, cols = weight.shape
    stored = weight.nonzeros
    if weight.dtype == "i4" and weight.offsets is not None:
        stored = 2 * int(weight.offsets[-1])  # bytes of two codes, some of which are padding
    limit = _WORTH * _seconds(costs, "bitmask", weight.dtype, rows, cols, stored, threads)
    times: dict[Layout, float] = {"dense": _seconds(costs, "dense", weight.dtype, rows, cols, rows * cols, threads)}
    if weight.dtype == "i8":
        slots = round(_STARTS * weight.nonzeros * float(np.interp(weight.sparsity, _ZEROS, _SLOTS)))
        times["slots"] = _seconds(costs, "slots", weight.dtype, rows, cols, slots, threads)
    best = min(times, key=lambda layout: times[layout])
    return best if times[best] < limit else None


def _seconds(costs: Costs, encoding: str, dtype: str, rows: int, cols: int, stored: int, threads: int) -> float:
    """Of a token each that comes alone, in a batch and in a prompt."""
    shape = (encoding, dtype, rows, cols, stored)
    return sum(costs.seconds(costs.choose(*shape, count), *shape, count, threads) / count for count in _AT_ONCE)
