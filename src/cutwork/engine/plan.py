"""The plan of a forward pass: coarse, typed ops on named buffers, emitted by an architecture and run by an executor."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from cutwork.engine.layout import Span, lay_out

Rows = Literal["T", "R"]  # one row per token of the step, or one per row whose logits are wanted
Op = dict[str, Any]


@dataclass(frozen=True)
class Buffer:
    """A matrix of float32 with `rows` rows (symbolic) and `width` columns, alive from the op that writes it to the last
    one that reads it."""

    id: int
    width: int
    rows: Rows


@dataclass(frozen=True)
class Rope:
    """Rotary position embedding: `inv_freq` float32 [rotary_dim / 2]; cos and sin are multiplied by `scaling`."""

    inv_freq: np.ndarray
    scaling: float = 1.0
    name: str = "rope.inv_freq"  # of the constant; models with several kinds of layers have several


@dataclass(frozen=True)
class Derived:
    """A vector or matrix computed from a stored tensor `source` of this shape once, when the model is loaded."""

    source: str
    shape: tuple[int, ...]
    compute: Callable[[np.ndarray], np.ndarray]  # float32 → float32


@dataclass
class Plan:
    """A forward pass under construction; every method appends one op and returns the buffer(s) it writes.

    Linear layers are named as in the checkpoint, without `.weight`. `weights` lists the matrices the pass needs with
    the shape [rows, cols] the config promises, `vectors` the 1-D ones with their length, `constants` those vectors that
    come from the config instead of the checkpoint, `derived` those computed from a stored tensor; their order is the id
    that ops use.
    The encoder of a model with a decoder is a plan of its own: what it appends to its cache is the decoder's memory.
    """

    ops: list[Op] = field(default_factory=list)
    buffers: list[Buffer] = field(default_factory=list)
    weights: dict[str, tuple[int, int]] = field(default_factory=dict)
    vectors: dict[str, int] = field(default_factory=dict)
    constants: dict[str, np.ndarray] = field(default_factory=dict)
    derived: dict[str, Derived] = field(default_factory=dict)
    cache_layers: int = 0
    kv_heads: int = 0
    head_dim: int = 0
    memory_layers: int = 0  # of the cache that cross attention attends to
    vocabulary: int = 0

    def embed(self, name: str, vocabulary: int, width: int, scale: float = 1.0) -> Buffer:
        """Row `tokens[t]` of the weight [vocabulary, width], times `scale`."""
        out = self._buffer(width, "T")
        self._emit("embed", out=out, weight=self._weight(name, vocabulary, width), scale=scale)
        return out

    def input(self, width: int) -> Buffer:
        """The step's features [T, width], instead of tokens."""
        out = self._buffer(width, "T")
        self._emit("input", out=out)
        return out

    def add_positions(self, x: Buffer, name: str, positions: int) -> Buffer:
        """x plus row `positions[t]` of the weight [positions, x.width]."""
        out = self._buffer(x.width, x.rows)
        self._emit("add_positions", x=x, out=out, weight=self._weight(name, positions, x.width))
        return out

    def neighbours(self, xs: Sequence[tuple[Buffer, int]]) -> Buffer:
        """Of each (buffer, shift) the row so many rows on in the token's sequence, zeros beyond it, side by side."""
        out = self._buffer(sum(x.width for x, _ in xs), "T")
        self._emit("unfold", xs=[x for x, _ in xs], shifts=[shift for _, shift in xs], out=out)
        return out

    def rms_norm(
        self, x: Buffer, name: str, eps: float, groups: int = 1, scale: float = 1.0, offset: float = 0.0
    ) -> Buffer:
        """x / sqrt(mean(x²) + eps) · (weight + offset) · scale, each of `groups` equal parts of a row apart
        (arXiv 1910.07467)."""
        out = self._buffer(x.width, x.rows)
        length = x.width // groups
        if scale == 1.0 and offset == 0.0:
            weight = self._vector(f"{name}.weight", length)
        else:
            scaled = Derived(
                f"{name}.weight", (length,), lambda stored: (stored + np.float32(offset)) * np.float32(scale)
            )
            weight = self._derived(f"{name}.weight, scaled", length, scaled)
        self._emit("rms_norm", x=x, out=out, weight=weight, eps=eps, groups=groups)
        return out

    def layer_norm(self, x: Buffer, name: str, eps: float, *, bias: bool = True) -> Buffer:
        """(x - mean(x)) / sqrt(var(x) + eps) · weight (+ bias) over each row (arXiv 1607.06450)."""
        out = self._buffer(x.width, x.rows)
        weight = self._vector(f"{name}.weight", x.width)
        self._emit("layer_norm", x=x, out=out, weight=weight, bias=self._bias(name, x.width, bias), eps=eps)
        return out

    def slice(self, x: Buffer, *, pieces: int, width: int, stride: int, first: int) -> Buffer:
        """`pieces` runs of `width` columns side by side, which lie `stride` apart in x, from column `first` on."""
        out = self._buffer(pieces * width, x.rows)
        self._emit("slice", x=x, out=out, pieces=pieces, stride=stride, first=first)
        return out

    def add(self, x: Buffer, y: Buffer) -> Buffer:
        """x + y."""
        out = self._buffer(x.width, x.rows)
        self._emit("add", x=x, y=y, out=out)
        return out

    def clip(self, x: Buffer, limit: float) -> Buffer:
        """x brought into [-limit, limit]."""
        out = self._buffer(x.width, x.rows)
        self._emit("clip", x=x, out=out, limit=limit)
        return out

    def linears(
        self, x: Buffer, widths: Mapping[str, int], *, bias: bool | Sequence[bool] = False
    ) -> tuple[Buffer, ...]:
        """Several linear layers of the same input, in one op so that it is prepared once. bias: of all, or of each."""
        return self._linears(x, widths, [bias] * len(widths) if isinstance(bias, bool) else bias, None)

    def linear(
        self,
        x: Buffer,
        name: str,
        width: int,
        *,
        bias: bool = False,
        activation: str = "none",
        residual: Buffer | None = None,
        derived: Derived | None = None,
    ) -> Buffer:
        """activation(x·Wᵀ (+ bias)) (+ residual) with W [width, x.width], computed from what is stored if `derived`."""
        if derived:
            self.derived[f"{name}.weight"] = derived
        return self._linears(x, {name: width}, [bias], residual, activation)[0]

    def rope(self, x: Buffer, heads: int, rope: Rope) -> Buffer:
        """Rotates each head by its token's position, pairing dimensions i and i + rotary_dim/2 (arXiv 2104.09864)."""
        out = self._buffer(x.width, x.rows)
        self._emit(
            "rope",
            x=x,
            out=out,
            heads=heads,
            head_dim=x.width // heads,
            inv_freq=self._constant(rope.name, rope.inv_freq),
            scaling=rope.scaling,
        )
        return out

    def attention(
        self,
        q: Buffer,
        k: Buffer,
        v: Buffer,
        *,
        cache: int,
        heads: int,
        kv_heads: int,
        window: int | None = None,
        scale: float | None = None,
        slopes: np.ndarray | None = None,
        bias: Derived | None = None,
    ) -> Buffer:
        """Appends k and v to layer `cache` of the KV cache, then attends causally over each token's own sequence.

        With a `window` a token sees itself and the window - 1 tokens before it. Query heads share key heads in order.
        scale: of the scores, 1/√head_dim by default. slopes: float32 [heads], by which a head's scores fall per token
        of distance (ALiBi, arXiv 2108.12409). bias: [heads, n], what is added to the score of a key n - 1, …, 1, 0
        tokens before; keys farther away are like the first.
        """
        head_dim = q.width // heads
        self.remember(k, v, cache=cache, heads=kv_heads)
        out = self._buffer(q.width, q.rows)
        self._emit(
            "attention",
            q=q,
            out=out,
            cache=cache,
            heads=heads,
            kv_heads=kv_heads,
            head_dim=head_dim,
            scale=head_dim**-0.5 if scale is None else scale,
            window=-1 if window is None else window,
            slopes=-1 if slopes is None else self._constant("attention.slopes", slopes),
            bias=self._attention_bias(bias),
        )
        return out

    def remember(self, k: Buffer, v: Buffer, *, cache: int, heads: int) -> None:
        """Appends keys and values to layer `cache` of the KV cache."""
        self.cache_layers = max(self.cache_layers, cache + 1)
        self.kv_heads, self.head_dim = heads, k.width // heads
        self._emit("kv_append", k=k, v=v, cache=cache)

    def self_attention(
        self, q: Buffer, k: Buffer, v: Buffer, *, heads: int, scale: float | None = None, bias: Derived | None = None
    ) -> Buffer:
        """Attends to all tokens of the own sequence that are in this step, before and after; an encoder's.

        bias: [heads, 2n + 1], added to the score of a key that is -n, …, n tokens ahead; keys farther away are like the
        ends. scale as for `attention`.
        """
        head_dim = q.width // heads
        out = self._buffer(q.width, q.rows)
        self._emit(
            "self_attention",
            q=q,
            k=k,
            v=v,
            out=out,
            heads=heads,
            head_dim=head_dim,
            scale=head_dim**-0.5 if scale is None else scale,
            bias=self._attention_bias(bias),
        )
        return out

    def cross_attention(self, q: Buffer, *, cache: int, heads: int, scale: float | None = None) -> Buffer:
        """Attends to layer `cache` of the memory that the encoder has left for the token's sequence."""
        head_dim = q.width // heads
        self.memory_layers = max(self.memory_layers, cache + 1)
        out = self._buffer(q.width, q.rows)
        self._emit(
            "cross_attention",
            q=q,
            out=out,
            cache=cache,
            heads=heads,
            kv_heads=heads,
            head_dim=head_dim,
            scale=head_dim**-0.5 if scale is None else scale,
        )
        return out

    def gated(self, x: Buffer, *, gate: str, up: str, width: int, activation: str, bias: bool = False) -> Buffer:
        """activation(x·gateᵀ) · (x·upᵀ): two linears and their product (GLU variants, arXiv 2002.05202)."""
        left, right = self.linears(x, {gate: width, up: width}, bias=bias)
        out = self._buffer(width, x.rows)
        self._emit("gated", gate=left, up=right, out=out, activation=activation)
        return out

    def gather_rows(self, x: Buffer) -> Buffer:
        """The rows whose logits are wanted."""
        out = self._buffer(x.width, "R")
        self._emit("gather_rows", x=x, out=out)
        return out

    def logits(self, x: Buffer, name: str, vocabulary: int, *, bias: bool = False) -> None:
        """The step's result: x·Wᵀ with W [vocabulary, x.width]; the last op of a plan."""
        self.vocabulary = vocabulary
        weight = self._weight(name, vocabulary, x.width)
        self._emit("logits", x=x, weight=weight, bias=self._bias(name, vocabulary, bias))

    def spans(self) -> list[Span]:
        """Where each buffer lies in the arena: (offset, width, rows), in floats per token."""
        return lay_out([(buffer.width, buffer.rows) for buffer in self.buffers], self.ops)

    def _linears(
        self,
        x: Buffer,
        widths: Mapping[str, int],
        bias: Sequence[bool],
        residual: Buffer | None,
        activation: str = "none",
    ) -> tuple[Buffer, ...]:
        outs = tuple(self._buffer(width, x.rows) for width in widths.values())
        self._emit(
            "linear",
            x=x,
            outs=outs,
            weights=[self._weight(name, width, x.width) for name, width in widths.items()],
            biases=[self._bias(name, width, each) for (name, width), each in zip(widths.items(), bias, strict=True)],
            residual=-1 if residual is None else residual,
            activation=activation,
        )
        return outs

    def _buffer(self, width: int, rows: Rows) -> Buffer:
        self.buffers.append(Buffer(len(self.buffers), width, rows))
        return self.buffers[-1]

    def _weight(self, name: str, rows: int, cols: int) -> int:
        return _intern(self.weights, f"{name}.weight", (rows, cols))

    def _vector(self, name: str, width: int) -> int:
        return _intern(self.vectors, name, width)

    def _bias(self, name: str, width: int, wanted: bool) -> int:
        return self._vector(f"{name}.bias", width) if wanted else -1

    def _constant(self, name: str, value: np.ndarray) -> int:
        self.constants[name] = value
        return self._vector(name, len(value))

    def _derived(self, name: str, length: int, value: Derived) -> int:
        self.derived[name] = value
        return self._vector(name, length)

    def _attention_bias(self, bias: Derived | None) -> int:
        if bias is None:
            return -1
        length = len(bias.compute(np.zeros(bias.shape, np.float32)))
        return self._derived(f"{bias.source}, by distance", length, bias)

    def _emit(self, kind: str, **fields: Any) -> None:
        self.ops.append({"kind": kind, **{key: _plain(value) for key, value in fields.items()}})


def _intern(table: dict[str, Any], name: str, shape: Any) -> int:
    """The id of `name`, which may be used more than once (tied embeddings) but always with one shape."""
    if table.setdefault(name, shape) != shape:
        raise ValueError(f"{name} is used with shapes {table[name]} and {shape}")
    return list(table).index(name)


def _plain(value: Any) -> Any:
    if isinstance(value, Buffer):
        return value.id
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_plain(item) for item in value]
    return value
