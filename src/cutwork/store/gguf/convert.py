"""A GGUF file as a Hugging Face checkpoint, which everything else reads; made once, and kept in the cache."""

import json
from pathlib import Path
from typing import Literal

import numpy as np
from rich.console import Console

from cutwork.errors import CutworkError, damaged_if_not_understood
from cutwork.store import bfloat16
from cutwork.store.cache import cache_directory
from cutwork.store.compressed_tensors import Group, description
from cutwork.store.fingerprint import digest, sampled
from cutwork.store.gguf.config import architecture, hugging_face_config
from cutwork.store.gguf.file import Q4_0, Q4_0_GROUP, GgufFile, GgufTensor
from cutwork.store.gguf.names import laid_out, names
from cutwork.store.gguf.tokenizer import write_tokenizer
from cutwork.store.output import output_directory
from cutwork.store.packed_codes import pack_nibbles
from cutwork.store.safetensors import SafetensorsWriter

_FORM = 4  # of what is made: raised where the same file becomes something else


def checkpoint_of(path: Path, codes: bool = False) -> Path:
    """The checkpoint made of a GGUF file, in the cache; at another place, of another size or time of change, or with
    other contents where it was sampled it is another file.

    codes: with 4-bit codes as they are, see `write_gguf_checkpoint`. Raises CutworkError for what cannot be read.
    """
    status = path.stat()
    key = digest([_FORM, str(path.resolve()), status.st_size, status.st_mtime_ns, sampled(path)])
    made = cache_directory() / "gguf" / f"{path.stem}-{key}{'-codes' if codes else ''}"
    if not made.is_dir():
        try:
            with Console(stderr=True).status(f"reading {path.name}"), output_directory(made) as partial:
                write_gguf_checkpoint(path, partial, codes=codes)
        except CutworkError:
            if not made.is_dir():  # else another process was quicker
                raise
    return made


def write_gguf_checkpoint(
    path: Path, directory: Path, quantized: Literal["F32", "BF16"] = "BF16", codes: bool = False
) -> None:
    """Write the model of a GGUF file as a checkpoint: floats as they are, `quantized` what is stored in fewer bits.

    codes: the blocks' linears stay quantised, as compressed-tensors has them: Q4_0 as `pack-quantized`, bit for bit;
    all else, of which a row has several scales, is rounded to `int-quantized`.

    Raises CutworkError for what cannot be read, and for a missing gguf package what imports raise.
    """
    file = GgufFile(path)
    arch = architecture(file)
    with damaged_if_not_understood(path):
        config = hugging_face_config(file)
        renamed = names(file, arch)
        linears = [name for name in renamed if codes and _is_quantized_linear(file.tensors[name], renamed[name])]
        kept = [name for name in linears if file.tensors[name].kind == Q4_0]
        rounded = [name for name in linears if name not in kept]
        tensors = len(renamed) + 2 * len(kept) + len(rounded)
        with SafetensorsWriter(directory, tensors, alignment=1, metadata={"format": "pt"}) as writer:
            for name in kept:  # what is widest goes first, so that all are aligned
                writer.add(f"{renamed[name]}_shape", "I64", np.array(file.tensors[name].shape, np.int64))
            for name in kept:
                words = pack_nibbles(laid_out(file.codes(name)[0], name, arch, config))
                writer.add(f"{renamed[name]}_packed", "I32", words)
            for name in rounded:  # rows of whole blocks of 32, so that what follows is aligned, too
                integers, steps = _int8(laid_out(file.array(name), name, arch, config))
                if not np.isfinite(steps).all():
                    raise CutworkError(f"{path}: '{name}' holds numbers that are not finite; get the file again")
                writer.add(renamed[name], "I8", integers)
                writer.add(f"{renamed[name]}_scale", "F32", steps)
            floats = renamed.keys() - set(linears)
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
        if linears:
            int4 = Group([renamed[name].removesuffix(".weight") for name in kept], 4, Q4_0_GROUP)
            int8 = Group([renamed[name].removesuffix(".weight") for name in rounded], 8)
            config["quantization_config"] = description([group for group in (int4, int8) if group.targets])
        (directory / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        write_tokenizer(file, arch, directory)


def _is_quantized_linear(tensor: GgufTensor, name: str) -> bool:
    return tensor.kind not in ("F32", "F16", "BF16") and len(tensor.shape) == 2 and name.startswith("model.layers.")


def _int8(weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Codes from -127 to 127, int8 [rows, columns], and one scale for each row, float32 [rows, 1]."""
    with np.errstate(all="ignore"):  # damaged weights may be anything
        scales = (np.abs(weight).max(1, keepdims=True) / 127).astype(np.float32)
        codes = np.rint(weight / np.where(scales > 0, scales, 1)).astype(np.int8)
    return codes, scales
