"""OLMo 2: norms behind attention and MLP, and over all queries and all keys (arXiv 2501.00656)."""

from collections.abc import Mapping, Sequence
from typing import Any

from cutwork.architectures.architecture import Architecture
from cutwork.architectures.config import flag
from cutwork.architectures.llama import UNREAD, LlamaConfig, decoder
from cutwork.plan.builder import Plan, Rope


def emit(p: Plan, config: Mapping[str, Any]) -> None:
    """The forward pass."""
    c = parse(config)
    emit_layers(p, c, (c.rope,) * c.num_hidden_layers)


def parse(config: Mapping[str, Any], windows: tuple[int | None, ...] | None = None) -> LlamaConfig:
    """The config of an `olmo2` model."""
    bias, usual = flag(config, "attention_bias"), {"rms_norm_eps": 1e-5}
    return decoder({**usual, **config}, qkv_bias=bias, output_bias=bias, windows=windows)


def emit_layers(p: Plan, c: LlamaConfig, ropes: Sequence[Rope]) -> None:
    """The forward pass with one RoPE for each layer."""
    heads, kv_heads = c.num_attention_heads, c.num_key_value_heads
    widths = {"q": heads * c.head_dim, "k": kv_heads * c.head_dim, "v": kv_heads * c.head_dim}
    x = p.embed("model.embed_tokens", c.vocab_size, c.hidden_size)
    for i, (window, rope) in enumerate(zip(c.sliding_windows, ropes, strict=True)):
        layer, attention, mlp = f"model.layers.{i}", f"model.layers.{i}.self_attn", f"model.layers.{i}.mlp"
        q, k, v = p.linears(x, {f"{attention}.{n}_proj": width for n, width in widths.items()}, bias=c.qkv_bias)
        q = p.rope(p.rms_norm(q, f"{attention}.q_norm", c.rms_norm_eps), heads, rope)
        k = p.rope(p.rms_norm(k, f"{attention}.k_norm", c.rms_norm_eps), kv_heads, rope)
        a = p.attention(q, k, v, cache=i, heads=heads, kv_heads=kv_heads, window=window)
        a = p.linear(a, f"{attention}.o_proj", c.hidden_size, bias=c.output_bias)
        x = p.add(x, p.rms_norm(a, f"{layer}.post_attention_layernorm", c.rms_norm_eps))
        gate, up = p.linears(x, {f"{mlp}.{n}_proj": c.intermediate_size for n in ("gate", "up")})
        h = p.linear(p.glu(gate, up, c.hidden_act), f"{mlp}.down_proj", c.hidden_size)
        x = p.add(x, p.rms_norm(h, f"{layer}.post_feedforward_layernorm", c.rms_norm_eps))
    last = p.rms_norm(p.gather_rows(x), "model.norm", c.rms_norm_eps)
    p.logits(last, "model.embed_tokens" if c.tie_word_embeddings else "lm_head", c.vocab_size)


ARCHITECTURE = Architecture("olmo2", models="OLMo 2", source="arXiv 2501.00656", decoder=emit, unread=UNREAD)
