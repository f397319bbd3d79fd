"""How fast this machine computes and moves numbers, measured."""

import time

import torch
from torch.nn import functional


def matmul_seconds(dtype: torch.dtype, device: torch.device) -> float:
    """Seconds per floating-point operation in the fastest of a few linears of a small model's shape."""
    size = 768 if device.type == "cpu" else 8192
    x, weight = (torch.ones(rows, size, dtype=dtype, device=device) for rows in (512, size))
    times = []
    for _ in range(24):  # the first compiles, and others may be disturbed
        start = time.perf_counter()
        result = functional.linear(x, weight)
        result[0, 0].item()  # waits for the device
        times.append(time.perf_counter() - start)
    return min(times) / (2 * 512 * size * size)


def copy_seconds(device: torch.device) -> float:
    """Seconds per byte that is read or written where caches hold nothing of it: in the fastest of a few copies."""
    size = 32 * 2**20
    source = torch.ones(size, device=device)
    target = torch.empty_like(source)
    times = []
    for _ in range(4):  # the first takes pages from the system
        start = time.perf_counter()
        target.copy_(source)
        target[0].item()  # waits for the device
        times.append(time.perf_counter() - start)
    return min(times) / (2 * 4 * size)
