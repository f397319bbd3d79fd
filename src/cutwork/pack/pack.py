"""Packed models into files."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import numpy as np

from cutwork.errors import damaged_if_not_understood
from cutwork.pack.convert import LOWEST, convert
from cutwork.pack.manifest import Manifest, Source, WeightEntry, write_manifest
from cutwork.pack.reader import STORED_DTYPE
from cutwork.pack.record import EncodedWeight
from cutwork.pack.rounding import Rounding, rounding
from cutwork.pack.source import SourceCheckpoint, SourceWeight
from cutwork.pack.zeros import negative_zeros
from cutwork.store.directory import copy_side_files
from cutwork.store.examples import write_examples
from cutwork.store.output import output_directory
from cutwork.store.safetensors import SafetensorsWriter

Progress = Callable[[int, int], None]  # weights done, weights in all

_SCALE_DTYPE: dict[str, Literal["F32", "F16", "BF16"]] = {"float32": "F32", "float16": "F16", "uint16": "BF16"}
_PARTS = 6  # tensors that a weight is stored as, at most


@dataclass(frozen=True)
class PackedWeight:
    """What became of one weight."""

    name: str
    shape: tuple[int, ...]
    encoding: str
    dtype: str
    sparsity: float
    nbytes: int
    dense_nbytes: int


@dataclass
class PackSummary:
    """What became of a checkpoint."""

    weights: list[PackedWeight] = field(default_factory=list)
    source_nbytes: int = 0
    clamped: int = 0  # int8 codes of -128, stored as -127
    head: str | None = None  # the name of the weight that makes logits

    @property
    def nbytes(self) -> int:
        """Bytes of the packed weights."""
        return sum(weight.nbytes for weight in self.weights)

    @property
    def wide_head(self) -> PackedWeight | None:
        """The output head, if it has floats where other weights have integers."""
        head = next((weight for weight in self.weights if weight.name == self.head), None)
        rounded = any(weight.dtype in ("i8", "i4") for weight in self.weights)
        return head if head and rounded and head.dtype not in ("i8", "i4") else None

    @property
    def dense_nbytes(self) -> int:
        """Bytes of the same weights in the same dtypes without masks."""
        return sum(weight.dense_nbytes for weight in self.weights)

    @property
    def sparsity(self) -> float:
        """Fraction of zeros in the weights stored with a mask; 0 if there are none."""
        sparse = [(float(np.prod(w.shape)), w.sparsity) for w in self.weights if w.encoding != "dense"]
        return sum(size * zeros for size, zeros in sparse) / sum(size for size, _ in sparse) if sparse else 0.0


class PackWriter:
    """Writes a packed model weight by weight, holding only one: a context manager, complete when its block ends.

    `weights` is about how many there will be; `source` says how to restore the checkpoint, and may grow meanwhile.
    """

    def __init__(
        self,
        directory: Path,
        config: dict[str, Any],
        weights: int,
        *,
        source: Source | None = None,
        shard_bytes: int = 5_000_000_000,
    ) -> None:
        self._directory, self._config = directory, config
        self._source = source or Source(kind="checkpoint")
        self._entries: dict[str, WeightEntry] = {}
        self._file = SafetensorsWriter(directory, weights * _PARTS, shard_bytes=shard_bytes)

    def __enter__(self) -> "PackWriter":
        self._file.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.__exit__(kind, error, trace)
        if kind is None:
            version: Literal[1, 2] = 2 if any(entry.encoding == "slots" for entry in self._entries.values()) else 1
            manifest = Manifest(version=version, config=self._config, source=self._source, weights=self._entries)
            write_manifest(self._directory, manifest)

    def add(self, name: str, weight: EncodedWeight) -> None:
        """Write a weight under its Hugging Face name."""
        dtype = STORED_DTYPE[weight.dtype]
        if weight.encoding == "slots":
            self.add_tensor(f"{name}.slots", "U8", weight.values)
            if weight.steps is not None:
                self.add_tensor(f"{name}.steps", "U8", weight.steps)
        elif weight.mask is None or weight.offsets is None:
            self.add_tensor(name, dtype, weight.values)
        else:
            self.add_tensor(f"{name}.mask", f"U{8 * weight.mask.itemsize}", weight.mask)
            self.add_tensor(f"{name}.values", dtype, weight.values)
            self.add_tensor(f"{name}.offsets", "U64", weight.offsets)
        if weight.scale is not None:
            self.add_tensor(f"{name}.scale", _SCALE_DTYPE[weight.scale.dtype.name], weight.scale)
        self._entries[name] = WeightEntry(
            encoding=weight.encoding,
            dtype=weight.dtype,
            shape=list(weight.shape),
            nonzeros=weight.nonzeros,
            group=weight.group if weight.scale is not None and weight.dtype == "i4" else None,
            scale=_SCALE_DTYPE[weight.scale.dtype.name] if weight.scale is not None and weight.dtype == "i4" else None,
            keep=weight.keep or None,
        )

    def add_tensor(self, name: str, dtype: str, array: np.ndarray) -> None:
        """Write something that the engine does not read."""
        self._file.add(name, dtype, array)


def pack(
    source: Path,
    output: Path,
    dtype: Literal["auto", "f32", "bf16"] = "auto",
    *,
    weights: Rounding = "auto",
    head: Rounding = "auto",
    embedding: Literal["auto", "i8"] = "auto",
    examples: Sequence[str] = (),
    overwrite: bool = False,
    progress: Progress | None = None,
) -> PackSummary:
    """Pack a plain or quantised checkpoint into the directory `output`, which appears when it is complete.

    `dtype` is that of unquantised matrices. `weights` and `head` say what is rounded to the nearest, unless it is
    quantised already, `i8` per row, `i4` per row and 128 columns: the linears of the blocks, and the output head (or
    the embedding tied to it), which is read whole for every token and is `i8` where the linears are rounded. An
    `embedding` apart from the head may be `i8`, too, which halves what it takes. Only one weight is in memory at a
    time, as it was and as it is stored. `examples` are prompts of the model's task, kept beside it if they are short.
    Raises CutworkError for what cannot be read, a taken `output` or a full disk.
    """
    with damaged_if_not_understood(source):
        checkpoint = SourceCheckpoint(source)
    dtypes = rounding(checkpoint, weights, head, embedding)
    summary = PackSummary(source_nbytes=checkpoint.nbytes, head=checkpoint.head)
    config = dict(checkpoint.config)
    if checkpoint.dequantized:
        config.pop("quantization_config", None)  # restored as the floats that it stands for
    origin = Source(kind=checkpoint.kind, tied=checkpoint.tied, extras=checkpoint.extras)
    with damaged_if_not_understood(source), output_directory(output, overwrite, source=source) as partial:
        parts = len(checkpoint.names) + len(checkpoint.extras)
        with PackWriter(partial, config, parts, source=origin) as writer:
            for done, name in enumerate(checkpoint.names):
                if progress:
                    progress(done, len(checkpoint.names))
                weight = checkpoint.weight(name)
                encoded = convert(name, weight, dtypes.get(name, dtype))
                writer.add(name, encoded)
                summary.clamped += _keep_what_restores(writer, origin, name, weight, encoded)
                summary.weights.append(_describe(name, encoded))
                checkpoint.release(name)
            for name in checkpoint.extras:
                tensor = checkpoint.tensors[name]
                writer.add_tensor(name, tensor.dtype, tensor.array)
        copy_side_files(source, partial)
        write_examples(partial, examples)
    if progress:
        progress(len(checkpoint.names), len(checkpoint.names))
    return summary


def _keep_what_restores(
    writer: PackWriter, origin: Source, name: str, weight: SourceWeight, encoded: EncodedWeight
) -> int:
    """Note what the encoded weight does not tell about the original; returns the number of clamped codes."""
    if weight.group:
        return 0
    if weight.tensor.dtype != STORED_DTYPE[encoded.dtype]:
        origin.dtypes[name] = weight.tensor.dtype
    if encoded.encoding != "dense" and encoded.dtype in ("f32", "bf16"):
        signs = negative_zeros(weight.tensor.array)
        if signs is not None:
            writer.add_tensor(f"{name}.negative_zeros", "U64", signs)
    if weight.stored_scale is None:
        return 0
    if weight.stored_scale.dtype != "F32":
        origin.dtypes[f"{name}_scale"] = weight.stored_scale.dtype
    if weight.stored_scale.shape != (encoded.shape[0], 1):
        origin.scale_shapes[name] = list(weight.stored_scale.shape)
    lowest = np.flatnonzero(weight.tensor.array == LOWEST).astype("<u8")
    if lowest.size:
        writer.add_tensor(f"{name}.lowest", "U64", lowest)
    return int(lowest.size)


def _describe(name: str, weight: EncodedWeight) -> PackedWeight:
    return PackedWeight(
        name, weight.shape, weight.encoding, weight.dtype, weight.sparsity, weight.nbytes, weight.dense_nbytes
    )
