"""The KV cache that fits into the memory this process may use."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from cutwork.architectures.lengths import Lengths
from cutwork.errors import CutworkError
from cutwork.machine import available_memory
from cutwork.plan.builder import Plan

CacheDType = Literal["f32", "bf16", "i8"]
BLOCK_SIZE = 32  # tokens per block of the KV cache; a multiple of 16 for the attention kernels
_SHARE = 4


@dataclass(frozen=True)
class CacheSize:
    """The KV cache of a model: `context` tokens per sequence at most, `blocks` of BLOCK_SIZE tokens in all.

    And that of its encoder, if it has one, for inputs of at most `input_tokens`.
    """

    context: int
    blocks: int
    input_tokens: int = 0
    memory_blocks: int = 0


def usual_budget() -> int:
    """Bytes of memory that a cache, reordered weights and zeros that are written out may take each, unless somebody
    says how many."""
    return available_memory() // _SHARE


def size_cache(
    plan: Plan,
    *,
    block_bytes: Callable[[Plan], int],
    context: Lengths,
    max_context: int | None,
    max_batch: int,
    budget: int | None,
    encoder: Plan | None = None,
    inputs: Lengths | None = None,
    max_input: int | None = None,
) -> CacheSize:
    """As many blocks as `max_batch` sequences of the whole context need, within `budget` bytes. block_bytes: of a block
    of a plan's cache.

    Without a budget a quarter of the available memory. A context nobody asked for shrinks to what fits; one that was
    asked for and does not fit, or exceeds the model's, is a CutworkError. With an encoder each sequence also needs room
    for an input.
    """
    tokens = _wanted("max_context", max_context, context)
    if not plan.cache_layers:
        return CacheSize(tokens, 1)  # a plan that remembers nothing; a cache has at least one block
    input_tokens = _wanted("max_input", max_input, inputs) if inputs else 0
    own = block_bytes(plan)
    input_blocks = -(-input_tokens // BLOCK_SIZE)
    input_bytes = input_blocks * block_bytes(encoder) if encoder else 0
    limit = budget if budget is not None else usual_budget()
    affordable = max(0, limit - input_bytes) // own
    one = -(-tokens // BLOCK_SIZE)
    if affordable < one:
        if max_context is not None or affordable < 1:
            raise CutworkError(
                f"a context of {tokens} tokens needs {(one * own + input_bytes) / 1e6:.0f} MB of KV cache, but "
                f"only {limit / 1e6:.0f} MB are set aside for it; lower max_context, use an i8 cache or raise "
                "cache_bytes"
            )
        one = affordable
        tokens = one * BLOCK_SIZE
    together = min(max_batch, max(1, limit // (one * own + input_bytes)))
    blocks = min(one * max_batch, (limit - together * input_bytes) // own)
    return CacheSize(tokens, blocks, input_tokens, together * input_blocks)


def _wanted(name: str, asked: int | None, lengths: Lengths) -> int:
    if asked is not None and not 2 <= asked <= lengths.most:
        raise CutworkError(f"{name} must be from 2 to {lengths.most}, the length this model was made for, not {asked}")
    return asked or lengths.usual
