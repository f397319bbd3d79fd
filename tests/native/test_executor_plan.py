"""Whole small models: against float64, and against themselves cut into steps in every way a scheduler might."""

from functools import lru_cache

import numpy as np
import pytest

from cutwork import _native
from cutwork.engine.reference import executor as interpreter

from .executor_plans import ISAS, Sequence, cache_for, llama, reference, run_batch

# float32 rounding through two layers; int8 activations near a rounding boundary may besides fall to the other side.
TOLERANCE = {"f32": 2e-5, "bf16": 2e-5, "i8": 4e-2}


@pytest.fixture
def rng():
    return np.random.default_rng(7)


def tokens_of(rng, count, vocabulary=50):
    return rng.integers(0, vocabulary, count).astype(np.int32)


def close(actual, expected, tolerance):
    error = np.abs(actual - expected).max() / np.abs(expected).max()
    assert error < tolerance, error


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("encoding", ["dense", "bitmask"])
@pytest.mark.parametrize("dtype", ["f32", "bf16", "i8"])
def test_model(rng, isa, threads, dtype, encoding):
    plan = llama(rng, dtype=dtype, encoding=encoding, head_norm=True)
    tokens = tokens_of(rng, 40)
    executor = plan.executor(isa=isa, threads=threads, cache=cache_for(plan))
    (actual,) = run_batch(executor, [(Sequence(tokens, [3, 0, 7]), 40)])
    close(actual, reference(plan, tokens), TOLERANCE[dtype])


@pytest.mark.parametrize(
    "shape",
    [
        {"heads": 4, "kv_heads": 4, "head_dim": 16},
        {"heads": 8, "kv_heads": 1, "head_dim": 6},
        {"heads": 5, "kv_heads": 5, "head_dim": 20, "window": 11},
        {"activation": "gelu_tanh", "hidden": 50, "ffn": 67, "vocabulary": 33},
    ],
)
def test_shapes(rng, shape):
    plan = llama(rng, **shape)
    tokens = tokens_of(rng, 60, shape.get("vocabulary", 50))
    (actual,) = run_batch(plan.executor(cache=cache_for(plan)), [(Sequence(tokens, [1, 2, 3, 0]), 60)])
    close(actual, reference(plan, tokens), 2e-5)


@pytest.mark.parametrize(("dtype", "least", "most"), [("bf16", 1e-4, 2e-2), ("i8", 1e-4, 4e-2)])
def test_narrow_cache(rng, dtype, least, most):
    plan = llama(rng)
    tokens = tokens_of(rng, 60)
    executor = plan.executor(cache=cache_for(plan, dtype=dtype))
    (actual,) = run_batch(executor, [(Sequence(tokens, [1, 2, 3, 0]), 60)])
    expected = reference(plan, tokens)
    close(actual, expected, most)
    assert np.abs(actual - expected).max() > least * np.abs(expected).max()  # or the cache is f32 after all
    assert executor.cache_bytes < plan.executor(cache=cache_for(plan)).cache_bytes


@pytest.mark.parametrize("window", [-1, 20])
@pytest.mark.parametrize("block_size", [16, 32])
@pytest.mark.parametrize("threads", [1, 2])
def test_ragged_batches_equal_whole_sequences(rng, threads, block_size, window):
    """Prefill, chunked prefill and decode of three sequences mixed at random, on blocks in random order."""
    plan = llama(rng, window=window)
    cache = cache_for(plan, blocks=320 // block_size, block_size=block_size)
    executor = plan.executor(threads=threads, cache=cache)
    blocks = rng.permutation(cache["blocks"]).tolist()
    lengths = [100, 57, 80]
    sequences = [Sequence(tokens_of(rng, n), [blocks.pop() for _ in range(-(-n // block_size))]) for n in lengths]
    logits = [[] for _ in sequences]
    while any(s.done < len(s.tokens) for s in sequences):
        order = [i for i in rng.permutation(3) if sequences[i].done < len(sequences[i].tokens)]
        left = [len(sequences[i].tokens) - sequences[i].done for i in order]
        counts = [min(n, int(rng.choice([1, 1, 3, 20]))) for n in left]
        parts = [(sequences[i], count) for i, count in zip(order, counts, strict=True)]
        for i, rows in zip(order, run_batch(executor, parts), strict=True):
            logits[i].append(rows)
    for sequence, rows in zip(sequences, logits, strict=True):
        close(np.concatenate(rows), reference(plan, sequence.tokens), 2e-5)


def test_chunks_of_one_size_agree_bit_for_bit_on_any_blocks(rng):
    plan = llama(rng, dtype="bf16")
    tokens = tokens_of(rng, 90)
    results = []
    for blocks in ([0, 1, 2, 3, 4, 5], [9, 3, 12, 1, 0, 7]):
        executor = plan.executor(cache=cache_for(plan))
        sequence = Sequence(tokens, blocks)
        results.append(np.concatenate([run_batch(executor, [(sequence, 30)])[0] for _ in range(3)]))
    np.testing.assert_array_equal(*results)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", ["f32", "i8"])
@pytest.mark.parametrize("encoding", ["dense", "bitmask"])
def test_threads_agree_bit_for_bit(rng, isa, dtype, encoding):
    plan = llama(rng, hidden=192, heads=6, kv_heads=3, head_dim=32, ffn=512, dtype=dtype, encoding=encoding)
    tokens = tokens_of(rng, 200)
    results = []
    for threads in (1, 2, 3):
        cache = cache_for(plan)
        executor = plan.executor(threads=threads, max_tokens=200, max_logits=200, isa=isa, cache=cache)
        sequence = Sequence(tokens, list(range(13)))
        steps = [150, *[1] * 10, 40]
        results.append(np.concatenate([run_batch(executor, [(sequence, n)])[0] for n in steps]))
        assert executor.threads == threads
    np.testing.assert_array_equal(results[0], results[1])
    np.testing.assert_array_equal(results[0], results[2])


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("window", [-1, 300])
@pytest.mark.parametrize(("dtype", "kv_heads"), [("f32", 1), ("bf16", 3), ("i8", 1)])
def test_threads_that_share_keys_agree_bit_for_bit(rng, isa, dtype, kv_heads, window):
    """Few kv heads and many keys: the threads share the keys, and the end is the same as one thread's."""
    plan, tokens, expected = long_case(kv_heads, window)
    others = [tokens_of(rng, 40), tokens_of(rng, 300)]
    results = []
    for threads in (1, 2, 3, 7):
        cache = cache_for(plan, blocks=96, dtype=dtype)
        executor = plan.executor(threads=threads, max_tokens=1100, max_logits=1100, isa=isa, cache=cache)
        sequences = [Sequence(tokens, list(range(70)))]
        sequences += [Sequence(t, list(range(70 + 3 * i, 96))) for i, t in enumerate(others)]
        rows = [run_batch(executor, [(sequences[0], 1090)])[0][-1:]]
        rows += [run_batch(executor, [(sequences[0], n)])[0] for n in (1, 1, 2)]
        run_batch(executor, [(sequences[2], 299)])
        rows += run_batch(executor, [(sequences[0], 1), (sequences[1], 3), (sequences[2], 1)])
        results.append(np.concatenate(rows))
    for result in results[1:]:
        np.testing.assert_array_equal(result, results[0])
    if dtype == "f32":
        close(results[0][:5], expected[1089:1094], 2e-5)


@lru_cache(maxsize=1)  # every instruction set in turn is given the same
def long_case(kv_heads, window):
    """A plan, 1,100 tokens and, in float64, their logits."""
    rng = np.random.default_rng(0)
    plan = llama(rng, layers=1, heads=6, kv_heads=kv_heads, head_dim=64, window=window)
    tokens = tokens_of(rng, 1100)
    return plan, tokens, reference(plan, tokens)


@pytest.mark.parametrize("dtype", ["f32", "i8"])
def test_copied_blocks_continue_a_sequence(rng, dtype):
    plan = llama(rng)
    executor = plan.executor(cache=cache_for(plan, dtype=dtype))
    tokens = tokens_of(rng, 40)
    run_batch(executor, [(Sequence(tokens, [4, 5, 6]), 20)])
    executor.copy_blocks([(5, 9), (9, 10)])
    run_batch(executor, [(Sequence(tokens_of(rng, 40), [12, 5, 9]), 40)])  # the originals are overwritten
    (actual,) = run_batch(executor, [(Sequence(tokens, [4, 10, 11], done=20), 20)])
    close(actual, reference(plan, tokens)[20:], 2e-5 if dtype == "f32" else 4e-2)


def test_sequences_share_a_prefix(rng):
    plan = llama(rng)
    executor = plan.executor(cache=cache_for(plan))
    first, second = tokens_of(rng, 40), tokens_of(rng, 40)
    second[:16] = first[:16]
    run_batch(executor, [(Sequence(first, [2, 3, 4]), 16)])
    parts = [(Sequence(first, [2, 3, 4], 16), 24), (Sequence(second, [2, 8, 9], 16), 24)]
    for actual, tokens in zip(run_batch(executor, parts), (first, second), strict=True):
        close(actual, reference(plan, tokens)[16:], 2e-5)


def test_window_needs_only_its_own_blocks(rng):
    plan = llama(rng, window=8)
    executor = plan.executor(cache=cache_for(plan))
    tokens = tokens_of(rng, 50)
    sequence = Sequence(tokens, [0, 1, 2, 3])
    run_batch(executor, [(sequence, 40)])
    sequence.blocks[:2] = [-1, -1]
    (actual,) = run_batch(executor, [(sequence, 10)])
    close(actual, reference(plan, tokens)[40:], 2e-5)


def test_two_executors_share_weights(rng):
    plan = llama(rng)
    tokens, others = tokens_of(rng, 30), tokens_of(rng, 30)
    one, two = (plan.executor(threads=2, cache=cache_for(plan)) for _ in range(2))
    parts = [Sequence(tokens, [0, 1]), Sequence(others, [0, 1])]
    rows = [[], []]
    for _ in range(30):
        for i, executor in enumerate((one, two)):
            rows[i].append(run_batch(executor, [(parts[i], 1)])[0])
    close(np.concatenate(rows[0]), reference(plan, tokens), 2e-5)
    close(np.concatenate(rows[1]), reference(plan, others), 2e-5)


def test_profile_and_sizes(rng):
    plan = llama(rng)
    executor = plan.executor(cache=cache_for(plan))
    assert executor.profile == []
    run_batch(executor, [(Sequence(tokens_of(rng, 8), [0]), 8)], profile=True)
    assert len(executor.profile) == len(plan.ops)
    assert all(0 <= seconds < 1 for seconds in executor.profile)
    assert executor.cache_bytes >= 2 * 16 * 16 * 2 * (8 + 16) * 4
    assert executor.arena_bytes >= 64 * 4 * sum(width for _, width, _ in plan.buffers)


def test_agrees_with_the_python_interpreter(rng):
    plan = llama(rng, window=20)
    cache = cache_for(plan)
    weights = [interpreter.Weight.dense(weight.to_dense()) for weight in plan.weights]
    sizes = {"threads": 1, "max_tokens": 64, "max_logits": 64, "cache": cache}
    other = interpreter.Executor(plan.ops, plan.buffers, weights, plan.vectors, **sizes)
    tokens, results = tokens_of(rng, 50), []
    for executor in (plan.executor(cache=cache), other):
        sequence = Sequence(tokens, [5, 2, 9, 1])
        results.append(np.concatenate([run_batch(executor, [(sequence, n)])[0] for n in (30, 1, 1, 18)]))
    close(results[0], results[1], 2e-5)


@pytest.mark.parametrize("wrong", [{"layers": -1}, {"head_dim": 2**63 - 1}, {"blocks": 0}, {"block_size": 15}])
def test_an_impossible_cache_has_no_size(wrong):
    shape = {"layers": 2, "kv_heads": 2, "head_dim": 8, "block_size": 16, "blocks": 4, "dtype": "f32"}
    assert _native.cache_bytes(shape) == 2 * 2 * 4 * 16 * (8 + 16) * 4
    with pytest.raises(ValueError, match="cache"):
        _native.cache_bytes(shape | wrong)
