"""Whether bfloat16 pays on this machine: measured, because a CPU that lacks the instructions emulates them slowly."""

from functools import cache

import torch

from cutwork.errors import CutworkError
from cutwork.torch_models.machine_speed import matmul_seconds


def wants_bfloat16(dtype: str, device: torch.device) -> bool:
    """Resolve a `dtype` setting ("auto", "float32", "bfloat16") to whether forward passes use bfloat16 autocast."""
    if dtype != "auto":
        return dtype == "bfloat16"
    if device.type == "cpu":
        return _quicker_on_cpu()
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported())
    raise CutworkError(f"cannot choose a dtype for device '{device.type}'; set dtype to float32 or bfloat16")


@cache
def _quicker_on_cpu() -> bool:
    """Measured once, so that all that one process makes is made alike."""
    device = torch.device("cpu")
    return matmul_seconds(torch.bfloat16, device) < 0.8 * matmul_seconds(torch.float32, device)
