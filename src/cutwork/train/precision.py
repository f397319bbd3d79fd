"""Whether bfloat16 pays on this machine: measured, because a CPU that lacks the instructions emulates them slowly."""

import time

import torch
from torch.nn import functional

from cutwork.errors import CutworkError


def wants_bfloat16(dtype: str, device: torch.device) -> bool:
    """Resolve a `dtype` setting ("auto", "float32", "bfloat16") to whether forward passes use bfloat16 autocast."""
    if dtype != "auto":
        return dtype == "bfloat16"
    if device.type == "cpu":
        return _seconds(torch.bfloat16) < 0.8 * _seconds(torch.float32)
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported())
    raise CutworkError(f"cannot choose a dtype for device '{device.type}'; set dtype to float32 or bfloat16")


def _seconds(dtype: torch.dtype) -> float:
    """The fastest of a few linears of a small model's shape, in seconds."""
    x, weight = torch.ones(512, 768, dtype=dtype), torch.ones(768, 768, dtype=dtype)
    times = []
    for _ in range(24):  # the first compiles, and others may be disturbed
        start = time.perf_counter()
        functional.linear(x, weight)
        times.append(time.perf_counter() - start)
    return min(times)
