"""Codes of 4 or 8 bits in words of 32, as compressed-tensors' `pack-quantized` has them."""

import numpy as np


def pack_nibbles(codes: np.ndarray) -> np.ndarray:
    """Int32 words [rows, ceil(cols / 8)] of int4 codes int8 [rows, cols], as `pack-quantized` stores them."""
    padded = np.zeros((codes.shape[0], -(-codes.shape[1] // 8) * 8), np.uint8)
    padded[:, : codes.shape[1]] = codes + 8
    return np.ascontiguousarray(padded[:, ::2] | padded[:, 1::2] << 4).view("<i4")


def unpack_codes(words: np.ndarray, bits: int, cols: int) -> np.ndarray:
    """Int8 codes [rows, cols] of int32 words [rows, n], low bits first, stored with an offset."""
    octets = words.view(np.uint8)
    if bits == 4:
        octets = np.stack([octets & 15, octets >> 4], axis=-1).reshape(len(words), -1)
    return (octets[:, :cols].astype(np.int16) - (1 << (bits - 1))).astype(np.int8)
