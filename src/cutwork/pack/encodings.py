"""How one weight is stored: dense, or as a mask and its nonzeros or nonzero blocks.

See "Packed format" in docs/architecture.md.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np

DType = Literal["f32", "bf16", "i8", "i4"]
Encoding = Literal["dense", "bitmask", "block1x4", "block4x1"]
MASKED: tuple[Encoding, ...] = ("bitmask", "block1x4", "block4x1")

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

    `values`: float32, uint16 (bfloat16 bits) or int8; the dense array of any `shape`, or for the encodings with a mask
    (2-D only) the nonzeros, or all values of the nonzero blocks, followed by 64 bytes of zeros; `nonzeros` counts them.
    `mask` has `mask_shape`, `offsets` is uint64 [ceil(rows/4) + 1], `scale` float32 [rows] for int8
    only. For int4 `group` columns share a scale, and the arrays are
    those of docs/architecture.md: uint8 values, scales float32, float16 or uint16 (bfloat16 bits) [tiles, groups, 16].
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


def break_even(dtype: DType) -> float:
    """The fraction of zeros from which a bitmask is smaller than the dense weight: its bit per weight has to be saved.

    From there on it is faster to decode with, too, where kernels are as fast as memory in either encoding: by the cost
    model's constants for AVX-512 with VBMI2 within 2% of zeros, for every dtype. Elsewhere it is a saving of memory.
    """
    bits = 4 if dtype == "i4" else 8 * ARRAY_DTYPE[dtype].itemsize
    return 1 / bits


def encode(dense: np.ndarray, scale: np.ndarray | None = None, *, allow_bitmask: bool = True) -> EncodedWeight:
    """Encode an array of float32, uint16 (bfloat16 bits) or int8, if it is 2-D in whichever way is the smallest.

    Zeros of either sign are left out (see `negative_zeros`); everything else, NaN payloads included, keeps its bits.
    """
    dtype = next(name for name, kind in ARRAY_DTYPE.items() if kind == dense.dtype)
    rows, cols = dense.shape if dense.ndim == 2 else (1, dense.size)
    counts = count_stored(dense.reshape(rows, cols))
    as_dense = EncodedWeight("dense", dtype, dense.shape, dense, int(counts["bitmask"].sum()), scale)
    if dense.ndim != 2 or not allow_bitmask or cols > MAX_COLS:
        return as_dense
    itemsize = dense.dtype.itemsize

    def size(encoding: Encoding) -> int:
        shape, word = mask_shape(encoding, rows, cols)
        stored = counts[encoding]
        return (
            int(stored.sum() + np.prod(shape) * word.itemsize // itemsize) * itemsize + TAIL_BYTES + 8 * stored.size + 8
        )

    encoding = min(MASKED, key=size)
    if size(encoding) >= dense.nbytes:
        return as_dense

    offsets = np.concatenate([[0], np.cumsum(counts[encoding])]).astype("<u8")
    shape, word = mask_shape(encoding, rows, cols)
    mask = np.empty(shape, word)
    stored = int(offsets[-1])
    values = np.zeros(stored + TAIL_BYTES // itemsize, dense.dtype)
    for begin, end in _chunks(len(mask), cols):
        tile = _to_tiles(dense, begin, end)
        present = _in_blocks(_nonzero(tile), encoding)
        mask[begin:end] = pack_bits(present, word)
        values[int(offsets[begin]) : int(offsets[end])] = select(tile, _each_value(present, encoding))
    return EncodedWeight(encoding, dtype, dense.shape, values, stored, scale, mask, offsets)


def mask_shape(encoding: Encoding, rows: int, cols: int) -> tuple[tuple[int, ...], np.dtype]:
    """Shape and dtype of the mask of a weight [rows, cols] in an encoding that has one."""
    if encoding == "block4x1":
        return (groups_of(rows), blocks(cols)), np.dtype("<u8")
    return (groups_of(rows), blocks(cols), GROUP_ROWS), np.dtype("<u2" if encoding == "block1x4" else "<u8")


def stored_places(encoding: Encoding, mask: np.ndarray) -> np.ndarray:
    """Booleans [groups, blocks, 4, 64] of a part of a mask: which weights `values` holds."""
    octets = np.ascontiguousarray(mask)[..., None].view(np.uint8)
    return _each_value(np.unpackbits(octets, axis=-1, bitorder="little").view(np.bool_), encoding)


def decode(weight: EncodedWeight) -> np.ndarray:
    """The dense array [rows, cols] (any shape for `dense`) of float32, uint16 or int8; zeros come back as +0."""
    if weight.encoding == "dense":
        return weight.values
    assert weight.mask is not None and weight.offsets is not None
    rows, cols = weight.shape
    groups = weight.mask.shape[0]
    dense = np.empty((rows, cols), weight.values.dtype)
    for begin, end in _chunks(groups, cols):
        present = stored_places(weight.encoding, weight.mask[begin:end])
        tile = np.zeros(present.shape, weight.values.dtype)
        tile.reshape(-1)[np.flatnonzero(present)] = weight.values[int(weight.offsets[begin]) : int(weight.offsets[end])]
        _from_tiles(tile, dense, begin, end)
    return dense


def negative_zeros(dense: np.ndarray) -> np.ndarray | None:
    """Where a 2-D weight of float32 or bfloat16 bits holds -0, in the arrangement of a bitmask; None if nowhere."""
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


def count_stored(dense: np.ndarray) -> dict[Encoding, np.ndarray]:
    """Int64 [ceil(rows/4)] per encoding with a mask: the values it stores of each group of four rows of a 2-D array."""
    rows, cols = dense.shape
    counts = {encoding: np.zeros(groups_of(rows), np.int64) for encoding in MASKED}
    for begin, end in _chunks(groups_of(rows), cols):
        present = _nonzero(dense[begin * GROUP_ROWS : end * GROUP_ROWS])
        present = np.pad(present, ((0, -len(present) % GROUP_ROWS), (0, -cols % 4))).reshape(
            end - begin, GROUP_ROWS, -1
        )
        counts["bitmask"][begin:end] = np.count_nonzero(present, axis=(1, 2))
        counts["block1x4"][begin:end] = 4 * np.count_nonzero(present.view("<u4"), axis=(1, 2))
        counts["block4x1"][begin:end] = GROUP_ROWS * np.count_nonzero(present.any(1), axis=1)
    return counts


def select(array: np.ndarray, where: np.ndarray) -> np.ndarray:
    """`array[where]` of contiguous arrays, seven times as fast as NumPy does that."""
    return array.reshape(-1).take(np.flatnonzero(where))


def pack_bits(bits: np.ndarray, word: np.dtype | str = "<u8") -> np.ndarray:
    """Words [...] whose bit j is entry j of a contiguous bool [..., bits of a word]."""
    return np.packbits(bits.reshape(-1), bitorder="little").view(word).reshape(bits.shape[:-1])


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


def _in_blocks(present: np.ndarray, encoding: Encoding) -> np.ndarray:
    """The bits of a mask, unpacked: of places [groups, blocks, 4, 64] whether anything of their block is there."""
    if encoding == "block1x4":
        return np.asarray(present.reshape(*present.shape[:3], -1, 4).any(-1))
    return np.asarray(present.any(2)) if encoding == "block4x1" else present


def _each_value(bits: np.ndarray, encoding: Encoding) -> np.ndarray:
    """The reverse of `_in_blocks`: [groups, blocks, 4, 64]."""
    if encoding == "block1x4":
        return np.repeat(bits, 4, -1)
    return np.repeat(bits[:, :, None], GROUP_ROWS, 2) if encoding == "block4x1" else bits


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
