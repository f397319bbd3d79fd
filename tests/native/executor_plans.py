"""Plans written by hand, what runs them in pieces, and their float64 reference: only the module is the product's."""

import math
from dataclasses import dataclass, field

import numpy as np

from cutwork import _native

from .weights import make_weight, quantize_tokens, sparse_values, to_float

ISAS = tuple(_native.isas())


@dataclass
class Plan:
    """Ops and buffers as the executor takes them; no two buffers share memory."""

    ops: list = field(default_factory=list)
    buffers: list = field(default_factory=list)
    weights: list = field(default_factory=list)
    matrices: list = field(default_factory=list)  # (float64 values, is int8) of each weight
    vectors: list = field(default_factory=list)

    def buffer(self, width, rows="T"):
        end = max((offset + width for offset, width, _ in self.buffers), default=0)
        self.buffers.append((-(-end // 16) * 16, width, rows))
        return len(self.buffers) - 1

    def weight(self, stored, encoding="dense", scale=None):
        self.weights.append(make_weight(stored, encoding, scale))
        values = (
            stored * scale[:, None].astype(np.float64) if scale is not None else to_float(stored).astype(np.float64)
        )
        self.matrices.append((values, scale is not None))
        return len(self.weights) - 1

    def random_weight(self, rng, rows, cols, dtype="f32", encoding="dense", density=0.5):
        stored = sparse_values(rng, rows, cols, density, dtype)
        scale = rng.uniform(0.5, 1.5, rows).astype(np.float32) / 100 if dtype == "i8" else None
        if dtype == "f32":
            stored = (stored / math.sqrt(cols * density)).astype(np.float32)
        return self.weight(stored, encoding, scale)

    def vector(self, values):
        self.vectors.append(np.ascontiguousarray(values, np.float32))
        return len(self.vectors) - 1

    def add(self, kind, **fields):
        self.ops.append({"kind": kind, **fields})

    def emit(self, kind, width, rows="T", out="out", **fields):
        """An op with one new output buffer, which is returned."""
        result = self.buffer(width, rows)
        self.add(kind, **{out: result}, **fields)
        return result

    def table(self, values):
        """A buffer whose row t is row t of `values` when the tokens are 0, 1, 2, ..."""
        weight = self.weight(np.ascontiguousarray(values, np.float32))
        return self.emit("embed", values.shape[1], weight=weight, scale=1.0)

    def show(self, buffer):
        """Ends the plan with logits that are the buffer itself."""
        width = self.buffers[buffer][1]
        gathered = self.emit("gather_rows", width, "R", x=buffer)
        self.add("logits", x=gathered, weight=self.weight(np.eye(width, dtype=np.float32)), bias=-1, cap=0.0)

    def executor(self, *, threads=1, max_tokens=64, max_logits=64, cache=None, isa=None):
        return _native.Executor(
            self.ops,
            self.buffers,
            self.weights,
            self.vectors,
            threads=threads,
            max_tokens=max_tokens,
            max_logits=max_logits,
            cache=cache,
            isa=isa,
        )


def run_rows(executor, count):
    """All rows of a step on tokens 0, 1, ..., count - 1 of one sequence."""
    ids = np.arange(count, dtype=np.int32)
    table = np.arange(-(-count // 16), dtype=np.int32)[None]
    return executor.step(ids, ids, np.zeros_like(ids), table, ids)


@dataclass
class Sequence:
    """Tokens, how many of them have been run, and the cache blocks they may use."""

    tokens: np.ndarray
    blocks: list
    done: int = 0


def run_batch(executor, parts, profile=False):
    """One step on the next `count` tokens of each (sequence, count); logits of each part, all rows."""
    width = max(len(sequence.blocks) for sequence, _ in parts)
    tables = np.full((len(parts), width), -1, np.int32)
    tokens, positions, sequences = [], [], []
    for i, (sequence, count) in enumerate(parts):
        tables[i, : len(sequence.blocks)] = sequence.blocks
        tokens.extend(sequence.tokens[sequence.done : sequence.done + count])
        positions.extend(range(sequence.done, sequence.done + count))
        sequences.extend([i] * count)
        sequence.done += count
    wanted = np.arange(len(tokens), dtype=np.int32)
    as_int32 = [np.array(values, np.int32) for values in (tokens, positions, sequences)]
    logits = executor.step(*as_int32, tables, wanted, profile=profile)
    return np.split(logits, np.cumsum([count for _, count in parts])[:-1])


def llama(
    rng,
    *,
    vocabulary=50,
    hidden=48,
    layers=2,
    heads=6,
    kv_heads=2,
    head_dim=8,
    ffn=80,
    dtype="f32",
    encoding="dense",
    window=-1,
    activation="silu",
    head_norm=False,
):
    """A small Llama with random weights, biases on q, k and v, and everything an op can do somewhere in it."""
    plan = Plan()

    def linear(x, widths, residual=-1, biases=False):
        cols, rows = plan.buffers[x][1:]
        outs = [plan.buffer(width, rows) for width in widths]
        plan.add(
            "linear",
            x=x,
            outs=outs,
            weights=[plan.random_weight(rng, width, cols, dtype, encoding) for width in widths],
            biases=[plan.vector(rng.standard_normal(width)) if biases else -1 for width in widths],
            residual=residual,
            activation="none",
        )
        return outs

    def norm(x, groups=1):
        width, rows = plan.buffers[x][1:]
        weight = plan.vector(rng.uniform(0.5, 1.5, width // groups))
        return plan.emit("rms_norm", width, rows, x=x, weight=weight, eps=1e-5, groups=groups)

    embedding = plan.random_weight(rng, vocabulary, hidden, "f32", encoding)
    x = plan.emit("embed", hidden, weight=embedding, scale=2.0)
    inv_freq = plan.vector(100.0 ** -(np.arange(head_dim // 2) / (head_dim // 2)))
    for layer in range(layers):
        q, k, v = linear(norm(x), [heads * head_dim, kv_heads * head_dim, kv_heads * head_dim], biases=True)
        if head_norm:
            q, k = norm(q, heads), norm(k, kv_heads)
        shape = {"head_dim": head_dim, "inv_freq": inv_freq, "scaling": 1.0}
        q = plan.emit("rope", heads * head_dim, x=q, heads=heads, **shape)
        k = plan.emit("rope", kv_heads * head_dim, x=k, heads=kv_heads, **shape)
        plan.add("kv_append", k=k, v=v, cache=layer)
        attended = plan.emit(
            "attention",
            heads * head_dim,
            q=q,
            cache=layer,
            heads=heads,
            kv_heads=kv_heads,
            head_dim=head_dim,
            scale=head_dim**-0.5,
            cap=0.0,
            window=window,
            slopes=-1,
            bias=-1,
        )
        (x,) = linear(attended, [hidden], residual=x)
        gate, up = linear(norm(x), [ffn, ffn])
        (x,) = linear(plan.emit("gated", ffn, gate=gate, up=up, activation=activation), [hidden], residual=x)
    wanted = plan.emit("gather_rows", hidden, "R", x=x)
    plan.add(
        "logits", x=norm(wanted), weight=plan.random_weight(rng, vocabulary, hidden, dtype, encoding), bias=-1, cap=0.0
    )
    return plan


def cache_for(plan, *, blocks=16, block_size=16, dtype="f32"):
    op = next(op for op in plan.ops if op["kind"] == "attention")
    layers = sum(op["kind"] == "attention" for op in plan.ops)
    shape = {"layers": layers, "kv_heads": op["kv_heads"], "head_dim": op["head_dim"]}
    return {**shape, "block_size": block_size, "blocks": blocks, "dtype": dtype}


ACTIVATIONS = {
    "none": lambda x: x,
    "silu": lambda x: x / (1 + np.exp(-x)),
    "gelu": lambda x: x * np.array([0.5 * math.erfc(-v / math.sqrt(2)) for v in x.ravel()]).reshape(x.shape),
    "gelu_tanh": lambda x: x / (1 + np.exp(np.minimum(-2 * math.sqrt(2 / math.pi) * (x + 0.044715 * x**3), 700))),
    "relu": lambda x: np.maximum(x, 0),
}


def attend(q, k, v, heads, kv_heads, scale, window, slopes=None, cap=0.0):
    """Causal attention over one whole sequence, float64: q [n, heads * d], k, v [n, kv_heads * d]; slopes [heads]."""
    n = len(q)
    q, k, v = (a.reshape(n, count, -1) for a, count in ((q, heads), (k, kv_heads), (v, kv_heads)))
    k, v = (a.repeat(heads // kv_heads, axis=1) for a in (k, v))
    scores = np.einsum("thd,shd->hts", q, k) * scale
    if cap:
        scores = cap * np.tanh(scores / cap)
    behind = np.arange(n)[:, None] - np.arange(n)
    if slopes is not None:
        scores = scores - slopes[:, None, None].astype(np.float64) * behind
    scores[:, (behind < 0) | ((window != -1) & (behind >= window))] = -np.inf
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    return np.einsum("hts,shd->thd", weights, v).reshape(n, -1)


def multiply(x, matrix):
    values, is_int8 = matrix
    if is_int8:
        codes, scale = quantize_tokens(x.astype(np.float32))
        x = codes * scale[:, None].astype(np.float64)
    return x @ values.T


def rotate(op, plan, x):
    inv_freq, heads = plan.vectors[op["inv_freq"]], op["heads"]
    half = len(inv_freq)
    angles = (np.arange(len(x), dtype=np.float32)[:, None] * inv_freq).astype(np.float64)[:, None]
    cos, sin = np.cos(angles) * op["scaling"], np.sin(angles) * op["scaling"]
    x = x.reshape(len(x), heads, -1)
    a, b, rest = x[..., :half], x[..., half : 2 * half], x[..., 2 * half :]
    return np.concatenate([a * cos - b * sin, b * cos + a * sin, rest], -1).reshape(len(x), -1)


def reference(plan, tokens):
    """Logits [n, vocabulary] of every position of one sequence, in float64."""
    data, cache = {}, {}
    for op in plan.ops:
        kind = op["kind"]
        x = data.get(op.get("x"))
        if kind == "embed":
            data[op["out"]] = op["scale"] * plan.matrices[op["weight"]][0][tokens]
        elif kind == "rms_norm":
            parts = x.reshape(len(x), op["groups"], -1)
            scale = 1 / np.sqrt((parts**2).mean(-1, keepdims=True) + op["eps"])
            data[op["out"]] = (parts * scale * plan.vectors[op["weight"]]).reshape(x.shape)
        elif kind == "linear":
            for out, weight, bias in zip(op["outs"], op["weights"], op["biases"], strict=True):
                y = multiply(x, plan.matrices[weight]) + (plan.vectors[bias] if bias != -1 else 0)
                data[out] = ACTIVATIONS[op["activation"]](y) + (data[op["residual"]] if op["residual"] != -1 else 0)
        elif kind == "rope":
            data[op["out"]] = rotate(op, plan, x)
        elif kind == "kv_append":
            cache[op["cache"]] = data[op["k"]], data[op["v"]]
        elif kind == "attention":
            k, v = cache[op["cache"]]
            data[op["out"]] = attend(data[op["q"]], k, v, op["heads"], op["kv_heads"], op["scale"], op["window"])
        elif kind == "gated":
            data[op["out"]] = ACTIVATIONS[op["activation"]](data[op["gate"]]) * data[op["up"]]
        elif kind == "gather_rows":
            data[op["out"]] = x
        else:
            bias = plan.vectors[op["bias"]] if op["bias"] != -1 else 0
            return multiply(x, plan.matrices[op["weight"]]) + bias
    raise AssertionError("the plan has no logits")


def batch(lengths):
    """tokens, positions and sequences of runs of these lengths."""
    positions = np.concatenate([np.arange(n) for n in lengths])
    sequences = np.repeat(np.arange(len(lengths)), lengths)
    return (a.astype(np.int32) for a in (np.arange(sum(lengths)), positions, sequences))
