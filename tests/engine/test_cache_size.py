"""The KV cache fits its budget, or the user is told."""

import pytest

from cutwork import _native
from cutwork.architectures import build_plan
from cutwork.engine.weights.cache_size import Lengths, size_cache
from cutwork.errors import CutworkError

from .tiny import SMALL

PLAN = build_plan({**SMALL, "model_type": "llama"})
BLOCK = 3 * 2 * (8 + 16) * 32 * 4  # bytes: layers, kv heads, keys and values (filled up), tokens, float32


def cache(plan, dtype):
    sizes = {"layers": plan.cache_layers, "kv_heads": plan.kv_heads, "head_dim": plan.head_dim}
    return {**sizes, "block_size": 32, "blocks": 1, "dtype": dtype}


def size(**changes):
    dtype = changes.pop("dtype", "f32")
    options = {"context": Lengths(256, 256), "max_context": None, "max_batch": 4, "budget": 100 * BLOCK}
    found = size_cache(PLAN, block_bytes=lambda plan: _native.cache_bytes(cache(plan, dtype)), **{**options, **changes})
    return found.context, found.blocks


def test_room_for_the_whole_batch_if_it_fits():
    assert size() == (256, 32)
    assert size(max_context=100) == (100, 16)
    assert size(budget=20 * BLOCK) == (256, 20)
    assert size(budget=10 * BLOCK, dtype="bf16") == (256, 20)
    assert size(budget=10 * BLOCK, dtype="i8") == (256, 30)  # a byte instead of 4 for each, and two scales


def test_a_context_nobody_asked_for_shrinks():
    assert size(budget=3 * BLOCK) == (96, 3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"max_context": 256, "budget": 3 * BLOCK}, "256 tokens needs"),
        ({"budget": BLOCK - 1}, "raise cache_bytes"),
        ({"max_context": 257}, "from 2 to 256"),
        ({"max_context": 1}, "from 2 to 256"),
    ],
)
def test_what_cannot_be_is_said(changes, message):
    with pytest.raises(CutworkError, match=message):
        size(**changes)
