"""Llama and its relatives: pre-norm, rotary positions, grouped-query attention, gated MLP (arXiv 2302.13971)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cutwork.architectures.config import MAX_WIDTH, activation, flag, integer, number
from cutwork.architectures.rope import parse_rope
from cutwork.errors import CutworkError
from cutwork.plan.builder import Plan, Rope


@dataclass(frozen=True)
class LlamaConfig:
    """What the forward pass depends on; widths in floats, `windows` per layer in tokens (None: full attention)."""

    vocabulary: int
    width: int
    mlp_width: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    eps: float
    activation: str
    rope: Rope
    windows: tuple[int | None, ...]
    qkv_bias: bool
    output_bias: bool
    mlp_bias: bool
    qk_norm: bool
    tied: bool


def parse(config: Mapping[str, Any]) -> LlamaConfig:
    """The config of a `llama` model."""
    attention_bias = flag(config, "attention_bias")
    return decoder(config, qkv_bias=attention_bias, output_bias=attention_bias, mlp_bias=flag(config, "mlp_bias"))


def decoder(
    config: Mapping[str, Any],
    *,
    qkv_bias: bool = False,
    output_bias: bool = False,
    mlp_bias: bool = False,
    qk_norm: bool = False,
    windows: tuple[int | None, ...] | None = None,
    default_kv_heads: int | None = None,
) -> LlamaConfig:
    """The fields that all relatives share, checked; the keywords are what tells them apart."""
    width = integer(config, "hidden_size", maximum=MAX_WIDTH)
    heads = integer(config, "num_attention_heads", maximum=4096)
    kv_heads = integer(config, "num_key_value_heads", maximum=heads, default=default_kv_heads or heads)
    head_dim = integer(config, "head_dim", maximum=1024, default=width // heads)
    layers = integer(config, "num_hidden_layers", maximum=1024)
    if heads % kv_heads:
        raise CutworkError(f"config.json: {heads} attention heads are not a multiple of {kv_heads} key-value heads")
    if head_dim % 2:
        raise CutworkError(f"config.json: head_dim must be even for rotary positions, not {head_dim}")
    if heads * head_dim > MAX_WIDTH:
        raise CutworkError(f"config.json: {heads} heads of {head_dim} exceed the engine's widest layer, {MAX_WIDTH}")
    return LlamaConfig(
        vocabulary=integer(config, "vocab_size", maximum=1 << 24),
        width=width,
        mlp_width=integer(config, "intermediate_size", maximum=MAX_WIDTH),
        layers=layers,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        eps=number(config, "rms_norm_eps", 1e-6),
        activation=activation(config),
        rope=parse_rope(config, head_dim),
        windows=windows or (None,) * layers,
        qkv_bias=qkv_bias,
        output_bias=output_bias,
        mlp_bias=mlp_bias,
        qk_norm=qk_norm,
        tied=flag(config, "tie_word_embeddings"),
    )


def emit(p: Plan, c: LlamaConfig) -> None:
    """The forward pass."""
    x = p.embed("model.embed_tokens", c.vocabulary, c.width)
    for i in range(c.layers):
        attention, mlp = f"model.layers.{i}.self_attn", f"model.layers.{i}.mlp"
        h = p.rms_norm(x, f"model.layers.{i}.input_layernorm", c.eps)
        widths = {"q": c.heads * c.head_dim, "k": c.kv_heads * c.head_dim, "v": c.kv_heads * c.head_dim}
        q, k, v = p.linears(h, {f"{attention}.{n}_proj": width for n, width in widths.items()}, bias=c.qkv_bias)
        if c.qk_norm:
            q = p.rms_norm(q, f"{attention}.q_norm", c.eps, c.heads)
            k = p.rms_norm(k, f"{attention}.k_norm", c.eps, c.kv_heads)
        q, k = p.rope(q, c.heads, c.rope), p.rope(k, c.kv_heads, c.rope)
        a = p.attention(q, k, v, cache=i, heads=c.heads, kv_heads=c.kv_heads, window=c.windows[i])
        x = p.linear(a, f"{attention}.o_proj", c.width, bias=c.output_bias, residual=x)
        h = p.rms_norm(x, f"model.layers.{i}.post_attention_layernorm", c.eps)
        gate, up = f"{mlp}.gate_proj", f"{mlp}.up_proj"
        g = p.gated(h, gate=gate, up=up, width=c.mlp_width, activation=c.activation, bias=c.mlp_bias)
        x = p.linear(g, f"{mlp}.down_proj", c.width, bias=c.mlp_bias, residual=x)
    last = p.rms_norm(p.gather_rows(x), "model.norm", c.eps)
    p.logits(last, "model.embed_tokens" if c.tied else "lm_head", c.vocabulary)
