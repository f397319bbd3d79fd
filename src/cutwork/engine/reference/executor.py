"""The slow, plain executor: runs a plan in NumPy behind the native `Weight` and `Executor` interfaces.

It is the oracle of the tests, and runs models where CUTWORK_REFERENCE=1 asks for it. It keeps float32 buffers in one
arena, as the native executor does, so that a wrong layout shows; inside an op it computes in float64.
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from cutwork.engine.reference.weight import Weight
from cutwork.plan.layout import Span
from cutwork.store import bfloat16

__all__ = ["Executor", "Weight", "cache_bytes", "default_threads", "isa", "largest", "log_sum_exp"]

Op = Mapping[str, Any]


def isa() -> str:
    """In place of the native module's instruction set."""
    return "reference"


def default_threads() -> int:
    """NumPy's own library decides how many threads it takes."""
    return 1


def cache_bytes(cache: Mapping[str, Any]) -> int:
    """Of keys and values in float32, whatever the dtype that is asked for."""
    return 2 * 4 * math.prod(int(cache[size]) for size in ("layers", "blocks", "block_size", "kv_heads", "head_dim"))


def log_sum_exp(logits: np.ndarray) -> float:
    """See `decoding.logits`."""
    top = logits.max()
    return float(top) + float(np.log(np.exp(logits - top).sum(dtype=np.float64)))


def largest(values: np.ndarray, count: int) -> np.ndarray:
    """See `decoding.logits`."""
    return np.argsort(-values, kind="stable")[:count]


@dataclass
class _Step:
    """One call's inputs, shared by the ops."""

    tokens: np.ndarray
    positions: np.ndarray
    sequences: np.ndarray
    block_tables: np.ndarray
    logits_rows: np.ndarray
    memory_tables: np.ndarray | None
    memory_lengths: np.ndarray | None
    features: np.ndarray | None
    attention_of: np.ndarray
    adapters: np.ndarray | None


@dataclass
class Executor:
    """Same constructor and methods as the native executor; `threads` is ignored."""

    ops: Sequence[Op]
    buffers: Sequence[Span]
    weights: Sequence[Weight]
    vectors: Sequence[np.ndarray]
    threads: int = field(kw_only=True)
    max_tokens: int = field(kw_only=True)
    max_logits: int = field(kw_only=True)
    cache: Mapping[str, Any] = field(kw_only=True)
    costs: None = field(default=None, kw_only=True)
    memory: "Executor | None" = field(default=None, kw_only=True)
    profile: list[float] = field(default_factory=list, init=False)
    attention_weights: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        c = self.cache
        self._rows = max(self.max_tokens, self.max_logits)
        floats = max((offset + width for offset, width, _ in self.buffers), default=0)
        self._arena = np.zeros(floats * self._rows, np.float32)
        self._keys = np.zeros((c["layers"], c["blocks"], c["block_size"], c["kv_heads"], c["head_dim"]), np.float32)
        self._values = np.zeros_like(self._keys)

    @property
    def arena_bytes(self) -> int:
        """Bytes of the activations' arena."""
        return self._arena.nbytes

    @property
    def cache_bytes(self) -> int:
        """Bytes of the KV cache."""
        return 2 * self._keys.nbytes

    def copy_blocks(self, pairs: Sequence[tuple[int, int]]) -> None:
        """Copy cache blocks, all layers: (from, to)."""
        for source, target in pairs:
            self._keys[:, target] = self._keys[:, source]
            self._values[:, target] = self._values[:, source]

    def step(
        self,
        tokens: np.ndarray,
        positions: np.ndarray,
        sequences: np.ndarray,
        block_tables: np.ndarray,
        logits_rows: np.ndarray,
        profile: bool = False,
        memory_tables: np.ndarray | None = None,
        memory_lengths: np.ndarray | None = None,
        features: np.ndarray | None = None,
        attention_of: np.ndarray | None = None,
        adapters: np.ndarray | None = None,
    ) -> np.ndarray:
        """Run the plan on one ragged batch; returns logits float32 [R, vocabulary], empty for an encoder."""
        pairs = np.empty((0, 2), np.int32) if attention_of is None else attention_of
        memory = (memory_tables, memory_lengths)
        step = _Step(tokens, positions, sequences, block_tables, logits_rows, *memory, features, pairs, adapters)
        self._check(step)
        keys = 0 if memory_lengths is None else int(memory_lengths[sequences].max())
        self.attention_weights = np.zeros((len(pairs), len(tokens), keys), np.float32)
        seconds, result = [], np.empty((0, 0), np.float32)
        for op in self.ops:
            start = time.perf_counter()
            out = getattr(self, f"_{op['kind']}")(op, step)
            result = result if out is None else out
            seconds.append(time.perf_counter() - start)
        if profile:
            self.profile = seconds
        return result

    def _check(self, s: _Step) -> None:
        if len(s.tokens) > self.max_tokens or len(s.logits_rows) > self.max_logits:
            raise ValueError("step exceeds max_tokens or max_logits")
        if not len(s.tokens) == len(s.positions) == len(s.sequences):
            raise ValueError("tokens, positions and sequences differ in length")
        limits = [
            ("token", s.tokens, self._rows_of("embed")),
            ("position", s.positions, self._rows_of("add_positions")),
            ("sequence", s.sequences, len(s.block_tables)),
            ("logits row", s.logits_rows, len(s.tokens)),
        ]
        if self.cache["layers"]:
            limits.append(("position", s.positions, s.block_tables.shape[1] * self.cache["block_size"]))
        for name, values, limit in limits:
            if len(values) and not (values.min() >= 0 and values.max() < limit):
                raise ValueError(f"{name} out of range")
        blocks = self._slots(s)[0] if self.cache["layers"] else np.empty(0, np.int32)
        if len(blocks) and not (blocks.min() >= 0 and blocks.max() < self.cache["blocks"]):
            raise ValueError("block out of range")

    def _rows_of(self, kind: str) -> int:
        """Of the smallest weight of ops of a kind."""
        return min((self.weights[op["weight"]].rows for op in self.ops if op["kind"] == kind), default=1 << 31)

    def _slots(self, s: _Step) -> tuple[np.ndarray, np.ndarray]:
        """(block, place in the block) of each token of the step."""
        size = self.cache["block_size"]
        return s.block_tables[s.sequences, s.positions // size], s.positions % size

    def _view(self, buffer: int, s: _Step) -> np.ndarray:
        offset, width, rows = self.buffers[buffer]
        count = len(s.tokens) if rows == "T" else len(s.logits_rows)
        start = offset * self._rows
        return self._arena[start : start + count * width].reshape(count, width)

    def _embed(self, op: Op, s: _Step) -> None:
        self._view(op["out"], s)[:] = op["scale"] * self.weights[op["weight"]].take(s.tokens)

    def _input(self, op: Op, s: _Step) -> None:
        self._view(op["out"], s)[:] = s.features

    def _add_positions(self, op: Op, s: _Step) -> None:
        self._view(op["out"], s)[:] = self._view(op["x"], s) + self.weights[op["weight"]].take(s.positions)

    def _unfold(self, op: Op, s: _Step) -> None:
        parts = []
        for x, shift in zip(op["xs"], op["shifts"], strict=True):
            rows = np.arange(len(s.tokens)) + shift
            inside = (rows >= 0) & (rows < len(rows))
            rows = rows.clip(0, len(rows) - 1)
            inside &= s.sequences[rows] == s.sequences
            parts.append(np.where(inside[:, None], self._view(x, s)[rows], 0))
        self._view(op["out"], s)[:] = np.concatenate(parts, axis=1)

    def _rms_norm(self, op: Op, s: _Step) -> None:
        x = self._view(op["x"], s)
        parts = x.reshape(len(x), op["groups"], x.shape[1] // op["groups"]).astype(np.float64)
        scale = 1.0 / np.sqrt(np.mean(parts**2, axis=-1, keepdims=True) + op["eps"])
        self._view(op["out"], s)[:] = (parts * scale * self.vectors[op["weight"]]).reshape(x.shape)

    def _layer_norm(self, op: Op, s: _Step) -> None:
        x = self._view(op["x"], s).astype(np.float64)
        y = (x - x.mean(1, keepdims=True)) / np.sqrt(x.var(1, keepdims=True) + op["eps"]) * self.vectors[op["weight"]]
        self._view(op["out"], s)[:] = y + self.vectors[op["bias"]] if op["bias"] != -1 else y

    def _slice(self, op: Op, s: _Step) -> None:
        x, out = self._view(op["x"], s), self._view(op["out"], s)
        piece = out.shape[1] // op["pieces"]
        for i in range(op["pieces"]):
            start = op["first"] + i * op["stride"]
            out[:, i * piece : (i + 1) * piece] = x[:, start : start + piece]

    def _add(self, op: Op, s: _Step) -> None:
        self._view(op["out"], s)[:] = self._view(op["x"], s) + self._view(op["y"], s)

    def _clip(self, op: Op, s: _Step) -> None:
        self._view(op["out"], s)[:] = self._view(op["x"], s).clip(-op["limit"], op["limit"])

    def _linear(self, op: Op, s: _Step) -> None:
        x = self._view(op["x"], s)
        for out, weight, bias in zip(op["outs"], op["weights"], op["biases"], strict=True):
            y = self.weights[weight].matmul(x)
            y = y + self.vectors[bias] if bias != -1 else y
            y = y if op["activation"] == "none" else _activate(op["activation"], y.astype(np.float64))
            self._view(out, s)[:] = y + self._view(op["residual"], s) if op["residual"] != -1 else y

    def _low_rank(self, op: Op, s: _Step) -> None:
        if s.adapters is not None:
            rows = np.flatnonzero(s.adapters[s.sequences] == op["adapter"])
            low = self.weights[op["down"]].matmul(self._view(op["x"], s)[rows])
            self._view(op["y"], s)[rows] += low @ self.vectors[op["up"]].reshape(low.shape[1], -1)

    def _rope(self, op: Op, s: _Step) -> None:
        x, inv_freq = self._view(op["x"], s), self.vectors[op["inv_freq"]]
        half = len(inv_freq)
        heads = x.reshape(len(x), op["heads"], op["head_dim"]).astype(np.float64)
        angles = (s.positions[:, None].astype(np.float32) * inv_freq).astype(np.float64)[:, None]
        cos, sin = np.cos(angles) * op["scaling"], np.sin(angles) * op["scaling"]
        a, b, rest = heads[..., :half], heads[..., half : 2 * half], heads[..., 2 * half :]
        self._view(op["out"], s)[:] = np.concatenate([a * cos - b * sin, b * cos + a * sin, rest], -1).reshape(x.shape)

    def _kv_append(self, op: Op, s: _Step) -> None:
        for store, buffer in ((self._keys, op["k"]), (self._values, op["v"])):
            rows = self._view(buffer, s).reshape(len(s.tokens), *store.shape[3:])
            store[op["cache"]][self._slots(s)] = _ROUND[self.cache["dtype"]](rows)

    def _attention(self, op: Op, s: _Step) -> None:
        for sequence in np.unique(s.sequences):
            rows = np.flatnonzero(s.sequences == sequence)
            length = int(s.positions[rows].max()) + 1
            keys, values = self._recall(op["cache"], s.block_tables[sequence], length)
            ahead = np.arange(length) - s.positions[rows][:, None]
            shift = np.zeros((op["heads"], *ahead.shape))
            if op["slopes"] != -1:
                shift += self.vectors[op["slopes"]][:, None, None].astype(np.float64) * ahead
            if op["bias"] != -1:
                table = self.vectors[op["bias"]].reshape(op["heads"], -1)
                shift += table[:, np.maximum(ahead + table.shape[1] - 1, 0).clip(max=table.shape[1] - 1)]
            hidden = (ahead > 0) | (ahead <= -(op["window"] if op["window"] != -1 else math.inf))
            self._attend(op, s, rows, keys, values, np.where(hidden, -np.inf, shift))

    def _self_attention(self, op: Op, s: _Step) -> None:
        for sequence in np.unique(s.sequences):
            rows = np.flatnonzero(s.sequences == sequence)
            keys, values = (self._view(op[name], s)[rows].reshape(len(rows), op["heads"], -1) for name in ("k", "v"))
            shift = np.zeros((op["heads"], len(rows), len(rows)))
            if op["bias"] != -1:
                table = self.vectors[op["bias"]].reshape(op["heads"], -1)
                reach = table.shape[1] // 2
                places = np.arange(len(rows))
                shift += table[:, (places - places[:, None]).clip(-reach, reach) + reach]
            self._attend(op, s, rows, keys, values, shift)

    def _cross_attention(self, op: Op, s: _Step) -> None:
        assert self.memory and s.memory_tables is not None and s.memory_lengths is not None
        for sequence in np.unique(s.sequences):
            rows = np.flatnonzero(s.sequences == sequence)
            keys, values = self.memory._recall(op["cache"], s.memory_tables[sequence], int(s.memory_lengths[sequence]))
            weights = self._attend(op, s, rows, keys, values, np.zeros((1, 1, 1)))
            for pair in np.flatnonzero(s.attention_of[:, 0] == op["cache"]):
                self.attention_weights[pair, rows, : len(keys)] = weights[s.attention_of[pair, 1]]

    def _recall(self, layer: int, table: np.ndarray, length: int) -> tuple[np.ndarray, np.ndarray]:
        """Keys and values [length, kv_heads, head_dim] of a sequence in a layer of the cache."""
        blocks = table[: -(-length // self.cache["block_size"])]
        keys, values = (store[layer, blocks].reshape(-1, *store.shape[3:]) for store in (self._keys, self._values))
        return keys[:length], values[:length]

    def _attend(
        self, op: Op, s: _Step, rows: np.ndarray, keys: np.ndarray, values: np.ndarray, shift: np.ndarray
    ) -> np.ndarray:
        """Queries of rows to keys and values [n, kv_heads, head_dim], with shift [heads, rows, n] added to scores.

        Returns the weights [heads, rows, n].
        """
        share = op["heads"] // keys.shape[1]
        keys, values = (array.astype(np.float64).repeat(share, 1) for array in (keys, values))
        queries = self._view(op["q"], s)[rows].reshape(len(rows), op["heads"], -1).astype(np.float64)
        weights = _softmax(_capped(np.einsum("thd,shd->hts", queries, keys) * op["scale"], op["cap"]) + shift)
        self._view(op["out"], s)[rows] = np.einsum("hts,shd->thd", weights, values).reshape(len(rows), -1)
        return weights

    def _gated(self, op: Op, s: _Step) -> None:
        gate = self._view(op["gate"], s).astype(np.float64)
        self._view(op["out"], s)[:] = _activate(op["activation"], gate) * self._view(op["up"], s)

    def _gather_rows(self, op: Op, s: _Step) -> None:
        self._view(op["out"], s)[:] = self._view(op["x"], s)[s.logits_rows]

    def _output(self, op: Op, s: _Step) -> np.ndarray:
        return self._view(op["x"], s).copy()

    def _logits(self, op: Op, s: _Step) -> np.ndarray:
        result = self.weights[op["weight"]].matmul(self._view(op["x"], s))
        return _capped(result + self.vectors[op["bias"]] if op["bias"] != -1 else result, op["cap"])


def _activate(name: str, x: np.ndarray) -> np.ndarray:
    match name:
        case "silu":
            y = x / (1.0 + np.exp(-x))
        case "gelu":
            y = 0.5 * x * (1.0 + np.vectorize(math.erf, otypes=[np.float64])(x / math.sqrt(2.0)))
        case "gelu_tanh":
            y = 0.5 * x * (1.0 + np.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * x**3)))
        case "relu":
            y = np.maximum(x, 0.0)
        case _:
            raise ValueError(f"unknown activation {name!r}")
    return np.asarray(y)


def _capped(x: np.ndarray, cap: float) -> np.ndarray:
    return x if cap == 0 else cap * np.tanh(x / cap)


def _softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return np.asarray(e / e.sum(axis=-1, keepdims=True))


def _round_bf16(x: np.ndarray) -> np.ndarray:
    """Nearest bfloat16, ties to even, as float32."""
    return bfloat16.to_float32(bfloat16.from_float32(x))


def _round_i8(x: np.ndarray) -> np.ndarray:
    """Nearest of 127 steps either side of zero, as float32; the last axis shares a scale."""
    step = np.abs(x).max(axis=-1, keepdims=True) / np.float32(127)
    return np.asarray(np.rint(x / np.where(step > 0, step, 1)) * step, np.float32)


_ROUND: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "f32": np.asarray,
    "bf16": _round_bf16,
    "i8": _round_i8,
}  # what a KV cache of a dtype gives back
