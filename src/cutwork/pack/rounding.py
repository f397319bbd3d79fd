"""Which matrices of a checkpoint are rounded, where its floats are to run in few bits."""

from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Literal

from cutwork.architectures import architecture_of, linears
from cutwork.pack.source import SourceCheckpoint
from cutwork.store.block_names import in_block

Rounding = Literal["auto", "i8", "i4"]


def rounding(source: SourceCheckpoint, weights: Rounding, head: Rounding = "auto") -> Mapping[str, Literal["i8", "i4"]]:
    """The dtypes of the matrices that are rounded, by name; `auto` leaves them as they are.

    weights: of the linears that `cutwork quantize` would quantise. head: of the output head, in int8 by default where
    the others are rounded. Raises CutworkError for a model that the engine does not run.
    """
    dtypes: dict[str, Literal["i8", "i4"]] = {}
    if weights != "auto":
        dtypes = dict.fromkeys(_block_linears(source), weights)
        head = "i8" if head == "auto" else head
    if head != "auto" and source.head:
        dtypes[source.head] = head
    return dtypes


def _block_linears(source: SourceCheckpoint) -> list[str]:
    """Names of the linears inside of blocks, but for those that lose by being rounded."""
    family, multiplied = architecture_of(source.config), linears(source.config)
    by_plan = {name: family.plan_name(name) for name in source.names}
    return [
        name
        for name, planned in by_plan.items()
        if planned in multiplied
        and in_block(name)
        and not any(fnmatchcase(planned, pattern) for pattern in family.precise)
    ]
