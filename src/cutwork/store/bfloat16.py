"""bfloat16 in NumPy, where it is the upper half of a float32 held as uint16."""

import numpy as np


def to_float32(bits: np.ndarray) -> np.ndarray:
    """Float32 of the same shape, exactly."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


def from_float32(values: np.ndarray) -> np.ndarray:
    """Uint16 bits of the nearest bfloat16, ties to even; a NaN stays one."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    rounded = (bits + (0x7FFF + ((bits >> 16) & 1))) >> 16  # cannot overflow except for NaNs
    return np.where(np.isnan(values), (bits >> 16) | 0x40, rounded).astype(np.uint16)


def widen(values: np.ndarray) -> np.ndarray:
    """Float32 if these are bits of bfloat16 (uint16); other arrays as they are."""
    return to_float32(values) if values.dtype == np.uint16 else values


def in_float32(values: np.ndarray) -> np.ndarray:
    """Float32 of numbers of any type, bits of bfloat16 (uint16) among them; not copied if they are float32 already."""
    return np.asarray(widen(values), np.float32)
