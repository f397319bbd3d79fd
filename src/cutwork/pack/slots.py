"""Slots: weights of which few of every 16 neighbours live, stored so that a 16-byte shuffle finds their inputs.

A tile is 16 rows, a window 16 neighbouring columns, a step four slots of each row of a tile, all in one window: 64
slots. A slot is a code and the column in the window that it belongs to; one that is not needed is empty: code 0, column
0. Every tile takes the same number of steps in the same window, for all its rows: `keep` / 4 in each window, or as many
as its fullest row needs (`adaptive`). See "Slots" in docs/format.md.
"""

from collections.abc import Iterator

import numpy as np

from cutwork.pack.masked import count_stored
from cutwork.pack.record import MAX_COLS, EncodedWeight

TILE_ROWS = 16
WINDOW = 16  # columns
KEEP = (4, 8, 12)  # of a window's columns that all rows of all tiles may keep alike
TAKE = 4  # slots of a row in a step
STEP_SLOTS = TILE_ROWS * TAKE
RECORD_BYTES = 3 * STEP_SLOTS  # of two int8 steps: their columns as nibbles, the codes of the first, of the second

_CHUNK = 1 << 20  # weights handled at a time
_WORTH = 1.15  # times as much to read as another encoding: slots are multiplied faster on every processor


def in_slots(codes: np.ndarray, other: EncodedWeight) -> EncodedWeight:
    """Int8 or int4 codes, int8 [rows, cols], in slots if that takes little more than the `other` encoding of them.

    The windows of all tiles alike where that is smallest, else each with the steps that it needs.
    """
    rows, cols = codes.shape
    if other.dtype not in ("i8", "i4") or cols > MAX_COLS or other.scale is None or not rows or not cols:
        return other
    needed = np.concatenate([steps_needed(part != 0) for part in _parts(codes)])
    keep = TAKE * int(needed.max())
    alike = np.full_like(needed, keep // TAKE)
    sizes = [(entries_of(steps, other.dtype) * entry_bytes(other.dtype), steps) for steps in (alike, needed)]
    extra = needed.nbytes  # which says how many steps each window has
    alike_wins = keep in KEEP and sizes[0][0] <= sizes[1][0] + extra
    size, steps = sizes[0] if alike_wins else (sizes[1][0] + extra, needed)
    size += other.scale.nbytes
    if not keep or size > _WORTH * other.nbytes or size >= other.dense_nbytes:
        return other
    values, tile = [], 0
    for part in _parts(codes):
        own = steps[tile : tile + tiles_of(len(part))]
        tile += len(own)
        split_up = split(part, own)
        values.append(records_of(*split_up, _per_tile(own)) if other.dtype == "i8" else bytes_of(*split_up))
    return EncodedWeight(
        "slots",
        other.dtype,
        codes.shape,
        np.concatenate(values),
        int(np.count_nonzero(codes)),
        other.scale,
        group=other.group,
        keep=keep if alike_wins else 0,
        steps=None if alike_wins else needed,
    )


def decode_slots(weight: EncodedWeight) -> np.ndarray:
    """The codes, int8 [rows, cols], of a weight in slots."""
    rows, cols = weight.shape
    steps = steps_of_weight(weight)
    values = weight.values.reshape(-1, entry_bytes(weight.dtype))
    split_up = steps_of(values, _per_tile(steps)) if weight.dtype == "i8" else split_bytes(values)
    return join(*split_up, steps, (rows, cols))


def damage_of_slots(weight: EncodedWeight) -> str | None:
    """What a kernel must not trust about a weight in slots, if anything."""
    rows, cols = weight.shape
    if weight.steps is not None and (weight.steps > WINDOW // TAKE).any():
        return "a window of 16 columns has more than 4 steps"
    values = weight.values.reshape(-1, entry_bytes(weight.dtype))
    if weight.steps is not None:
        entries = entries_of(weight.steps, weight.dtype)
    else:
        entries = entries_kept(rows, cols, weight.keep, weight.dtype)
    if len(values) != entries:
        return "its slots are not as many as its steps"
    steps = steps_of_weight(weight)  # of as many tiles as there are slots for
    if weight.dtype == "i8" and (values[:, STEP_SLOTS:].view(np.int8) == -128).any():
        return "it has the code -128"
    whole = (steps.shape[0] * TILE_ROWS, steps.shape[1] * WINDOW)
    columns, codes = steps_of(values, _per_tile(steps)) if weight.dtype == "i8" else split_bytes(values)
    padded = join(columns, codes, steps, whole)
    if padded[rows:].any() or padded[:, cols:].any():
        return "a slot stands for a weight beyond the last row or column"
    nonzeros = np.count_nonzero(codes)
    if weight.dtype == "i8" and np.count_nonzero(values[:, STEP_SLOTS:]) != nonzeros:
        return "a record has codes after its tile's last step"
    if np.count_nonzero(padded) != nonzeros:
        return "a row has two slots for one column"
    if weight.nonzeros != nonzeros:  # older files may count the zeros of blocks, the encoding these took the place of
        stored = [int(count.sum()) for count in count_stored(padded[:rows, :cols]).values()]
        return None if weight.nonzeros in stored else "its slots have another number of nonzeros"
    return None


def steps_of_weight(weight: EncodedWeight) -> np.ndarray:
    """How many steps each window of each tile has, uint8 [tiles, windows]."""
    if weight.steps is not None:
        return weight.steps
    return np.full((tiles_of(weight.shape[0]), windows_of(weight.shape[1])), weight.keep // TAKE, np.uint8)


def entry_bytes(dtype: str) -> int:
    """Bytes of what is stored at a time: a record of two int8 steps, or an int4 step."""
    return STEP_SLOTS if dtype == "i4" else RECORD_BYTES


def entries_of(steps: np.ndarray, dtype: str) -> int:
    """How many of those a weight has."""
    per_tile = _per_tile(steps)
    return int(per_tile.sum() if dtype == "i4" else (-(-per_tile // 2)).sum())


def entries_kept(rows: int, cols: int, keep: int, dtype: str) -> int:
    """How many a weight has of which every window keeps alike; the shape may be any that a file announces."""
    per_tile = windows_of(cols) * (keep // TAKE)
    return tiles_of(rows) * (per_tile if dtype == "i4" else -(-per_tile // 2))


def tiles_of(rows: int) -> int:
    """Tiles of 16 that `rows` rows make."""
    return -(-rows // TILE_ROWS)


def windows_of(cols: int) -> int:
    """Windows of 16 that `cols` columns make."""
    return -(-cols // WINDOW)


def steps_needed(present: np.ndarray) -> np.ndarray:
    """Steps, uint8 [tiles, windows] from 0 to 4, that each tile's fullest row takes; `present` is bool [rows, cols]."""
    rows, cols = present.shape
    padded = np.zeros((tiles_of(rows) * TILE_ROWS, windows_of(cols) * WINDOW), np.bool_)
    padded[:rows, :cols] = present
    counts = np.count_nonzero(padded.reshape(tiles_of(rows), TILE_ROWS, windows_of(cols), WINDOW), axis=3).max(axis=1)
    return np.asarray(-(-counts // TAKE), np.uint8)


def split(codes: np.ndarray, steps: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Columns and codes, uint8 and int8 [steps in all, 64], of the weight int8 [rows, cols], tile after tile.

    `steps` uint8 [tiles, windows] says how many each window gets; no fewer than `steps_needed`.
    """
    rows, cols = codes.shape
    tiles, windows = steps.shape
    padded = np.zeros((tiles * TILE_ROWS, windows * WINDOW), np.int8)
    padded[:rows, :cols] = codes
    apart = padded.reshape(tiles, TILE_ROWS, windows, WINDOW).transpose(0, 2, 1, 3)
    tiled = np.ascontiguousarray(apart).reshape(tiles * windows, TILE_ROWS, WINDOW)
    order = np.argsort(tiled == 0, axis=2, kind="stable").astype(np.uint8)  # the live ones first, from left to right
    sorted_codes = np.take_along_axis(tiled, order.astype(np.int64), axis=2)
    order[sorted_codes == 0] = 0
    in_steps = (-1, TILE_ROWS, WINDOW // TAKE, TAKE)
    columns = order.reshape(in_steps).transpose(0, 2, 1, 3).reshape(-1, WINDOW // TAKE, STEP_SLOTS)
    values = sorted_codes.reshape(in_steps).transpose(0, 2, 1, 3).reshape(-1, WINDOW // TAKE, STEP_SLOTS)
    taken = np.arange(WINDOW // TAKE) < steps.reshape(-1, 1)
    return columns[taken], values[taken]


def join(columns: np.ndarray, values: np.ndarray, steps: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """The weight int8 [rows, cols] whose columns and codes these are: the reverse of `split`."""
    tiles, windows = steps.shape
    owner = np.repeat(np.arange(tiles * windows), steps.reshape(-1))
    dense = np.zeros((tiles * windows, TILE_ROWS, WINDOW), np.int8)
    step, slot = np.nonzero(values)
    dense[owner[step], slot // TAKE, columns[step, slot]] = values[step, slot]
    whole = dense.reshape(tiles, windows, TILE_ROWS, WINDOW).transpose(0, 2, 1, 3)
    return np.ascontiguousarray(whole.reshape(tiles * TILE_ROWS, windows * WINDOW)[: shape[0], : shape[1]])


def records_of(columns: np.ndarray, values: np.ndarray, per_tile: np.ndarray) -> np.ndarray:
    """Int8 steps as records, uint8 [records, 192]: two steps each, a tile with an odd number ends with an empty one.

    `per_tile` int64 [tiles] counts each tile's steps.
    """
    pairs = -(-per_tile // 2)
    first = np.concatenate([[0], np.cumsum(pairs)])[:-1] * 2
    before = np.concatenate([[0], np.cumsum(per_tile)])[:-1]
    place = np.arange(len(values)) + np.repeat(first - before, per_tile)
    spread = np.zeros((2, 2 * int(pairs.sum()), STEP_SLOTS), np.uint8)
    spread[0, place], spread[1, place] = columns, values.view(np.uint8)
    low, high = spread[0, ::2], spread[0, 1::2]
    return np.concatenate([low | high << 4, spread[1, ::2], spread[1, 1::2]], axis=1)


def steps_of(records: np.ndarray, per_tile: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Columns uint8 and codes int8 [steps, 64] of records: the reverse of `records_of`."""
    pairs = -(-per_tile // 2)
    first = np.concatenate([[0], np.cumsum(pairs)])[:-1] * 2
    before = np.concatenate([[0], np.cumsum(per_tile)])[:-1]
    place = np.arange(int(per_tile.sum())) + np.repeat(first - before, per_tile)
    packed, values = records[:, :STEP_SLOTS], records[:, STEP_SLOTS:].reshape(-1, STEP_SLOTS)
    columns = np.stack([packed & 15, packed >> 4], axis=1).reshape(-1, STEP_SLOTS)
    return columns[place], values[place].view(np.int8)


def bytes_of(columns: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Int4 steps, uint8 [steps, 64]: the column in a byte's low nibble, the code from -8 to 7 in its high one."""
    return np.asarray(columns | (values.view(np.uint8) << 4), np.uint8)


def split_bytes(slots: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Columns uint8 and codes int8 [steps, 64] of int4 steps: the reverse of `bytes_of`."""
    return slots & 15, slots.view(np.int8) >> 4


def _per_tile(steps: np.ndarray) -> np.ndarray:
    return np.asarray(steps.sum(axis=1, dtype=np.int64))


def _parts(codes: np.ndarray) -> Iterator[np.ndarray]:
    """Some tiles of rows at a time."""
    rows = max(1, _CHUNK // (TILE_ROWS * codes.shape[1])) * TILE_ROWS
    for begin in range(0, len(codes), rows):
        yield codes[begin : begin + rows]
