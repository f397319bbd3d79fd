"""From a path, or a name of the Hub, to a packed model."""

from pathlib import Path

from cutwork.errors import CutworkError
from cutwork.pack.reader import PackedModel, read_packed
from cutwork.pack.rounding import Rounding
from cutwork.store.directory import kind_of
from cutwork.store.resolve import resolve


def read_model(path: str | Path, weights: Rounding = "auto", threads: int = 0) -> PackedModel:
    """A model directory of any kind, or a model of the Hub, packed in memory if it is not yet.

    Raises CutworkError for what cannot be read, and for `weights` to be rounded of a packed one.
    """
    directory = resolve(path, codes=True)
    if kind_of(directory) == "packed":
        if weights != "auto":
            raise CutworkError(f"{directory} is packed, so its weights stay as they are; leave out weights")
        return read_packed(directory)
    from cutwork.pack.in_memory import pack_in_memory

    return pack_in_memory(directory, weights, threads)
