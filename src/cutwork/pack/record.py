"""A weight as it is stored and as kernels read it. See docs/format.md."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

DType = Literal["f32", "bf16", "i8", "i4"]
Encoding = Literal["dense", "bitmask", "block1x4", "block4x1", "slots"]

TAIL_BYTES = 64  # zeros after the last value, so that a kernel may read a full vector
MAX_COLS = 65536  # the int8 kernels' accumulators hold no more

ARRAY_DTYPE: dict[DType, np.dtype] = {
    "f32": np.dtype("<f4"),
    "bf16": np.dtype("<u2"),
    "i8": np.dtype("i1"),
    "i4": np.dtype("u1"),
}


@dataclass(frozen=True)
class EncodedWeight:
    """A weight as the engine reads it; arrays may be views of a mapped file.

    `values`: float32, uint16 (bfloat16 bits) or int8; the dense array of any `shape`, or for the encodings with a mask
    (2-D only) the nonzeros, or all values of the nonzero blocks, followed by 64 bytes of zeros; `nonzeros` counts them.
    `mask` has `masked.mask_shape`, `offsets` is uint64 [ceil(rows/4) + 1], `scale` float32 [rows] for int8 only.
    For int4 `group` columns share a scale, and the arrays are those of docs/format.md: uint8 values, scales
    float32, float16 or uint16 (bfloat16 bits) [tiles, groups, 16]. In slots, `values` are uint8 [entries, bytes], as
    many as `keep` of 16 columns take, or `steps`, uint8 [tiles, windows] (see `pack.slots`).
    """

    encoding: Encoding
    dtype: DType
    shape: tuple[int, ...]
    values: np.ndarray
    nonzeros: int
    scale: np.ndarray | None = None
    mask: np.ndarray | None = None
    offsets: np.ndarray | None = None
    group: int = 0
    keep: int = 0
    steps: np.ndarray | None = None

    @property
    def size(self) -> int:
        """Number of weights, zeros included."""
        return int(np.prod(self.shape, dtype=np.int64))

    @property
    def sparsity(self) -> float:
        """Fraction of zeros; those inside stored blocks do not count."""
        return 1 - self.nonzeros / max(self.size, 1)

    @property
    def nbytes(self) -> int:
        """Bytes of all its arrays."""
        return sum(part.nbytes for part in self._parts if part is not None)

    @property
    def _parts(self) -> tuple[np.ndarray | None, ...]:
        return self.values, self.scale, self.mask, self.offsets, self.steps

    @property
    def dense_nbytes(self) -> int:
        """Bytes that the dense encoding takes."""
        if self.dtype == "i4":
            rows, cols = self.shape
            return -(-rows // 16) * -(-cols // 32) * 256 + (self.scale.nbytes if self.scale is not None else 0)
        return self.size * ARRAY_DTYPE[self.dtype].itemsize + (self.scale.nbytes if self.scale is not None else 0)


def break_even(dtype: DType) -> float:
    """The fraction of zeros from which a bitmask is smaller than the dense weight: its bit per weight has to be saved.

    From there on it is faster to decode with, too, where kernels are as fast as memory in either encoding: by the cost
    model's constants for AVX-512 with VBMI2 within 2% of zeros, for every dtype where threads share the memory, but not
    for one thread's int4. Elsewhere it is a saving of memory.
    """
    bits = 4 if dtype == "i4" else 8 * ARRAY_DTYPE[dtype].itemsize
    return 1 / bits
