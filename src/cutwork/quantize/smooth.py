"""SmoothQuant (Xiao et al., arXiv 2211.10438): outliers of activations move into weights, which bear them better.

A linear that reads x W ᵀ may as well read (x / s) (W s)ᵀ, and where x comes from a norm with a weight, that absorbs
1 / s. Which norm feeds which linears is found by watching a forward pass, for any model; weights that are 0 stay 0.
"""

from collections import deque
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from cutwork.errors import CutworkError
from cutwork.prune.calibrate import masks
from cutwork.prune.input_statistics import real_tokens
from cutwork.torch_models.blocks import block_linears, block_lists, out_in
from cutwork.torch_models.model_inputs import ModelInputs, inputs_of

_TOLERANCE = {torch.float32: 1e-3, torch.float16: 0.02, torch.bfloat16: 0.1}  # of the outputs, relative


def smooth(model: Any, batches: Sequence[dict[str, Tensor]], strength: float) -> dict[str, list[str]]:
    """Fold the scales s_j = max|x_j|^strength / max|W_j|^(1-strength) into norms and the linears that read them.

    `batches` are collated examples for this model. Returns the names of the linears by that of their norm. Raises
    CutworkError if the model computes something else afterwards, since then a norm feeds more than linears, and if no
    norm was found.
    """
    with torch.no_grad():
        return _smooth(model.eval(), batches, strength)


def _smooth(model: Any, batches: Sequence[dict[str, Tensor]], strength: float) -> dict[str, list[str]]:
    model_inputs = inputs_of(model.config)
    before = _outputs(model, model_inputs, batches[0])
    readers = _NormReaders(model)
    with readers:
        for batch in batches:
            readers.next_batch(batch)
            _outputs(model, model_inputs, batch)
    by_norm = readers.by_norm()
    if not by_norm:
        raise CutworkError(
            f"{type(model).__name__} has no norm that feeds linears directly, so nothing can be smoothed"
        )
    for norm, (largest, linears) in by_norm.items():
        weights = torch.stack([out_in(linear).float().abs().amax(dim=0) for linear in linears]).amax(dim=0)
        scales = largest.pow(strength) / weights.clamp_min(1e-5).pow(1 - strength)
        # An input that is always 0, or read by nobody, is left alone.
        scales = torch.where((largest > 0) & (weights > 0), scales.clamp_min(1e-5), 1.0)
        for parameter in norm.parameters(recurse=False):
            parameter.copy_(parameter.float() / scales)
        for linear in linears:
            out_in(linear).copy_(out_in(linear).float() * scales)
    after = _outputs(model, model_inputs, batches[0])
    change = ((after - before).norm() / before.norm()).item()
    if not change < _TOLERANCE.get(model.dtype, 0.1):
        raise CutworkError(
            f"smoothing changed what {type(model).__name__} computes (by {change:.1%}): one of its norms feeds more "
            "than linears or has an offset; quantise it without smoothing"
        )
    names = {module: name for name, module in model.named_modules()}
    return {names[norm]: [names[linear] for linear in linears] for norm, (_, linears) in by_norm.items()}


class _NormReaders:
    """The largest magnitudes of what norms hand to linears of the blocks, while it is entered."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._masks: dict[nn.Module, Tensor | None] = {}  # which of what a norm leaves are real tokens, bool [B, T]
        self._linears = list(block_linears(model).values())
        self._norms = [module for module in model.modules() if _is_norm(module)]
        inside = {module for blocks in block_lists(model).values() for block in blocks for module in block.modules()}
        self._outside = {norm for norm in self._norms if norm not in inside}
        self._recent: deque[tuple[Tensor, nn.Module]] = deque(maxlen=4)
        # Of norms outside of blocks all is kept for a pass: every block of a decoder reads what an encoder's last left.
        self._kept: list[tuple[Tensor, nn.Module]] = []
        self._sources: dict[nn.Module, nn.Module] = {}
        self._largest: dict[nn.Module, Tensor] = {}
        self._handles: list[Any] = []

    def __enter__(self) -> "_NormReaders":
        self._handles = [norm.register_forward_hook(self._left) for norm in self._norms]
        self._handles += [linear.register_forward_pre_hook(self._reached) for linear in self._linears]
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()
        self._forget()

    def next_batch(self, batch: dict[str, Tensor]) -> None:
        """Called before the forward pass of a batch."""
        self._masks = {norm: masks(self._model, norm, batch)[0] for norm in self._norms}
        self._forget()

    def by_norm(self) -> dict[nn.Module, tuple[Tensor, list[nn.Module]]]:
        """By norm, the largest magnitude of each of its outputs, float32 [D], and the linears that read them."""
        return {
            norm: (largest, [linear for linear in self._linears if self._sources.get(linear) is norm])
            for norm, largest in self._largest.items()
        }

    def _forget(self) -> None:
        self._recent.clear()
        self._kept.clear()

    def _left(self, norm: nn.Module, _: Any, output: Any) -> None:
        if isinstance(output, Tensor):
            (self._kept if norm in self._outside else self._recent).append((output, norm))

    def _reached(self, linear: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        norm = next((norm for output, norm in (*self._recent, *self._kept) if output is inputs[0]), None)
        if norm is None:
            return
        self._sources[linear] = norm
        largest = real_tokens(inputs[0], self._masks[norm]).abs().amax(dim=0)
        self._largest[norm] = torch.maximum(self._largest[norm], largest) if norm in self._largest else largest


def _is_norm(module: nn.Module) -> bool:
    return "norm" in type(module).__name__.lower() and isinstance(getattr(module, "weight", None), nn.Parameter)


def _outputs(model: Any, model_inputs: ModelInputs, batch: dict[str, Tensor]) -> Tensor:
    """The logits where there are labels; an encoder's hidden states, or what its head says of whole texts."""
    rows, _ = model_inputs.label_rows(batch)
    result: Tensor = model(**model_inputs.keywords(batch))[0]
    return (result[rows] if result.ndim == 3 else result).float()
