"""Hidden states between the blocks: in memory up to a budget, beyond it in files that vanish with the process."""

import os
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cutwork.errors import CutworkError
from cutwork.machine import available_memory

_SMALL = 1 << 20  # bytes of a tensor not worth a file


class Activations:
    """Keeps tensors for a while; which of them are in files is only a matter of memory, never of results."""

    def __init__(self, budget: int | None, directory: Path | None = None) -> None:
        """At most `budget` bytes stay in memory (default: half of what is free now); files are made in `directory`."""
        self.spilled = 0  # bytes in files
        self._free = available_memory() // 2 if budget is None else budget
        self._directory = directory
        self._in_files: set[int] = set()

    def hold(self, tensor: Tensor) -> Tensor:
        """The tensor, or a copy of it in a file if the budget is spent."""
        if tensor.device.type != "cpu" or tensor.nbytes <= self._free:
            self._free -= tensor.nbytes if tensor.device.type == "cpu" else 0
            return tensor
        mapped = self._map(tensor.shape, tensor.dtype)
        return mapped.copy_(tensor)

    def replace(self, held: Tensor, tensor: Tensor) -> Tensor:
        """Hold a tensor in the place of another of its shape."""
        if held.data_ptr() not in self._in_files:
            return tensor
        return held.copy_(tensor)

    def hold_all(self, value: Any, held: dict[int, tuple[Tensor, Tensor]]) -> Any:
        """Arguments with their large tensors held, each once: `held` (by identity) remembers those of one batch."""
        if isinstance(value, Tensor):
            if value.nbytes < _SMALL and self._free > 0:
                return value
            if id(value) not in held:
                held[id(value)] = (value, self.hold(value))  # the original too, so that its id is not used again
            return held[id(value)][1]
        if isinstance(value, tuple | list):
            return type(value)([self.hold_all(item, held) for item in value])
        if isinstance(value, dict):
            return {key: self.hold_all(item, held) for key, item in value.items()}
        return value

    def _map(self, shape: torch.Size, dtype: torch.dtype) -> Tensor:
        size = max(1, shape.numel() * dtype.itemsize)
        try:
            file, name = tempfile.mkstemp(prefix=".cutwork-activations-", dir=self._directory)
            try:
                if hasattr(os, "posix_fallocate"):
                    os.posix_fallocate(file, 0, size)  # a full disk is found here, not by a fault while writing
                else:
                    os.ftruncate(file, size)
                storage = torch.UntypedStorage.from_file(name, shared=True, nbytes=size)
            finally:
                os.close(file)
                os.unlink(name)  # the mapping keeps the file until it is dropped, however the process ends
        except OSError as error:
            raise CutworkError(
                f"activations of {size / 1e6:.0f} MB do not fit in memory and not in {self._directory or 'TMPDIR'} "
                f"({(error.strerror or str(error)).lower()}); free some space or use fewer calibration samples"
            ) from None
        self.spilled += size
        tensor = torch.empty(0, dtype=dtype).set_(storage, 0, shape)  # type: ignore[call-overload]
        self._in_files.add(tensor.data_ptr())
        return tensor
