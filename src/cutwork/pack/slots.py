"""Slots: weights of which few of every 16 neighbours live, stored so that a 16-byte shuffle finds their inputs.

A tile is 16 rows, a window 16 neighbouring columns, a step four slots of each row of a tile, all in one window: 64
slots. A slot is a code and the column in the window that it belongs to; one that is not needed is empty: code 0, column
0. Every tile takes the same number of steps in the same window, for all its rows: `keep` / 4 in each window, or as many
as its fullest row needs (`adaptive`). See "Slots" in docs/format.md.
"""

import numpy as np

TILE_ROWS = 16
WINDOW = 16  # columns
TAKE = 4  # slots of a row in a step
STEP_SLOTS = TILE_ROWS * TAKE
RECORD_BYTES = 3 * STEP_SLOTS  # of two int8 steps: their columns as nibbles, the codes of the first, of the second


def tiles_of(rows: int) -> int:
    """Tiles of 16 that `rows` rows make."""
    return -(-rows // TILE_ROWS)


def windows_of(cols: int) -> int:
    """Windows of 16 that `cols` columns make."""
    return -(-cols // WINDOW)


def steps_needed(present: np.ndarray) -> np.ndarray:
    """Steps from 0 to 4, uint8 [tiles, windows], that the fullest row of each tile takes; `present` bool [rows, cols]."""
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
    tiled = padded.reshape(tiles, TILE_ROWS, windows, WINDOW).transpose(0, 2, 1, 3)
    tiled = np.ascontiguousarray(tiled).reshape(tiles * windows, TILE_ROWS, WINDOW)
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
    return columns | (values.view(np.uint8) << 4)


def split_bytes(slots: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Columns uint8 and codes int8 [steps, 64] of int4 steps: the reverse of `bytes_of`."""
    return slots & 15, slots.view(np.int8) >> 4
