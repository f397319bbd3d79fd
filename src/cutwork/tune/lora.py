"""Masked low-rank adapters: W + mask ⊙ (alpha/rank)·B·A, with W frozen and the mask read off W's own zeros.

LoRA (Hu et al., arXiv 2106.09685) merged the usual way fills every zero of W. Here the masked sum is what the forward
pass sees as the weight, in float32, and what is merged: the merged model is the trained one, bit for bit.
"""

import math
from fnmatch import fnmatch

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from cutwork.errors import CutworkError
from cutwork.recipe import LoraSettings
from cutwork.torch_models.blocks import block_linears

_BASE, _A, _B = (f".parametrizations.weight.{part}" for part in ("original", "0.a", "0.b"))


class MaskedAdapter(nn.Module):
    """What a linear's stored weight, [rows, columns] in whatever order its layer keeps them, becomes in use."""

    def __init__(self, weight: Tensor, rank: int, scale: float, keep_zeros: bool) -> None:
        super().__init__()
        rows, columns = weight.shape
        self.scale, self.keep_zeros = scale, keep_zeros
        self.a = nn.Parameter(torch.empty(rank, columns, device=weight.device))
        self.b = nn.Parameter(torch.zeros(rows, rank, device=weight.device))
        nn.init.kaiming_uniform_(self.a, a=math.sqrt(5))

    def forward(self, weight: Tensor) -> Tensor:
        """The adapted weight, in float32 also under autocast."""
        with torch.autocast(weight.device.type, enabled=False):
            return adapted(weight, self.a, self.b, self.scale, self.keep_zeros)


def adapted(weight: Tensor, a: Tensor, b: Tensor, scale: float, keep_zeros: bool) -> Tensor:
    """weight + scale·b·a, for weight [rows, columns], a [rank, columns], b [rows, rank]; zeros of `weight` stay."""
    delta = scale * (b @ a)
    return weight + (delta.masked_fill(weight == 0, 0) if keep_zeros else delta)


def add_adapters(model: nn.Module, settings: LoraSettings, keep_zeros: bool) -> list[str]:
    """Freeze a float32 model and adapt the linears of its blocks that match `settings.targets`; returns their names.

    Raises CutworkError if none does.
    """
    chosen = {
        name: linear
        for name, linear in block_linears(model).items()
        if any(fnmatch(name, pattern) or fnmatch(name.rsplit(".", 1)[-1], pattern) for pattern in settings.targets)
    }
    if not chosen:
        last = sorted({name.rsplit(".", 1)[-1] for name in block_linears(model)})
        raise CutworkError(f"no linear matches lora.targets {', '.join(settings.targets)}; there are {', '.join(last)}")
    model.requires_grad_(False)
    scale = settings.alpha / settings.rank
    for linear in chosen.values():
        adapter = MaskedAdapter(linear.get_parameter("weight"), settings.rank, scale, keep_zeros)
        parametrize.register_parametrization(linear, "weight", adapter, unsafe=True)
    return list(chosen)


def merge(state: dict[str, Tensor], settings: LoraSettings, keep_zeros: bool) -> dict[str, Tensor]:
    """A state dict of an adapted model as one of a plain model."""
    merged = {name: tensor for name, tensor in state.items() if ".parametrizations." not in name}
    for name in [key.removesuffix(_BASE) for key in state if key.endswith(_BASE)]:
        base, a, b = (state[name + part] for part in (_BASE, _A, _B))
        merged[f"{name}.weight"] = adapted(base, a, b, settings.alpha / settings.rank, keep_zeros)
    return merged
