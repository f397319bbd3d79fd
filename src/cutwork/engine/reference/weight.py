"""The reference executor's weights: matrices as NumPy arrays, dequantised when they are used."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from cutwork.pack.decode import decode
from cutwork.pack.int4 import scales_of
from cutwork.pack.masked import mask_shape
from cutwork.pack.record import DType, EncodedWeight, Encoding
from cutwork.store import bfloat16


@dataclass(frozen=True)
class Weight:
    """A matrix [rows, cols], expanded: float32 values, or int8 codes that `scale` float32 [rows] turns into values.

    Or int4 codes with a `scale` float32 [rows, groups] for every `group` columns.
    """

    values: np.ndarray
    scale: np.ndarray | None
    encoding: str
    dtype: str
    group: int = 0
    reordered_bytes: int = 0

    def reorder(self) -> bool:
        """There is one order only."""
        return False

    @staticmethod
    def dense(values: np.ndarray, scale: np.ndarray | None = None) -> "Weight":
        """From float32, bfloat16 bits (uint16) or int8 of shape [rows, cols]."""
        return Weight(bfloat16.widen(values), scale, "dense", _dtype(values))

    @staticmethod
    def masked(
        encoding: Encoding,
        rows: int,
        cols: int,
        values: np.ndarray,
        mask: np.ndarray,
        offsets: np.ndarray,
        scale: np.ndarray | None = None,
    ) -> "Weight":
        """From the packed format's arrays (docs/format.md)."""
        mask = mask.reshape(mask_shape(encoding, rows, cols)[0])
        floats = bfloat16.widen(values)
        full = decode(EncodedWeight(encoding, _dtype(values), (rows, cols), floats, 0, scale, mask, offsets))
        return Weight(full, scale, encoding, _dtype(values))

    @staticmethod
    def int4(
        rows: int,
        cols: int,
        values: np.ndarray,
        scale: np.ndarray,
        group: int,
        mask: np.ndarray | None = None,
        offsets: np.ndarray | None = None,
    ) -> "Weight":
        """From the packed format's arrays (docs/format.md)."""
        encoding: Literal["dense", "bitmask"] = "dense" if mask is None else "bitmask"
        weight = EncodedWeight(encoding, "i4", (rows, cols), values, 0, scale, mask, offsets, group)
        return Weight(decode(weight), scales_of(weight), encoding, "i4", group)

    @staticmethod
    def slots(
        rows: int,
        cols: int,
        values: np.ndarray,
        scale: np.ndarray,
        keep: int = 0,
        steps: np.ndarray | None = None,
        group: int = 0,
    ) -> "Weight":
        """From the packed format's arrays (docs/format.md)."""
        dtype: DType = "i4" if group else "i8"
        weight = EncodedWeight("slots", dtype, (rows, cols), values, 0, scale, group=group, keep=keep, steps=steps)
        return Weight(decode(weight), scales_of(weight) if group else scale, "slots", dtype, group)

    @property
    def rows(self) -> int:
        """Outputs of the linear layer."""
        return int(self.values.shape[0])

    @property
    def cols(self) -> int:
        """Inputs of the linear layer."""
        return int(self.values.shape[1])

    @property
    def nonzeros(self) -> int:
        """Stored values that are not zero."""
        return int(np.count_nonzero(self.values))

    @property
    def nbytes(self) -> int:
        """Bytes held in memory."""
        return self.values.nbytes + (0 if self.scale is None else self.scale.nbytes)

    def to_dense(self) -> np.ndarray:
        """float32 [rows, cols]."""
        return self.take(np.arange(self.rows))

    def take(self, rows: np.ndarray) -> np.ndarray:
        """float32 [len(rows), cols]: some rows, dequantised."""
        values = self.values[rows].astype(np.float32)
        if self.scale is None:
            return np.asarray(values)
        if self.group:
            return np.asarray(values * self.scale[rows][:, np.arange(self.cols) // self.group], np.float32)
        return np.asarray(values * self.scale[rows, None])

    def matmul(self, x: np.ndarray, threads: int = 1) -> np.ndarray:
        """x float32 [T, cols] → x·Wᵀ float32 [T, rows]; codes meet activations rounded to int8 per token."""
        del threads
        if self.scale is None:
            return np.asarray(x @ self.values.T)
        step = np.abs(x).max(axis=1, keepdims=True) / np.float32(127)
        codes = np.rint(x / np.where(step > 0, step, 1)).clip(-127, 127)
        if self.group:
            return np.asarray(codes.astype(np.float64) @ self.to_dense().T.astype(np.float64) * step, np.float32)
        products = codes.astype(np.float64) @ self.values.T.astype(np.float64)
        return np.asarray(products * step * self.scale, np.float32)


def _dtype(values: np.ndarray) -> DType:
    dtypes: dict[str, DType] = {"float32": "f32", "uint16": "bf16", "int8": "i8"}
    return dtypes[values.dtype.name]
