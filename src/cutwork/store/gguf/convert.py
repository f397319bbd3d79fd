"""A GGUF file as a Hugging Face checkpoint, which everything else reads; made once, and kept in the cache."""

import json
from pathlib import Path
from typing import Any, Literal

import numpy as np
from rich.console import Console

from cutwork.errors import damaged_if_not_understood
from cutwork.store import bfloat16
from cutwork.store.cache import cache_directory
from cutwork.store.fingerprint import digest
from cutwork.store.gguf.config import architecture, hugging_face_config
from cutwork.store.gguf.file import Q4_0, Q4_0_GROUP, GgufFile, GgufTensor
from cutwork.store.gguf.names import laid_out, names
from cutwork.store.gguf.tokenizer import write_tokenizer
from cutwork.store.output import output_directory
from cutwork.store.packed_codes import pack_nibbles
from cutwork.store.safetensors import SafetensorsWriter


def checkpoint_of(path: Path, codes: bool = False) -> Path:
    """The checkpoint made of a GGUF file, in the cache; of another size or time of change it is another file.

    codes: with 4-bit codes as they are, see `write_gguf_checkpoint`. Raises CutworkError for what cannot be read.
    """
    status = path.stat()
    key = digest([path.name, status.st_size, status.st_mtime_ns])
    made = cache_directory() / "gguf" / f"{path.stem}-{key}{'-codes' if codes else ''}"
    if not made.is_dir():
        with Console(stderr=True).status(f"reading {path.name}"), output_directory(made) as partial:
            write_gguf_checkpoint(path, partial, codes=codes)
    return made


def write_gguf_checkpoint(
    path: Path, directory: Path, quantized: Literal["F32", "BF16"] = "BF16", codes: bool = False
) -> None:
    """Write the model of a GGUF file as a checkpoint: floats as they are, `quantized` what is stored in fewer bits.

    codes: what the blocks' linears have in Q4_0 is written as compressed-tensors' `pack-quantized`, bit for bit.

    Raises CutworkError for what cannot be read, and for a missing gguf package what imports raise.
    """
    file = GgufFile(path)
    arch = architecture(file)
    with damaged_if_not_understood(path):
        config = hugging_face_config(file)
        renamed = names(file, arch)
        kept = [name for name in renamed if codes and _is_linear_in_q4_0(file.tensors[name], renamed[name])]
        with SafetensorsWriter(
            directory, len(renamed) + 2 * len(kept), alignment=1, metadata={"format": "pt"}
        ) as writer:
            for name in kept:  # what is widest goes first, so that all are aligned
                writer.add(f"{renamed[name]}_shape", "I64", np.array(file.tensors[name].shape, np.int64))
            for name in kept:
                words = pack_nibbles(laid_out(file.codes(name)[0], name, arch, config))
                writer.add(f"{renamed[name]}_packed", "I32", words)
            floats = renamed.keys() - set(kept)
            for name in sorted(floats, key=lambda name: (file.tensors[name].kind != "F32", name)):
                array = laid_out(file.array(name), name, arch, config)
                stored = file.tensors[name].kind
                dtype = {np.dtype("<f2"): "F16", np.dtype("<u2"): "BF16"}.get(array.dtype, "F32")
                if stored not in ("F32", "F16", "BF16") and quantized == "BF16":
                    array, dtype = bfloat16.from_float32(array), "BF16"
                writer.add(renamed[name], dtype, array)
            for name in kept:
                scales = laid_out(file.codes(name)[1], name, arch, config)
                writer.add(f"{renamed[name]}_scale", "F16", np.ascontiguousarray(scales))
        if kept:
            config["quantization_config"] = _description([renamed[name].removesuffix(".weight") for name in kept])
        (directory / "config.json").write_text(json.dumps(config, indent=2) + "\n")
        write_tokenizer(file, arch, directory)


def _is_linear_in_q4_0(tensor: GgufTensor, name: str) -> bool:
    return tensor.kind == Q4_0 and len(tensor.shape) == 2 and name.startswith("model.layers.")


def _description(linears: list[str]) -> dict[str, Any]:
    """compressed-tensors' of a checkpoint of which these are in Q4_0."""
    weights = {"num_bits": 4, "type": "int", "symmetric": True, "strategy": "group", "group_size": Q4_0_GROUP}
    return {
        "quant_method": "compressed-tensors",
        "format": "pack-quantized",
        "quantization_status": "compressed",
        "config_groups": {"group_0": {"targets": linears, "weights": weights}},
    }
