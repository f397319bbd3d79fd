"""The codes of quantised checkpoints, as compressed-tensors stores them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from cutwork.errors import CutworkError
from cutwork.pack.floats import FLOATS, as_float32, from_float32
from cutwork.pack.int4 import RUN_COLS, runs_of
from cutwork.pack.record import MAX_COLS
from cutwork.store.checkpoint import Checkpoint
from cutwork.store.compressed_tensors import declared
from cutwork.store.packed_codes import unpack_codes
from cutwork.store.safetensors import Tensor

COMPANIONS = ("_scale", "_zero_point", "_shape", "_g_idx")  # of a quantised weight, in compressed-tensors


class Codes:
    """The quantised weights among `tensors`. Raises CutworkError for parts that do not fit together."""

    def __init__(self, path: Path, tensors: Checkpoint, config: Mapping[str, Any]) -> None:
        self._path, self._tensors, self._config = path, tensors, config

    def scale(self, name: str) -> Tensor:
        """The scales of a weight, in any float."""
        scale = self._tensors.get(f"{name}_scale")
        if scale is None or scale.dtype not in FLOATS:
            raise CutworkError(f"{self._path}: the scale of '{name}' is missing or no float; quantise the model again")
        return scale

    def unpacked(self, name: str) -> np.ndarray:
        """Int8 codes [rows, cols] of a `pack-quantized` weight."""
        packed = self._tensors[f"{name}_packed"]
        shape = self._tensors.get(f"{name}_shape")
        if packed.dtype != "I32" or len(packed.shape) != 2 or shape is None or shape.array.size != 2:
            raise self._damaged(name)
        rows, cols = (int(n) for n in shape.array.reshape(-1))
        if packed.shape[0] != rows or rows < 1 or cols < 1:
            raise self._damaged(name)
        bits = self._bits(name, cols, packed.shape[1])
        return unpack_codes(packed.array, bits, cols)

    def int4_group(self, name: str) -> int:
        """Columns per scale of a weight whose int4 codes the kernels read, else 0."""
        words = self._tensors.describe(f"{name}_packed")[1]
        shape = self._tensors.get(f"{name}_shape")
        scale = self._tensors.get(f"{name}_scale")
        if len(words) != 2 or shape is None or shape.array.size != 2 or scale is None or scale.dtype not in FLOATS:
            return 0  # whatever is wrong with it will be told when it is read
        rows, cols = (int(n) for n in shape.array.reshape(-1))
        if not (0 < cols <= MAX_COLS) or scale.shape[:1] != (rows,) or len(scale.shape) != 2 or words[0] != rows:
            return 0
        if f"{name}_g_idx" in self._tensors or self._bits(name, cols, words[1]) != 4:
            return 0
        if not self._symmetric(name, rows, scale.shape[1]):
            return 0
        groups = scale.shape[1]
        group = runs_of(cols) * RUN_COLS if groups == 1 else self._group_size(cols, groups)
        return group if group % RUN_COLS == 0 else 0

    def dequantize(self, name: str, codes: np.ndarray) -> Tensor:
        """Codes to floats of the scale's dtype, rounded as compressed-tensors rounds them."""
        scale = self.scale(name)
        rows, cols = codes.shape
        factors = as_float32(scale).reshape(-1, scale.shape[-1] if len(scale.shape) == 2 else 1)
        group = self._tensors.get(f"{name}_g_idx")
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

    def _bits(self, name: str, cols: int, words: int) -> int:
        """Bits per code, of those that the configuration mentions the one that fits the shape."""
        said = declared(self._config, "num_bits")
        fitting = [bits for bits in sorted(said) if -(-cols * bits // 32) == words]
        if len(fitting) != 1 or fitting[0] not in (4, 8):
            found = ", ".join(str(bits) for bits in said) or "undeclared"
            raise CutworkError(
                f"{self._path}: cannot unpack '{name}' (bits per weight: {found}); only 4 and 8 bits are read"
            )
        return fitting[0]

    def _group_size(self, cols: int, groups: int) -> int:
        """Columns per scale: what the configuration says if that gives so many groups, else equal shares; or 0."""
        fitting = [size for size in declared(self._config, "group_size") if -(-cols // size) == groups]
        if len(fitting) == 1:
            return fitting[0]
        return cols // groups if groups and cols % groups == 0 else 0

    def _zero_point(self, name: str, rows: int) -> np.ndarray | None:
        """Float32 [rows, groups], or None."""
        stored = self._tensors.get(f"{name}_zero_point")
        if stored is None:
            return None
        array = stored.array
        if stored.dtype == "I32" and f"{name}_packed" in self._tensors:
            shape = self._tensors[f"{name}_shape"].array.reshape(-1)
            bits = self._bits(name, int(shape[1]), self._tensors[f"{name}_packed"].shape[1])
            array = unpack_codes(np.ascontiguousarray(array.T), bits, rows).T
        return array.reshape(array.shape[0], -1).astype(np.float32)

    def _symmetric(self, name: str, rows: int, groups: int) -> bool:
        """Whether a weight of packed int4 codes has no zero points, or none but zero."""
        stored = self._tensors.get(f"{name}_zero_point")
        if stored is None:
            return True
        if stored.dtype == "I32" and stored.shape != (-(-rows // 8), groups):
            return False  # whatever is wrong with it will be told when it is read
        zero_point = self._zero_point(name, rows)
        return zero_point is None or not zero_point.any()

    def _damaged(self, name: str) -> CutworkError:
        return CutworkError(f"{self._path}: the parts of quantised weight '{name}' do not fit together; get it again")
