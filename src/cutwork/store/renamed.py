"""Tensors of a checkpoint by other names than it stores them by. No torch here."""

from collections.abc import Iterator, Mapping
from typing import Union

from cutwork.store.bitmask import Expanded
from cutwork.store.safetensors import Tensor, Tensors


class Renamed(Mapping[str, Tensor]):
    """The tensors that `names` lists: new name → stored one."""

    def __init__(self, stored: Union[Tensors, Expanded, "Renamed"], names: Mapping[str, str]) -> None:
        self._stored, self._names = stored, names

    def __getitem__(self, name: str) -> Tensor:
        return self._stored[self._names[name]]

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    @property
    def aliases(self) -> dict[str, str]:
        """What was left out because it equals what is stored, as of `Tensors`."""
        new = {stored: name for name, stored in self._names.items()}
        return {alias: new[kept] for alias, kept in self._stored.aliases.items() if kept in new}

    def release(self, name: str) -> None:
        """Let go of a tensor's memory, as `SafetensorsFile.release` does."""
        self._stored.release(self._names[name])

    def describe(self, name: str) -> tuple[str, tuple[int, ...]]:
        """The dtype name and shape of a tensor."""
        return self._stored.describe(self._names[name])
