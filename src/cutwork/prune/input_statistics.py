"""Second moments of what linears see during forward passes."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from cutwork.prune.second_order import Statistics


class Watch:
    """Sums x xᵀ over the tokens that linears see while it is entered, once for linears that share their input."""

    def __init__(self, names: dict[nn.Module, str], squares_only: bool = False) -> None:
        self._names = names
        self._squares_only = squares_only
        self._leader: dict[nn.Module, nn.Module] = {}
        self._sums: dict[nn.Module, Tensor] = {}
        self._tokens: dict[nn.Module, int] = {}
        self._last: tuple[nn.Module, Tensor] | None = None  # the leader that ran last and its input
        self._handles: list[Any] = []
        self._own: Tensor | None = None
        self._source: Tensor | None = None
        self._given: set[int] = set()

    def expect(self, own: Tensor | None, source: Tensor | None, arguments: Any) -> None:
        """Tell what the next forward pass is about.

        `own` marks the real tokens [B, T] (None: all are) of the block's hidden states, `source` those of tensors that
        it is given beside them: what a decoder attends to across.
        """
        self._own, self._source = own, source
        self._given = {tensor.data_ptr() for tensor in tensors_in(arguments)}

    def __enter__(self) -> "Watch":
        self._handles = [linear.register_forward_pre_hook(self._see) for linear in self._names]
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()
        self._last = None

    def groups(self) -> Iterator[tuple[list[nn.Module], Statistics]]:
        """Linears with equal inputs and their statistics; frees each Hessian once the next is asked for.

        A linear that never ran, as an expert that no token chose, has a Hessian of zeros.
        """
        for linear in self._names:
            if linear not in self._leader:
                inputs = getattr(linear, "in_features", 0) or getattr(linear, "nx", 0)
                shape = (inputs,) if self._squares_only else (inputs, inputs)
                self._leader[linear], self._tokens[linear] = linear, 0
                self._sums[linear] = torch.zeros(shape, device=linear.get_parameter("weight").device)
        for leader in list(self._sums):
            group = [linear for linear in self._names if self._leader.get(linear) is leader]
            tokens = self._tokens[leader]
            total = self._sums.pop(leader).div_(max(tokens, 1))
            if not self._squares_only:
                _mirror(total)
            yield group, Statistics(total, tokens)

    def _see(self, linear: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        x = inputs[0]
        if linear not in self._leader:
            shares = self._last is not None and self._last[1] is x
            self._leader[linear] = self._last[0] if self._last and shares else linear
        if self._leader[linear] is not linear:
            return
        self._last = (linear, x)
        flat = x.flatten(0, -2).float()
        mask = self._source if x.data_ptr() in self._given else self._own
        # Some models flatten [B, T] on the way; where tokens are arranged otherwise (experts), all of them count.
        real = flat[mask.flatten()] if mask is not None and len(flat) == mask.numel() else flat
        self._tokens[linear] = self._tokens.get(linear, 0) + len(real)
        with torch.autocast(real.device.type, enabled=False):  # a Hessian in bfloat16 would not be positive definite
            if self._squares_only:
                self._sums[linear] = self._sums.get(linear, 0) + real.square().sum(0)
            else:
                if linear not in self._sums:
                    self._sums[linear] = torch.zeros(flat.shape[1], flat.shape[1], device=flat.device)
                _add_gram(self._sums[linear], real)


def _add_gram(total: Tensor, x: Tensor) -> None:
    """Add xᵀx to the lower half of `total` and its diagonal blocks; the upper half is left for `_mirror`."""
    size = len(total)
    if size <= 512:
        total.addmm_(x.T, x)
        return
    half = size // 2
    _add_gram(total[:half, :half], x[:, :half])
    _add_gram(total[half:, half:], x[:, half:])
    total[half:, :half].addmm_(x[:, half:].T, x[:, :half])


def _mirror(total: Tensor) -> None:
    """Copy what `_add_gram` summed to the other half."""
    size = len(total)
    if size > 512:
        half = size // 2
        _mirror(total[:half, :half])
        _mirror(total[half:, half:])
        total[:half, half:] = total[half:, :half].T


def tensors_in(value: Any) -> Iterator[Tensor]:
    """The tensors among nested arguments."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, tuple | list):
        for item in value:
            yield from tensors_in(item)
    elif isinstance(value, dict):
        yield from tensors_in(list(value.values()))
