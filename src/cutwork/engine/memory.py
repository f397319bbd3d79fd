"""How much memory this process may use, and the KV cache that fits."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from cutwork.engine.plan import Plan
from cutwork.errors import CutworkError

CacheDType = Literal["f32", "bf16", "i8"]
BLOCK_SIZE = 32  # tokens per block of the KV cache; a multiple of 16 for the attention kernels
SHARE = 4  # the cache takes at most one part in so many of the memory that is available


@dataclass(frozen=True)
class CacheSize:
    """The KV cache of a model: `context` tokens per sequence at most, `blocks` of BLOCK_SIZE tokens in all."""

    context: int
    blocks: int


def size_cache(
    plan: Plan, *, dtype: CacheDType, model_context: int, max_context: int | None, max_batch: int, budget: int | None
) -> CacheSize:
    """As many blocks as `max_batch` sequences of the whole context need, within `budget` bytes.

    Without a budget a quarter of the available memory. A context nobody asked for shrinks to what fits; one that was
    asked for and does not fit, or exceeds the model's, is a CutworkError.
    """
    if max_context is not None and not 2 <= max_context <= model_context:
        raise CutworkError(
            f"max_context must be from 2 to {model_context}, the length this model was made for, not {max_context}"
        )
    context = max_context or model_context
    head_bytes = {"f32": 4 * plan.head_dim, "bf16": 2 * plan.head_dim, "i8": plan.head_dim + 4}[dtype]  # + a scale
    block_bytes = 2 * plan.cache_layers * plan.kv_heads * head_bytes * BLOCK_SIZE
    limit = budget if budget is not None else available_memory() // SHARE
    affordable = limit // block_bytes
    one = -(-context // BLOCK_SIZE)
    if affordable < one:
        if max_context is not None or affordable < 1:
            raise CutworkError(
                f"a context of {context} tokens needs {one * block_bytes / 1e6:.0f} MB of KV cache, but only "
                f"{limit / 1e6:.0f} MB are set aside for it; lower max_context, use an i8 cache or raise cache_bytes"
            )
        one = affordable
        context = one * BLOCK_SIZE
    return CacheSize(context, min(one * max_batch, affordable))


def available_memory() -> int:
    """Bytes this process could still take: of the machine, or of its control group if that allows less."""
    free = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    for line in _read("/proc/meminfo").splitlines():
        if line.startswith("MemAvailable:"):
            free.append(int(line.split()[1]) * 1024)
    limit, used = _read("/sys/fs/cgroup/memory.max").strip(), _read("/sys/fs/cgroup/memory.current").strip()
    if limit.isdigit() and used.isdigit():
        free.append(max(0, int(limit) - int(used)))
    return min(free)


def _read(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""
