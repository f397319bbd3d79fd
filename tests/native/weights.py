"""Weights and references for the native tests, written without the product's packer."""

import numpy as np

from cutwork import _native

DTYPES = ("f32", "bf16", "i8")
ENCODINGS = ("dense", "bitmask", "block1x4", "block4x1")


def sparse_values(rng, rows, cols, density, dtype):
    """Random [rows, cols] in the dtype's stored form (float32, bf16 bits, int8 codes) with exact zeros elsewhere."""
    keep = rng.random((rows, cols)) < density
    if dtype == "i8":
        codes = rng.integers(1, 128, (rows, cols)) * rng.choice([-1, 1], (rows, cols))
        return np.where(keep, codes, 0).astype(np.int8)
    values = np.where(keep, rng.standard_normal((rows, cols)), 0).astype(np.float32)
    return values if dtype == "f32" else (values.view(np.uint32) >> 16).astype(np.uint16)


def uneven_codes(rng, rows, cols, density):
    """Int8 codes whose rows have from none to twice so many nonzeros; every sixth tile of rows has none."""
    codes = sparse_values(rng, rows, cols, 1.0, "i8")
    of_row = np.minimum(2 * density * rng.random(rows), 1) * (np.arange(rows) // 16 % 6 != 5)
    return np.where(rng.random((rows, cols)) < of_row[:, None], codes, 0).astype(np.int8)


def sparse_blocks(rng, rows, cols, density, dtype, encoding):
    """Like sparse_values, but whole blocks of the encoding (1 or 4 rows x 4 or 1 columns) are zero or random."""
    high, wide = {"block1x4": (1, 4), "block4x1": (4, 1)}.get(encoding, (1, 1))
    keep = rng.random((-(-rows // high), -(-cols // wide))) < density
    keep = np.kron(keep, np.ones((high, wide), bool))[:rows, :cols]
    return np.where(keep, sparse_values(rng, rows, cols, 1.0, dtype), 0).astype(
        sparse_values(rng, 1, 1, 1, dtype).dtype
    )


def masked_arrays(dense, encoding="bitmask"):
    """values, mask and offsets of docs/format.md for a stored-form matrix and an encoding with a mask."""
    rows, cols = dense.shape
    groups, blocks = -(-rows // 4), -(-cols // 64)
    padded = np.zeros((groups * 4, blocks * 64), dense.dtype)
    padded[:rows, :cols] = dense
    tiles = padded.reshape(groups, 4, blocks, 64).transpose(0, 2, 1, 3)
    if encoding == "block1x4":
        bits = (tiles != 0).reshape(groups, blocks, 4, 16, 4).any(-1)
        mask = np.packbits(bits, axis=-1, bitorder="little").view("<u2")[..., 0]
        stored = np.repeat(bits, 4, -1)
    elif encoding == "block4x1":
        bits = (tiles != 0).any(2)
        mask = np.packbits(bits, axis=-1, bitorder="little").view("<u8")[..., 0]
        stored = np.repeat(bits[:, :, None], 4, 2)
    else:
        stored = tiles != 0
        mask = np.packbits(stored, axis=-1, bitorder="little").view("<u8")[..., 0]
    offsets = np.zeros(groups + 1, np.uint64)
    offsets[1:] = np.cumsum(stored.sum((1, 2, 3)))
    values = np.concatenate([tiles[stored], np.zeros(64 // dense.itemsize, dense.dtype)])
    return values, np.ascontiguousarray(mask), offsets


def make_weight(dense, encoding, scale=None):
    if encoding == "dense":
        return _native.Weight.dense(dense, scale)
    if encoding == "slots":
        return make_weight(dense, "bitmask", scale).in_slots()
    return _native.Weight.masked(encoding, *dense.shape, *masked_arrays(dense, encoding), scale)


def to_float(dense):
    """Stored form of f32 or bf16 as float32."""
    return (dense.astype(np.uint32) << 16).view(np.float32) if dense.dtype == np.uint16 else dense


def quantize_tokens(x):
    """Dynamic symmetric int8 per token: int32 codes [tokens, cols] and float32 scales [tokens]."""
    absmax = np.abs(x).max(1, initial=0).astype(np.float32)
    scale = absmax / np.float32(127)
    scale[scale < np.finfo(np.float32).tiny] = 0
    safe = np.where(scale > 0, scale, np.float32(1))[:, None]
    return np.where(scale[:, None] > 0, np.rint(x / safe), 0).astype(np.int32), scale


def int8_reference(x, codes, scale):
    """The exact result of an int8 linear: integer accumulation, then acc * (x_scale * w_scale) in float32."""
    x_codes, x_scale = quantize_tokens(x)
    total = x_codes.astype(np.int64) @ codes.astype(np.int64).T
    return total.astype(np.int32).astype(np.float32) * (x_scale[:, None] * scale[None, :])
