"""`sparse-bitmask` and `sparse-24-bitmask` checkpoints, which compressed-tensors wrote up to 0.14, as plain tensors.

Today's transformers loads them without a word and leaves their layers random. A tensor of shape [..., C] lies in parts:
`compressed`, its nonzeros in row-major order (2:4: [R, C/2], two of every four, zeros among them or not), `bitmask`
uint8 [..., ceil(C/8)], bit 0 first, and `shape` int64; `row_offsets` is not needed. Since 0.9 the parts of
`P.weight` are `P.compressed` and so on, and other tensors lie plain; before they were `P.weight.compressed`, of every
tensor. What was quantised was quantised first: then these are codes. No torch here.
"""

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from cutwork.errors import CutworkError
from cutwork.store.safetensors import Tensor, Tensors

FORMATS = ("sparse-bitmask", "sparse-24-bitmask")

_PARTS = ("compressed", "bitmask", "shape", "row_offsets")


class Expanded(Mapping[str, Tensor]):
    """The tensors that a checkpoint stands for; those stored in parts are put together when they are asked for.

    Nothing in the file is believed: CutworkError, naming the tensor, if parts are missing or do not fit together.
    """

    def __init__(self, stored: Tensors, path: Path) -> None:
        self._stored, self._path = stored, path
        bases = [name.removesuffix(".bitmask") for name in stored if name.endswith(".bitmask")]
        before_0_9 = any(base.endswith(".weight") for base in bases)
        self._bases = {base if before_0_9 else f"{base}.weight": base for base in bases}
        parts = {f"{base}.{part}" for base in bases for part in _PARTS}
        self._names = [*self._bases, *(name for name in stored if name not in parts)]

    def __getitem__(self, name: str) -> Tensor:
        if name not in self._bases:
            return self._stored[name]
        base = self._bases[name]
        dtype, shape = self.describe(name)
        bitmask, values = self._stored[f"{base}.bitmask"], self._stored[f"{base}.compressed"].array.reshape(-1)
        if bitmask.dtype != "U8" or bitmask.shape != (*shape[:-1], -(-shape[-1] // 8)):
            raise self._damaged(name)
        present = np.unpackbits(bitmask.array, axis=-1, bitorder="little").view(np.bool_)
        if np.count_nonzero(present) != len(values) or present[..., shape[-1] :].any():
            raise self._damaged(name)
        dense = np.zeros(shape, values.dtype)
        dense[present[..., : shape[-1]]] = values
        return Tensor(dtype, dense)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    @property
    def aliases(self) -> dict[str, str]:
        """What was left out because it equals what is stored, as of `Tensors`."""
        return self._stored.aliases

    def release(self, name: str) -> None:
        """Let go of the memory of what a tensor is stored as, as `SafetensorsFile.release` does."""
        base = self._bases.get(name)
        for stored in [name] if base is None else [f"{base}.bitmask", f"{base}.compressed"]:
            self._stored.release(stored)

    def describe(self, name: str) -> tuple[str, tuple[int, ...]]:
        """The dtype name and shape of a tensor."""
        if name not in self._bases:
            return self._stored.describe(name)
        base = self._bases[name]
        if not {f"{base}.compressed", f"{base}.shape"} <= self._stored.keys():
            raise self._damaged(name)
        stored = self._stored[f"{base}.shape"]
        if stored.dtype != "I64":
            raise self._damaged(name)
        shape = tuple(int(n) for n in stored.array.reshape(-1))
        # The bitmask bounds the size, before anything of it is allocated.
        held = 8 * math.prod(self._stored.describe(f"{base}.bitmask")[1])
        if not shape or min(shape) < 0 or math.prod(shape) > held:
            raise self._damaged(name)
        return self._stored.describe(f"{base}.compressed")[0], shape

    def _damaged(self, name: str) -> CutworkError:
        return CutworkError(f"{self._path}: the parts of '{name}' are missing or do not fit together; get it again")


def plain_config(config: dict[str, Any]) -> dict[str, Any]:
    """A Hugging Face configuration as it is once its tensors are expanded, without any `sparsity_config`."""
    quantization = config.get("quantization_config", config.get("compression_config"))
    keys = ("quantization_config", "compression_config", "sparsity_config")
    plain = {key: value for key, value in config.items() if key not in keys}
    if isinstance(quantization, dict):
        quantization = {key: value for key, value in quantization.items() if key != "sparsity_config"}
        theirs = quantization.get("quant_method", "compressed-tensors") == "compressed-tensors"
        if theirs and not quantization.get("config_groups") and quantization.get("format") in (None, "dense", *FORMATS):
            return plain  # nothing but the sparsity
    return plain if quantization is None else {**plain, "quantization_config": quantization}
