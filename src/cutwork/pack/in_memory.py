"""Packing without files, so that the engine runs checkpoints as they are."""

from pathlib import Path

from cutwork.pack.convert import convert
from cutwork.pack.manifest import Source
from cutwork.pack.reader import PackedModel
from cutwork.pack.source import SourceCheckpoint


def pack_in_memory(path: Path) -> PackedModel:
    """Encode a plain or quantised checkpoint; dense weights in the checkpoint's dtype stay views of its mapped files.

    Raises CutworkError for what cannot be read.
    """
    source = SourceCheckpoint(path)
    weights = {name: convert(name, source.weight(name)) for name in source.names}
    return PackedModel(path, source.config, weights, Source(kind=source.kind))
