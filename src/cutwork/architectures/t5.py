"""T5, v1.0 and v1.1 (Flan): an encoder and a decoder, positions only as biases of attention (arXiv 1910.10683)."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from cutwork.architectures.architecture import HEAD, Architecture
from cutwork.architectures.config import MAX_WIDTH, activation, flag, integer, number
from cutwork.architectures.lengths import relative
from cutwork.errors import CutworkError
from cutwork.plan.builder import Buffer, Derived, Plan


@dataclass(frozen=True)
class _Config:
    """What both stacks depend on, mostly by the config's own names; sizes in floats."""

    vocab_size: int
    d_model: int
    num_heads: int
    d_kv: int
    d_ff: int
    num_layers: int
    num_decoder_layers: int
    layer_norm_epsilon: float
    activation: str
    gated: bool
    buckets: int
    farthest: int
    scale_decoder_outputs: bool


def emit_encoder(p: Plan, config: Mapping[str, Any]) -> None:
    """The encoder; it ends with the keys and values of every decoder layer's cross attention."""
    c = _parse(config)
    x = p.embed("shared", c.vocab_size, c.d_model)
    bias = _bias(c, "encoder", bidirectional=True)
    for i in range(c.num_layers):
        q, k, v = _queries_keys_values(p, c, x, f"encoder.block.{i}.layer.0")
        a = p.self_attention(q, k, v, heads=c.num_heads, scale=1.0, bias=bias)
        x = p.linear(a, f"encoder.block.{i}.layer.0.SelfAttention.o", c.d_model, residual=x)
        x = _feed_forward(p, c, x, f"encoder.block.{i}.layer.1")
    x = p.rms_norm(x, "encoder.final_layer_norm", c.layer_norm_epsilon)
    for i in range(c.num_decoder_layers):
        attention = f"decoder.block.{i}.layer.1.EncDecAttention"
        k, v = p.linears(x, {f"{attention}.{n}": c.num_heads * c.d_kv for n in "kv"})
        p.kv_append(k, v, cache=i, heads=c.num_heads)


def emit(p: Plan, config: Mapping[str, Any]) -> None:
    """The decoder."""
    c = _parse(config)
    x = p.embed("shared", c.vocab_size, c.d_model)
    bias = _bias(c, "decoder", bidirectional=False)
    for i in range(c.num_decoder_layers):
        block = f"decoder.block.{i}"
        q, k, v = _queries_keys_values(p, c, x, f"{block}.layer.0")
        a = p.attention(q, k, v, cache=i, heads=c.num_heads, kv_heads=c.num_heads, scale=1.0, bias=bias)
        x = p.linear(a, f"{block}.layer.0.SelfAttention.o", c.d_model, residual=x)
        h = p.rms_norm(x, f"{block}.layer.1.layer_norm", c.layer_norm_epsilon)
        q = p.linear(h, f"{block}.layer.1.EncDecAttention.q", c.num_heads * c.d_kv)
        a = p.cross_attention(q, cache=i, heads=c.num_heads, scale=1.0)
        x = p.linear(a, f"{block}.layer.1.EncDecAttention.o", c.d_model, residual=x)
        x = _feed_forward(p, c, x, f"{block}.layer.2")
    # Of what the head reads, where it is tied to the embedding.
    scale = c.d_model**-0.5 if c.scale_decoder_outputs else 1.0
    last = p.rms_norm(p.gather_rows(x), "decoder.final_layer_norm", c.layer_norm_epsilon, scale=scale)
    p.logits(last, "lm_head", c.vocab_size)


def _queries_keys_values(p: Plan, c: _Config, x: Buffer, layer: str) -> tuple[Buffer, ...]:
    h = p.rms_norm(x, f"{layer}.layer_norm", c.layer_norm_epsilon)
    return p.linears(h, {f"{layer}.SelfAttention.{n}": c.num_heads * c.d_kv for n in "qkv"})


def _feed_forward(p: Plan, c: _Config, x: Buffer, layer: str) -> Buffer:
    dense = f"{layer}.DenseReluDense"
    h = p.rms_norm(x, f"{layer}.layer_norm", c.layer_norm_epsilon)
    if c.gated:
        gate, up = p.linears(h, {f"{dense}.wi_0": c.d_ff, f"{dense}.wi_1": c.d_ff})
        h = p.glu(gate, up, c.activation)
    else:
        h = p.linear(h, f"{dense}.wi", c.d_ff, activation=c.activation)
    return p.linear(h, f"{dense}.wo", c.d_model, residual=x)


def _bias(c: _Config, stack: str, *, bidirectional: bool) -> Derived:
    """The first layer's bias per bucket and head [buckets, heads], which all layers share, as one per distance."""
    ahead = np.arange(-c.farthest, c.farthest + 1 if bidirectional else 1)
    buckets = bucket(ahead, c.buckets, c.farthest, bidirectional=bidirectional)
    name = f"{stack}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
    return Derived(name, (c.buckets, c.num_heads), lambda stored: np.ascontiguousarray(stored[buckets].T).reshape(-1))


def bucket(ahead: np.ndarray, buckets: int, farthest: int, *, bidirectional: bool) -> np.ndarray:
    """The bucket of a key so many tokens ahead of the query (appendix of the paper; transformers' rounding).

    Near distances have one each; from half of the buckets on their logarithms are rounded down, up to `farthest`.
    """
    first = np.zeros_like(ahead)
    if bidirectional:
        buckets //= 2
        first = np.where(ahead > 0, buckets, 0)
        distance = np.abs(ahead)
    else:
        distance = np.maximum(-ahead, 0)
    exact = buckets // 2
    octaves = np.log(np.maximum(distance, 1).astype(np.float32) / np.float32(exact)) / math.log(farthest / exact)
    far = exact + (octaves.astype(np.float32) * np.float32(buckets - exact)).astype(np.int64)
    return np.asarray(first + np.where(distance < exact, distance, np.minimum(far, buckets - 1)))


def _parse(config: Mapping[str, Any]) -> _Config:
    kind = str(config.get("feed_forward_proj") or "relu")
    usual = "gelu_new" if kind == "gated-gelu" else kind.removeprefix("gated-")
    buckets = integer(config, "relative_attention_num_buckets", maximum=4096, default=32, minimum=4)
    farthest = integer(config, "relative_attention_max_distance", maximum=65536, default=128)
    if farthest <= buckets // 2:
        raise CutworkError(
            f"config.json: relative_attention_max_distance {farthest} must exceed half of the {buckets} buckets"
        )
    heads, head_dim = integer(config, "num_heads", maximum=4096), integer(config, "d_kv", maximum=1024)
    if heads * head_dim > MAX_WIDTH:
        raise CutworkError(f"config.json: {heads} heads of {head_dim} exceed the engine's widest layer, {MAX_WIDTH}")
    layers = integer(config, "num_layers", maximum=1024)
    return _Config(
        vocab_size=integer(config, "vocab_size", maximum=1 << 24),
        d_model=integer(config, "d_model", maximum=MAX_WIDTH),
        num_heads=heads,
        d_kv=head_dim,
        d_ff=integer(config, "d_ff", maximum=MAX_WIDTH),
        num_layers=layers,
        num_decoder_layers=integer(config, "num_decoder_layers", maximum=1024, default=layers),
        layer_norm_epsilon=number(config, "layer_norm_epsilon", 1e-6),
        # What transformers makes of feed_forward_proj, and writes beside it; what is written there counts.
        activation=activation({"hidden_act": config.get("dense_act_fn") or usual}),
        gated=_said(config, "is_gated_act", kind.startswith("gated-")),
        buckets=buckets,
        farthest=farthest,
        # What older configs say by tying the head. Whether it is tied shows in the weights.
        scale_decoder_outputs=_said(config, "scale_decoder_outputs", flag(config, "tie_word_embeddings", True)),
    )


def _said(config: Mapping[str, Any], key: str, usual: bool) -> bool:
    """A flag that transformers fills in only where it is missing, so that null is no."""
    return flag(config, key) if key in config else usual


_COPIES = ("decoder.embed_tokens.weight", "encoder.embed_tokens.weight")  # of the shared embedding
ARCHITECTURE = Architecture(
    "t5",
    models="T5, T5 v1.1, Flan-T5",
    source="arXiv 1910.10683",
    decoder=emit,
    encoder=emit_encoder,
    kind="translation",
    context=relative("n_positions"),
    inputs=relative("n_positions"),
    embedding="shared.weight",
    copies=_COPIES,
    tied_if_missing=True,
    precise=("*.wo.weight",),  # whose inputs exceed half precision
    unread=(HEAD, *_COPIES, "*.EncDecAttention.relative_attention_bias.weight"),
    start=("decoder_start_token_id", "pad_token_id"),
)
