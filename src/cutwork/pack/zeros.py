"""Where weights are -0, which a mask leaves out: kept beside it, so that a checkpoint can be restored bit for bit."""

import numpy as np

from cutwork.pack.masked import GROUP_ROWS, blocks, chunks, from_tiles, groups_of, pack_bits, to_tiles, unpack_bits


def negative_zeros(dense: np.ndarray) -> np.ndarray | None:
    """Where a 2-D weight of float32 or bfloat16 bits holds -0, in the arrangement of a bitmask; None if nowhere."""
    if dense.dtype.kind == "i":
        return None
    rows, cols = dense.shape
    bits, sign = _bits_and_sign(dense)
    where = np.zeros((groups_of(rows), blocks(cols), GROUP_ROWS), "<u8")
    for begin, end in chunks(where.shape[0], GROUP_ROWS * cols):
        here = to_tiles(bits, begin, end) == sign
        where[begin:end] = pack_bits(here)
    return where if where.any() else None


def restore_negative_zeros(dense: np.ndarray, where: np.ndarray) -> None:
    """Undo what `encode` did to the zeros that `negative_zeros` found: in place."""
    bits, sign = _bits_and_sign(dense)
    for begin, end in chunks(where.shape[0], GROUP_ROWS * dense.shape[1]):
        tile = to_tiles(bits, begin, end)
        tile |= unpack_bits(where[begin:end]) * sign
        from_tiles(tile, bits, begin, end)


def _bits_and_sign(dense: np.ndarray) -> tuple[np.ndarray, np.unsignedinteger]:
    """The bits of floats, and -0 among them."""
    bits = dense.view(f"<u{dense.dtype.itemsize}")
    return bits, bits.dtype.type(1 << (8 * dense.dtype.itemsize - 1))
