"""How quantised linears are stored: compressed-tensors' names and description, as transformers and vLLM read them."""

from collections import defaultdict
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from cutwork.quantize.grid import Grid, Quantized
from cutwork.recipe import Scheme
from cutwork.store.compressed_tensors import Group, description
from cutwork.store.packed_codes import pack_nibbles
from cutwork.torch_models.blocks import linears

_BITS: dict[Scheme, Literal[4, 8]] = {"w8a8": 8, "w4a16": 4}


def install(linear: nn.Module, result: Quantized, scheme: Scheme, scale_dtype: torch.dtype) -> None:
    """Put codes and scales into a linear under the names that compressed-tensors gives them.

    Codes are [out, in] in GPT-2's `Conv1D` too, which keeps floats the other way round and which compressed-tensors
    does not know: rows have scales, and int4 is packed along the input, so only one orientation means anything.
    """
    codes, scales = result.codes.contiguous(), result.scales.to(scale_dtype)
    if scheme == "w8a8":
        linear.weight = _constant(codes)
    else:
        del linear.weight
        linear.register_parameter("weight_packed", _constant(torch.from_numpy(pack_nibbles(codes.cpu().numpy()))))
        linear.register_parameter("weight_shape", _constant(torch.tensor(codes.shape)))
    linear.register_parameter("weight_scale", _constant(scales))


def describe(model: nn.Module, chosen: dict[str, tuple[Scheme, Grid]]) -> dict[str, Any]:
    """The `quantization_config` of a model whose linears of these names are quantised so.

    The largest group of like linears targets their class, the others name theirs.
    """
    alike: dict[tuple[Literal[4, 8], int | None], list[str]] = defaultdict(list)
    for name, (scheme, grid) in chosen.items():
        alike[_BITS[scheme], grid.group].append(name)
    out_in = any(isinstance(model.get_submodule(name), Conv1D) for name in chosen)
    kind = "Conv1D" if out_in else "Linear"
    ordered = sorted(alike.items(), key=lambda item: -len(item[1]))
    groups = [
        Group(names if number else [kind], bits, columns, out_in)
        for number, ((bits, columns), names) in enumerate(ordered)
    ]
    return description(groups, ignore=[name for name, _ in linears(model) if name not in chosen])


def _constant(values: Tensor) -> nn.Parameter:
    return nn.Parameter(values, requires_grad=False)
