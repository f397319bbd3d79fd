"""Packing without files, so that the engine runs checkpoints as they are."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from cutwork.pack.convert import convert
from cutwork.pack.manifest import Source
from cutwork.pack.reader import PackedModel
from cutwork.pack.record import EncodedWeight
from cutwork.pack.rounding import Rounding, rounding
from cutwork.pack.source import SourceCheckpoint


def pack_in_memory(path: Path, weights: Rounding = "auto", threads: int = 0) -> PackedModel:
    """Encode a plain or quantised checkpoint; dense weights in the checkpoint's dtype stay views of its mapped files.

    `weights`: what the floats of linears are rounded to, as in `pack`; so many as `threads` (0: a few for each
    CPU) at a time.
    Raises CutworkError for what cannot be read.
    """
    source = SourceCheckpoint(path)
    dtypes = rounding(source, weights)

    def encoded(name: str) -> EncodedWeight:
        return convert(name, source.weight(name), dtypes.get(name, "auto"))

    with ThreadPoolExecutor(threads or None) as pool:
        made = dict(zip(source.names, pool.map(encoded, source.names), strict=True))
    return PackedModel(path, source.config, made, Source(kind=source.kind))
