"""Which matrices of a checkpoint are rounded, where its floats are to run in few bits."""

from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Literal

from cutwork.architectures import architecture_of, linears
from cutwork.errors import CutworkError
from cutwork.pack.source import SourceCheckpoint
from cutwork.store.block_names import in_block

Rounding = Literal["auto", "i8", "i4"]


def rounding(
    source: SourceCheckpoint, weights: Rounding, head: Rounding = "auto", embedding: Literal["auto", "i8"] = "auto"
) -> Mapping[str, Literal["i8", "i4"]]:
    """The dtypes of the matrices that are rounded, by name; `auto` leaves them as they are.

    weights: of the linears that `cutwork quantize` would quantise. head: of the output head, in int8 by default where
    the others are rounded. embedding: of that of a model whose head is another weight. Raises CutworkError for a model
    that the engine does not run, and if there is no such head or embedding.
    """
    if head != "auto" and source.head is None:
        raise CutworkError(f"{source.path} has no output head, so none can be {head}; leave head out")
    if embedding != "auto" and (source.embedding is None or source.embedding == source.head):
        raise CutworkError(
            f"{source.path} has no embedding apart from its output head; leave embedding out, head rounds both"
        )
    dtypes: dict[str, Literal["i8", "i4"]] = {}
    if weights != "auto":
        dtypes = dict.fromkeys(_block_linears(source), weights)
        head = "i8" if head == "auto" else head
    if head != "auto" and source.head:
        dtypes[source.head] = head
    if embedding != "auto" and source.embedding:
        dtypes[source.embedding] = embedding
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
