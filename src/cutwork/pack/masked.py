"""Weights as a mask and their nonzeros or nonzero blocks, or dense where that is smaller; all but int4."""

from collections.abc import Iterator

import numpy as np

from cutwork.pack.record import ARRAY_DTYPE, MAX_COLS, TAIL_BYTES, EncodedWeight, Encoding

MASKED: tuple[Encoding, ...] = ("bitmask", "block1x4", "block4x1")

GROUP_ROWS = 4  # rows that share one stream of values
BLOCK_COLS = 64  # columns of one mask word

_CHUNK = 1 << 19  # weights handled at a time, so that the temporaries stay in cache


def encode(dense: np.ndarray, scale: np.ndarray | None = None, *, allow_bitmask: bool = True) -> EncodedWeight:
    """Encode an array of float32, uint16 (bfloat16 bits) or int8, if it is 2-D in whichever way is the smallest.

    Zeros of either sign are left out (see `pack.zeros`); everything else, NaN payloads included, keeps its bits.
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
    for begin, end in chunks(len(mask), GROUP_ROWS * cols):
        tile = to_tiles(dense, begin, end)
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


def decode_masked(weight: EncodedWeight) -> np.ndarray:
    """The dense array [rows, cols] of float32, uint16 or int8; zeros come back as +0."""
    assert weight.mask is not None and weight.offsets is not None
    rows, cols = weight.shape
    groups = weight.mask.shape[0]
    dense = np.empty((rows, cols), weight.values.dtype)
    for begin, end in chunks(groups, GROUP_ROWS * cols):
        present = stored_places(weight.encoding, weight.mask[begin:end])
        tile = np.zeros(present.shape, weight.values.dtype)
        tile.reshape(-1)[np.flatnonzero(present)] = weight.values[int(weight.offsets[begin]) : int(weight.offsets[end])]
        from_tiles(tile, dense, begin, end)
    return dense


def count_stored(dense: np.ndarray) -> dict[Encoding, np.ndarray]:
    """Int64 [ceil(rows/4)] per encoding with a mask: the values it stores of each group of four rows of a 2-D array."""
    rows, cols = dense.shape
    counts = {encoding: np.zeros(groups_of(rows), np.int64) for encoding in MASKED}
    for begin, end in chunks(groups_of(rows), GROUP_ROWS * cols):
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


def chunks(groups: int, size: int) -> Iterator[tuple[int, int]]:
    """(first, end) of so many groups, of `size` values each, at a time that the temporaries stay in cache."""
    step = max(1, _CHUNK // max(1, size))
    for begin in range(0, groups, step):
        yield begin, min(begin + step, groups)


def to_tiles(dense: np.ndarray, begin: int, end: int) -> np.ndarray:
    """A copy of the groups [begin, end) as [groups, ceil(cols/64), 4, 64], filled up with zeros."""
    rows = dense[begin * GROUP_ROWS : end * GROUP_ROWS]
    padded = np.zeros(((end - begin) * GROUP_ROWS, blocks(dense.shape[1]) * BLOCK_COLS), dense.dtype)
    padded[: rows.shape[0], : rows.shape[1]] = rows
    return np.ascontiguousarray(padded.reshape(end - begin, GROUP_ROWS, -1, BLOCK_COLS).transpose(0, 2, 1, 3))


def from_tiles(tile: np.ndarray, dense: np.ndarray, begin: int, end: int) -> None:
    """The reverse of `to_tiles`, into `dense`."""
    rows = dense[begin * GROUP_ROWS : end * GROUP_ROWS]
    flat = tile.transpose(0, 2, 1, 3).reshape((end - begin) * GROUP_ROWS, -1)
    rows[...] = flat[: rows.shape[0], : rows.shape[1]]
