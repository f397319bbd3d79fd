"""Packed models from their files, mapped and checked."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cutwork.errors import CutworkError
from cutwork.pack.int4 import RUN_WORDS, TILE_ROWS, damage_of, runs_of, scales_of, tiles_of
from cutwork.pack.manifest import Source, WeightEntry, read_manifest
from cutwork.pack.masked import BLOCK_COLS, GROUP_ROWS, groups_of, mask_shape, stored_places
from cutwork.pack.record import ARRAY_DTYPE, MAX_COLS, TAIL_BYTES, EncodedWeight
from cutwork.pack.slots import damage_of_slots, entries_kept, entry_bytes, windows_of
from cutwork.store.safetensors import Tensors, open_tensors

STORED_DTYPE = {"f32": "F32", "bf16": "BF16", "i8": "I8", "i4": "U8"}  # safetensors names


@dataclass(frozen=True)
class PackedModel:
    """A model for the engine: its Hugging Face configuration and its encoded weights by their Hugging Face names.

    `path` is the directory with the tokenizer files. A model whose output head is its embedding has no
    `lm_head.weight`, and `tie_word_embeddings` in its configuration.
    """

    path: Path
    config: dict[str, Any]
    weights: Mapping[str, EncodedWeight]
    source: Source

    @property
    def nbytes(self) -> int:
        """Bytes of all weights."""
        return sum(weight.nbytes for weight in self.weights.values())


def read_packed(path: Path) -> PackedModel:
    """Map a packed model.

    Whatever the headers tell is checked: every tensor is there with the dtype and shape that `cutwork.json` implies.
    The contents of masks and offsets are not read here but where kernels get them, or by `verify`. Raises CutworkError.
    """
    manifest = read_manifest(path)
    tensors = open_tensors(path)
    for name, entry in manifest.weights.items():
        _check_tensors(path, name, entry, tensors)
    return PackedModel(path, manifest.config, _MappedWeights(manifest.weights, tensors), manifest.source)


def verify(name: str, weight: EncodedWeight) -> None:
    """Check in NumPy everything about a weight that a kernel trusts; raises CutworkError naming the weight."""

    def refuse(problem: str) -> CutworkError:
        return CutworkError(f"weight '{name}' is damaged: {problem}; pack the model again")

    scale = scales_of(weight) if weight.dtype == "i4" else weight.scale
    if scale is not None and not np.isfinite(scale).all():
        raise refuse("a scale is not finite")
    if weight.encoding == "dense":
        return
    if weight.dtype == "i4" or weight.encoding == "slots":
        problem = damage_of_slots(weight) if weight.encoding == "slots" else damage_of(weight)
        if problem is not None:
            raise refuse(problem)
        return
    assert weight.mask is not None and weight.offsets is not None
    rows, cols = weight.shape
    offsets = weight.offsets
    if offsets[0] != 0 or offsets[-1] != weight.nonzeros or (offsets[1:] < offsets[:-1]).any():
        raise refuse("its offsets do not rise from 0 to the number of nonzeros")
    counts = np.diff(offsets.astype(np.int64))
    for group in range(len(weight.mask)):
        present = stored_places(weight.encoding, weight.mask[group : group + 1])[0]  # [blocks, 4, 64]
        if np.count_nonzero(present) != counts[group]:
            raise refuse(f"the mask of rows {group * GROUP_ROWS} and after does not match the offsets")
        beyond = np.zeros_like(present)
        beyond[-1, :, cols - (len(present) - 1) * BLOCK_COLS :] = True
        beyond[:, rows - group * GROUP_ROWS :] = True
        first = {"block1x4": np.s_[..., ::4], "block4x1": np.s_[:, :1]}.get(weight.encoding, np.s_[:])
        if (present & beyond)[first].any():
            raise refuse("its mask has bits beyond the last row or column")
        if np.any(weight.values[int(offsets[group]) : int(offsets[group + 1])][beyond[present]]):
            raise refuse("its blocks have values beyond the last row or column")
    if weight.values[weight.nonzeros :].view(np.uint8).any():
        raise refuse("the padding after its values is not zero")


class _MappedWeights(Mapping[str, EncodedWeight]):
    """Weights made from the mapped file when they are asked for; offsets, which kernels add to addresses, are copied:
    those that were checked stay, even if the file is written over."""

    def __init__(self, entries: Mapping[str, WeightEntry], tensors: Tensors) -> None:
        self._entries, self._tensors = entries, tensors

    def __getitem__(self, name: str) -> EncodedWeight:
        entry = self._entries[name]
        parts = {part: self._tensors[stored].array for part, (stored, _, _) in _tensors_of(name, entry).items()}
        return EncodedWeight(
            entry.encoding,
            entry.dtype,
            tuple(entry.shape),
            nonzeros=entry.nonzeros,
            values=parts["values"],
            scale=parts.get("scale"),
            mask=parts.get("mask"),
            offsets=np.array(parts["offsets"]) if "offsets" in parts else None,
            group=entry.group or 0,
            keep=entry.keep or 0,
            steps=parts.get("steps"),
        )

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)


def _tensors_of(name: str, entry: WeightEntry) -> dict[str, tuple[str, str, tuple[int | None, ...]]]:
    """The stored name, dtype and shape of each part of a weight; None is any length."""
    dtype, shape = STORED_DTYPE[entry.dtype], tuple(entry.shape)
    if entry.dtype == "i4":
        return _int4_tensors_of(name, entry)
    parts: dict[str, tuple[str, str, tuple[int | None, ...]]] = {"values": (name, dtype, shape)}
    if entry.encoding == "slots":
        parts = _slots_of(name, entry)
    elif entry.encoding != "dense":
        rows, cols = shape
        mask, word = mask_shape(entry.encoding, rows, cols)
        padded = entry.nonzeros + TAIL_BYTES // ARRAY_DTYPE[entry.dtype].itemsize
        parts = {
            "mask": (f"{name}.mask", f"U{8 * word.itemsize}", mask),
            "values": (f"{name}.values", dtype, (padded,)),
            "offsets": (f"{name}.offsets", "U64", (groups_of(rows) + 1,)),
        }
    if entry.dtype == "i8":
        parts["scale"] = (f"{name}.scale", "F32", shape[:1])
    return parts


def _int4_tensors_of(name: str, entry: WeightEntry) -> dict[str, tuple[str, str, tuple[int | None, ...]]]:
    rows, cols = entry.shape
    tiles, runs = tiles_of(rows), runs_of(cols)
    assert entry.group is not None and entry.scale is not None
    parts: dict[str, tuple[str, str, tuple[int | None, ...]]] = {
        "scale": (f"{name}.scale", entry.scale, (tiles, -(-cols // entry.group), TILE_ROWS))
    }
    if entry.encoding == "slots":
        return parts | _slots_of(name, entry)
    if entry.encoding == "dense":
        return parts | {"values": (name, "U8", (tiles, runs, RUN_WORDS // 2, 64))}
    return parts | {
        "mask": (f"{name}.mask", "U64", (tiles, runs, RUN_WORDS)),
        "values": (f"{name}.values", "U8", (None,)),  # how many bytes, the offsets tell
        "offsets": (f"{name}.offsets", "U64", (tiles + 1,)),
    }


def _slots_of(name: str, entry: WeightEntry) -> dict[str, tuple[str, str, tuple[int | None, ...]]]:
    rows, cols = entry.shape
    number = entries_kept(rows, cols, entry.keep, entry.dtype) if entry.keep else None  # else the steps tell
    slots = (f"{name}.slots", "U8", (number, entry_bytes(entry.dtype)))
    if entry.keep is None:
        return {"values": slots, "steps": (f"{name}.steps", "U8", (tiles_of(rows), windows_of(cols)))}
    return {"values": slots}


def _check_tensors(path: Path, name: str, entry: WeightEntry, tensors: Tensors) -> None:
    if (entry.encoding != "dense" or entry.dtype in ("i8", "i4")) and len(entry.shape) != 2:
        raise CutworkError(f"{path}: '{name}' is no matrix, yet stored as one; pack the model again")
    if (entry.encoding != "dense" or entry.dtype == "i4") and not (entry.shape[0] and 0 < entry.shape[1] <= MAX_COLS):
        raise CutworkError(f"{path}: '{name}' has the impossible shape {entry.shape}; pack the model again")
    for stored, dtype, shape in _tensors_of(name, entry).values():
        if stored not in tensors:
            raise CutworkError(f"{path}: tensor '{stored}' is missing; pack the model again")
        found, size = tensors.describe(stored)
        if (
            found != dtype
            or len(size) != len(shape)
            or any(b not in (None, a) for a, b in zip(size, shape, strict=True))
        ):
            raise CutworkError(
                f"{path}: tensor '{stored}' is {found} {list(size)} and should be {dtype} {list(shape)}; "
                "pack the model again"
            )
