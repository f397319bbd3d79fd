"""A GGUF file as a Hugging Face checkpoint, which everything else reads; made once, and kept in the cache."""

import json
from pathlib import Path
from typing import Literal

import numpy as np
from rich.console import Console

from cutwork.errors import damaged_if_not_understood
from cutwork.store import bfloat16
from cutwork.store.cache import cache_directory
from cutwork.store.fingerprint import digest
from cutwork.store.gguf.config import architecture, hugging_face_config
from cutwork.store.gguf.file import GgufFile
from cutwork.store.gguf.names import laid_out, names
from cutwork.store.gguf.tokenizer import write_tokenizer
from cutwork.store.output import output_directory
from cutwork.store.safetensors import SafetensorsWriter


def checkpoint_of(path: Path) -> Path:
    """The checkpoint made of a GGUF file, in the cache; of another size or time of change it is another file.

    Raises CutworkError for what cannot be read.
    """
    status = path.stat()
    key = digest([path.name, status.st_size, status.st_mtime_ns])
    made = cache_directory() / "gguf" / f"{path.stem}-{key}"
    if not made.is_dir():
        with Console(stderr=True).status(f"reading {path.name}"), output_directory(made) as partial:
            write_gguf_checkpoint(path, partial)
    return made


def write_gguf_checkpoint(path: Path, directory: Path, quantized: Literal["F32", "BF16"] = "BF16") -> None:
    """Write the model of a GGUF file as a checkpoint: floats as they are, `quantized` what is stored in fewer bits.

    Raises CutworkError for what cannot be read, and for a missing gguf package what imports raise.
    """
    file = GgufFile(path)
    arch = architecture(file)
    with damaged_if_not_understood(path):
        config = hugging_face_config(file)
        renamed = names(file, arch)
        with SafetensorsWriter(directory, len(renamed), alignment=1, metadata={"format": "pt"}) as writer:
            widest_first = sorted(renamed, key=lambda name: file.tensors[name].kind != "F32")  # so that all are aligned
            for name in widest_first:
                array = laid_out(file.array(name), name, arch, config)
                stored = file.tensors[name].kind
                dtype = {np.dtype("<f2"): "F16", np.dtype("<u2"): "BF16"}.get(array.dtype, "F32")
                if stored not in ("F32", "F16", "BF16") and quantized == "BF16":
                    array, dtype = bfloat16.from_float32(array), "BF16"
                writer.add(renamed[name], dtype, array)
        (directory / "config.json").write_text(json.dumps(config, indent=2) + "\n")
        write_tokenizer(file, arch, directory)
