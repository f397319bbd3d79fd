"""Every op alone against float64: its inputs come from embeddings, its output leaves through an identity matrix."""

import ctypes
import sys
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest

from .executor_plans import ACTIVATIONS, ISAS, Plan, attend, multiply, rotate, run_rows

pytestmark = pytest.mark.parametrize("isa", ISAS)
EPSILON = np.finfo(np.float32).eps
_CPUINFO = Path("/proc/cpuinfo")


def multiplies_bf16(isa):
    """Whether a set has instructions for bfloat16 on this processor."""
    if isa in ("neondot", "neoni8mm") and sys.platform == "linux":
        hwcap2, bf16 = 26, 1 << 14
        return bool(ctypes.CDLL(None).getauxval(hwcap2) & bf16)
    return isa in ("amx", "avx512") and _CPUINFO.exists() and "avx512_bf16" in _CPUINFO.read_text().split()


@pytest.fixture
def rng():
    return np.random.default_rng(5)


def close(actual, expected, tolerance=1e-6):
    """Within `tolerance` of the largest expected value of the row."""
    size = np.abs(expected).max(axis=-1, keepdims=True)
    assert actual.shape == expected.shape
    assert np.all(np.abs(actual - expected) <= tolerance * size), np.abs((actual - expected) / size).max()


@pytest.mark.parametrize("encoding", ["dense", "bitmask", "block1x4", "block4x1"])
@pytest.mark.parametrize("dtype", ["f32", "bf16", "i8"])
@pytest.mark.parametrize("width", [1, 63, 200])
def test_embed(rng, isa, dtype, encoding, width):
    plan = Plan()
    weight = plan.random_weight(rng, 37, width, dtype, encoding)
    plan.show(plan.emit("embed", width, weight=weight, scale=0.75))
    actual = run_rows(plan.executor(isa=isa), 37)
    np.testing.assert_allclose(actual, 0.75 * plan.matrices[weight][0], rtol=2 * EPSILON)


@pytest.mark.parametrize(("width", "groups"), [(1, 1), (7, 1), (64, 1), (100, 1), (576, 1), (96, 4), (66, 6)])
def test_rms_norm(rng, isa, width, groups):
    x, scale = rng.standard_normal((9, width)).astype(np.float32) * 3, rng.standard_normal(width // groups)
    plan = Plan()
    weight = plan.vector(scale)
    plan.show(plan.emit("rms_norm", width, x=plan.table(x), weight=weight, eps=1e-3, groups=groups))
    parts = x.astype(np.float64).reshape(9, groups, -1)
    expected = parts / np.sqrt((parts**2).mean(-1, keepdims=True) + 1e-3) * plan.vectors[weight]
    close(run_rows(plan.executor(isa=isa), 9), expected.reshape(9, -1))


@pytest.mark.parametrize(("heads", "head_dim", "rotary"), [(1, 64, 64), (3, 20, 20), (4, 32, 8), (2, 5, 2)])
def test_rope(rng, isa, heads, head_dim, rotary):
    x = rng.standard_normal((50, heads * head_dim)).astype(np.float32)
    plan = Plan()
    shape = {"heads": heads, "head_dim": head_dim, "scaling": 1.25}
    inv_freq = plan.vector(10000.0 ** -(np.arange(rotary // 2) / (rotary // 2)))
    plan.show(plan.emit("rope", heads * head_dim, x=plan.table(x), inv_freq=inv_freq, **shape))
    close(run_rows(plan.executor(isa=isa), 50), rotate({**shape, "inv_freq": inv_freq}, plan, x.astype(np.float64)))


@pytest.mark.parametrize("activation", ["silu", "gelu", "gelu_tanh", "relu"])
def test_gated(isa, activation):
    x = np.concatenate([np.linspace(-12, 12, 4001), np.geomspace(1e-30, 80, 500), -np.geomspace(1e-30, 80, 500), [0]])
    gate = x.astype(np.float32)[None]
    plan = Plan()
    tables = {"gate": plan.table(gate), "up": plan.table(np.full_like(gate, 2))}
    plan.ops.append({"kind": "gated", **tables, "out": plan.buffer(gate.shape[1]), "activation": activation})
    out = plan.emit("gather_rows", gate.shape[1], "R", x=len(plan.buffers) - 1)
    # A wide identity matrix would be large: a product with one row per value serves as well.
    step = 50
    columns = np.arange(0, gate.shape[1], step)
    pick = np.zeros((len(columns), gate.shape[1]), np.float32)
    pick[np.arange(len(columns)), columns] = 1
    plan.add("logits", x=out, weight=plan.weight(pick), bias=-1, cap=0.0)
    actual = run_rows(plan.executor(isa=isa), 1)[0]
    expected = 2 * ACTIVATIONS[activation](gate.astype(np.float64))[0, columns]
    # The exponential's argument is itself rounded in gelu_tanh, which its value magnifies far below zero.
    magnified = 1 + (np.abs(gate[0, columns]) ** 3 / 4 if activation == "gelu_tanh" else 0)
    tail = 2 * 4e-7 if activation == "gelu" else 0  # where x is negative its polynomial's error is absolute
    normal = np.abs(expected) > 1e-35
    allowed = 1e-6 * magnified * np.abs(expected) + tail * np.minimum(np.abs(gate[0, columns]), 1)
    assert np.all((np.abs(actual - expected) <= allowed)[normal])
    assert np.all(np.abs(actual - expected)[~normal] <= (tail or 3e-35))


@pytest.mark.parametrize("activation", ["silu", "gelu", "gelu_tanh", "relu"])
def test_activations_far_below_zero_are_nothing(isa, activation):
    gate = np.array([[-87.2, -87.4, -88.5, -90, -104, -1e10, -1e38, -np.inf]], np.float32)
    plan = Plan()
    tables = {"gate": plan.table(gate), "up": plan.table(np.ones_like(gate))}
    out = plan.emit("gated", gate.shape[1], **tables, activation=activation)
    plan.show(out)
    actual = run_rows(plan.executor(isa=isa), 1)[0]
    assert np.all(np.abs(actual) <= 2e-36) if activation != "gelu" else np.all(np.abs(actual) < 5e-7)


def test_what_is_no_number_stays_none(isa):
    """An activation does not hide it."""
    for activation in ("silu", "gelu", "gelu_tanh", "relu"):
        plan = Plan()
        gate = np.full((1, 20), np.nan, np.float32)
        tables = {"gate": plan.table(gate), "up": plan.table(np.ones_like(gate))}
        plan.ops.append({"kind": "gated", **tables, "out": plan.buffer(20), "activation": activation})
        plan.show(len(plan.buffers) - 1)
        assert np.isnan(run_rows(plan.executor(isa=isa), 1)).all()


@pytest.mark.parametrize("width", [1, 7, 16, 50, 129])
@pytest.mark.parametrize("bias", [False, True])
def test_layer_norm(rng, isa, width, bias):
    x = (3 + rng.standard_normal((9, width))).astype(np.float32)
    plan = Plan()
    weight, shift = rng.uniform(0.5, 1.5, width), rng.standard_normal(width)
    ids = {"weight": plan.vector(weight), "bias": plan.vector(shift) if bias else -1}
    plan.show(plan.emit("layer_norm", width, x=plan.table(x), eps=1e-5, **ids))
    wide = x.astype(np.float64)
    normal = (wide - wide.mean(1, keepdims=True)) / np.sqrt(wide.var(1, keepdims=True) + 1e-5)
    expected = normal * weight.astype(np.float32) + (shift.astype(np.float32) if bias else 0)
    close(run_rows(plan.executor(isa=isa), 9), expected, 5e-6)


def test_slice_and_clip(rng, isa):
    x = rng.standard_normal((6, 60)).astype(np.float32)
    plan = Plan()
    part = plan.emit("slice", 15, x=plan.table(x), pieces=3, stride=20, first=7)
    plan.show(plan.emit("clip", 15, x=part, limit=0.5))
    columns = np.concatenate([np.arange(7 + 20 * i, 12 + 20 * i) for i in range(3)])
    np.testing.assert_array_equal(run_rows(plan.executor(isa=isa), 6), x[:, columns].clip(-0.5, 0.5))


@pytest.mark.parametrize(
    ("field", "value"), [("pieces", 4), ("stride", 4), ("first", 16), ("first", -1), ("pieces", 0)]
)
def test_slices_stay_inside(isa, field, value):
    plan = Plan()
    fields = {"pieces": 3, "stride": 20, "first": 7, field: value}
    plan.show(plan.emit("slice", 15, x=plan.table(np.zeros((2, 60), np.float32)), **fields))
    with pytest.raises(ValueError, match="slice"):
        plan.executor(isa=isa)


@pytest.mark.parametrize("encoding", ["dense", "bitmask"])
@pytest.mark.parametrize("dtypes", [["f32"], ["bf16"], ["i8"], ["i8", "f32", "bf16"]])
@pytest.mark.parametrize("count", [1, 5, 40])
def test_linear(rng, isa, dtypes, encoding, count):
    x, extra = (rng.standard_normal((count, width)).astype(np.float32) for width in (70, 33))
    for activation in ("none", "gelu"):
        for shown in range(len(dtypes)):
            plan = Plan()
            data = {"x": plan.table(x), "residual": plan.table(extra)}
            weights = [plan.random_weight(rng, 33, 70, dtype, encoding) for dtype in dtypes]
            outs = [plan.buffer(33) for _ in weights]
            biases = [plan.vector(rng.standard_normal(33)) for _ in weights]
            biases[0] = -1
            plan.add("linear", outs=outs, weights=weights, biases=biases, activation=activation, **data)
            plan.show(outs[shown])
            y = multiply(x.astype(np.float64), plan.matrices[weights[shown]])
            y = y + plan.vectors[biases[shown]] if shown else y
            close(run_rows(plan.executor(isa=isa, threads=2), count), ACTIVATIONS[activation](y) + extra, 2e-6)


@pytest.mark.parametrize("encoding", ["dense", "bitmask"])
@pytest.mark.parametrize("dtypes", [["i8"], ["bf16", "f32"]])
def test_linear_of_many_tokens(rng, isa, dtypes, encoding):
    """More than are transposed at once, of which few nonzeros are left: the same for any number of threads."""
    count, rows = 1100, 300
    x, extra = (rng.standard_normal((count, width)).astype(np.float32) for width in (330, rows))
    plan = Plan()
    data = {"x": plan.table(x), "residual": plan.table(extra)}
    weights = [plan.random_weight(rng, rows, 330, dtype, encoding, 0.05) for dtype in dtypes]
    outs = [plan.buffer(rows) for _ in weights]
    plan.add("linear", outs=outs, weights=weights, biases=[-1] * len(outs), activation="relu", **data)
    plan.show(outs[-1])
    executors = [plan.executor(isa=isa, threads=t, max_tokens=count, max_logits=count) for t in (1, 3)]
    alone, shared = (run_rows(executor, count) for executor in executors)
    close(alone, ACTIVATIONS["relu"](multiply(x.astype(np.float64), plan.matrices[weights[-1]])) + extra, 2e-6)
    np.testing.assert_array_equal(alone, shared)


@pytest.mark.parametrize("cap", [0.0, 1.5])
def test_logits_have_a_bias_and_only_the_wanted_rows(rng, isa, cap):
    x = rng.standard_normal((8, 24)).astype(np.float32)
    plan = Plan()
    gathered = plan.emit("gather_rows", 24, "R", x=plan.table(x))
    weight, bias = plan.random_weight(rng, 19, 24), plan.vector(rng.standard_normal(19))
    plan.add("logits", x=gathered, weight=weight, bias=bias, cap=cap)
    ids, wanted = np.arange(8, dtype=np.int32), np.array([6, 0, 6], np.int32)
    executor = plan.executor(isa=isa)
    actual = executor.step(ids, ids, ids * 0, np.zeros((1, 0), np.int32), wanted)
    expected = x[wanted].astype(np.float64) @ plan.matrices[weight][0].T + plan.vectors[bias]
    close(actual, cap * np.tanh(expected / cap) if cap else expected, 2e-6)
    assert executor.step(ids, ids, ids * 0, np.zeros((1, 0), np.int32), wanted[:0]).shape == (0, 19)


@pytest.mark.parametrize(
    ("heads", "kv_heads", "head_dim"), [(1, 1, 64), (4, 4, 16), (9, 3, 20), (8, 1, 33), (6, 2, 128), (71, 1, 7)]
)
@pytest.mark.parametrize(("alibi", "cap"), [(False, 0.0), (True, 0.0), (True, 3.0)])
@pytest.mark.parametrize("window", [-1, 1, 30])
@pytest.mark.parametrize("dtype", ["f32", "bf16", "i8"])
def test_attention(isa, heads, kv_heads, head_dim, window, dtype, alibi, cap):
    count = 333
    pairs = dtype == "bf16" and multiplies_bf16(isa)  # rounds queries and weights to bf16
    q, k, v, slopes, expected = attention_case(count, heads, kv_heads, head_dim, window, dtype, alibi, cap, pairs)
    plan = Plan()
    queries = plan.table(q)
    plan.add("kv_append", k=plan.table(k), v=plan.table(v), cache=0)
    shape = {"heads": heads, "kv_heads": kv_heads, "head_dim": head_dim, "scale": head_dim**-0.5, "window": window}
    shape |= {"slopes": plan.vector(slopes) if alibi else -1, "bias": -1, "cap": cap}
    plan.show(plan.emit("attention", heads * head_dim, q=queries, cache=0, **shape))
    sizes = {"layers": 1, "kv_heads": kv_heads, "head_dim": head_dim, "block_size": 16, "blocks": 21, "dtype": dtype}
    actual = run_rows(plan.executor(isa=isa, max_tokens=count, max_logits=count, cache=sizes), count)
    if pairs:  # a weight errs by at most half a unit of its last of eight bits
        assert np.abs(actual - expected).max() < (2**-9 + 5e-6) * np.abs(v).max()
        return
    rounded = dtype == "i8" and isa in ("amx", "avx512")  # queries to 15 bits and weights to 16, to multiply bytes
    close(actual, expected, 1e-3 if rounded else 5e-6)


@lru_cache(maxsize=1)  # every instruction set in turn is given the same
def attention_case(count, heads, kv_heads, head_dim, window, dtype, alibi, cap, pairs):
    """Queries, keys, values, slopes (None: no ALiBi) and, in float64, the result, of queries in bf16 if in pairs."""
    rng = np.random.default_rng(0)
    q, k, v = (rng.standard_normal((count, n * head_dim)).astype(np.float32) for n in (heads, kv_heads, kv_heads))
    q *= 2
    if dtype == "bf16":  # values that bf16 holds exactly
        k, v = (to_bf16(a) for a in (k, v))
    if dtype == "i8":
        k, v = (to_i8(a, kv_heads) for a in (k, v))
    slopes = rng.uniform(0, 0.5, heads).astype(np.float32) if alibi else None
    scale = np.float32(head_dim**-0.5)
    asked = nearest_bf16(q * scale) / scale.astype(np.float64) if pairs else q
    exact = (a.astype(np.float64) for a in (asked, k, v))
    return q, k, v, slopes, attend(*exact, heads, kv_heads, head_dim**-0.5, window, slopes, cap)


def to_bf16(x):
    return (x.view(np.uint32) & 0xFFFF0000).view(np.float32)


def nearest_bf16(x):
    """The nearest values that bf16 holds, ties to the even one."""
    bits = x.view(np.uint32)
    return to_bf16((bits + 0x7FFF + (bits >> 16 & 1)).view(np.float32))


def to_i8(x, heads):
    """What 127 steps either side of zero, a scale per token and head, leave of x."""
    parts = x.reshape(len(x), heads, -1)
    scale = np.abs(parts).max(-1, keepdims=True) / np.float32(127)
    return (np.rint(parts / scale) * scale).reshape(x.shape)


@pytest.mark.parametrize(("strange", "expected"), [(np.nan, np.nan), (np.inf, np.nan), (1e-44, 0)])
def test_strange_numbers_in_an_i8_cache(isa, strange, expected):
    """NaN and infinity show; a vector too small for a scale counts as zero."""
    values = np.full((20, 16), strange, np.float32)
    plan = Plan()
    queries, k, v = (plan.table(a) for a in (np.ones_like(values), np.zeros_like(values), values))
    plan.add("kv_append", k=k, v=v, cache=0)
    shape = {
        "heads": 1,
        "kv_heads": 1,
        "head_dim": 16,
        "scale": 1.0,
        "window": -1,
        "slopes": -1,
        "bias": -1,
        "cap": 0.0,
    }
    plan.show(plan.emit("attention", 16, q=queries, cache=0, **shape))
    cache = {"layers": 1, "kv_heads": 1, "head_dim": 16, "block_size": 16, "blocks": 2, "dtype": "i8"}
    np.testing.assert_array_equal(run_rows(plan.executor(isa=isa, cache=cache), 20), np.full((20, 16), expected))


@pytest.mark.parametrize("width", [1, 15, 64, 131])
def test_add(rng, isa, width):
    x, y = rng.standard_normal((2, 5, width)).astype(np.float32)
    plan = Plan()
    plan.show(plan.emit("add", width, x=plan.table(x), y=plan.table(y)))
    np.testing.assert_array_equal(run_rows(plan.executor(isa=isa), 5), x + y)
