"""The plan of a forward pass: coarse, typed ops on buffers, emitted by an architecture and run by an executor."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np

from cutwork.plan import ops
from cutwork.plan.layout import Span, lay_out
from cutwork.plan.ops import NONE, Op

Rows = Literal["T", "R"]  # one row per token of the step, or one per row whose logits are wanted


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
    the shape [rows, cols] the config promises, `vectors` the 1-D ones with their length, `constants` those of both that
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
        self.vocabulary = vocabulary
        out = self._buffer(width, "T")
        self.ops.append(ops.Embed(out.id, self._weight(name, vocabulary, width), scale))
        return out

    def input(self, width: int) -> Buffer:
        """The step's features [T, width], instead of tokens."""
        out = self._buffer(width, "T")
        self.ops.append(ops.Input(out.id))
        return out

    def add_positions(
        self, x: Buffer, name: str, positions: int, *, first: int = 0, table: np.ndarray | None = None
    ) -> Buffer:
        """x plus row `positions[t]` of the weight [positions, x.width], whose row `first` is that of position 0.

        With a `table` float32 [positions, x.width] it is that, whatever is stored.
        """
        out = self._buffer(x.width, x.rows)
        if table is not None:
            self.constants[f"{name}.weight"] = table
        if first:
            shape, positions = (positions, x.width), positions - first
            self.derived[f"{name}.weight"] = Derived(f"{name}.weight", shape, lambda stored: stored[first:])
        self.ops.append(ops.AddPositions(x.id, out.id, self._weight(name, positions, x.width)))
        return out

    def add_types(self, x: Buffer, name: str, types: int) -> Buffer:
        """x plus row k of the weight [types, x.width] where the token is of type k: the features' entry k is 1."""
        by_type = Derived(f"{name}.weight", (types, x.width), lambda stored: np.ascontiguousarray(stored.T))
        return self.linear(self.input(types), name, x.width, residual=x, derived=by_type)

    def unfold(self, xs: Sequence[tuple[Buffer, int]]) -> Buffer:
        """Of each (buffer, shift) the row so many rows on in the token's sequence, zeros beyond it, side by side."""
        out = self._buffer(sum(x.width for x, _ in xs), "T")
        self.ops.append(ops.Unfold([x.id for x, _ in xs], [shift for _, shift in xs], out.id))
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
        self.ops.append(ops.RmsNorm(x.id, out.id, weight, eps, groups))
        return out

    def layer_norm(self, x: Buffer, name: str, eps: float, *, bias: bool = True) -> Buffer:
        """(x - mean(x)) / sqrt(var(x) + eps) · weight (+ bias) over each row (arXiv 1607.06450)."""
        out = self._buffer(x.width, x.rows)
        weight = self._vector(f"{name}.weight", x.width)
        self.ops.append(ops.LayerNorm(x.id, out.id, weight, self._bias(name, x.width, bias), eps))
        return out

    def slice(self, x: Buffer, *, pieces: int, width: int, stride: int, first: int) -> Buffer:
        """`pieces` runs of `width` columns side by side, which lie `stride` apart in x, from column `first` on."""
        out = self._buffer(pieces * width, x.rows)
        self.ops.append(ops.Slice(x.id, out.id, pieces, stride, first))
        return out

    def add(self, x: Buffer, y: Buffer) -> Buffer:
        """x + y."""
        out = self._buffer(x.width, x.rows)
        self.ops.append(ops.Add(x.id, y.id, out.id))
        return out

    def clip(self, x: Buffer, limit: float) -> Buffer:
        """x brought into [-limit, limit]."""
        out = self._buffer(x.width, x.rows)
        self.ops.append(ops.Clip(x.id, out.id, limit))
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

    def low_rank(self, x: Buffer, y: Buffer, name: str, *, rank: int, adapter: int) -> None:
        """Adds x·Aᵀ·B to the rows of y whose sequence has the adapter (arXiv 2106.09685).

        The weight `name`.down is A [rank, x.width], the vector `name`.up the rows of B [rank, y.width].
        """
        low = self._buffer(rank, x.rows)
        down = _intern(self.weights, f"{name}.down", (rank, x.width))
        self.ops.append(ops.LowRank(x.id, y.id, low.id, down, self._vector(f"{name}.up", rank * y.width), adapter))

    def rope(self, x: Buffer, heads: int, rope: Rope) -> Buffer:
        """Rotates each head by its token's position, pairing dimensions i and i + rotary_dim/2 (arXiv 2104.09864)."""
        out = self._buffer(x.width, x.rows)
        inv_freq = self._constant(rope.name, rope.inv_freq)
        self.ops.append(ops.Rope(x.id, out.id, heads, x.width // heads, inv_freq, rope.scaling))
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
        cap: float = 0.0,
        slopes: np.ndarray | None = None,
        bias: Derived | None = None,
    ) -> Buffer:
        """Appends k and v to layer `cache` of the KV cache, then attends causally over each token's own sequence.

        With a `window` a token sees itself and the window - 1 tokens before it. Query heads share key heads in order.
        scale: of the scores, 1/√head_dim by default. cap: bends scores s to cap · tanh(s / cap) (arXiv 2408.00118); 0
        for none. slopes: float32 [heads], by which a head's scores fall per token of distance (ALiBi, arXiv
        2108.12409). bias: [heads, n], what is added to the score of a key n - 1, …, 1, 0 tokens before; keys farther
        away are like the first.
        """
        head_dim = q.width // heads
        self.kv_append(k, v, cache=cache, heads=kv_heads)
        out = self._buffer(q.width, q.rows)
        self.ops.append(
            ops.Attention(
                q=q.id,
                out=out.id,
                cache=cache,
                heads=heads,
                kv_heads=kv_heads,
                head_dim=head_dim,
                scale=head_dim**-0.5 if scale is None else scale,
                cap=cap,
                window=-1 if window is None else window,
                slopes=NONE if slopes is None else self._constant("attention.slopes", slopes),
                bias=self._attention_bias(bias),
            )
        )
        return out

    def kv_append(self, k: Buffer, v: Buffer, *, cache: int, heads: int) -> None:
        """Appends keys and values to layer `cache` of the KV cache."""
        self.cache_layers = max(self.cache_layers, cache + 1)
        self.kv_heads, self.head_dim = heads, k.width // heads
        self.ops.append(ops.KvAppend(k.id, v.id, cache))

    def self_attention(
        self,
        q: Buffer,
        k: Buffer,
        v: Buffer,
        *,
        heads: int,
        scale: float | None = None,
        cap: float = 0.0,
        bias: Derived | np.ndarray | None = None,
    ) -> Buffer:
        """Attends to all tokens of the own sequence that are in this step, before and after; an encoder's.

        bias: float32 [heads, 2n + 1], added to the score of a key that is -n, …, n tokens ahead; keys farther away are
        like the ends. scale and cap as for `attention`.
        """
        head_dim = q.width // heads
        out = self._buffer(q.width, q.rows)
        self.ops.append(
            ops.SelfAttention(
                q=q.id,
                k=k.id,
                v=v.id,
                out=out.id,
                heads=heads,
                head_dim=head_dim,
                scale=head_dim**-0.5 if scale is None else scale,
                cap=cap,
                bias=self._attention_bias(bias),
            )
        )
        return out

    def cross_attention(
        self,
        q: Buffer,
        *,
        cache: int,
        heads: int,
        kv_heads: int | None = None,
        scale: float | None = None,
        cap: float = 0.0,
    ) -> Buffer:
        """Attends to layer `cache` of the memory that the encoder has left for the token's sequence.

        kv_heads: of the memory, as many as heads by default. scale and cap as for `attention`.
        """
        head_dim = q.width // heads
        self.memory_layers = max(self.memory_layers, cache + 1)
        out = self._buffer(q.width, q.rows)
        self.ops.append(
            ops.CrossAttention(
                q=q.id,
                out=out.id,
                cache=cache,
                heads=heads,
                kv_heads=heads if kv_heads is None else kv_heads,
                head_dim=head_dim,
                scale=head_dim**-0.5 if scale is None else scale,
                cap=cap,
            )
        )
        return out

    def glu(self, gate: Buffer, up: Buffer, activation: str) -> Buffer:
        """activation(gate) · up (GLU variants, arXiv 2002.05202)."""
        out = self._buffer(gate.width, gate.rows)
        self.ops.append(ops.Gated(gate.id, up.id, out.id, activation))
        return out

    def gather_rows(self, x: Buffer) -> Buffer:
        """The rows whose logits are wanted."""
        out = self._buffer(x.width, "R")
        self.ops.append(ops.GatherRows(x.id, out.id))
        return out

    def logits(self, x: Buffer, name: str, vocabulary: int, *, bias: bool | Derived = False, cap: float = 0.0) -> None:
        """The step's result: x·Wᵀ (+ bias) with W [vocabulary, x.width], bent by a cap as attention's scores are; the
        last op of a plan."""
        self.vocabulary = vocabulary
        weight = self._weight(name, vocabulary, x.width)
        if isinstance(bias, Derived):
            added = self._derived(f"{name}.bias", vocabulary, bias)
        else:
            added = self._bias(name, vocabulary, bias)
        self.ops.append(ops.Logits(x.id, weight, added, cap))

    def output(self, x: Buffer) -> None:
        """The step's result: the rows of x; the last op of a plan without logits."""
        self.ops.append(ops.Output(x.id))

    def without_head(self) -> "Plan":
        """The same pass up to what the output head reads, which becomes the result; itself if it has no head."""
        head = self.ops[-1]
        if not isinstance(head, ops.Logits):
            return self
        kept = [*self.ops[:-1], ops.Output(head.x)]
        tied = head.weight in {id for op in kept for id in op.ids("weight", "weights")}
        weights = dict(list(self.weights.items())[: None if tied else head.weight])
        return replace(self, ops=kept, weights=weights)

    def op_dicts(self) -> list[dict[str, Any]]:
        """The ops as executors take them."""
        return [op.as_dict() for op in self.ops]

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
        self.ops.append(
            ops.Linear(
                x=x.id,
                outs=[out.id for out in outs],
                weights=[self._weight(name, width, x.width) for name, width in widths.items()],
                biases=[
                    self._bias(name, width, wanted) for (name, width), wanted in zip(widths.items(), bias, strict=True)
                ],
                residual=NONE if residual is None else residual.id,
                activation=activation,
            )
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
        return self._vector(f"{name}.bias", width) if wanted else NONE

    def _constant(self, name: str, value: np.ndarray) -> int:
        self.constants[name] = value
        return self._vector(name, len(value))

    def _derived(self, name: str, length: int, value: Derived) -> int:
        self.derived[name] = value
        return self._vector(name, length)

    def _attention_bias(self, bias: Derived | np.ndarray | None) -> int:
        if bias is None:
            return NONE
        if isinstance(bias, np.ndarray):
            return self._constant("attention.bias", bias.reshape(-1))
        length = len(bias.compute(np.zeros(bias.shape, np.float32)))
        return self._derived(f"{bias.source}, by distance", length, bias)


def _intern(table: dict[str, Any], name: str, shape: Any) -> int:
    """The id of `name`, which may be used more than once (tied embeddings) but always with one shape."""
    if name not in table:
        table[name] = shape
        return len(table) - 1
    if table[name] != shape:
        raise ValueError(f"{name} is used with shapes {table[name]} and {shape}")
    return list(table).index(name)
