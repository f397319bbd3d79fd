"""Plain and quantised checkpoints as tensors by their usual names, however they are stored. No torch here."""

import json
from pathlib import Path
from typing import Any

from cutwork.store.bitmask import Expanded
from cutwork.store.json_file import read_json
from cutwork.store.renamed import Renamed
from cutwork.store.safetensors import NUMPY_DTYPES, SafetensorsWriter, Tensors, open_tensors
from cutwork.store.text_part import TextPart, wraps_text

Checkpoint = Tensors | Expanded | Renamed


def open_checkpoint(directory: Path) -> Checkpoint:
    """Map the tensors of a checkpoint, whatever way it stores its zeros; of a wrapper those of its language model.

    `Tensors` are what the files hold. Raises CutworkError for missing, damaged or ambiguous files.
    """
    files = open_tensors(directory)
    stored = Expanded(files, directory) if any(name.endswith(".bitmask") for name in files) else files
    return TextPart(stored) if wraps_text(read_json(directory / "config.json")) else stored


def write_checkpoint(tensors: Checkpoint, config: dict[str, Any], directory: Path) -> None:
    """Write tensors and a configuration as a plain checkpoint."""
    # Wide types first: then every tensor is aligned for its type.
    names = sorted(tensors, key=lambda name: -NUMPY_DTYPES[tensors.describe(name)[0]].itemsize)
    with SafetensorsWriter(directory, len(names), alignment=1, metadata={"format": "pt"}) as writer:
        for name in names:
            tensor = tensors[name]
            writer.add(name, tensor.dtype, tensor.array)
    (directory / "config.json").write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
