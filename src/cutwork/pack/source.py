"""The weights that a checkpoint holds, whatever way it stores them."""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from cutwork import architectures
from cutwork.architectures.architecture import HEAD
from cutwork.errors import CutworkError
from cutwork.pack.codes import COMPANIONS, Codes
from cutwork.pack.floats import FLOATS, as_float32, transposed
from cutwork.store.checkpoint import Checkpoint, open_checkpoint
from cutwork.store.directory import kind_of, read_config
from cutwork.store.renamed import Renamed
from cutwork.store.safetensors import NUMPY_DTYPES, Tensor


@dataclass(frozen=True)
class SourceWeight:
    """One weight: floats (`tensor` F32, F16 or BF16), or int8 codes with a float32 `scale` [rows].

    Or, where `group` is not 0, int4 codes (as I8) with a `stored_scale` [rows, groups] for each `group` columns.
    """

    tensor: Tensor
    scale: np.ndarray | None = None
    stored_scale: Tensor | None = None  # as the checkpoint has it, for restoring
    group: int = 0

    @property
    def quantized(self) -> bool:
        """Whether `tensor` holds codes."""
        return self.scale is not None or self.group > 0


class SourceCheckpoint:
    """A plain or quantised checkpoint as weights by their Hugging Face names.

    A tied embedding that is stored only as what is tied to it has the name of the embedding all the same.
    `names` are in the order of layers; `extras` are tensors that are no weights (integer buffers, calibrated input
    scales); `tied` maps a weight left out to the equal one that is kept. Raises CutworkError for what cannot be read.
    """

    def __init__(self, path: Path) -> None:
        kind = kind_of(path)
        if kind == "packed":
            raise CutworkError(f"{path} is packed already")
        self.path = path
        self.kind: Literal["checkpoint", "quantized"] = kind
        self.config = read_config(path)
        self._architecture = architectures.find(self.config)
        self.tensors = self._with_embedding(open_checkpoint(path))
        if self._architecture and self._architecture.told_by_names:
            self.config = {**self.config, **self._architecture.told_by_names(self.config, self.tensors)}
        self._codes = Codes(path, self.tensors, self.config)
        self.tied = self._tied()
        if self._has_a_head_of_its_own():
            self.config = {**self.config, "tie_word_embeddings": False}
        self.names, self.extras = self._sort()
        if not self.names:
            raise CutworkError(f"{path} holds no weights")
        packed = [name for name in self.names if f"{name}_packed" in self.tensors]
        self._int4 = {name: group for name in packed if (group := self._codes.int4_group(name))}
        codes = [name for name in self.names if name not in packed and self.tensors.describe(name)[0] == "I8"]
        self.dequantized = len(self._int4) < len(packed) or not all(map(self._read_by_kernels, codes))
        if self.dequantized:  # all will be restored as floats, which have no zero points
            self.extras = [name for name in self.extras if not name.endswith("_zero_point")]
        else:
            self.extras = sorted([*self.extras, *(f"{name}_shape" for name in packed)])

    @property
    def nbytes(self) -> int:
        """Bytes of all its tensors, zeros included."""
        described = map(self.tensors.describe, self.tensors)
        return sum(math.prod(shape) * NUMPY_DTYPES[dtype].itemsize for dtype, shape in described)

    @property
    def head(self) -> str | None:
        """The weight that makes logits: the output head, or the embedding that it is tied to."""
        rename = self._architecture.plan_name if self._architecture else str
        if head := next((name for name in self.names if rename(name) == HEAD), None):
            return head
        may_be_tied = self.tied or self.config.get("tie_word_embeddings") is not False  # many leave it to the default
        if self._architecture and self._architecture.decoder and may_be_tied:
            return next(self._named(self._architecture.embedding), None)
        return None

    @property
    def embedding(self) -> str | None:
        """The weight whose rows stand for a decoder's tokens."""
        if self._architecture is None or self._architecture.decoder is None:
            return None
        return next(self._named(self._architecture.embedding), None)

    def weight(self, name: str) -> SourceWeight:
        """Read one weight; codes that no kernel reads as they are turn into floats of their scale's dtype.

        Those are asymmetric ones, int8 in groups, and int4 in groups that are no multiple of 32 columns.
        """
        if name in self._int4:
            codes = Tensor("I8", self._codes.unpacked(name))
            return SourceWeight(codes, stored_scale=self._codes.scale(name), group=self._int4[name])
        if f"{name}_packed" in self.tensors:
            return SourceWeight(self._codes.dequantize(name, self._codes.unpacked(name)))
        tensor = self.tensors[name]
        if tensor.dtype != "I8":
            return SourceWeight(transposed(self.config, name, tensor))
        if not self._read_by_kernels(name):
            return SourceWeight(self._codes.dequantize(name, tensor.array))
        scale = self._codes.scale(name)
        per_row = np.broadcast_to(as_float32(scale).reshape(-1), tensor.shape[:1])
        return SourceWeight(tensor, np.ascontiguousarray(per_row), scale)

    def release(self, name: str) -> None:
        """Let go of the memory of a weight that has been used."""
        for stored in (name, f"{name}_packed"):
            if stored in self.tensors:
                self.tensors.release(stored)

    def _read_by_kernels(self, name: str) -> bool:
        """Whether int8 codes are symmetric and of one scale per row or for all."""
        zero_point = self.tensors.get(f"{name}_zero_point")
        rows = self.tensors.describe(name)[1][0]
        scale = self._codes.scale(name).array  # of as many elements may be one per block of rows and columns
        of_rows = scale.size == 1 or scale.shape in ((rows,), (rows, 1))
        return of_rows and (zero_point is None or not zero_point.array.any())

    def _with_embedding(self, stored: Checkpoint) -> Checkpoint:
        """The tensors, of which that one is called the embedding that stands for it.

        Who saves tied tensors keeps one of them, by whatever name, and may note of which others it is a copy. The head
        stands for the embedding only where the config ties them.
        """
        family = self._architecture
        if family is None:
            return stored
        by_plan = {family.plan_name(name): name for name in stored}
        if family.embedding in by_plan or f"{family.embedding}_packed" in by_plan:
            return stored
        noted = [kept for alias, kept in stored.aliases.items() if family.plan_name(alias) == family.embedding]
        copies = [by_plan[name] for name in family.copies if name in by_plan]
        if any(not _same(stored[copies[0]], stored[copy]) for copy in copies[1:]):
            copies = []  # they are embeddings of their own
        head, ties = by_plan.get(HEAD), self.config.get("tie_word_embeddings") is not False
        found = [name for name in (*noted, *copies, head) if name and (ties or name != head)]
        if not found:
            return stored
        return Renamed(stored, {family.embedding if name == found[0] else name: name for name in stored})

    def _tied(self) -> dict[str, str]:
        """The output head, where the checkpoint repeats the embedding that it is tied to."""
        head = next(self._named(HEAD), None)
        if self._architecture is None or head is None or self.config.get("tie_word_embeddings") is not True:
            return {}
        for name in self._named(self._architecture.embedding):
            stored, repeated = self.tensors[name], self.tensors[head]
            if _same(stored, repeated):
                return {head: name}
        return {}

    def _has_a_head_of_its_own(self) -> bool:
        """Whether what the config calls tied, or leaves to its default, is stored twice and differs: then, as in
        transformers, both count."""
        if self._architecture is None or self._architecture.decoder is None or self._architecture.kind != "text":
            return False
        head, embedding = (next(self._named(name), None) for name in (HEAD, self._architecture.embedding))
        if not head or not embedding or self.tied or self.config.get("tie_word_embeddings") is False:
            return False
        return not _same(self.tensors[head], self.tensors[embedding])

    def _named(self, name: str) -> Iterator[str]:
        """What the checkpoint calls the tensor that plans call so; nothing if it is not there."""
        rename = self._architecture.plan_name if self._architecture else str
        return (stored for stored in self.tensors if rename(stored) == name)

    def _sort(self) -> tuple[list[str], list[str]]:
        """The names of weights, and of extras."""
        weights, extras = [], []
        quantized = set()
        for name in self.tensors:
            dtype, shape = self.tensors.describe(name)
            if name.endswith("weight_packed"):
                quantized.add(name.removesuffix("_packed"))
            elif dtype == "I8" and f"{name}_scale" in self.tensors and len(shape) == 2:
                quantized.add(name)
        companions = {name + end for name in quantized for end in (*COMPANIONS, "_packed")}
        for name in self.tensors:
            dtype, shape = self.tensors.describe(name)
            if 0 in shape and (dtype in FLOATS or name in quantized):
                raise CutworkError(f"{self.path}: '{name}' of shape {list(shape)} is empty; get the model again")
            if name in self.tied or name in quantized or (name in companions and not name.endswith("_zero_point")):
                continue
            if name in companions:
                extras.append(name)
            elif dtype in ("F64", "F8_E4M3", "F8_E5M2"):
                raise CutworkError(f"{self.path}: '{name}' is {dtype}, which cutwork cannot run; save it as float32")
            elif dtype in FLOATS and not name.endswith(("input_scale", "output_scale", "k_scale", "v_scale")):
                weights.append(name)
            else:
                extras.append(name)
        return sorted([*weights, *quantized], key=_by_layer), sorted(extras)


def _same(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors are equal, bit for bit."""
    if (a.dtype, a.shape) != (b.dtype, b.shape):
        return False
    return np.array_equal(a.array.reshape(-1).view(np.uint8), b.array.reshape(-1).view(np.uint8))


def _by_layer(name: str) -> list[tuple[int, str]]:
    """Sort key that puts layer 2 before layer 10."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"\.", name)]
