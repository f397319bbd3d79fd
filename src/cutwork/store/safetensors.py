"""Safetensors files, mapped and checked, and a writer that streams. No torch here.

The safetensors library cannot map bfloat16 into NumPy, does not stream, and does not align tensors; the files written
here load with it. Layout: u64 header length, JSON header, tensors without gaps (https://github.com/huggingface/safetensors).
"""

import json
import math
import mmap
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np

from cutwork.errors import CutworkError
from cutwork.store.json_file import read_json

# Types NumPy lacks are held as unsigned integers of the same width; `Tensor.dtype` keeps their name.
NUMPY_DTYPES: dict[str, np.dtype] = {
    name: np.dtype(kind)
    for name, kind in {
        "F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2", "I64": "<i8", "U64": "<u8", "I32": "<i4", "U32": "<u4",
        "I16": "<i2", "U16": "<u2", "I8": "i1", "U8": "u1", "BOOL": "?", "F8_E4M3": "u1", "F8_E5M2": "u1",
    }.items()
}  # fmt: skip

ALIGNMENT = 64
PADDING = "padding."  # names of the filler tensors that keep the others aligned
_MAX_HEADER = 100_000_000  # the library's own limit
_POINTER = b"version https://git-lfs"
_HEADER_BYTES_PER_TENSOR = 256


@dataclass(frozen=True)
class Tensor:
    """A tensor: its safetensors dtype name, and its array, which may be a view of a mapped file."""

    dtype: str
    array: np.ndarray

    @property
    def shape(self) -> tuple[int, ...]:
        """Its dimensions."""
        return self.array.shape


@dataclass(frozen=True)
class _Entry:
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


class SafetensorsFile(Mapping[str, Tensor]):
    """One mapped file as a mapping from names to read-only tensors.

    Everything in the header is checked here, so that no array reaches beyond the file and no declared size is
    believed. Raises CutworkError otherwise. Filler tensors are hidden. What is written to the arrays of a `writable`
    one is written to the file.
    """

    def __init__(self, path: Path, *, writable: bool = False) -> None:
        self.path = path
        access = mmap.ACCESS_WRITE if writable else mmap.ACCESS_READ
        try:
            with path.open("r+b" if writable else "rb") as file:
                size = file.seek(0, 2)
                self._map = mmap.mmap(file.fileno(), 0, access=access) if size else b""
        except FileNotFoundError:
            raise CutworkError(f"{path} is missing; the model directory is incomplete") from None
        except OSError as error:
            raise CutworkError(f"cannot read {path}: {(error.strerror or str(error)).lower()}") from None
        self._entries, self.metadata = _read_header(path, self._map, size)

    def __getitem__(self, name: str) -> Tensor:
        entry = self._entries[name]
        kind = NUMPY_DTYPES[entry.dtype]
        count = math.prod(entry.shape)
        flat = np.frombuffer(self._map, kind, count, entry.begin) if count else np.empty(0, kind)
        return Tensor(entry.dtype, flat.reshape(entry.shape))

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def describe(self, name: str) -> tuple[str, tuple[int, ...]]:
        """The dtype name and shape of a tensor, from the header alone."""
        entry = self._entries[name]
        return entry.dtype, entry.shape

    def release(self, name: str) -> None:
        """Let go of a tensor's memory: its arrays stay valid, and are read from the file again if they are touched."""
        entry = self._entries[name]
        first, end = entry.begin & -mmap.PAGESIZE, entry.end
        if end > first and isinstance(self._map, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
            self._map.madvise(mmap.MADV_DONTNEED, first, end - first)


class Tensors(Mapping[str, Tensor]):
    """All tensors of a model directory, over one or several files."""

    def __init__(self, files: Mapping[str, SafetensorsFile]) -> None:
        self._files = files

    def __getitem__(self, name: str) -> Tensor:
        return self._files[name][name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def __len__(self) -> int:
        return len(self._files)

    @property
    def paths(self) -> list[Path]:
        """The files they are in."""
        return sorted({file.path for file in self._files.values()})

    @property
    def aliases(self) -> dict[str, str]:
        """What the files say was left out because it equals what they hold, by name: the library notes it so."""
        metadata = [file.metadata for file in {file.path: file for file in self._files.values()}.values()]
        return {alias: kept for noted in metadata for alias, kept in noted.items() if kept in self._files}

    def describe(self, name: str) -> tuple[str, tuple[int, ...]]:
        """The dtype name and shape of a tensor, from the header alone."""
        return self._files[name].describe(name)

    def release(self, name: str) -> None:
        """Let go of a tensor's memory, as `SafetensorsFile.release` does."""
        self._files[name].release(name)


def open_tensors(directory: Path, *, writable: bool = False) -> Tensors:
    """Map the weights of a model directory: `model.safetensors`, the files of an index, or whatever there is.

    With `writable`, changing an array changes its file. Raises CutworkError for missing, damaged or ambiguous files.
    """
    single = directory / "model.safetensors"
    index = directory / "model.safetensors.index.json"
    if single.is_file():
        return _union([SafetensorsFile(single, writable=writable)])
    if index.is_file():
        return _indexed(index, writable)
    paths = sorted(directory.glob("*.safetensors"))
    if not paths:
        raise CutworkError(f"no *.safetensors in {directory}; the model directory is incomplete")
    return _union([SafetensorsFile(path, writable=writable) for path in paths])


def _union(files: list[SafetensorsFile]) -> Tensors:
    owners: dict[str, SafetensorsFile] = {}
    for file in files:
        for name in file:
            if name in owners:
                raise CutworkError(
                    f"'{name}' is in both {owners[name].path} and {file.path.name}; keep one set of weights"
                )
            owners[name] = file
    return Tensors(owners)


def _indexed(index: Path, writable: bool) -> Tensors:
    places = read_json(index).get("weight_map")
    if not isinstance(places, dict) or not all(isinstance(place, str) for place in places.values()):
        raise CutworkError(f"{index} has no valid weight_map; get the file again")
    for place in places.values():
        if Path(place).name != place:
            raise CutworkError(f"{index} points outside its directory ('{place}'); get the file again")
    files = {place: SafetensorsFile(index.parent / place, writable=writable) for place in sorted(set(places.values()))}
    for name, place in places.items():
        if name not in files[place]:
            raise CutworkError(f"'{name}' is missing from {index.parent / place}, where its index puts it")
    return Tensors({name: files[place] for name, place in places.items()})


def _read_header(path: Path, data: Any, size: int) -> tuple[dict[str, _Entry], dict[str, str]]:
    """The checked entries (byte ranges counted from the start of the file) and the metadata."""

    def refuse(problem: str) -> CutworkError:
        return CutworkError(f"{path} is damaged: {problem}; get the file again")

    if size < 8:
        raise refuse(f"it has only {size} bytes")
    length = int.from_bytes(data[:8], "little")
    if length > min(size - 8, _MAX_HEADER):
        if bytes(data[: len(_POINTER)]) == _POINTER:
            raise CutworkError(f"{path} is a Git LFS pointer, not the file it stands for; run: git lfs pull")
        if bytes(data[:64]).lstrip().lower().startswith((b"<!doctype", b"<html")):
            raise CutworkError(f"{path} is a web page, not weights; download the file itself")
        raise refuse(f"its header of {length} bytes does not fit in the file of {size} bytes")
    try:
        header = json.loads(data[8 : 8 + length], object_pairs_hook=_without_duplicates)
    except (ValueError, RecursionError) as error:
        raise refuse(f"its header is not valid JSON ({error})") from None
    if not isinstance(header, dict):
        raise refuse("its header is not a JSON object")
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise refuse("its metadata is not a mapping of strings")

    entries: dict[str, _Entry] = {}
    for name, fields in header.items():
        entry = _checked_entry(fields, 8 + length, size)
        if isinstance(entry, str):
            raise refuse(f"tensor '{name}' {entry}")
        entries[name] = entry
    end, previous = 8 + length, ""
    for name, entry in sorted(entries.items(), key=lambda item: (item[1].begin, item[1].end)):
        if entry.begin < end:
            raise refuse(f"tensors '{previous}' and '{name}' overlap")
        end, previous = entry.end, name
    return {name: entry for name, entry in entries.items() if not name.startswith(PADDING)}, metadata


def _checked_entry(fields: Any, start: int, size: int) -> _Entry | str:
    """An entry of the header, or what is wrong with it. Python's integers cannot overflow."""
    if not isinstance(fields, dict) or not {"dtype", "shape", "data_offsets"} <= fields.keys():
        return "lacks dtype, shape or data_offsets"
    dtype, shape, offsets = fields["dtype"], fields["shape"], fields["data_offsets"]
    if not isinstance(dtype, str) or dtype not in NUMPY_DTYPES:
        return f"has the unknown dtype {dtype!r}"
    if not isinstance(shape, list) or not all(_natural(n) for n in shape) or len(shape) > 32:
        return f"has the impossible shape {str(shape)[:80]}"
    if not isinstance(offsets, list) or len(offsets) != 2 or not all(_natural(n) for n in offsets):
        return f"has the impossible offsets {str(offsets)[:80]}"
    begin, end = start + offsets[0], start + offsets[1]
    if not begin <= end <= size:
        return f"reaches to byte {end} of a file of {size} bytes"
    if math.prod(shape) * NUMPY_DTYPES[dtype].itemsize != end - begin:
        return f"of dtype {dtype} and shape {shape} does not fill its {end - begin} bytes"
    if math.prod(size for size in shape if size) >= 2**48:  # of no bytes, but NumPy has no such array
        return f"has the impossible shape {str(shape)[:80]}"
    return _Entry(dtype, tuple(shape), begin, end)


def _natural(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**48


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a key occurs twice")
    return result


class SafetensorsWriter:
    """Streams tensors into `model.safetensors`, or into numbered shards with an index when there is more than one.

    Each tensor is written when it is added, so only that one need be in memory: room for the header, of which spaces
    remain, is left at the start of each file. With `alignment` above 1 filler tensors named `padding.N` keep every
    tensor's start at a multiple of it. The files are complete when the `with` block ends.
    """

    def __init__(
        self,
        directory: Path,
        tensors: int,
        *,
        alignment: int = ALIGNMENT,
        shard_bytes: int = 5_000_000_000,
        metadata: dict[str, str] | None = None,
    ) -> None:
        """Prepare to write about `tensors` tensors: more than that only make another shard."""
        self._directory, self._alignment, self._shard_bytes = directory, alignment, shard_bytes
        self._metadata = metadata or {}
        room = 8 + len(json.dumps(self._metadata)) + 64 + _HEADER_BYTES_PER_TENSOR * tensors
        self._data_start = -(-room // ALIGNMENT) * ALIGNMENT
        self._shards: list[dict[str, Any]] = []
        self._names: set[str] = set()
        self._header: dict[str, Any] = {}
        self._header_bytes = 0
        self._file: BinaryIO | None = None
        self._position = 0
        self.total_bytes = 0

    def __enter__(self) -> "SafetensorsWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._finish()
        elif self._file:
            self._file.close()

    def add(self, name: str, dtype: str, array: np.ndarray) -> None:
        """Write one tensor; `array` has the NumPy type that stands for `dtype`."""
        if array.dtype != NUMPY_DTYPES[dtype] or name in self._names or name.startswith(PADDING):
            raise ValueError(f"cannot write '{name}' as {dtype}: {array.dtype}, or the name is taken")
        room = len(json.dumps(name)) + 200 + 80  # of this entry and of a filler
        full = self._position + array.nbytes > self._shard_bytes
        if self._file and self._header and (full or self._header_bytes + room > self._data_start - 8):
            self._close_shard()
        if not self._file:
            self._open_shard()
        padding = -self._position % self._alignment
        if padding:
            self._append(f"{PADDING}{len(self._header)}", "U8", np.zeros(padding, np.uint8))
        self._append(name, dtype, array)
        self._names.add(name)
        self.total_bytes += array.nbytes

    def _append(self, name: str, dtype: str, array: np.ndarray) -> None:
        assert self._file
        contiguous = np.ascontiguousarray(array)
        self._file.write(contiguous.reshape(-1).view(np.uint8).data)
        entry = {
            "dtype": dtype,
            "shape": list(array.shape),
            "data_offsets": [self._position, self._position + array.nbytes],
        }
        self._header[name] = entry
        self._header_bytes += len(json.dumps({name: entry}))
        self._position += array.nbytes

    def _open_shard(self) -> None:
        path = self._directory / f".shard-{len(self._shards) + 1}"
        self._file = path.open("wb")
        self._file.write(b" " * self._data_start)
        self._header = {}
        self._position = 0
        self._header_bytes = len(json.dumps({"__metadata__": self._metadata}))

    def _close_shard(self) -> None:
        assert self._file
        header = {"__metadata__": self._metadata} if self._metadata else {}
        text = json.dumps(header | self._header, separators=(",", ":")).encode()
        length = self._data_start - 8
        if len(text) > length:
            raise ValueError("the header outgrew its room; announce more tensors")
        self._file.seek(0)
        self._file.write(length.to_bytes(8, "little") + text)
        self._file.close()
        self._file = None
        self._shards.append({name: entry for name, entry in self._header.items() if not name.startswith(PADDING)})

    def _finish(self) -> None:
        if not self._file and not self._shards:
            self._open_shard()
        if self._file:
            self._close_shard()
        names = list(_shard_names(len(self._shards)))
        for number, name in enumerate(names, 1):
            (self._directory / f".shard-{number}").rename(self._directory / name)
        if len(names) > 1:
            places = {tensor: name for name, shard in zip(names, self._shards, strict=True) for tensor in shard}
            index = {"metadata": {"total_size": self.total_bytes}, "weight_map": places}
            (self._directory / "model.safetensors.index.json").write_text(
                json.dumps(index, indent=1) + "\n", encoding="utf-8"
            )


def _shard_names(count: int) -> Iterable[str]:
    if count == 1:
        return ["model.safetensors"]
    return [f"model-{number:05d}-of-{count:05d}.safetensors" for number in range(1, count + 1)]
