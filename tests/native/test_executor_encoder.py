"""Attention of encoders and to what they leave: every instruction set and number of threads against float64."""

import os
import platform
import sys
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest

from cutwork import _native

from .executor_plans import ISAS, Plan, batch

HEADS = [(1, 64), (3, 20), (8, 33), (2, 128), (5, 7)]


@pytest.fixture
def rng():
    return np.random.default_rng(7)


def softmax(scores):
    e = np.exp(scores - scores.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def attend(q, k, v, heads, scale, shift=0.0, cap=0.0):
    """q [n, heads * d], k and v [m, heads * d] in float64; shift [heads, n, m] is added to the (capped) scores."""
    q, k, v = (a.astype(np.float64).reshape(len(a), heads, -1) for a in (q, k, v))
    scores = np.einsum("thd,shd->hts", q, k) * scale
    weights = softmax((cap * np.tanh(scores / cap) if cap else scores) + shift)
    return np.einsum("hts,shd->thd", weights, v).reshape(len(q), -1)


def close(actual, expected):
    assert np.all(np.abs(actual - expected) <= 5e-6 * np.abs(expected).max(-1, keepdims=True))


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize(("heads", "head_dim"), HEADS)
@pytest.mark.parametrize("lengths", [[1], [333], [40, 1, 300, 17, 2], [1] * 70, [5] * 40])
@pytest.mark.parametrize("reach", [None, 3, 500])
def test_self_attention(isa, threads, heads, head_dim, lengths, reach):
    count = sum(lengths)
    q, k, v, bias, expected = self_attention_case(heads, head_dim, tuple(lengths), reach)
    plan = Plan()
    tables = {name: plan.table(values) for name, values in (("q", q), ("k", k), ("v", v))}
    shape = {
        "heads": heads,
        "head_dim": head_dim,
        "scale": head_dim**-0.5,
        "cap": 0.0,
        "bias": -1 if bias is None else plan.vector(bias.ravel()),
    }
    plan.show(plan.emit("self_attention", heads * head_dim, **tables, **shape))
    executor = plan.executor(isa=isa, threads=threads, max_tokens=count, max_logits=count)
    tokens, positions, sequences = batch(lengths)
    actual = executor.step(tokens, positions, sequences, np.zeros((len(lengths), 0), np.int32), tokens)
    close(actual, expected)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", ["f32", "bf16"])
def test_capped_scores(rng, isa, dtype):
    """cap tanh(score / cap), within a step and over a memory, and no less exact where it might be done in bfloat16."""
    count, heads, cap = 90, 2, 2.0
    q, k, v = (3 * rng.standard_normal((count, heads * 16)).astype(np.float32) for _ in range(3))
    q[-1] *= 1000  # scores far beyond the cap
    expected = attend(q, k, v, heads, 0.25, cap=cap)
    plan = Plan()
    tables = {name: plan.table(values) for name, values in (("q", q), ("k", k), ("v", v))}
    shape = {"heads": heads, "head_dim": 16, "scale": 0.25, "cap": cap, "bias": -1}
    plan.emit("self_attention", heads * 16, **tables, **{**shape, "cap": 0.0})  # which might be, alone
    plan.show(plan.emit("self_attention", heads * 16, **tables, **shape))
    cache = {"layers": 1, "kv_heads": heads, "head_dim": 16, "block_size": 16, "blocks": 6, "dtype": dtype}
    executor = plan.executor(isa=isa, max_tokens=count, max_logits=count, cache=cache)
    tokens, positions, sequences = batch([count])
    table = np.arange(6, dtype=np.int32)[None]
    close(executor.step(tokens, positions, sequences, table, tokens), expected)

    memory = encoder(k, v, heads, isa=isa)
    memory.step(tokens, positions, sequences, table, tokens[:0])
    first = decoder(q[:64], heads, memory, cap=cap, isa=isa)
    seen = {"memory_tables": table, "memory_lengths": np.array([count], np.int32)}
    some = tokens[:64], positions[:64], sequences[:64]
    weights = {"attention_of": np.array([[1, 1]], np.int32)}
    close(first.step(*some, np.zeros((1, 0), np.int32), tokens[:64], **seen, **weights), expected[:64])
    scores = q[:64, 16:].astype(np.float64) @ k[:, 16:].T.astype(np.float64) * 0.25
    np.testing.assert_allclose(first.attention_weights[0], softmax(cap * np.tanh(scores / cap)), atol=1e-6)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("cap", [0.0, 2.0])
@pytest.mark.parametrize("dtype", ["f32", "bf16", "i8"])
@pytest.mark.parametrize("where", ["q", "k"])
def test_what_is_no_number_stays_none(rng, isa, cap, dtype, where):
    """In the answer of its own row as a query, of all rows that see it as a key; elsewhere nothing changes."""
    count, heads = 40, 2
    given = {name: rng.standard_normal((count, heads * 16)).astype(np.float32) for name in "qkv"}

    def run():
        plan = Plan()
        plan.add("kv_append", k=plan.table(given["k"]), v=plan.table(given["v"]), cache=0)
        shape = {"heads": heads, "kv_heads": heads, "head_dim": 16, "scale": 0.25, "window": -1, "slopes": -1}
        queries = plan.table(given["q"])
        plan.show(plan.emit("attention", heads * 16, q=queries, cache=0, bias=-1, cap=cap, **shape))
        cache = {"layers": 1, "kv_heads": heads, "head_dim": 16, "block_size": 16, "blocks": 4, "dtype": dtype}
        executor = plan.executor(isa=isa, max_tokens=count, max_logits=count, cache=cache)
        tokens, positions, sequences = batch([count])
        return executor.step(tokens, positions, sequences, np.arange(4, dtype=np.int32)[None], tokens)

    sound = run()
    given[where][5, :16] = np.nan
    found = run()
    lost = np.isnan(found[:, :16]).any(1)
    assert lost[5] and (where == "q" or lost[5:].all()) and not lost[:5].any()
    np.testing.assert_array_equal(found[~lost], sound[~lost])


@pytest.mark.parametrize("isa", ISAS)
def test_weights_are_kept_where_the_output_takes_the_queries_place(rng, isa):
    count, heads = 9, 2
    q, k, v = (rng.standard_normal((count, heads * 16)).astype(np.float32) for _ in range(3))
    tokens, positions, sequences = batch([count])
    table = np.arange(1, dtype=np.int32)[None]
    memory = encoder(k, v, heads, isa=isa)
    memory.step(tokens, positions, sequences, table, tokens[:0])
    seen = {"memory_tables": table, "memory_lengths": np.array([count], np.int32)}
    found = []
    for in_place in (False, True):
        one = decoder(q, heads, memory, isa=isa, in_place=in_place)
        nothing = np.zeros((1, 0), np.int32)
        outputs = one.step(
            tokens, positions, sequences, nothing, tokens, **seen, attention_of=np.array([[1, 1]], np.int32)
        )
        found.append((outputs, one.attention_weights))
    for apart, together in zip(*found, strict=True):
        np.testing.assert_array_equal(apart, together)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("reach", [1, 4, 400])
def test_bias_of_causal_attention(rng, isa, reach):
    count, heads = 150, 3
    q, k, v = (rng.standard_normal((count, heads * 20)).astype(np.float32) for _ in range(3))
    bias = rng.standard_normal((heads, reach)).astype(np.float32)
    plan = Plan()
    plan.add("kv_append", k=plan.table(k), v=plan.table(v), cache=0)
    shape = {"heads": heads, "kv_heads": heads, "head_dim": 20, "scale": 0.5, "window": -1, "slopes": -1, "cap": 0.0}
    queries, bias_id = plan.table(q), plan.vector(bias.ravel())
    plan.show(plan.emit("attention", heads * 20, q=queries, cache=0, bias=bias_id, **shape))
    cache = {"layers": 1, "kv_heads": heads, "head_dim": 20, "block_size": 16, "blocks": 10, "dtype": "f32"}
    executor = plan.executor(isa=isa, threads=2, max_tokens=count, max_logits=count, cache=cache)
    tokens, positions, sequences = batch([count])
    actual = executor.step(tokens, positions, sequences, np.arange(10, dtype=np.int32)[None], tokens)
    behind = np.arange(count)[:, None] - np.arange(count)
    shift = bias.astype(np.float64)[:, (reach - 1 - behind).clip(0, reach - 1)]
    shift[:, behind < 0] = -np.inf
    close(actual, attend(q, k, v, heads, 0.5, shift))


CACHE = {"layers": 2, "block_size": 16, "blocks": 40}


def encoder(k, v, heads, **options):
    """An executor whose step leaves rows of k and v in layer 1 of its cache, and of v and k in layer 0."""
    plan = Plan()
    keys, values = plan.table(k), plan.table(v)
    plan.add("kv_append", k=values, v=keys, cache=0)
    plan.add("kv_append", k=keys, v=values, cache=1)
    cache = {**CACHE, "kv_heads": heads, "head_dim": k.shape[1] // heads, "dtype": "f32"}
    return plan.executor(max_tokens=len(k), cache=cache, **options)


def decoder(q, heads, memory, layer=1, cap=0.0, in_place=False, **options):
    plan = Plan()
    queries = plan.table(q)
    shape = {
        "heads": heads,
        "kv_heads": heads,
        "head_dim": q.shape[1] // heads,
        "scale": (q.shape[1] // heads) ** -0.5,
        "cap": cap,
    }
    out = plan.emit("cross_attention", q.shape[1], q=queries, cache=layer, **shape)
    if in_place:
        plan.buffers[out] = plan.buffers[queries]
    plan.show(out)
    return _native.Executor(
        plan.ops,
        plan.buffers,
        plan.weights,
        plan.vectors,
        **{"threads": 1, "max_tokens": 64, "max_logits": 64, "cache": None, "memory": memory, **options},
    )


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize(("heads", "head_dim"), HEADS)
@pytest.mark.parametrize("counts", [[1], [5, 1, 30], [64]])
def test_cross_attention(rng, isa, threads, heads, head_dim, counts):
    lengths = [290, 16, 33][: len(counts)]
    k, v = (rng.standard_normal((sum(lengths), heads * head_dim)).astype(np.float32) for _ in range(2))
    q = rng.standard_normal((sum(counts), heads * head_dim)).astype(np.float32)
    memory = encoder(k, v, heads, isa=isa, threads=threads)
    tables = np.full((3, 20), -1, np.int32)
    blocks = rng.permutation(40)
    for row, length in enumerate(lengths):
        needed = -(-length // 16)
        tables[row, :needed], blocks = blocks[:needed], blocks[needed:]
    tokens, positions, sequences = batch(lengths)
    assert memory.step(tokens, positions, sequences, tables, tokens[:0]).shape == (0, 0)
    tokens, positions, sequences = batch(counts)
    empty, all_lengths = np.zeros((3, 0), np.int32), np.array([*lengths, 0, 0][:3], np.int32)
    for layer, (keys, values) in enumerate([(v, k), (k, v)]):
        executor = decoder(q, heads, memory, layer, isa=isa, threads=threads)
        actual = executor.step(
            tokens, positions + 7, sequences, empty, tokens, memory_tables=tables, memory_lengths=all_lengths
        )
        for i, (start, count) in enumerate(zip(np.cumsum(counts) - counts, counts, strict=True)):
            rows, first = slice(start, start + count), sum(lengths[:i])
            seen = slice(first, first + lengths[i])
            close(actual[rows], attend(q[rows], keys[seen], values[seen], heads, head_dim**-0.5))


def test_what_a_step_on_a_memory_refuses(rng):
    q, k = (rng.standard_normal((n, 8)).astype(np.float32) for n in (4, 20))
    memory = encoder(k, k, 2)
    tokens, positions, sequences = batch([4])
    empty = np.zeros((1, 0), np.int32)

    def step(executor, tables, lengths):
        as_int32 = [None if value is None else np.array(value, np.int32) for value in (tables, lengths)]
        given = dict(zip(("memory_tables", "memory_lengths"), as_int32, strict=True))
        executor.step(tokens, positions, sequences, empty, tokens, **given)

    executor = decoder(q, 2, memory)
    step(executor, [[0, 39]], [32])
    for tables, lengths, message in [
        (None, None, "memory_tables are missing"),
        ([[0, 1]], None, "belong together"),
        ([[0, 1], [0, 1]], [1, 1], "a row per row of block_tables"),
        ([[0, 1]], [0], "between 1 and 32"),
        ([[0, 1]], [33], "between 1 and 32"),
        ([[0, 40]], [17], r"memory_tables\[0, 1\] is 40"),
        ([[-1, 0]], [1], r"memory_tables\[0, 0\] is -1"),
    ]:
        with pytest.raises(ValueError, match=message):
            step(executor, tables, lengths)
    plan = Plan()
    plan.show(plan.table(q))
    with pytest.raises(ValueError, match="attends to no memory"):
        step(plan.executor(), [[0, 1]], [1])


def test_what_plans_refuse(rng):
    q, k = (rng.standard_normal((n, 8)).astype(np.float32) for n in (4, 20))
    memory = encoder(k, k, 2)
    for layer, heads, given, message in [
        (2, 2, memory, "cache layer 2 of 2"),
        (0, 4, memory, "differ from the cache's"),
        (0, 2, None, "needs a cache"),
    ]:
        with pytest.raises(ValueError, match=rf"\(cross_attention\): .*{message}"):
            decoder(q, heads, given, layer)
    no_cache = Plan()
    no_cache.show(no_cache.table(q))
    with pytest.raises(ValueError, match="has no cache"):
        decoder(q, 2, no_cache.executor())
    shape = {"heads": 2, "head_dim": 4, "scale": 1.0, "bias": -1, "cap": 0.0}
    for change, message in [
        ({"heads": 3}, r"width heads \* head_dim"),
        ({"scale": float("nan")}, "not finite"),
        ({"cap": -1.0}, "cap is negative"),
        ({"bias": 7}, "names vector 7"),
        ({"bias": 0}, "not a multiple of the heads"),
        ({"bias": 1}, "not an odd number"),
        ({"k": 3}, "differ in shape"),
        ({"out": 1}, "overlaps k or v"),
    ]:
        plan = Plan()
        tables = {name: plan.table(q) for name in "qkv"}
        plan.table(q[:, :4])
        plan.vector(np.zeros(5)), plan.vector(np.zeros(4))
        plan.add("self_attention", **{**tables, "out": plan.buffer(8), **shape, **change})
        plan.show(len(plan.buffers) - 1)
        with pytest.raises(ValueError, match=rf"\(self_attention\): .*{message}"):
            plan.executor()


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize(("heads", "head_dim"), [(1, 64), (3, 20), (2, 128), (5, 7), (2, 34)])
@pytest.mark.parametrize("lengths", [[1], [333], [40, 1, 300, 17, 2], [1] * 70, [5] * 40])
@pytest.mark.parametrize(("reach", "slope"), [(None, 0.0), (3, 0.0), (500, 0.0), (500, 0.2), (500, -0.2)])
def test_self_attention_in_bfloat16(isa, threads, heads, head_dim, lengths, reach, slope):
    """With a cache of bf16 all that is multiplied is rounded to it; scores may rise or fall from key to key."""
    count = sum(lengths)
    q, k, v, bias, expected = self_attention_case(heads, head_dim, tuple(lengths), reach, slope)
    plan = Plan()
    tables = {name: plan.table(values) for name, values in (("q", q), ("k", k), ("v", v))}
    bias_id = -1 if bias is None else plan.vector(bias.ravel())
    shape = {"heads": heads, "head_dim": head_dim, "scale": head_dim**-0.5, "bias": bias_id, "cap": 0.0}
    plan.show(plan.emit("self_attention", heads * head_dim, **tables, **shape))
    cache = {"layers": 1, "kv_heads": heads, "head_dim": head_dim, "block_size": 16, "blocks": len(lengths) * 21}
    sizes = {"max_tokens": count, "max_logits": count, "cache": {**cache, "dtype": "bf16"}}
    tokens, positions, sequences = batch(lengths)
    blocks = np.arange(len(lengths) * 21, dtype=np.int32).reshape(-1, 21)
    actual = plan.executor(isa=isa, threads=threads, **sizes).step(tokens, positions, sequences, blocks, tokens)
    assert np.abs(actual - expected).max() < 0.02 * np.abs(v).max()
    again = plan.executor(isa=isa, threads=4 - threads, **sizes).step(tokens, positions, sequences, blocks, tokens)
    np.testing.assert_array_equal(actual, again)


@lru_cache(maxsize=1)  # every instruction set and number of threads in turn is given the same
def self_attention_case(heads, head_dim, lengths, reach, slope=0.0):
    """Queries, keys, values, bias (None without a reach) and, in float64, the result for each of the sequences."""
    rng = np.random.default_rng(0)
    q, k, v = (rng.standard_normal((sum(lengths), heads * head_dim)).astype(np.float32) for _ in range(3))
    bias = None if reach is None else rng.standard_normal((heads, 2 * reach + 1)).astype(np.float32)
    if bias is not None:
        bias += np.float32(slope) * np.arange(-reach, reach + 1, dtype=np.float32)
    expected = []
    for start, length in zip(np.cumsum(lengths) - lengths, lengths, strict=True):
        rows, places = slice(start, start + length), np.arange(length)
        shift = (
            0.0 if bias is None else bias.astype(np.float64)[:, (places - places[:, None]).clip(-reach, reach) + reach]
        )
        expected.append(attend(q[rows], k[rows], v[rows], heads, head_dim**-0.5, shift))
    return q, k, v, bias, np.concatenate(expected)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("kind", ["self_attention", "attention"])
def test_a_step_leaves_nothing_to_the_next(rng, kind, isa):
    """An odd number of keys after a step of damaged ones: what lies beyond the last is not read."""
    plan = Plan()
    values = rng.standard_normal((9, 16)).astype(np.float32)
    values[8] = np.nan
    table = plan.table(values)
    shape = {"q": table, "heads": 1, "head_dim": 16, "scale": 1.0, "bias": -1, "cap": 0.0}
    if kind == "attention":
        plan.add("kv_append", k=table, v=table, cache=0)
        shape |= {"kv_heads": 1, "cache": 0, "window": -1, "slopes": -1}
    else:
        shape |= {"k": table, "v": table}
    plan.show(plan.emit(kind, 16, **shape))
    cache = {"layers": 1, "kv_heads": 1, "head_dim": 16, "block_size": 16, "blocks": 1, "dtype": "bf16"}
    executor = plan.executor(isa=isa, cache=cache)

    def step(tokens):
        ids = np.arange(len(tokens), dtype=np.int32)
        return executor.step(np.array(tokens, np.int32), ids, ids * 0, np.zeros((1, 1), np.int32), ids)

    expected = step([0, 1, 2])
    assert np.isnan(step([8, 8, 8, 8, 8, 8])).all()
    np.testing.assert_array_equal(step([0, 1, 2]), expected)


@pytest.mark.skipif(
    (sys.platform, platform.machine()) != ("linux", "x86_64") or "asan" in os.environ.get("LD_PRELOAD", ""),
    reason="neither an emulator nor sanitizers heed a limit of memory",
)
def test_weights_that_memory_does_not_do_for_leave_what_is_there(rng):
    count, heads = 9, 2
    q, k, v = (rng.standard_normal((count, heads * 16)).astype(np.float32) for _ in range(3))
    tokens, positions, sequences = batch([count])
    table = np.arange(1, dtype=np.int32)[None]
    memory = encoder(k, v, heads)
    memory.step(tokens, positions, sequences, table, tokens[:0])
    one = decoder(q, heads, memory)
    rest = np.zeros((1, 0), np.int32), tokens
    seen = {"memory_tables": table, "memory_lengths": np.array([count], np.int32)}
    one.step(tokens, positions, sequences, *rest, **seen, attention_of=np.array([[1, 1]], np.int32))
    resource = pytest.importorskip("resource")
    many = np.ones((1 << 24, 2), np.int32)  # 5 GiB of weights
    limits = resource.getrlimit(resource.RLIMIT_AS)
    taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (taken + (1 << 32), limits[1]))
    try:
        with pytest.raises(MemoryError, match="not enough memory"):
            one.step(tokens, positions, sequences, *rest, **seen, attention_of=many)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)
    assert one.attention_weights.shape == (1, count, count)
