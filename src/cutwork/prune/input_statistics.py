"""What is known about the inputs of linears, and how it is gathered during forward passes."""

from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from typing import Any, Generic, Protocol, TypeVar

import torch
from torch import Tensor, nn

from cutwork.prune.second_order import Damping, damp, factorise


class MeanSquares:
    """The mean square of each input of a linear, float32 [in], over so many tokens."""

    def __init__(self, squares: Tensor, tokens: int) -> None:
        self.squares, self.tokens = squares, tokens

    @property
    def dead(self) -> int:
        """Inputs that were 0 for every token."""
        return int((self.squares == 0).sum())


class Hessian(MeanSquares):
    """The mean of x xᵀ over the tokens that a linear saw, float32 [in, in], and what second-order methods make of it.

    Changing the weight by Δ costs tr(Δ H Δᵀ). Linears with one input share one Hessian, so what is made of it is kept.
    """

    def __init__(self, matrix: Tensor, tokens: int, damping: float = 0.01) -> None:
        """`damping` times the mean of the diagonal is added to it where H has to be positive definite."""
        super().__init__(matrix.diagonal(), tokens)
        self.matrix, self.damping = matrix, damping
        self.held_out: Tensor | None = None  # inputs [tokens, in] that are not in it, where `walk` was given some
        self.applied: list[Damping] = []  # what making it positive definite took, each time

    @cached_property
    def damped(self) -> Tensor:
        """H + damping·I, positive definite [in, in]; CutworkError if it cannot be made so."""
        damped, applied = damp(self.matrix, self.damping)
        self.applied.append(applied)
        return damped

    @cached_property
    def upper(self) -> Tensor:
        """The upper triangular U with (H + damping·I)⁻¹ = UᵀU, [in, in]; CutworkError as for `damped`."""
        upper, applied = factorise(self.matrix, self.damping)
        self.applied.append(applied)
        return upper


Statistics_co = TypeVar("Statistics_co", covariant=True)


class Sum(Protocol[Statistics_co]):
    """What is summed over the inputs of one linear."""

    def add(self, x: Tensor) -> None:
        """Add the inputs [tokens, in] of a forward pass, float32."""

    def mean(self, tokens: int) -> Statistics_co:
        """The statistics over all tokens; the sum is used up."""


class SumOfSquares:
    """For `MeanSquares`."""

    def __init__(self, inputs: int, device: torch.device) -> None:
        self._total = torch.zeros(inputs, device=device)

    def add(self, x: Tensor) -> None:
        """Add the inputs [tokens, in] of a forward pass, float32."""
        self._total += x.square().sum(0)

    def mean(self, tokens: int) -> MeanSquares:
        """The statistics over all tokens; the sum is used up."""
        return MeanSquares(self._total.div_(max(tokens, 1)), tokens)


class SumOfProducts:
    """For `Hessian`. Only one triangle is summed, in square blocks: half of the work, and all of it matrix products."""

    def __init__(self, inputs: int, device: torch.device, damping: float = 0.01) -> None:
        self._total, self._damping = torch.zeros(inputs, inputs, device=device), damping

    def add(self, x: Tensor) -> None:
        """Add the inputs [tokens, in] of a forward pass, float32."""
        _add_gram(self._total, x)

    def mean(self, tokens: int) -> Hessian:
        """The statistics over all tokens; the sum is used up."""
        total = self._total.div_(max(tokens, 1))
        _mirror(total)
        return Hessian(total, tokens, self._damping)


class AllInputs:
    """The inputs themselves, where they are few."""

    def __init__(self, inputs: int, device: torch.device) -> None:
        self._seen = [torch.empty(0, inputs, device=device)]

    def add(self, x: Tensor) -> None:
        """Keep the inputs [tokens, in] of a forward pass, float32."""
        self._seen.append(x)

    def mean(self, _: int) -> Tensor:
        """All of them [tokens, in], in the order in which they were added."""
        return torch.cat(self._seen)


class InputWatch(Generic[Statistics_co]):
    """Sums over the tokens that linears see while it is entered, once for linears that share their input."""

    def __init__(
        self,
        names: dict[nn.Module, str],
        new_sum: Callable[[int, torch.device], Sum[Statistics_co]],
        weights: Mapping[str, Tensor] | None = None,
    ) -> None:
        """`new_sum(inputs, device)` begins the sum for a linear of so many inputs.

        `weights` say how often each token [T] counts, in the order in which they are seen, by linears' names.
        """
        self._names, self._new_sum, self._weights = names, new_sum, weights or {}
        self._leader: dict[nn.Module, nn.Module] = {}
        self._sums: dict[nn.Module, Sum[Statistics_co]] = {}
        self._tokens: dict[nn.Module, int] = {}
        self._last: tuple[nn.Module, Tensor] | None = None  # the leader that ran last and its input
        self._handles: list[Any] = []
        self._hidden_mask: Tensor | None = None
        self._source_mask: Tensor | None = None
        self._given: set[int] = set()

    def expect(self, hidden_mask: Tensor | None, source_mask: Tensor | None, arguments: Any) -> None:
        """Tell what the next forward pass is about.

        `hidden_mask` marks the real tokens [B, T] (None: all are) of the block's hidden states, `source_mask` those of
        the tensors among its other `arguments`: what a decoder attends to across.
        """
        self._hidden_mask, self._source_mask = hidden_mask, source_mask
        self._given = {tensor.data_ptr() for tensor in tensors_in(arguments)}

    def __enter__(self) -> "InputWatch[Statistics_co]":
        self._handles = [linear.register_forward_pre_hook(self._see) for linear in self._names]
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()
        self._last = None

    def groups(self) -> Iterator[tuple[list[nn.Module], Statistics_co]]:
        """Linears with equal inputs and their statistics; frees those of a group once the next is asked for.

        A linear that never ran, as an expert that no token chose, has statistics of zeros.
        """
        for linear in self._names:
            if linear not in self._leader:
                inputs = getattr(linear, "in_features", 0) or getattr(linear, "nx", 0)
                self._leader[linear], self._tokens[linear] = linear, 0
                self._sums[linear] = self._new_sum(inputs, linear.get_parameter("weight").device)
        for leader in list(self._sums):
            group = [linear for linear in self._names if self._leader.get(linear) is leader]
            yield group, self._sums.pop(leader).mean(self._tokens[leader])

    def _see(self, linear: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        x = inputs[0]
        if linear not in self._leader:
            shares = self._last is not None and self._last[1] is x
            self._leader[linear] = self._last[0] if self._last and shares else linear
        if self._leader[linear] is not linear:
            return
        self._last = (linear, x)
        real = real_tokens(x, self._source_mask if x.data_ptr() in self._given else self._hidden_mask)
        if linear not in self._sums:
            self._sums[linear] = self._new_sum(real.shape[1], real.device)
        seen = self._tokens.get(linear, 0)
        self._tokens[linear] = seen + len(real)
        if (weights := self._weights.get(self._names[linear])) is not None:
            real = real * weights[seen : seen + len(real)].sqrt().to(real.device)[:, None]
        with torch.autocast(real.device.type, enabled=False):  # a Hessian in bfloat16 would not be positive definite
            self._sums[linear].add(real)


def real_tokens(x: Tensor, mask: Tensor | None) -> Tensor:
    """The inputs of a linear at the tokens that a mask [B, T] marks (None: all), float32 [tokens, in].

    Some models flatten [B, T] on the way; where tokens are arranged otherwise (experts), all of them count.
    """
    flat = x.flatten(0, -2).float()
    return flat[mask.flatten()] if mask is not None and len(flat) == mask.numel() else flat


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
