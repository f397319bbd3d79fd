"""Weights laid out anew where the processor at hand goes through them faster than as they are stored.

A bitmask is the smallest form of most zeros, but only AVX-512's VBMI2 expands it as fast as memory is read, and int4's
pairs of nibbles nowhere. Else slots are faster (`pack.slots`), and where neither is faster than no zeros at all, the
weight is written out dense.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Self

import numpy as np

from cutwork.engine.backend import Costs, TimedWeight
from cutwork.engine.weights.huge_pages import copied
from cutwork.pack.record import EncodedWeight

Layout = Literal["slots", "dense"]

# Slots per nonzero of a mask without a pattern, by its fraction of zeros: strips of four rows, whose windows of 16
# columns go on from the next nonzero (random masks of 2,048 columns). From _WIDE zeros on windows of 32 take less.
_ZEROS = (0.0, 0.5, 0.6, 0.7, 0.75, 0.8, 0.85)
_SLOTS = (1.0, 1.1, 1.15, 1.25, 1.34, 1.49, 1.77)
_WIDE = 0.85
_WIDE_ZEROS = (0.85, 0.9, 0.95, 1.0)
_WIDE_SLOTS = (1.32, 1.54, 2.37, 8.0)
# Those of int4, whose strips begin anew with each block of 64 columns and each group of columns that share a scale, by
# the group's size.
_INT4_ZEROS = (0.0, 0.25, 0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 1.0)
_INT4_SLOTS = {
    32: (1.1, 1.22, 1.4, 1.51, 1.67, 1.77, 1.96, 2.41, 3.1, 5.07, 16.0),
    64: (1.05, 1.16, 1.27, 1.34, 1.48, 1.58, 1.76, 2.09, 2.67, 5.06, 16.0),  # and more
}
_WORTH = 0.9  # of the time of the stored form, which takes less memory, and of dense, which never disappoints
_PROMPT = 512  # tokens
# By tokens at a time, as far as there may be so many sequences: of dense's speed, below which zeros cost time. Of 16
# sequences a bitmask of int8, which goes through prompts twice as fast, may cost a little: where there is memory it is
# reordered, and that is over.
_EVEN = {1: 1.0, 4: 0.95, 16: 0.85, _PROMPT: 0.95}


def told(layout: Layout, isa: str, together: int) -> str:
    """What became of weights and why, for people."""
    if layout == "slots":
        return f"laid out in slots when loaded, which {isa} kernels go through faster than a bitmask"
    where = f" for some of the 1 to {together} sequences at a time or for prompts" if together > 1 else ""
    return f"written out dense when loaded: with {isa} kernels these zeros would cost time{where}"


@dataclass(frozen=True)
class Arrangement:
    """Which weights to lay out anew, by their stored name, and how; every layout gives the same sums.

    together: sequences that may be decoded at a time. copies: nothing of their file is kept, neither their scales nor
    what stays as it is in the end. may_be_dense: what proves slow in slots may be written out dense after all.
    """

    layouts: Mapping[str, Layout]
    costs: Costs
    threads: int
    together: int = 1
    copies: bool = False
    may_be_dense: bool = False

    @classmethod
    def of(
        cls,
        weights: Mapping[str, EncodedWeight],
        costs: Costs,
        threads: int,
        *,
        together: int,
        budget: int,
        copies: bool = False,
    ) -> Self:
        """What is fastest with so many threads for tokens, batches and prompts, and slower than dense for none.

        budget: bytes that dense layouts may take beyond what is stored; where they would take more there are none.
        """
        empty = cls({}, costs, threads, together, copies)
        layouts = {name: layout for name, weight in weights.items() if (layout := empty._fastest(weight))}

        def beyond(*chosen: Layout) -> int:
            dense = [weights[name] for name, layout in layouts.items() if layout in chosen]
            return sum(weight.size // (2 if weight.dtype == "i4" else 1) - weight.nbytes for weight in dense)

        may_be_dense = beyond("dense", "slots") <= budget
        if beyond("dense") > budget:
            layouts = {name: layout for name, layout in layouts.items() if layout != "dense"}
        return cls(layouts, costs, threads, together, copies, may_be_dense)

    def source(self, name: str, stored: EncodedWeight) -> EncodedWeight:
        """What the weight of this name is to be made of."""
        return copied(stored) if self.copies and name in self.layouts else stored

    def apply(self, name: str, weight: TimedWeight) -> TimedWeight:
        """The weight of this name as it should be; what is to be in slots is judged again by how many there are.

        Raises MemoryError.
        """
        layout = self.layouts.get(name)
        slots = weight.in_slots() if layout == "slots" else None
        if slots:
            shape = (weight.rows, weight.cols)
            times: dict[Layout | None, dict[int, float]] = {
                None: self._seconds(weight.encoding, weight.dtype, shape, weight.stored),
                "dense": self._seconds("dense", weight.dtype, shape, weight.rows * weight.cols),
                "slots": self._seconds("slots", weight.dtype, shape, slots.stored, slots.form),
            }
            layout = _best(times)
            if layout == "dense" and not self.may_be_dense:
                layout = "slots" if sum(times["slots"].values()) < sum(times[None].values()) else None
        if layout == "slots" and slots:
            return slots
        dense = weight.in_dense() if layout == "dense" else None
        return dense or weight

    def _fastest(self, weight: EncodedWeight) -> Layout | None:
        if weight.encoding != "bitmask" or weight.dtype not in ("i8", "i4"):
            return None  # sums of floats depend on the layout, and answers must not depend on the threads
        stored = weight.nonzeros
        if weight.dtype == "i4" and weight.offsets is not None:
            stored = 2 * int(weight.offsets[-1])  # bytes of two codes, some of which are padding
        times: dict[Layout | None, dict[int, float]] = {
            None: self._seconds("bitmask", weight.dtype, weight.shape, stored),
            "dense": self._seconds("dense", weight.dtype, weight.shape, weight.size),
        }
        each, form = _slots_per_nonzero(weight)
        slots = round(weight.nonzeros * each)
        times["slots"] = self._seconds("slots", weight.dtype, weight.shape, slots, form)
        return _best(times)

    def _seconds(
        self, encoding: str, dtype: str, shape: tuple[int, ...], stored: int, form: str = "tiles"
    ) -> dict[int, float]:
        """Of a token, by how many come at a time: alone, in batches and in a prompt."""
        rows, cols = shape
        what = (encoding, dtype, rows, cols, stored)
        counts = [count for count in _EVEN if count <= max(self.together, 1) or count == _PROMPT]
        return {
            n: self.costs.seconds(self.costs.choose(*what, n), *what, n, self.threads, form=form) / n for n in counts
        }


def _slots_per_nonzero(weight: EncodedWeight) -> tuple[float, str]:
    """As expected of a mask without a pattern, and in which form."""
    if weight.dtype == "i4":
        group = max(size for size in _INT4_SLOTS if size <= max(weight.group, min(_INT4_SLOTS)))
        return float(np.interp(weight.sparsity, _INT4_ZEROS, _INT4_SLOTS[group])), "strips"
    if weight.sparsity > _WIDE:
        return float(np.interp(weight.sparsity, _WIDE_ZEROS, _WIDE_SLOTS)), "wide"
    return float(np.interp(weight.sparsity, _ZEROS, _SLOTS)), "strips"


def _best(times: Mapping[Layout | None, Mapping[int, float]]) -> Layout | None:
    """None: as it is stored. Times are of the same tokens in all layouts."""
    most = {tokens: seconds / _EVEN[tokens] for tokens, seconds in times["dense"].items()}
    sums = {
        layout: sum(each.values())
        for layout, each in times.items()
        if all(seconds <= most[tokens] for tokens, seconds in each.items())
    }
    stays, dense = sums.get(None, float("inf")), sums["dense"]
    if sums.get("slots", float("inf")) < _WORTH * min(stays, dense):
        return "slots"
    return "dense" if dense < _WORTH * stays else None
