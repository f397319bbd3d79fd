"""How quantised linears are stored: compressed-tensors' names and description, as transformers and vLLM read them."""

from collections import defaultdict
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from cutwork.quantize.grid import Grid, Quantized
from cutwork.recipe import Scheme
from cutwork.store.packed_codes import pack_nibbles
from cutwork.torch_models.blocks import linears

_FORMATS = {"w8a8": "int-quantized", "w4a16": "pack-quantized"}


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


def description(model: nn.Module, chosen: dict[str, tuple[Scheme, Grid]]) -> dict[str, Any]:
    """The `quantization_config` of a model whose linears of these names are quantised so.

    The largest group of like linears targets their class, the others name theirs. Never a `sparsity_config`, which vLLM
    refuses. GPT-2's groups say which way round their codes are: a key that compressed-tensors does not know, so that it
    refuses the model instead of leaving its weights random.
    """
    alike: dict[tuple[Scheme, int | None], list[str]] = defaultdict(list)
    for name, (scheme, grid) in chosen.items():
        alike[scheme, grid.group].append(name)
    kind = "Conv1D" if any(isinstance(model.get_submodule(name), Conv1D) for name in chosen) else "Linear"
    ordered = sorted(alike.items(), key=lambda item: -len(item[1]))
    groups = {
        f"group_{number}": _group(scheme, group, names if number else [kind], kind)
        for number, ((scheme, group), names) in enumerate(ordered)
    }
    formats = {group["format"] for group in groups.values()}
    return {
        "quant_method": "compressed-tensors",
        "format": formats.pop() if len(formats) == 1 else "mixed-precision",
        "quantization_status": "compressed",
        "config_groups": groups,
        "ignore": [name for name, _ in linears(model) if name not in chosen],
    }


def _group(scheme: Scheme, group: int | None, targets: list[str], kind: str) -> dict[str, Any]:
    bits = 8 if scheme == "w8a8" else 4
    common = {"num_bits": bits, "type": "int", "symmetric": True}
    size = {"strategy": "group", "group_size": group} if group else {"strategy": "channel"}
    return {
        "targets": targets,
        "format": _FORMATS[scheme],
        "weights": {**common, **size, "dynamic": False, **({"orientation": "out-in"} if kind == "Conv1D" else {})},
        "input_activations": {**common, "strategy": "token", "dynamic": True} if scheme == "w8a8" else None,
        "output_activations": None,
    }


def _constant(values: Tensor) -> nn.Parameter:
    return nn.Parameter(values, requires_grad=False)
