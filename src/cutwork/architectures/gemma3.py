"""Gemma 3, text: norms around every part, most layers see a window and turn by another base (arXiv 2503.19786)."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from cutwork.architectures.architecture import Architecture
from cutwork.architectures.config import flag, integer, number
from cutwork.architectures.llama import BARE, UNREAD, LlamaConfig, decoder
from cutwork.architectures.modernbert import window_bias
from cutwork.architectures.rope import layer_kinds, rope_of_kind
from cutwork.errors import CutworkError
from cutwork.plan.builder import Buffer, Plan


def emit(p: Plan, config: Mapping[str, Any]) -> None:
    """The forward pass."""
    for key in ("final_logit_softcapping", "attn_logit_softcapping"):
        if config.get(key):
            raise CutworkError(f"config.json: {key} = {config[key]!r} is not supported for Gemma 3")
    kinds = layer_kinds(config, every=integer(config, "sliding_window_pattern", maximum=1024, default=6))
    window = integer(config, "sliding_window", maximum=1 << 24, default=4096)
    c = _parse(config, tuple(window if kind == "sliding_attention" else None for kind in kinds))
    local = config.get("rope_local_base_freq", 10000.0)
    ropes = {
        kind: replace(rope_of_kind({"rope_theta": 1e6, **config}, kind, local, c.head_dim), name=f"rope.{kind}")
        for kind in dict.fromkeys(kinds)
    }
    scale = number(config, "query_pre_attn_scalar", 256, minimum=1e-6) ** -0.5
    both_ways = flag(config, "use_bidirectional_attention")  # an encoder, as EmbeddingGemma is

    def norm(x: Buffer, name: str, groups: int = 1) -> Buffer:
        return p.rms_norm(x, name, c.rms_norm_eps, groups, offset=1.0)

    heads, kv_heads = c.num_attention_heads, c.num_key_value_heads
    widths = {"q": heads * c.head_dim, "k": kv_heads * c.head_dim, "v": kv_heads * c.head_dim}
    x = p.embed("model.embed_tokens", c.vocab_size, c.hidden_size, scale=c.hidden_size**0.5)
    for i, kind in enumerate(kinds):
        layer, attention = f"model.layers.{i}", f"model.layers.{i}.self_attn"
        h = norm(x, f"{layer}.input_layernorm")
        q, k, v = p.linears(h, {f"{attention}.{n}_proj": width for n, width in widths.items()}, bias=c.qkv_bias)
        q = p.rope(norm(q, f"{attention}.q_norm", heads), heads, ropes[kind])
        k = p.rope(norm(k, f"{attention}.k_norm", kv_heads), kv_heads, ropes[kind])
        seen = c.sliding_windows[i]
        if both_ways:
            k, v = (repeat(p, each, kv_heads, heads // kv_heads) for each in (k, v))
            bias = None if seen is None else window_bias(heads, seen // 2)
            a = p.self_attention(q, k, v, heads=heads, scale=scale, bias=bias)
        else:
            a = p.attention(q, k, v, cache=i, heads=heads, kv_heads=kv_heads, window=seen, scale=scale)
        a = p.linear(a, f"{attention}.o_proj", c.hidden_size, bias=c.output_bias)
        x = p.add(x, norm(a, f"{layer}.post_attention_layernorm"))
        h = norm(x, f"{layer}.pre_feedforward_layernorm")
        gate, up = p.linears(h, {f"{layer}.mlp.{n}_proj": c.intermediate_size for n in ("gate", "up")})
        h = p.glu(gate, up, c.hidden_act)
        h = p.linear(h, f"{layer}.mlp.down_proj", c.hidden_size)
        x = p.add(x, norm(h, f"{layer}.post_feedforward_layernorm"))
    last = norm(p.gather_rows(x), "model.norm")
    if both_ways:
        p.output(last)
        return
    p.logits(last, "model.embed_tokens" if c.tie_word_embeddings else "lm_head", c.vocab_size)


def repeat(p: Plan, x: Buffer, heads: int, times: int) -> Buffer:
    """Each of the heads of x so many times, side by side."""
    if times == 1:
        return x
    width = x.width // heads
    each = [p.slice(x, pieces=1, width=width, stride=width, first=head * width) for head in range(heads)]
    return p.unfold([(head, 0) for head in each for _ in range(times)])


def _parse(config: Mapping[str, Any], windows: tuple[int | None, ...]) -> LlamaConfig:
    usual = {
        "hidden_act": config.get("hidden_activation", "gelu_pytorch_tanh"),
        "head_dim": config.get("head_dim", 256),
        "tie_word_embeddings": config.get("tie_word_embeddings", True),
        "rope_parameters": None,
    }
    bias = bool(config.get("attention_bias"))
    return decoder({**config, **usual}, qkv_bias=bias, output_bias=bias, windows=windows, default_kv_heads=4)


ARCHITECTURE = Architecture(
    "gemma3_text",
    models="Gemma 3 270M and 1B, and the text part of 4B, 12B and 27B; EmbeddingGemma",
    source="arXiv 2503.19786",
    decoder=emit,
    renames=BARE,
    unread=UNREAD,
)
