"""What a GGUF file holds, mapped and checked (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md).

Layout: "GGUF", u32 version, u64 tensors, u64 pairs; the pairs (key, type, value); for each tensor its name, dimensions
(innermost first), type and offset; then, aligned, the tensors. The gguf package knows the types' sizes and how to
dequantise them; its own reader believes what a file says of its counts.
"""

import mmap
import struct
from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from cutwork.errors import CutworkError

_VERSIONS = (2, 3)
_SCALARS = {0: "<u1", 1: "<i1", 2: "<u2", 3: "<i2", 4: "<u4", 5: "<i4", 6: "<f4", 7: "?", 10: "<u8", 11: "<i8",
            12: "<f8"}  # fmt: skip
_STRING, _ARRAY = 8, 9
_MOST_DIMENSIONS, _LONGEST = 4, 1 << 40  # of a tensor, and its elements
Q4_0, Q4_0_GROUP = "Q4_0", 32  # the type whose codes the engine's kernels read, and its columns per scale
_LONGEST_LIST = 1 << 22  # entries of the metadata, of which a vocabulary has a quarter of a million
_CHUNK = 1 << 22  # elements that are dequantised at a time


@dataclass(frozen=True)
class GgufTensor:
    """Where a tensor lies: its shape, outermost dimension first, its type's name and number, and its bytes."""

    shape: tuple[int, ...]
    kind: str
    number: int
    begin: int
    nbytes: int


class GgufFile:
    """Metadata by key (numbers, strings, lists of them), and tensors.

    Everything is checked here, so that nothing reaches beyond the file, no tensors share bytes and no declared count is
    believed. Raises CutworkError for anything else than a whole file of this format, in one piece.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with path.open("rb") as file:
                size = file.seek(0, 2)
                self._bytes = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if size else b""
        except OSError as error:
            raise CutworkError(f"cannot read {path}: {(error.strerror or str(error)).lower()}") from None
        self._size = size
        if self._bytes[:4] != b"GGUF":
            raise CutworkError(f"{path} is no GGUF file; get it again")
        version = int.from_bytes(self._bytes[4:8], "little")
        if version not in _VERSIONS:
            raise CutworkError(f"{path} has GGUF version {version}; cutwork reads little-endian files of 2 and 3")
        self._at = 8
        try:
            tensors, pairs = self._count(24), self._count(12)
            self.metadata: dict[str, Any] = {}
            for _ in range(pairs):
                key = self._string()
                self._once(key in self.metadata, f"the key '{key}'")
                self.metadata[key] = self._value(self._number("<u4"))
            described = dict(self._described() for _ in range(tensors))
            self._once(len(described) < tensors, "a tensor's name")
            self.tensors = self._placed(described)
        except (struct.error, UnicodeDecodeError, RecursionError) as error:
            raise self._damaged(str(error)) from None

    def array(self, name: str) -> np.ndarray:
        """A tensor as float32, or where it is stored so as float16, or bfloat16's bits (uint16); of its shape."""
        import gguf

        tensor = self.tensors[name]
        stored = np.frombuffer(self._bytes, np.uint8, tensor.nbytes, tensor.begin)
        plain = {"F32": "<f4", "F16": "<f2", "BF16": "<u2"}
        if tensor.kind in plain:
            return stored.view(plain[tensor.kind]).reshape(tensor.shape)
        columns = tensor.shape[-1]
        rows = stored.reshape(prod(tensor.shape) // columns, -1)
        step = max(1, _CHUNK // columns)
        result = np.empty((len(rows), columns), np.float32)
        kind = gguf.GGMLQuantizationType(tensor.number)
        with np.errstate(all="ignore"):  # damaged scales may be anything
            for first in range(0, len(rows), step):
                try:
                    result[first : first + step] = gguf.quants.dequantize(rows[first : first + step], kind)
                except NotImplementedError:
                    raise CutworkError(
                        f"{self.path}: '{name}' is stored as {kind.name}, which the gguf package does not read"
                    ) from None
        return result.reshape(tensor.shape)

    def codes(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """A matrix in Q4_0: its codes, int8 [rows, columns] from -8 to 7, and float16 [rows, columns / 32] scales."""
        tensor = self.tensors[name]
        assert tensor.kind == Q4_0 and len(tensor.shape) == 2
        stored = np.frombuffer(self._bytes, np.uint8, tensor.nbytes, tensor.begin)
        blocks = stored.reshape(tensor.shape[0], -1, 2 + 16)  # a float16; the low nibbles' codes, and the high ones'
        nibbles = np.concatenate([blocks[..., 2:] & 15, blocks[..., 2:] >> 4], axis=-1)
        scales = np.ascontiguousarray(blocks[..., :2]).view("<f2")[..., 0]
        return nibbles.reshape(tensor.shape).astype(np.int8) - 8, scales

    def _described(self) -> tuple[str, tuple[tuple[int, ...], int, int]]:
        """A tensor's name, its shape, type and offset among the tensors."""
        name = self._string()
        dimensions = self._number("<u4")
        if not 1 <= dimensions <= _MOST_DIMENSIONS:
            raise self._damaged(f"'{name}' has {dimensions} dimensions")
        shape = tuple(self._number("<u8") for _ in range(dimensions))[::-1]
        if 0 in shape or prod(shape) > _LONGEST:
            raise self._damaged(f"'{name}' has the shape {list(shape)}")
        return name, (shape, self._number("<u4"), self._number("<u8"))

    def _placed(self, described: dict[str, tuple[tuple[int, ...], int, int]]) -> dict[str, GgufTensor]:
        import gguf

        alignment = self.metadata.get("general.alignment", 32)
        if not isinstance(alignment, int) or not 1 <= alignment <= 1 << 16:
            raise self._damaged(f"general.alignment is {alignment!r}")
        start = -(-self._at // alignment) * alignment
        readable = {kind.value: kind for kind in gguf.GGML_QUANT_SIZES if kind.name not in ("Q8_1", "Q8_K")}
        placed = {}
        for name, (shape, number, offset) in described.items():
            if number not in readable:
                raise CutworkError(f"{self.path}: '{name}' is of type {number}, which the gguf package does not know")
            block, size = gguf.GGML_QUANT_SIZES[readable[number]]
            nbytes = prod(shape) // block * size
            if shape[-1] % block or offset % alignment or start + offset + nbytes > self._size:
                raise self._damaged(f"'{name}' does not fit; it may have been cut off")
            placed[name] = GgufTensor(shape, readable[number].name, number, start + offset, nbytes)
        end = 0
        for name, tensor in sorted(placed.items(), key=lambda item: item[1].begin):
            if tensor.begin < end:
                raise self._damaged(f"'{name}' lies over another tensor")
            end = tensor.begin + tensor.nbytes
        return placed

    def _value(self, kind: int) -> Any:
        if kind == _STRING:
            return self._string()
        if kind in _SCALARS:
            return self._number(_SCALARS[kind])
        if kind != _ARRAY:
            raise self._damaged(f"a value has type {kind}")
        kind = self._number("<u4")
        if kind == _STRING:
            return [self._string() for _ in range(self._listed(8))]
        if kind not in _SCALARS:
            raise self._damaged(f"a list has type {kind}")
        item = np.dtype(_SCALARS[kind])
        return self._take(self._listed(item.itemsize) * item.itemsize, lambda data: np.frombuffer(data, item).tolist())

    def _string(self) -> str:
        return str(self._take(self._count(1), bytes), "utf-8")

    def _count(self, least: int) -> int:
        """A number of things of which each takes at least so many bytes of what is left."""
        count = self._number("<u8")
        if count * least > self._size - self._at:
            raise self._damaged(f"it announces {count} things where {self._size - self._at} bytes are left")
        return int(count)

    def _listed(self, least: int) -> int:
        """A number of entries of a list, which as Python's objects take several times as many bytes."""
        count = self._count(least)
        if count > _LONGEST_LIST:
            raise self._damaged(
                f"a list has {count} entries, more than the {_LONGEST_LIST} that any vocabulary may have"
            )
        return count

    def _number(self, kind: str) -> Any:
        item = np.dtype(kind)
        return self._take(item.itemsize, lambda data: np.frombuffer(data, item)[0].item())

    def _take(self, count: int, read: Callable[[bytes], Any]) -> Any:
        if self._at + count > self._size:
            raise self._damaged("it ends too early")
        self._at += count
        return read(self._bytes[self._at - count : self._at])

    def _once(self, twice: bool, what: str) -> None:
        if twice:
            raise self._damaged(f"{what} occurs twice")

    def _damaged(self, what: str) -> CutworkError:
        return CutworkError(f"{self.path} is damaged: {what}; get it again")
