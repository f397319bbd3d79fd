"""Float tensors of checkpoints to float32 and back, and the way round that kernels read them."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from cutwork import architectures
from cutwork.store import bfloat16
from cutwork.store.safetensors import Tensor

FLOATS = ("F32", "F16", "BF16")


def as_float32(tensor: Tensor) -> np.ndarray:
    """The values of a float tensor, exactly."""
    if tensor.dtype == "BF16":
        return bfloat16.to_float32(tensor.array)
    return tensor.array.astype(np.float32, copy=False)


def from_float32(values: np.ndarray, dtype: str) -> Tensor:
    """Float32 values rounded to F32, F16 or BF16."""
    if dtype == "BF16":
        return Tensor(dtype, bfloat16.from_float32(values))
    with np.errstate(over="ignore"):
        return Tensor(dtype, values.astype(np.float16 if dtype == "F16" else np.float32, copy=False))


def transposed(config: Mapping[str, Any], name: str, tensor: Tensor) -> Tensor:
    """The other way round if the model's family holds this tensor as [inputs, outputs] in its checkpoints, else as it
    is. Codes are [outputs, inputs] everywhere."""
    family = architectures.find(config)
    if family is None or not family.is_transposed(name):
        return tensor
    return Tensor(tensor.dtype, np.ascontiguousarray(tensor.array.T))
