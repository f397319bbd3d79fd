"""How one weight is stored: dense, or as a bitmask and its nonzeros. See "Packed format" in docs/architecture.md."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np

DType = Literal["f32", "bf16", "i8", "i4"]

GROUP_ROWS = 4  # rows that share one stream of values
BLOCK_COLS = 64  # columns of one mask word
TAIL_BYTES = 64  # zeros after the last value, so that a kernel may read a full vector
MAX_COLS = 65536  # the int8 kernels' accumulators hold no more

ARRAY_DTYPE: dict[DType, np.dtype] = {
    "f32": np.dtype("<f4"),
    "bf16": np.dtype("<u2"),
    "i8": np.dtype("i1"),
    "i4": np.dtype("u1"),
}

_CHUNK = 1 << 19  # weights handled at a time, so that the temporaries stay in cache


@dataclass(frozen=True)
class EncodedWeight:
    """A weight as the engine reads it; arrays may be views of a mapped file.

    `values`: float32, uint16 (bfloat16 bits) or int8; the dense array of any `shape`, or for `bitmask` (2-D only) the
    nonzeros followed by 64 bytes of zeros. `mask` is uint64 [ceil(rows/4), ceil(cols/64), 4], `offsets` uint64
    [ceil(rows/4) + 1], `scale` float32 [rows] for int8 only. For int4 `group` columns share a scale, and the arrays are
    those of docs/architecture.md: uint8 values, scales float32, float16 or uint16 (bfloat16 bits) [tiles, groups, 16].
    """

    encoding: Literal["dense", "bitmask"]
    dtype: DType
    shape: tuple[int, ...]
    values: np.ndarray
    nonzeros: int
    scale: np.ndarray | None = None
    mask: np.ndarray | None = None
    offsets: np.ndarray | None = None
    group: int = 0

    @property
    def size(self) -> int:
        """Number of weights, zeros included."""
        return int(np.prod(self.shape, dtype=np.int64))

    @property
    def sparsity(self) -> float:
        """Fraction of zeros."""
        return 1 - self.nonzeros / max(self.size, 1)

    @property
    def nbytes(self) -> int:
        """Bytes of all its arrays."""
        return sum(part.nbytes for part in (self.values, self.scale, self.mask, self.offsets) if part is not None)

    @property
    def dense_nbytes(self) -> int:
        """Bytes that the dense encoding takes."""
        if self.dtype == "i4":
            rows, cols = self.shape
            return -(-rows // 16) * -(-cols // 32) * 256 + (self.scale.nbytes if self.scale is not None else 0)
        return self.size * ARRAY_DTYPE[self.dtype].itemsize + (self.scale.nbytes if self.scale is not None else 0)

    def decode(self) -> np.ndarray:
        """The dense array of `values`' type; int8 codes are not scaled."""
        if self.dtype == "i4":
            from cutwork.pack.int4 import decode_int4

            return decode_int4(self)
        return decode(self)


def encode(dense: np.ndarray, scale: np.ndarray | None = None, *, allow_bitmask: bool = True) -> EncodedWeight:
    """Encode an array of float32, uint16 (bfloat16 bits) or int8: as a bitmask if it is 2-D and that is smaller.

    Zeros of either sign are left out (see `negative_zeros`); everything else, NaN payloads included, keeps its bits.
    """
    dtype = next(name for name, kind in ARRAY_DTYPE.items() if kind == dense.dtype)
    rows, cols = dense.shape if dense.ndim == 2 else (1, dense.size)
    counts = count_nonzeros(dense.reshape(rows, cols))
    nonzeros = int(counts.sum())
    as_dense = EncodedWeight("dense", dtype, dense.shape, dense, nonzeros, scale)
    if dense.ndim != 2 or not allow_bitmask or cols > MAX_COLS:
        return as_dense
    itemsize = dense.dtype.itemsize
    bitmask_bytes = nonzeros * itemsize + TAIL_BYTES + 32 * counts.size * blocks(cols) + 8 * (counts.size + 1)
    if bitmask_bytes >= dense.nbytes:
        return as_dense

    offsets = np.concatenate([[0], np.cumsum(counts)]).astype("<u8")
    mask = np.empty((counts.size, blocks(cols), GROUP_ROWS), "<u8")
    values = np.zeros(nonzeros + TAIL_BYTES // itemsize, dense.dtype)
    for begin, end in _chunks(counts.size, cols):
        tile = _to_tiles(dense, begin, end)
        present = _nonzero(tile)
        mask[begin:end] = pack_bits(present)
        values[int(offsets[begin]) : int(offsets[end])] = select(tile, present)
    return EncodedWeight("bitmask", dtype, dense.shape, values, nonzeros, scale, mask, offsets)


def decode(weight: EncodedWeight) -> np.ndarray:
    """The dense array [rows, cols] (any shape for `dense`) of float32, uint16 or int8; zeros come back as +0."""
    if weight.encoding == "dense":
        return weight.values
    assert weight.mask is not None and weight.offsets is not None
    rows, cols = weight.shape
    groups = weight.mask.shape[0]
    dense = np.empty((rows, cols), weight.values.dtype)
    for begin, end in _chunks(groups, cols):
        present = unpack_bits(weight.mask[begin:end])
        tile = np.zeros(present.shape, weight.values.dtype)
        tile.reshape(-1)[np.flatnonzero(present)] = weight.values[int(weight.offsets[begin]) : int(weight.offsets[end])]
        _from_tiles(tile, dense, begin, end)
    return dense


def negative_zeros(dense: np.ndarray) -> np.ndarray | None:
    """Where a 2-D weight of float32 or bfloat16 bits holds -0, in the arrangement of the mask; None if nowhere."""
    if dense.dtype.kind == "i":
        return None
    rows, cols = dense.shape
    bits = dense.view(f"<u{dense.dtype.itemsize}")
    negative_zero = bits.dtype.type(1 << (8 * dense.dtype.itemsize - 1))
    found = np.zeros((groups_of(rows), blocks(cols), GROUP_ROWS), "<u8")
    for begin, end in _chunks(found.shape[0], cols):
        here = _to_tiles(bits, begin, end) == negative_zero
        found[begin:end] = pack_bits(here)
    return found if found.any() else None


def restore_negative_zeros(dense: np.ndarray, where: np.ndarray) -> None:
    """Undo what `encode` did to the zeros that `negative_zeros` found: in place."""
    bits = dense.view(f"<u{dense.dtype.itemsize}")
    sign = bits.dtype.type(1 << (8 * dense.dtype.itemsize - 1))
    for begin, end in _chunks(where.shape[0], dense.shape[1]):
        tile = _to_tiles(bits, begin, end)
        tile |= unpack_bits(where[begin:end]) * sign
        _from_tiles(tile, bits, begin, end)


def count_nonzeros(dense: np.ndarray) -> np.ndarray:
    """Int64 [ceil(rows/4)]: the nonzeros in each group of four rows of a 2-D array."""
    rows, cols = dense.shape
    counts = np.zeros(groups_of(rows), np.int64)
    for begin, end in _chunks(counts.size, cols):
        per_row = np.count_nonzero(_nonzero(dense[begin * GROUP_ROWS : end * GROUP_ROWS]), axis=1)
        np.add.at(counts, begin + np.arange(per_row.size) // GROUP_ROWS, per_row)
    return counts


def select(array: np.ndarray, where: np.ndarray) -> np.ndarray:
    """`array[where]` of contiguous arrays, seven times as fast as NumPy does that."""
    return array.reshape(-1).take(np.flatnonzero(where))


def pack_bits(bits: np.ndarray) -> np.ndarray:
    """Uint64 [...] whose bit j is entry j of a contiguous bool [..., 64]."""
    return np.packbits(bits.reshape(-1), bitorder="little").view("<u8").reshape(bits.shape[:-1])


def unpack_bits(words: np.ndarray) -> np.ndarray:
    """Booleans [..., 64] of uint64 words [...], bit 0 first."""
    octets = np.ascontiguousarray(words, "<u8")[..., None].view(np.uint8)
    return np.unpackbits(octets, axis=-1, bitorder="little").view(np.bool_)


def groups_of(rows: int) -> int:
    """Groups of four that `rows` rows make."""
    return -(-rows // GROUP_ROWS)


def blocks(cols: int) -> int:
    """Blocks of 64 that `cols` columns make."""
    return -(-cols // BLOCK_COLS)


def _nonzero(array: np.ndarray) -> np.ndarray:
    """Whether each element differs from zero of either sign; told by its bits, so that denormals always count."""
    if array.dtype.kind == "i":
        return np.asarray(array != 0)
    magnitude = (1 << (8 * array.dtype.itemsize - 1)) - 1
    bits = array.view(f"<u{array.dtype.itemsize}")
    return np.asarray(bits & bits.dtype.type(magnitude) != 0)


def _chunks(groups: int, cols: int) -> Iterator[tuple[int, int]]:
    step = max(1, _CHUNK // max(1, GROUP_ROWS * cols))
    for begin in range(0, groups, step):
        yield begin, min(begin + step, groups)


def _to_tiles(dense: np.ndarray, begin: int, end: int) -> np.ndarray:
    """A copy of the groups [begin, end) as [groups, ceil(cols/64), 4, 64], filled up with zeros."""
    rows = dense[begin * GROUP_ROWS : end * GROUP_ROWS]
    padded = np.zeros(((end - begin) * GROUP_ROWS, blocks(dense.shape[1]) * BLOCK_COLS), dense.dtype)
    padded[: rows.shape[0], : rows.shape[1]] = rows
    return np.ascontiguousarray(padded.reshape(end - begin, GROUP_ROWS, -1, BLOCK_COLS).transpose(0, 2, 1, 3))


def _from_tiles(tile: np.ndarray, dense: np.ndarray, begin: int, end: int) -> None:
    rows = dense[begin * GROUP_ROWS : end * GROUP_ROWS]
    flat = tile.transpose(0, 2, 1, 3).reshape((end - begin) * GROUP_ROWS, -1)
    rows[...] = flat[: rows.shape[0], : rows.shape[1]]
