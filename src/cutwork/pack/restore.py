"""From a packed model back to the checkpoint it was made of."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from cutwork.errors import CutworkError, damaged_if_not_understood
from cutwork.pack.convert import LOWEST
from cutwork.pack.decode import decode
from cutwork.pack.floats import from_float32, transposed
from cutwork.pack.int4 import dequantize, row_scales
from cutwork.pack.masked import mask_shape
from cutwork.pack.pack import Progress
from cutwork.pack.reader import STORED_DTYPE, PackedModel, read_packed, verify
from cutwork.pack.record import EncodedWeight
from cutwork.pack.zeros import restore_negative_zeros
from cutwork.store import bfloat16
from cutwork.store.directory import copy_side_files
from cutwork.store.output import output_directory
from cutwork.store.packed_codes import pack_nibbles
from cutwork.store.safetensors import NUMPY_DTYPES, SafetensorsWriter, Tensor, Tensors, open_tensors


def restore(packed: Path, output: Path, *, overwrite: bool = False, progress: Progress | None = None) -> int:
    """Write the checkpoint that was packed into `output`, tensor for tensor and bit for bit; returns its bytes.

    Not restored are asymmetric codes and those in groups that kernels do not read, which come back as the floats they
    stand for, and what `--dtype bf16` rounded off. Every weight is verified. Raises CutworkError for damage, a taken
    `output`, a full disk.
    """
    with damaged_if_not_understood(packed):
        model = read_packed(packed)
        jobs = _tensors_to_write(model, open_tensors(packed))
    # Wide types first: then every tensor is aligned for its type without fillers, which a checkpoint must not have.
    names = sorted(jobs, key=lambda name: -NUMPY_DTYPES[jobs[name][0]].itemsize)
    with damaged_if_not_understood(packed), output_directory(output, overwrite, source=packed) as directory:
        with SafetensorsWriter(directory, len(jobs), alignment=1, metadata={"format": "pt"}) as writer:
            for done, name in enumerate(names):
                if progress:
                    progress(done, len(names))
                tensor = jobs[name][1]()
                writer.add(name, tensor.dtype, tensor.array)
        (directory / "config.json").write_text(
            json.dumps(model.config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8"
        )
        copy_side_files(packed, directory)
    if progress:
        progress(len(names), len(names))
    return writer.total_bytes


def _tensors_to_write(model: PackedModel, stored: Tensors) -> dict[str, tuple[str, Callable[[], Tensor]]]:
    """The dtype and the maker of every tensor of the checkpoint, by name."""
    source = model.source
    keep_codes = "quantization_config" in model.config
    jobs: dict[str, tuple[str, Callable[[], Tensor]]] = {}
    for name, weight in model.weights.items():
        if weight.dtype == "i4":
            jobs |= _int4_tensors(model, name, keep_codes)
            continue
        scale_dtype = source.dtypes.get(f"{name}_scale", "F32")
        dtype = source.dtypes.get(name, STORED_DTYPE[weight.dtype])
        if weight.dtype == "i8" and not keep_codes:
            dtype = source.dtypes.get(name, scale_dtype)
        if dtype not in ("F32", "F16", "BF16", "I8") or scale_dtype not in ("F32", "F16", "BF16"):
            raise CutworkError(f"{model.path}: '{name}' cannot have been {dtype}; pack the model again")
        jobs[name] = (dtype, partial(_weight, model, stored, name, dtype))
        if dtype == "I8":
            shape = source.scale_shapes.get(name, [weight.shape[0], 1])
            jobs[f"{name}_scale"] = (
                scale_dtype,
                partial(_scale, model, name, shape, scale_dtype),
            )
    for name in source.extras:
        if name not in stored:
            raise CutworkError(f"{model.path}: tensor '{name}' is missing; pack the model again")
        jobs[name] = (stored.describe(name)[0], partial(stored.__getitem__, name))
    for name, equal in source.tied.items():
        if equal not in jobs:
            raise CutworkError(f"{model.path}: '{name}' is tied to '{equal}', which is missing; pack the model again")
        jobs[name] = jobs[equal]
    return jobs


def _int4_tensors(model: PackedModel, name: str, keep_codes: bool) -> dict[str, tuple[str, Callable[[], Tensor]]]:
    """Codes and scales, or the floats they stand for; the tensor that tells the shape is one of the extras."""
    weight = model.weights[name]
    assert weight.scale is not None
    scale_dtype = {"float32": "F32", "float16": "F16", "uint16": "BF16"}[weight.scale.dtype.name]
    dtype = model.source.dtypes.get(name, None if keep_codes else scale_dtype)
    if dtype is not None:
        if dtype not in ("F32", "F16", "BF16"):
            raise CutworkError(f"{model.path}: '{name}' cannot have been {dtype}; pack the model again")
        return {name: (dtype, lambda: _floats(model, name, dequantize(_verified(name, weight)), dtype))}
    return {
        f"{name}_packed": ("I32", lambda: Tensor("I32", pack_nibbles(decode(_verified(name, weight))))),
        f"{name}_scale": (scale_dtype, lambda: Tensor(scale_dtype, row_scales(weight))),
    }


def _verified(name: str, weight: EncodedWeight) -> EncodedWeight:
    verify(name, weight)
    return weight


def _weight(model: PackedModel, stored: Tensors, name: str, dtype: str) -> Tensor:
    weight = model.weights[name]
    verify(name, weight)
    dense = decode(weight)
    if weight.dtype == "i8":
        return _codes(model, dense, stored.get(f"{name}.lowest"), name, dtype)
    if dtype != STORED_DTYPE[weight.dtype]:
        dense = from_float32(bfloat16.widen(dense), dtype).array
    signs = stored.get(f"{name}.negative_zeros")
    if signs is not None:
        if weight.mask is None or signs.dtype != "U64" or signs.shape != mask_shape("bitmask", *weight.shape)[0]:
            raise CutworkError(f"{model.path}: '{name}.negative_zeros' is damaged; pack the model again")
        restore_negative_zeros(dense, signs.array)
    return transposed(model.config, name, Tensor(dtype, dense))


def _floats(model: PackedModel, name: str, values: np.ndarray, dtype: str) -> Tensor:
    return transposed(model.config, name, from_float32(values, dtype))


def _codes(model: PackedModel, dense: np.ndarray, lowest: Tensor | None, name: str, dtype: str) -> Tensor:
    if lowest is not None:
        if lowest.dtype != "U64" or (lowest.array >= dense.size).any():
            raise CutworkError(f"'{name}.lowest' is damaged; pack the model again")
        dense = np.array(dense)
        dense.reshape(-1)[lowest.array] = LOWEST
    if dtype == "I8":
        return Tensor(dtype, dense)
    scale = model.weights[name].scale
    assert scale is not None
    return _floats(model, name, dense.astype(np.float32) * scale[:, None], dtype)


def _scale(model: PackedModel, name: str, shape: list[int], dtype: str) -> Tensor:
    weight = model.weights[name]
    assert weight.scale is not None
    count = int(np.prod(shape, dtype=np.int64))
    if count not in (1, weight.scale.size):
        raise CutworkError(f"{model.path}: the scale of '{name}' cannot have had shape {shape}; pack the model again")
    return from_float32(weight.scale[:count].reshape(shape), dtype)
