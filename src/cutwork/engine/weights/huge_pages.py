"""Weights moved from the mapping of their file into huge pages, which a processor reads up to twice as fast.

Where pages have 4 KiB, the hardware's prefetching ends at each of them and most of what decoding reads has no entry in
the translation buffers. Linux has no huge pages for mapped files, but for private memory if it is asked.
"""

import mmap
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from cutwork.machine import available_memory
from cutwork.pack.record import EncodedWeight

_LINE = 64
_PAGE = 2 << 20
_LEAST = 32 << 20  # bytes: a smaller model stays in caches
_SPARE = 256 << 20  # bytes of memory that others keep
_SETTING = Path("/sys/kernel/mm/transparent_hugepage/enabled")
_ARRAYS = ("values", "mask", "offsets", "scale", "steps")


def in_huge_pages(weights: Mapping[str, EncodedWeight], threads: int = 1) -> Mapping[str, EncodedWeight]:
    """The same weights with their arrays copied to huge pages; the file's pages are let go of one after the other.

    A small model, which stays in caches, is copied all the same, though to ordinary pages: then nothing that is done to
    its file matters any more. The weights as they are where a system has no huge pages or memory is short, and on
    Windows, which lets nobody replace a mapped file.
    """
    if not hasattr(mmap, "MAP_PRIVATE"):
        return weights
    total = sum(_padded(array.nbytes) for weight in weights.values() for _, array in _arrays(weight))
    small = total < _LEAST
    if not (small or _offered()) or available_memory() < total + _SPARE:
        return weights
    try:
        memory = mmap.mmap(-1, total + _PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except OSError:
        return weights
    if not small:
        memory.madvise(mmap.MADV_HUGEPAGE)
    room = np.frombuffer(memory, np.uint8)
    at = -room.ctypes.data % _PAGE
    places: dict[tuple[str, str], np.ndarray] = {}
    for name, weight in weights.items():
        for part, array in _arrays(weight):
            places[name, part] = room[at : at + array.nbytes].view(array.dtype).reshape(array.shape)
            at += _padded(array.nbytes)

    def move(name: str) -> EncodedWeight:
        copies: dict[str, Any] = {}
        for part, array in _arrays(weights[name]):
            copy = places[name, part]
            np.copyto(copy, array)
            _release(array)
            copy.flags.writeable = False
            copies[part] = copy
        return replace(weights[name], **copies)

    with ThreadPoolExecutor(threads) as pool:
        return dict(zip(weights, pool.map(move, weights), strict=True))


def copied(weight: EncodedWeight) -> EncodedWeight:
    """The same weight in memory of its own, in ordinary pages."""
    copies: dict[str, Any] = {part: np.array(array) for part, array in _arrays(weight)}
    return replace(weight, **copies)


def _arrays(weight: EncodedWeight) -> Iterator[tuple[str, np.ndarray]]:
    for part in _ARRAYS:
        array = getattr(weight, part)
        if array is not None:
            yield part, array


def _padded(size: int) -> int:
    return -(-size // _LINE) * _LINE


def _offered() -> bool:
    try:
        return hasattr(mmap, "MADV_HUGEPAGE") and "[never]" not in _SETTING.read_text()
    except OSError:
        return False


def _release(array: np.ndarray) -> None:
    """Let go of the pages of a mapped file that an array lies in."""
    owner: object = array
    while isinstance(owner, np.ndarray):
        owner = owner.base
    if isinstance(owner, memoryview):
        owner = owner.obj
    if array.size and isinstance(owner, mmap.mmap):
        begin = array.ctypes.data - np.frombuffer(owner, np.uint8).ctypes.data
        first = begin & -mmap.PAGESIZE
        owner.madvise(mmap.MADV_DONTNEED, first, begin + array.nbytes - first)
