"""The weights that a checkpoint holds, whatever way it stores them."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from cutwork.errors import CutworkError
from cutwork.pack import bfloat16
from cutwork.pack.encodings import MAX_COLS
from cutwork.pack.int4 import RUN_COLS, runs_of
from cutwork.store.bitmask import open_checkpoint
from cutwork.store.directory import kind_of, read_config
from cutwork.store.safetensors import NUMPY, Tensor

_FLOATS = ("F32", "F16", "BF16")
_EMBEDDINGS = ("embed_tokens.weight", "wte.weight", "word_embeddings.weight", "shared.weight")
_TURNED = re.compile(r"(^|\.)h\.\d+\.(attn\.c_attn|attn\.c_proj|mlp\.c_fc|mlp\.c_proj)\.weight$")
_COMPANIONS = ("_scale", "_zero_point", "_shape", "_g_idx")  # of a quantised weight, in compressed-tensors


@dataclass(frozen=True)
class SourceWeight:
    """One weight: floats (`tensor` F32, F16 or BF16), or int8 codes with a float32 `scale` [rows].

    Or, where `group` is not 0, int4 codes (as I8) with a `stored_scale` [rows, groups] for each `group` columns.
    """

    tensor: Tensor
    scale: np.ndarray | None = None
    stored_scale: Tensor | None = None  # as the checkpoint has it, for restoring
    group: int = 0

    @property
    def quantized(self) -> bool:
        """Whether `tensor` holds codes."""
        return self.scale is not None or self.group > 0


class SourceCheckpoint:
    """A plain or quantised checkpoint as weights by their Hugging Face names.

    `names` are in the order of layers; `extras` are tensors that are no weights (integer buffers, calibrated input
    scales); `tied` maps a weight left out to the equal one that is kept. Raises CutworkError for what cannot be read.
    """

    def __init__(self, path: Path) -> None:
        kind = kind_of(path)
        if kind == "packed":
            raise CutworkError(f"{path} is packed already")
        self.path = path
        self.kind: Literal["checkpoint", "quantized"] = kind
        self.config = read_config(path)
        self.tensors = open_checkpoint(path)
        self.tied = self._tied()
        self.names, self.extras = self._sort()
        if not self.names:
            raise CutworkError(f"{path} holds no weights")
        packed = [name for name in self.names if f"{name}_packed" in self.tensors]
        self._int4 = {name: group for name in packed if (group := self._int4_group(name))}
        self.dequantized = len(self._int4) < len(packed)
        if not self.dequantized:
            self.extras = sorted([*self.extras, *(f"{name}_shape" for name in packed)])

    @property
    def nbytes(self) -> int:
        """Bytes of all its tensors, zeros included."""
        described = map(self.tensors.describe, self.tensors)
        return sum(math.prod(shape) * NUMPY[dtype].itemsize for dtype, shape in described)

    @property
    def head(self) -> str | None:
        """The weight that makes logits: the output head, or the embedding that it is tied to."""
        if "lm_head.weight" in self.names:
            return "lm_head.weight"
        if "shared.weight" in self.names:  # T5, whose configs do not tell
            return "shared.weight"
        if self.tied or self.config.get("tie_word_embeddings"):
            return next((name for name in self.names if name.endswith(_EMBEDDINGS)), None)
        return None

    def weight(self, name: str) -> SourceWeight:
        """Read one weight; codes that no kernel reads as they are turn into floats of their scale's dtype.

        Those are asymmetric ones, int8 in groups, and int4 in groups that are no multiple of 32 columns.
        """
        if name in self._int4:
            return SourceWeight(Tensor("I8", self._unpacked(name)), None, self._scale(name), self._int4[name])
        if f"{name}_packed" in self.tensors:
            return SourceWeight(self._dequantize(name, self._unpacked(name)))
        tensor = self.tensors[name]
        if tensor.dtype != "I8":
            return SourceWeight(turned(self.config, name, tensor))
        scale = self._scale(name)
        zero_point = self.tensors.get(f"{name}_zero_point")
        if (zero_point is not None and zero_point.array.any()) or scale.array.size not in (1, tensor.shape[0]):
            return SourceWeight(self._dequantize(name, tensor.array))
        per_row = np.broadcast_to(as_float32(scale).reshape(-1), tensor.shape[:1])
        return SourceWeight(tensor, np.ascontiguousarray(per_row), scale)

    def release(self, name: str) -> None:
        """Let go of the memory of a weight that has been used."""
        for stored in (name, f"{name}_packed"):
            if stored in self.tensors:
                self.tensors.release(stored)

    def _tied(self) -> dict[str, str]:
        """The output head, where the checkpoint repeats the embedding that it is tied to."""
        text_config = self.config.get("text_config")
        config = text_config if isinstance(text_config, dict) else self.config
        tied = self.config.get("tie_word_embeddings", config.get("tie_word_embeddings"))
        head = self.tensors.get("lm_head.weight")
        if tied is not True or head is None:
            return {}
        for name in self.tensors:
            if name.endswith(_EMBEDDINGS):
                embedding = self.tensors[name]
                if embedding.dtype == head.dtype and _same_bits(embedding.array, head.array):
                    return {"lm_head.weight": name}
        return {}

    def _sort(self) -> tuple[list[str], list[str]]:
        """The names of weights, and of extras."""
        weights, extras = [], []
        quantized = set()
        for name in self.tensors:
            dtype, shape = self.tensors.describe(name)
            if name.endswith("weight_packed"):
                quantized.add(name.removesuffix("_packed"))
            elif dtype == "I8" and f"{name}_scale" in self.tensors and len(shape) == 2:
                quantized.add(name)
        companions = {name + end for name in quantized for end in (*_COMPANIONS, "_packed")}
        for name in self.tensors:
            dtype, _ = self.tensors.describe(name)
            if name in self.tied or name in quantized or (name in companions and not name.endswith("_zero_point")):
                continue
            if name in companions:
                extras.append(name)
            elif dtype in ("F64", "F8_E4M3", "F8_E5M2"):
                raise CutworkError(f"{self.path}: '{name}' is {dtype}, which cutwork cannot run; save it as float32")
            elif dtype in _FLOATS and not name.endswith(("input_scale", "output_scale", "k_scale", "v_scale")):
                weights.append(name)
            else:
                extras.append(name)
        return sorted([*weights, *quantized], key=_by_layer), sorted(extras)

    def _scale(self, name: str) -> Tensor:
        scale = self.tensors.get(f"{name}_scale")
        if scale is None or scale.dtype not in _FLOATS:
            raise CutworkError(f"{self.path}: the scale of '{name}' is missing or no float; quantise the model again")
        return scale

    def _unpacked(self, name: str) -> np.ndarray:
        """Int8 codes [rows, cols] of a `pack-quantized` weight."""
        packed = self.tensors[f"{name}_packed"]
        shape = self.tensors.get(f"{name}_shape")
        if packed.dtype != "I32" or len(packed.shape) != 2 or shape is None or shape.array.size != 2:
            raise self._damaged(name)
        rows, cols = (int(n) for n in shape.array.reshape(-1))
        bits = self._bits(name, cols, packed.shape[1])
        if packed.shape[0] != rows:
            raise self._damaged(name)
        return _unpack(packed.array, bits, cols)

    def _bits(self, name: str, cols: int, words: int) -> int:
        """Bits per code, of those that the configuration mentions the one that fits the shape."""
        groups = self.config["quantization_config"].get("config_groups") or {}
        declared = {bits for group in groups.values() if (bits := _weight_bits(group))}
        fitting = [bits for bits in sorted(declared) if -(-cols * bits // 32) == words]
        if len(fitting) != 1 or fitting[0] not in (4, 8):
            found = ", ".join(str(bits) for bits in declared) or "undeclared"
            raise CutworkError(
                f"{self.path}: cannot unpack '{name}' (bits per weight: {found}); only 4 and 8 bits are read"
            )
        return fitting[0]

    def _int4_group(self, name: str) -> int:
        """Columns per scale of a weight whose int4 codes the kernels read, else 0."""
        words = self.tensors.describe(f"{name}_packed")[1]
        shape = self.tensors.get(f"{name}_shape")
        scale = self.tensors.get(f"{name}_scale")
        if len(words) != 2 or shape is None or shape.array.size != 2 or scale is None or scale.dtype not in _FLOATS:
            return 0  # whatever is wrong with it will be told when it is read
        rows, cols = (int(n) for n in shape.array.reshape(-1))
        if not (0 < cols <= MAX_COLS) or scale.shape[:1] != (rows,) or len(scale.shape) != 2 or words[0] != rows:
            return 0
        zero_point = self.tensors.get(f"{name}_zero_point")
        if f"{name}_g_idx" in self.tensors or (zero_point is not None and zero_point.array.any()):
            return 0
        if self._bits(name, cols, words[1]) != 4:
            return 0
        groups = scale.shape[1]
        group = runs_of(cols) * RUN_COLS if groups == 1 else self._group_size(cols, groups)
        return group if group % RUN_COLS == 0 else 0

    def _group_size(self, cols: int, groups: int) -> int:
        """Columns per scale: what the configuration says if that gives so many groups, else equal shares; or 0."""
        declared = {_weight_group(g) for g in (self.config["quantization_config"].get("config_groups") or {}).values()}
        fitting = [size for size in declared if size and -(-cols // size) == groups]
        if len(fitting) == 1:
            return fitting[0]
        return cols // groups if groups and cols % groups == 0 else 0

    def _dequantize(self, name: str, codes: np.ndarray) -> Tensor:
        """Codes to floats of the scale's dtype, rounded as compressed-tensors rounds them."""
        scale = self._scale(name)
        rows, cols = codes.shape
        factors = as_float32(scale).reshape(-1, scale.shape[-1] if len(scale.shape) == 2 else 1)
        group = self.tensors.get(f"{name}_g_idx")
        zero_point = self._zero_point(name, rows)
        values = codes.astype(np.float32)
        size = self._group_size(cols, factors.shape[1])
        if factors.shape[0] not in (1, rows) or (group is None and not size):
            raise self._damaged(name)
        if group is None:
            columns = np.arange(cols) // size
        else:
            columns = group.array.astype(np.int64)
            if columns.shape != (cols,) or columns.min() < 0 or columns.max() >= factors.shape[1]:
                raise self._damaged(name)
        if zero_point is not None:
            if zero_point.shape != factors.shape:
                raise self._damaged(name)
            values -= zero_point[:, columns]
        values *= factors[:, columns]
        return from_float32(values, scale.dtype)

    def _zero_point(self, name: str, rows: int) -> np.ndarray | None:
        """Float32 [rows, groups], or None."""
        stored = self.tensors.get(f"{name}_zero_point")
        if stored is None:
            return None
        array = stored.array
        if stored.dtype == "I32" and f"{name}_packed" in self.tensors:
            shape = self.tensors[f"{name}_shape"].array.reshape(-1)
            bits = self._bits(name, int(shape[1]), self.tensors[f"{name}_packed"].shape[1])
            array = _unpack(np.ascontiguousarray(array.T), bits, rows).T
        return array.reshape(array.shape[0], -1).astype(np.float32)

    def _damaged(self, name: str) -> CutworkError:
        return CutworkError(f"{self.path}: the parts of quantised weight '{name}' do not fit together; get it again")


def turned(config: Mapping[str, Any], name: str, tensor: Tensor) -> Tensor:
    """GPT-2 stores floats of linear layers as [columns, rows], everybody else as [rows, columns]: the other of the two
    for a weight of such a layer, any other tensor as it is. Codes are [rows, columns] everywhere."""
    if config.get("model_type") != "gpt2" or not _TURNED.search(name):
        return tensor
    return Tensor(tensor.dtype, np.ascontiguousarray(tensor.array.T))


def as_float32(tensor: Tensor) -> np.ndarray:
    """The values of a float tensor, exactly."""
    if tensor.dtype == "BF16":
        return bfloat16.to_float32(tensor.array)
    return tensor.array.astype(np.float32, copy=False)


def from_float32(values: np.ndarray, dtype: str) -> Tensor:
    """Float32 values rounded to F32, F16 or BF16."""
    if dtype == "BF16":
        return Tensor(dtype, bfloat16.from_float32(values))
    with np.errstate(over="ignore"):
        return Tensor(dtype, values.astype(np.float16 if dtype == "F16" else np.float32, copy=False))


def _same_bits(a: np.ndarray, b: np.ndarray) -> bool:
    return a.shape == b.shape and np.array_equal(a.reshape(-1).view(np.uint8), b.reshape(-1).view(np.uint8))


def _weight_bits(group: Any) -> int | None:
    weights = group.get("weights") if isinstance(group, dict) else None
    bits = weights.get("num_bits") if isinstance(weights, dict) else None
    return bits if isinstance(bits, int) else None


def _weight_group(group: Any) -> int:
    weights = group.get("weights") if isinstance(group, dict) else None
    size = weights.get("group_size") if isinstance(weights, dict) else None
    return size if isinstance(size, int) and size > 0 else 0


def pack_nibbles(codes: np.ndarray) -> np.ndarray:
    """Int32 words [rows, ceil(cols / 8)] of int4 codes int8 [rows, cols], as `pack-quantized` stores them."""
    padded = np.zeros((codes.shape[0], -(-codes.shape[1] // 8) * 8), np.uint8)
    padded[:, : codes.shape[1]] = codes + 8
    return np.ascontiguousarray(padded[:, ::2] | padded[:, 1::2] << 4).view("<i4")


def _unpack(words: np.ndarray, bits: int, cols: int) -> np.ndarray:
    """Int8 codes [rows, cols] of int32 words [rows, n], low bits first, stored with an offset."""
    octets = words.view(np.uint8)
    if bits == 4:
        octets = np.stack([octets & 15, octets >> 4], axis=-1).reshape(len(words), -1)
    return (octets[:, :cols].astype(np.int16) - (1 << (bits - 1))).astype(np.int8)


def _by_layer(name: str) -> list[tuple[int, str]]:
    """Sort key that puts layer 2 before layer 10."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"\.", name)]
