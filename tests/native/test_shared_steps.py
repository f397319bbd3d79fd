"""What a token's outputs are does not depend on how many tokens share its step, bit for bit, as long as these are few:
a draft may guess for a float model without changing a word.
"""

import numpy as np
import pytest

from .executor_plans import ISAS, Sequence, cache_for, llama, run_batch
from .weights import make_weight, sparse_values

MOST = 8  # tokens of a step that gemv multiplies whatever the costs


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", ["f32", "bf16", "i8"])
@pytest.mark.parametrize("encoding", ["dense", "bitmask"])
def test_gemv_adds_up_in_one_order_for_any_number_of_tokens(isa, dtype, encoding):
    rng = np.random.default_rng(0)
    for rows, cols in ((4, 64), (7, 200), (33, 1023), (64, 320)):
        stored = sparse_values(rng, rows, cols, 0.6, dtype)
        weight = make_weight(stored, encoding, np.ones(rows, np.float32) if dtype == "i8" else None)
        x = rng.standard_normal((17, cols)).astype(np.float32)
        alone = np.concatenate([weight.matmul(row[None], 1, isa=isa, kernel="gemv") for row in x])
        for tokens in range(2, len(x) + 1):
            np.testing.assert_array_equal(weight.matmul(x[:tokens], 1, isa=isa, kernel="gemv"), alone[:tokens])


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("window", [-1, 20])
@pytest.mark.parametrize("cache", ["f32", "bf16", "i8"])
@pytest.mark.parametrize(
    ("dtype", "encoding"), [("f32", "dense"), ("bf16", "dense"), ("bf16", "bitmask"), ("i8", "dense")]
)
def test_a_step_of_few_tokens_is_as_many_steps_of_one(isa, dtype, encoding, cache, window):
    rng = np.random.default_rng(1)
    sizes = {"hidden": 96, "ffn": 97, "heads": 6, "kv_heads": 2, "head_dim": 16, "layers": 2, "window": window}
    plan = llama(rng, dtype=dtype, encoding=encoding, **sizes)
    tokens = rng.integers(0, 50, 540).astype(np.int32)
    executor = plan.executor(isa=isa, threads=2, max_tokens=512, cache=cache_for(plan, blocks=120, dtype=cache))
    alone, shared, beside = (Sequence(tokens, list(range(first, first + 40))) for first in (0, 40, 80))
    for sequence in (alone, shared):  # over the end of a segment of the softmax
        for count in (64, 64, 64, 64, 64, 64, 64, 60):
            run_batch(executor, [(sequence, count)])
    expected = np.concatenate([run_batch(executor, [(alone, 1)])[0] for _ in range(21)])
    found = [run_batch(executor, [(beside, MOST - count), (shared, count)])[1] for count in (2, 5, 1, 7, 6)]
    np.testing.assert_array_equal(np.concatenate(found), expected)
