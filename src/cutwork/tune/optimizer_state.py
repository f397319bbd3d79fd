"""How many bytes an optimiser keeps beside the weights, before there is one."""

import math

from torch import nn

from cutwork.tune.low_bit import LOW_BIT
from cutwork.tune.optimizers import block_matrices

_MOMENTS = {"sgd": 0, "lion": 1, "rmsprop": 1, "adagrad": 1, "ademamix": 3}  # numbers per weight; others keep 2
_SMALL = 4096  # numbers; torchao and bitsandbytes round no moments of tensors that have fewer


def state_bytes(optimizer: str, model: nn.Module) -> int:
    """What an optimiser, by its name in the settings, keeps of the trained parameters of a model."""
    name = optimizer.removeprefix("paged_")
    moments = next((count for prefix, count in _MOMENTS.items() if name.startswith(prefix)), 2)
    matrices = block_matrices(model) if name == "muon" else set()
    embeddings = {module.weight for module in model.modules() if isinstance(module, nn.Embedding)}

    def of(parameter: nn.Parameter) -> int:
        size: int = parameter.numel()
        if name in LOW_BIT:
            bits, block = (8, 256) if name == LOW_BIT[0] else (4, 128)
            rounded = size >= _SMALL and size % block == 0
            one: int = size * bits // 8 + 4 * (size // block) + 4 * 2**bits if rounded else parameter.nbytes
            return 2 * one
        if "8bit" in name and size >= _SMALL and parameter not in embeddings:  # bitsandbytes, as transformers sets it
            return moments * (size + 4 * math.ceil(size / 256))
        if name == "adafactor" and parameter.ndim > 1:
            rows, columns = parameter.shape[-2:]
            return 4 * (size // int(rows) + size // int(columns))
        if name == "adafactor" or parameter in matrices:
            return 4 * size
        return moments * 4 * size

    return sum(of(parameter) for parameter in model.parameters() if parameter.requires_grad)
