"""Quantisation-aware fine-tuning: a short training whose forward passes see what the codes will stand for.

Gradients pass the rounding as if it were not there (straight-through, Bengio et al., arXiv 1308.3432). The scales are
those of the weights it begins with and stay, so the model that is written is the one that was trained. Pruned weights
stay zero as in any fine-tuning, and zero has code 0.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor, nn
from torch.nn.utils import parametrize
from transformers.pytorch_utils import Conv1D

from cutwork.quantize.grid import Grid
from cutwork.quantize.schemes import choose, grid_of
from cutwork.recipe import Long, QuantizeSettings
from cutwork.tasks.task import Sample
from cutwork.torch_models.blocks import out_in
from cutwork.tune.tune import Preparation, tune


class Rounded(nn.Module):
    """What a linear's weight becomes in use: the nearest of its grid, with fixed scales [out, groups].

    The weight is [out, in], or `transposed`, as GPT-2 keeps it.
    """

    def __init__(self, grid: Grid, scales: Tensor, transposed: bool = False) -> None:
        super().__init__()
        self.grid, self.transposed = grid, transposed
        self.register_buffer("scales", scales, persistent=False)

    def forward(self, weight: Tensor) -> Tensor:
        """The rounded weight, in float32 also under autocast, with the gradient of the weight itself."""
        with torch.autocast(weight.device.type, enabled=False), torch.no_grad():
            rounded = self.grid.nearest(weight.T if self.transposed else weight, self.scales).weight()
            change = (rounded.T if self.transposed else rounded) - weight
        return weight + change


def round_activations(_: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """A linear's input [..., in] as its int8 codes stand for it: symmetric, a scale per token.

    Codes and scales are float32's whatever the input's type, as the engine has them; what comes of them has that type.
    """
    x, *others = inputs
    exact = x.float()
    with torch.no_grad():
        scale = exact.abs().amax(dim=-1, keepdim=True).clamp_min(1e-12) / 127
        change = (exact / scale).round() * scale - exact
    return ((exact + change).to(x.dtype), *others)


def learn(
    model_dir: Path,
    output: Path,
    settings: QuantizeSettings,
    samples: Sequence[Sample],
    stored: torch.dtype,
    *,
    max_length: int,
    long: Long,
    console: Console,
) -> dict[str, Any]:
    """Fine-tune a checkpoint by `settings.training` as its blocks will be once quantised, and write a plain one to
    `output`.

    The model as it was, unquantised, is the teacher of losses that need one. Returns the report of the fine-tuning,
    which goes on where it was interrupted. Raises CutworkError as `tune` does.
    """

    def prepare(model: nn.Module) -> None:
        for linear, scheme in choose(model, settings.model_copy(update={"head": "skip"})).values():
            grid = grid_of(scheme, out_in(linear).shape[1], settings.group_size, stored)
            rounded = Rounded(grid, grid.scales(out_in(linear)), isinstance(linear, Conv1D))
            parametrize.register_parametrization(linear, "weight", rounded, unsafe=True)
            if scheme == "w8a8":
                linear.register_forward_pre_hook(round_activations)

    key = settings.as_key("scheme", "ignore", "group_size", "overrides")
    teacher = model_dir if settings.qat.losses.needs_teacher else None
    prepared = Preparation(prepare, key)
    return tune(
        model_dir,
        output,
        settings.training,
        samples,
        teacher_dir=teacher,
        max_length=max_length,
        long=long,
        prepared=prepared,
        console=console,
    )
