"""Zeros that stay zeros: which weights are pruned, and what holds them there while an optimiser runs."""

import os
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.numpy import save_file
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from cutwork.errors import CutworkError
from cutwork.torch_models.blocks import block_linears


class LostZerosError(CutworkError):
    """A pruned weight is no longer zero, so the sparsity that was paid for is gone."""


class Masks:
    """The live positions of every linear that has zeros.

    Plain tensors beside the model, never buffers: under FSDP2 each process holds the mask of its own shard, which is
    why masks are made from parameters that are already sharded, as late as the first training step.
    """

    def __init__(self, model: nn.Module, live: dict[str, Tensor] | None = None) -> None:
        """Take `live` (bool, by linear, shaped like this process's weights), or whatever is nonzero now."""
        weights = _weights(model)
        if live is None:
            nonzero = {name: local(weight.data) != 0 for name, weight in weights.items()}
            live = {name: mask for name, mask in nonzero.items() if not mask.all()}
        self.live = live
        self._weights = {name: weights[name] for name in live}
        # Of all linears of the blocks, those without zeros included.
        pruned = sum(mask.numel() - int(mask.count_nonzero()) for mask in live.values())
        self.sparsity = pruned / sum(local(weight.data).numel() for weight in weights.values())

    def mask_gradients(self) -> None:
        """Zero the gradients of pruned weights; before clipping, so that the norm is that of what is trained."""
        for name, weight in self._weights.items():
            if weight.grad is not None:
                local(weight.grad).mul_(self.live[name])

    def mask_weights(self) -> None:
        """Zero the pruned weights; after an optimiser step, for optimisers that move weights without a gradient."""
        for name, weight in self._weights.items():
            local(weight.data).mul_(self.live[name])

    def verify(self) -> None:
        """Raise LostZerosError, naming the first layer, unless every pruned weight is zero."""
        for name, weight in self._weights.items():
            revived = int(((local(weight.data) != 0) & ~self.live[name]).sum())
            if revived:
                raise LostZerosError(
                    f"{revived} pruned weights of {name} are no longer zero; prune the model again and report this"
                )

    def save(self, path: Path) -> None:
        """Write the masks, one bit per weight, so that a live weight that happens to be 0 is not taken for pruned."""
        packed = {name: np.packbits(mask.cpu().numpy()) for name, mask in self.live.items()}
        shapes = {name: _text(mask.shape) for name, mask in self.live.items()}
        shapes["format"] = "np"  # safetensors 0.8 writes a header it cannot read if there is nothing at all
        partial = path.with_suffix(".partial")
        save_file(packed, partial, metadata=shapes)
        os.replace(partial, path)

    @classmethod
    def load(cls, model: nn.Module, path: Path) -> "Masks":
        """The masks saved in `path`, checked against the model.

        Raises CutworkError if they belong to another model, LostZerosError if a pruned weight is not zero.
        """
        weights = _weights(model)
        live = {}
        with safe_open(path, framework="np") as file:
            shapes = file.metadata() or {}
            for name in file.keys():  # noqa: SIM118 (not a mapping)
                bits = file.get_tensor(name)
                shape = local(weights[name].data).shape if name in weights else None
                if (
                    shape is None
                    or "x".join(map(str, shape)) != shapes.get(name)
                    or bits.size != -(-shape.numel() // 8)
                ):
                    raise CutworkError(f"{path} does not fit the model ({name} differs); start again with --overwrite")
                flat = torch.from_numpy(np.unpackbits(bits, count=shape.numel()).astype(bool))
                live[name] = flat.view(shape).to(weights[name].device)
        masks = cls(model, live)
        masks.verify()
        return masks


def sparsity(model: nn.Module) -> dict[str, float]:
    """The fraction of zeros in every linear of the blocks, shards of all processes included."""
    return {name: _zeros(weight.data) / weight.numel() for name, weight in _weights(model).items()}


def _zeros(tensor: Tensor) -> int:
    whole = tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
    return int(whole.numel()) - int(whole.count_nonzero())


def _weights(model: nn.Module) -> dict[str, nn.Parameter]:
    return {name: _parameter(linear) for name, linear in block_linears(model).items()}


def _parameter(linear: nn.Module) -> nn.Parameter:
    """A linear's stored weight: below its adapter, if it has one."""
    return linear.get_parameter("parametrizations.weight.original" if is_parametrized(linear, "weight") else "weight")


def _text(shape: torch.Size) -> str:
    return "x".join(map(str, shape))


def local(tensor: Tensor) -> Tensor:
    """This process's part of a tensor: its shard of a DTensor, or the tensor itself."""
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor
