"""The slow, plain executor: runs a plan in NumPy behind the native `Weight` and `Executor` interfaces.

It is the oracle of the tests and the fallback where no native module exists. It keeps float32 buffers in one arena, as
the native executor does, so that a wrong layout shows; inside an op it computes in float64.
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from cutwork.engine.layout import Span
from cutwork.pack.encodings import DType, EncodedWeight, Encoding, decode, mask_shape
from cutwork.pack.int4 import decode_int4, scales_of

Op = Mapping[str, Any]


def isa() -> str:
    """In place of the native module's instruction set."""
    return "reference"


def default_threads() -> int:
    """NumPy's own library decides how many threads it takes."""
    return 1


@dataclass(frozen=True)
class Weight:
    """A matrix [rows, cols], expanded: float32 values, or int8 codes that `scale` float32 [rows] turns into values.

    Or int4 codes with a `scale` float32 [rows, groups] for every `group` columns.
    """

    values: np.ndarray
    scale: np.ndarray | None
    encoding: str
    dtype: str
    group: int = 0

    @staticmethod
    def dense(values: np.ndarray, scale: np.ndarray | None = None) -> "Weight":
        """From float32, bfloat16 bits (uint16) or int8 of shape [rows, cols]."""
        return Weight(_widen(values), scale, "dense", _dtype(values))

    @staticmethod
    def bitmask(
        rows: int,
        cols: int,
        values: np.ndarray,
        mask: np.ndarray,
        offsets: np.ndarray,
        scale: np.ndarray | None = None,
    ) -> "Weight":
        """From the packed format's arrays (docs/architecture.md)."""
        return _masked("bitmask", rows, cols, values, mask, offsets, scale)

    @staticmethod
    def block1x4(
        rows: int,
        cols: int,
        values: np.ndarray,
        mask: np.ndarray,
        offsets: np.ndarray,
        scale: np.ndarray | None = None,
    ) -> "Weight":
        """From the packed format's arrays (docs/architecture.md)."""
        return _masked("block1x4", rows, cols, values, mask, offsets, scale)

    @staticmethod
    def block4x1(
        rows: int,
        cols: int,
        values: np.ndarray,
        mask: np.ndarray,
        offsets: np.ndarray,
        scale: np.ndarray | None = None,
    ) -> "Weight":
        """From the packed format's arrays (docs/architecture.md)."""
        return _masked("block4x1", rows, cols, values, mask, offsets, scale)

    @staticmethod
    def int4(
        rows: int,
        cols: int,
        values: np.ndarray,
        scale: np.ndarray,
        group: int,
        mask: np.ndarray | None = None,
        offsets: np.ndarray | None = None,
    ) -> "Weight":
        """From the packed format's arrays (docs/architecture.md)."""
        encoding: Literal["dense", "bitmask"] = "dense" if mask is None else "bitmask"
        weight = EncodedWeight(encoding, "i4", (rows, cols), values, 0, scale, mask, offsets, group)
        return Weight(decode_int4(weight), scales_of(weight), encoding, "i4", group)

    @property
    def rows(self) -> int:
        """Outputs of the linear layer."""
        return int(self.values.shape[0])

    @property
    def cols(self) -> int:
        """Inputs of the linear layer."""
        return int(self.values.shape[1])

    @property
    def nonzeros(self) -> int:
        """Stored values that are not zero."""
        return int(np.count_nonzero(self.values))

    @property
    def nbytes(self) -> int:
        """Bytes held in memory."""
        return self.values.nbytes + (0 if self.scale is None else self.scale.nbytes)

    def to_dense(self) -> np.ndarray:
        """float32 [rows, cols]."""
        return self.take(np.arange(self.rows))

    def take(self, rows: np.ndarray) -> np.ndarray:
        """float32 [len(rows), cols]: some rows, dequantised."""
        values = self.values[rows].astype(np.float32)
        if self.scale is None:
            return np.asarray(values)
        if self.group:
            return np.asarray(values * self.scale[rows][:, np.arange(self.cols) // self.group], np.float32)
        return np.asarray(values * self.scale[rows, None])

    def matmul(self, x: np.ndarray, threads: int = 1) -> np.ndarray:
        """x float32 [T, cols] → x·Wᵀ float32 [T, rows]; codes meet activations rounded to int8 per token."""
        del threads
        if self.scale is None:
            return np.asarray(x @ self.values.T)
        step = np.abs(x).max(axis=1, keepdims=True) / np.float32(127)
        codes = np.rint(x / np.where(step > 0, step, 1)).clip(-127, 127)
        if self.group:
            return np.asarray(codes.astype(np.float64) @ self.to_dense().T.astype(np.float64) * step, np.float32)
        products = codes.astype(np.float64) @ self.values.T.astype(np.float64)
        return np.asarray(products * step * self.scale, np.float32)


@dataclass
class _Step:
    """One call's inputs, shared by the ops."""

    tokens: np.ndarray
    positions: np.ndarray
    sequences: np.ndarray
    block_tables: np.ndarray
    logits_rows: np.ndarray


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
    profile: list[float] = field(default_factory=list, init=False)

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
    ) -> np.ndarray:
        """Run the plan on one ragged batch; returns logits float32 [R, vocabulary]."""
        step = _Step(tokens, positions, sequences, block_tables, logits_rows)
        self._check(step)
        seconds, result = [], np.empty((0, 0), np.float32)
        for op in self.ops:
            start = time.perf_counter()
            result = getattr(self, f"_{op['kind']}")(op, step)
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
            ("token", s.tokens, next(self.weights[op["weight"]].rows for op in self.ops if op["kind"] == "embed")),
            ("sequence", s.sequences, len(s.block_tables)),
            ("position", s.positions, s.block_tables.shape[1] * self.cache["block_size"]),
            ("logits row", s.logits_rows, len(s.tokens)),
        ]
        for name, values, limit in limits:
            if len(values) and not (values.min() >= 0 and values.max() < limit):
                raise ValueError(f"{name} out of range")
        blocks = self._slots(s)[0]
        if len(blocks) and not (blocks.min() >= 0 and blocks.max() < self.cache["blocks"]):
            raise ValueError("block out of range")

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

    def _clip(self, op: Op, s: _Step) -> None:
        self._view(op["out"], s)[:] = self._view(op["x"], s).clip(-op["limit"], op["limit"])

    def _linear(self, op: Op, s: _Step) -> None:
        x = self._view(op["x"], s)
        for out, weight, bias in zip(op["outs"], op["weights"], op["biases"], strict=True):
            y = self.weights[weight].matmul(x)
            y = y + self.vectors[bias] if bias != -1 else y
            y = y if op["activation"] == "none" else _activate(op["activation"], y.astype(np.float64))
            self._view(out, s)[:] = y + self._view(op["residual"], s) if op["residual"] != -1 else y

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
        q, out = self._view(op["q"], s), self._view(op["out"], s)
        share = op["heads"] // op["kv_heads"]
        for sequence in np.unique(s.sequences):
            rows = np.flatnonzero(s.sequences == sequence)
            length = int(s.positions[rows].max()) + 1
            table = s.block_tables[sequence, : -(-length // self.cache["block_size"])]
            keys, values = (
                store[op["cache"], table].reshape(-1, *store.shape[3:])[:length].astype(np.float64).repeat(share, 1)
                for store in (self._keys, self._values)
            )
            queries = q[rows].reshape(len(rows), op["heads"], -1).astype(np.float64)
            scores = np.einsum("thd,shd->hts", queries, keys) * op["scale"]
            distance = s.positions[rows][:, None] - np.arange(length)
            if op["slopes"] != -1:
                scores = scores - self.vectors[op["slopes"]][:, None, None].astype(np.float64) * distance
            hidden = (distance < 0) | (distance >= (op["window"] if op["window"] != -1 else math.inf))
            weights = _softmax(np.where(hidden, -np.inf, scores))
            out[rows] = np.einsum("hts,shd->thd", weights, values).reshape(len(rows), -1)

    def _gated(self, op: Op, s: _Step) -> None:
        gate = self._view(op["gate"], s).astype(np.float64)
        self._view(op["out"], s)[:] = _activate(op["activation"], gate) * self._view(op["up"], s)

    def _gather_rows(self, op: Op, s: _Step) -> None:
        self._view(op["out"], s)[:] = self._view(op["x"], s)[s.logits_rows]

    def _logits(self, op: Op, s: _Step) -> np.ndarray:
        result = self.weights[op["weight"]].matmul(self._view(op["x"], s))
        return result + self.vectors[op["bias"]] if op["bias"] != -1 else result


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


def _softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return np.asarray(e / e.sum(axis=-1, keepdims=True))


def _dtype(values: np.ndarray) -> DType:
    dtypes: dict[str, DType] = {"float32": "f32", "uint16": "bf16", "int8": "i8"}
    return dtypes[values.dtype.name]


def _masked(
    encoding: Encoding,
    rows: int,
    cols: int,
    values: np.ndarray,
    mask: np.ndarray,
    offsets: np.ndarray,
    scale: np.ndarray | None,
) -> Weight:
    mask = mask.reshape(mask_shape(encoding, rows, cols)[0])
    full = decode(EncodedWeight(encoding, _dtype(values), (rows, cols), _widen(values), 0, scale, mask, offsets))
    return Weight(full, scale, encoding, _dtype(values))


def _widen(values: np.ndarray) -> np.ndarray:
    """bfloat16 bits to float32; other dtypes as they are."""
    return np.asarray((values.astype(np.uint32) << 16).view(np.float32) if values.dtype == np.uint16 else values)


def _round_bf16(x: np.ndarray) -> np.ndarray:
    """Nearest bfloat16, ties to even, as float32."""
    bits = np.ascontiguousarray(x, np.float32).view(np.uint32)
    return np.asarray(((bits + 0x7FFF + ((bits >> 16) & 1)) & np.uint32(0xFFFF0000)).view(np.float32))


def _round_i8(x: np.ndarray) -> np.ndarray:
    """Nearest of 127 steps either side of zero, as float32; the last axis shares a scale."""
    step = np.abs(x).max(axis=-1, keepdims=True) / np.float32(127)
    return np.asarray(np.rint(x / np.where(step > 0, step, 1)) * step, np.float32)


_ROUND: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "f32": np.asarray,
    "bf16": _round_bf16,
    "i8": _round_i8,
}  # what a KV cache of a dtype gives back
