"""Int4 weights with a scale per row and group of columns. See docs/format.md."""

import numpy as np

from cutwork.pack.masked import chunks, pack_bits, select, unpack_bits
from cutwork.pack.record import MAX_COLS, TAIL_BYTES, EncodedWeight
from cutwork.pack.slots import decode_slots
from cutwork.store import bfloat16

TILE_ROWS = 16
RUN_COLS = 32
RUN_WORDS = 8  # of 64 codes: 16 rows x 4 columns
RUN_BYTES = TILE_ROWS * RUN_COLS // 2
GROUP = 128  # columns per scale, where we choose


def encode_int4(codes: np.ndarray, scale: np.ndarray, group: int, *, allow_bitmask: bool = True) -> EncodedWeight:
    """Encode int8 `codes` [rows, cols] from -8 to 7: as a bitmask if that is smaller.

    `scale` [rows, ceil(cols / group)] is float32, float16 or uint16 (bfloat16 bits); `group` a multiple of 32.
    """
    rows, cols = codes.shape
    tiles, runs = tiles_of(rows), runs_of(cols)
    counts = np.zeros((tiles, 2), np.int64)  # nonzeros of the even and the odd words
    for begin, end in chunks(tiles, TILE_ROWS * cols):
        counts[begin:end] = np.count_nonzero(_to_words(codes, begin, end) != 0, axis=(2, 3))
    nonzeros = int(counts.sum())
    scales = _tile_scales(scale)
    values: np.ndarray
    bitmask_bytes = int(counts.max(axis=1).sum()) + TAIL_BYTES + 64 * tiles * runs + 8 * (tiles + 1)
    if bitmask_bytes >= tiles * runs * RUN_BYTES or cols > MAX_COLS or not allow_bitmask:
        values = np.empty((tiles, runs, RUN_WORDS // 2, 64), np.uint8)
        for begin, end in chunks(tiles, TILE_ROWS * cols):
            words = (_to_words(codes, begin, end) + 8).astype(np.uint8)
            values[begin:end] = (words[:, 0] | words[:, 1] << 4).reshape(values[begin:end].shape)
        return EncodedWeight("dense", "i4", codes.shape, values, nonzeros, scales, group=group)

    offsets = np.concatenate([[0], np.cumsum(counts.max(axis=1))]).astype("<u8")
    mask = np.empty((tiles, runs, RUN_WORDS), "<u8")
    values = np.zeros(int(offsets[-1]) + TAIL_BYTES, np.uint8)
    for begin, end in chunks(tiles, TILE_ROWS * cols):
        words = _to_words(codes, begin, end)
        present = words != 0
        mask[begin:end] = pack_bits(present).transpose(0, 2, 1).reshape(mask[begin:end].shape)
        for half in (0, 1):
            stored = (select(words[:, half], present[:, half]) + 8).astype(np.uint8) << 4 * half
            read = 0
            for place, count in zip(offsets[begin:end].tolist(), counts[begin:end, half].tolist(), strict=True):
                values[place : place + count] |= stored[read : read + count]
                read += count
    return EncodedWeight("bitmask", "i4", codes.shape, values, nonzeros, scales, mask, offsets, group)


def decode_int4(weight: EncodedWeight) -> np.ndarray:
    """Int8 codes [rows, cols] of a dense weight or a bitmask."""
    rows, cols = weight.shape
    codes = np.empty((rows, cols), np.int8)
    for begin, end in chunks(tiles_of(rows), TILE_ROWS * cols):
        words = np.zeros((end - begin, runs_of(cols) * RUN_WORDS // 2, 2, 64), np.int8)
        if weight.mask is None or weight.offsets is None:
            pairs = weight.values[begin:end].reshape(end - begin, -1, 64)
            words[:, :, 0], words[:, :, 1] = pairs & 15, pairs >> 4
            words -= 8
        else:
            present = unpack_bits(weight.mask[begin:end]).reshape(words.shape)
            for half in (0, 1):
                counts = np.count_nonzero(present[:, :, half], axis=(1, 2))
                stored = weight.values[_places(weight.offsets[begin:end], counts)] >> 4 * half & 15
                words[:, :, half][present[:, :, half]] = stored.astype(np.int8) - 8
        tiles = words.reshape(end - begin, -1, TILE_ROWS, 4).transpose(0, 2, 1, 3).reshape(-1, runs_of(cols) * RUN_COLS)
        part = codes[begin * TILE_ROWS : end * TILE_ROWS]
        part[...] = tiles[: len(part), :cols]
    return codes


def damage_of(weight: EncodedWeight) -> str | None:
    """What a kernel must not trust about the mask and offsets of a bitmask, if anything."""
    assert weight.mask is not None and weight.offsets is not None
    rows, cols = weight.shape
    offsets = weight.offsets.astype(np.int64)
    if offsets[0] != 0 or (np.diff(offsets) < 0).any() or len(weight.values) != offsets[-1] + TAIL_BYTES:
        return "its offsets do not rise from 0 to the number of bytes"
    nonzeros = 0
    for tile in range(len(weight.mask)):
        present = unpack_bits(weight.mask[tile]).reshape(-1, 2, TILE_ROWS, 4)
        counts = np.count_nonzero(present, axis=(0, 2, 3))
        nonzeros += int(counts.sum())
        if counts.max() != offsets[tile + 1] - offsets[tile]:
            return f"the mask of rows {tile * TILE_ROWS} and after does not match the offsets"
        by_column = present.reshape(-1, TILE_ROWS, 4).transpose(1, 0, 2).reshape(TILE_ROWS, -1)
        if by_column[:, cols:].any() or by_column[rows - tile * TILE_ROWS :].any():
            return "its mask has bits beyond the last row or column"
    if nonzeros != weight.nonzeros:
        return "its mask has another number of nonzeros"
    return "the padding after its values is not zero" if weight.values[offsets[-1] :].any() else None


def dequantize(weight: EncodedWeight) -> np.ndarray:
    """The float32 values [rows, cols] that the codes stand for, in whichever encoding."""
    codes = decode_slots(weight) if weight.encoding == "slots" else decode_int4(weight)
    columns = np.arange(weight.shape[1]) // weight.group
    return np.asarray(codes * scales_of(weight)[:, columns], np.float32)


def scales_of(weight: EncodedWeight) -> np.ndarray:
    """The scales as float32 [rows, groups]."""
    scale = row_scales(weight)
    return bfloat16.to_float32(scale) if scale.dtype == np.uint16 else scale.astype(np.float32, copy=False)


def row_scales(weight: EncodedWeight) -> np.ndarray:
    """The scales as [rows, groups], in their stored type."""
    assert weight.scale is not None
    return np.ascontiguousarray(weight.scale.transpose(0, 2, 1).reshape(-1, weight.scale.shape[1])[: weight.shape[0]])


def tiles_of(rows: int) -> int:
    """Tiles of 16 that `rows` rows make."""
    return -(-rows // TILE_ROWS)


def runs_of(cols: int) -> int:
    """Runs of 32 that `cols` columns make."""
    return -(-cols // RUN_COLS)


def _tile_scales(scale: np.ndarray) -> np.ndarray:
    """[rows, groups] as [tiles, groups, 16], filled up with zeros."""
    rows, groups = scale.shape
    padded = np.zeros((tiles_of(rows) * TILE_ROWS, groups), scale.dtype)
    padded[:rows] = scale
    return np.ascontiguousarray(padded.reshape(-1, TILE_ROWS, groups).transpose(0, 2, 1))


def _to_words(codes: np.ndarray, begin: int, end: int) -> np.ndarray:
    """The tiles [begin, end) as [tiles, 2, pairs of words, 64], even and odd words apart, filled up with zeros."""
    rows = codes[begin * TILE_ROWS : end * TILE_ROWS]
    padded = np.zeros(((end - begin) * TILE_ROWS, runs_of(codes.shape[1]) * RUN_COLS), np.int8)
    padded[: rows.shape[0], : rows.shape[1]] = rows
    fours = padded.view("<i4").reshape(end - begin, TILE_ROWS, -1, 2)  # a row's columns of a word, moved as one number
    return np.ascontiguousarray(fours.transpose(0, 3, 2, 1)).view(np.int8).reshape(end - begin, 2, -1, 64)


def _places(offsets: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """offset, offset + 1, … for each tile, so many as its count."""
    firsts = np.cumsum(counts) - counts
    places: np.ndarray = np.arange(int(counts.sum())) + np.repeat(offsets.astype(np.int64) - firsts, counts)
    return places
