"""The ops of a plan, each declared once: its fields with the role they play, in the order of the native struct.

What an op reads and writes, what executors are given and the table in docs/engine.md are made from these classes.
"""

from dataclasses import dataclass, fields
from functools import cache
from typing import Annotated, Any, ClassVar, get_type_hints

ACTIVATIONS = ("silu", "gelu", "gelu_tanh", "relu")
NONE = -1  # the id of what is left out

# A field's role: buffers by their id, weights and vectors (1-D float32) by their place in the plan's lists.
BufferIn = Annotated[int, "buffer_in"]
BufferOut = Annotated[int, "buffer_out"]
BuffersIn = Annotated[list[int], "buffers_in"]
BuffersOut = Annotated[list[int], "buffers_out"]
OptionalBufferIn = Annotated[int, "optional_buffer_in"]
Weight = Annotated[int, "weight"]
Weights = Annotated[list[int], "weights"]
Vector = Annotated[int, "vector"]
OptionalVector = Annotated[int, "optional_vector"]
OptionalVectors = Annotated[list[int], "optional_vectors"]
Integer = Annotated[int, "integer"]
Integers = Annotated[list[int], "integers"]
Number = Annotated[float, "number"]
Activation = Annotated[str, "activation"]
OptionalActivation = Annotated[str, "optional_activation"]  # or "none"

_READ = ("buffer_in", "buffers_in", "optional_buffer_in")
_WRITTEN = ("buffer_out", "buffers_out")


@dataclass(frozen=True)
class Op:
    """One step of a forward pass."""

    kind: ClassVar[str]

    @classmethod
    @cache
    def roles(cls) -> dict[str, str]:
        """The role of each field, by name."""
        hints = get_type_hints(cls, include_extras=True)
        return {field.name: hints[field.name].__metadata__[0] for field in fields(cls)}

    def ids(self, *roles: str) -> list[int]:
        """Ids in the fields of some roles, without those left out."""
        values = [getattr(self, name) for name, role in self.roles().items() if role in roles]
        ids = [id for value in values for id in (value if isinstance(value, list) else [value])]
        return [id for id in ids if id != NONE]

    @property
    def reads(self) -> list[int]:
        """Ids of the buffers that it reads."""
        return self.ids(*_READ)

    @property
    def writes(self) -> list[int]:
        """Ids of the buffers that it writes."""
        return self.ids(*_WRITTEN)

    def as_dict(self) -> dict[str, Any]:
        """Kind and fields, as executors take them."""
        return {"kind": self.kind, **{name: getattr(self, name) for name in self.roles()}}


@dataclass(frozen=True)
class Embed(Op):
    """out[t] = scale · row tokens[t] of the weight, of any dtype and encoding."""

    kind = "embed"
    out: BufferOut
    weight: Weight
    scale: Number


@dataclass(frozen=True)
class Input(Op):
    """The step's features, instead of tokens."""

    kind = "input"
    out: BufferOut


@dataclass(frozen=True)
class AddPositions(Op):
    """out[t] = x[t] + row positions[t] of the weight."""

    kind = "add_positions"
    x: BufferIn
    out: BufferOut
    weight: Weight


@dataclass(frozen=True)
class Unfold(Op):
    """Row t: of each x the row t + shift of the same sequence, zeros beyond its ends, side by side; a convolution is a
    linear of it."""

    kind = "unfold"
    xs: BuffersIn
    shifts: Integers
    out: BufferOut


@dataclass(frozen=True)
class RmsNorm(Op):
    """x / √(mean(x²) + eps) · weight, each of `groups` equal parts of a row apart (1 for Llama); the vector has
    width / groups entries."""

    kind = "rms_norm"
    x: BufferIn
    out: BufferOut
    weight: Vector
    eps: Number
    groups: Integer


@dataclass(frozen=True)
class LayerNorm(Op):
    """(x − mean) / √(variance + eps) · weight + bias over each row."""

    kind = "layer_norm"
    x: BufferIn
    out: BufferOut
    weight: Vector
    bias: OptionalVector
    eps: Number


@dataclass(frozen=True)
class Slice(Op):
    """`pieces` runs of width(out) / pieces columns, `stride` apart in x, from column `first` on, side by side."""

    kind = "slice"
    x: BufferIn
    out: BufferOut
    pieces: Integer
    stride: Integer
    first: Integer


@dataclass(frozen=True)
class Add(Op):
    """x + y."""

    kind = "add"
    x: BufferIn
    y: BufferIn
    out: BufferOut


@dataclass(frozen=True)
class Clip(Op):
    """x brought into [−limit, limit]."""

    kind = "clip"
    x: BufferIn
    out: BufferOut
    limit: Number


@dataclass(frozen=True)
class Linear(Op):
    """outs[i] = activation(x · weights[i]ᵀ + biases[i]) + residual; the input is quantised once for all."""

    kind = "linear"
    x: BufferIn
    outs: BuffersOut
    weights: Weights
    biases: OptionalVectors
    residual: OptionalBufferIn
    activation: OptionalActivation


@dataclass(frozen=True)
class LowRank(Op):
    """y[t] += low[t] · up, where low[t] = down · x[t], for the tokens of sequences that have this adapter; the vector
    is width(low) rows of width(y) entries."""

    kind = "low_rank"
    x: BufferIn
    y: BufferIn
    low: BufferOut
    down: Weight
    up: Vector
    adapter: Integer


@dataclass(frozen=True)
class Rope(Op):
    """Rotates pairs (i, i + rotary_dim/2) of each head by its token's position; cos and sin are multiplied by
    `scaling`. The vector has rotary_dim/2 entries; dimensions beyond rotary_dim are copied."""

    kind = "rope"
    x: BufferIn
    out: BufferOut
    heads: Integer
    head_dim: Integer
    inv_freq: Vector
    scaling: Number


@dataclass(frozen=True)
class KvAppend(Op):
    """Writes this step's keys and values at each token's position in layer `cache` of the KV cache."""

    kind = "kv_append"
    k: BufferIn
    v: BufferIn
    cache: Integer


@dataclass(frozen=True)
class Attention(Op):
    """Causal over the token's own sequence, through the block table, the last `window` tokens of it (−1: all). Scores
    s become cap · tanh(s / cap) unless the cap is 0. Then a head's scores fall by its slope per token of distance
    (ALiBi; `heads` entries), and entry n−1−d of its bias (heads × n entries) is added to those of a key d tokens before
    (entry 0 beyond)."""

    kind = "attention"
    q: BufferIn
    out: BufferOut
    cache: Integer
    heads: Integer
    kv_heads: Integer
    head_dim: Integer
    scale: Number
    cap: Number
    window: Integer
    slopes: OptionalVector
    bias: OptionalVector


@dataclass(frozen=True)
class SelfAttention(Op):
    """Over all rows of the step that belong to the token's sequence, before and after; cap as above; entry n+d of a
    head's bias (heads × (2n+1) entries) is added for a key d rows ahead (the ends beyond)."""

    kind = "self_attention"
    q: BufferIn
    k: BufferIn
    v: BufferIn
    out: BufferOut
    heads: Integer
    head_dim: Integer
    scale: Number
    cap: Number
    bias: OptionalVector


@dataclass(frozen=True)
class CrossAttention(Op):
    """Over the memory of the token's sequence: layer `cache` of the cache of the executor given as `memory`; cap as
    above."""

    kind = "cross_attention"
    q: BufferIn
    out: BufferOut
    cache: Integer
    heads: Integer
    kv_heads: Integer
    head_dim: Integer
    scale: Number
    cap: Number


@dataclass(frozen=True)
class Gated(Op):
    """activation(gate) · up."""

    kind = "gated"
    gate: BufferIn
    up: BufferIn
    out: BufferOut
    activation: Activation


@dataclass(frozen=True)
class GatherRows(Op):
    """The rows listed in logits_rows."""

    kind = "gather_rows"
    x: BufferIn
    out: BufferOut


@dataclass(frozen=True)
class Logits(Op):
    """The step's result y [R, vocabulary]: x · weightᵀ + bias, as cap · tanh(y / cap) unless the cap is 0."""

    kind = "logits"
    x: BufferIn
    weight: Weight
    bias: OptionalVector
    cap: Number


@dataclass(frozen=True)
class Output(Op):
    """The step's result [R, width], where it is no logits: x."""

    kind = "output"
    x: BufferIn


OPS: dict[str, type[Op]] = {op.kind: op for op in Op.__subclasses__()}


def table() -> str:
    """All ops as a table in Markdown."""
    rows = [f"| `{kind}` | {_signature(op.roles())} | {_sentence(op)} |" for kind, op in OPS.items()]
    return "\n".join(["| kind | fields | meaning |", "|---|---|---|", *rows])


def _signature(roles: dict[str, str]) -> str:
    return ", ".join(f"{name}{_NOTES.get(role, '')}" for name, role in roles.items())


def _sentence(op: type[Op]) -> str:
    return " ".join((op.__doc__ or "").split()).replace("|", "\\|")


_NOTES = {
    "buffers_in": "[]",
    "buffers_out": "[]",
    "integers": "[]",
    "weights": "[]",
    "optional_vectors": "[] (vectors, −1: none)",
    "vector": " (vector)",
    "optional_vector": " (vector, −1: none)",
    "optional_buffer_in": " (buffer, −1: none)",
    "activation": f" ({', '.join(ACTIVATIONS)})",
    "optional_activation": " (none, or as `gated`)",
}
