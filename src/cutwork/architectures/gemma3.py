"""Gemma 3, text: norms around every part, most layers see a window and turn by another base (arXiv 2503.19786)."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from cutwork.architectures.architecture import Architecture
from cutwork.architectures.config import integer, number
from cutwork.architectures.llama import UNREAD, LlamaConfig, decoder
from cutwork.architectures.rope import parse_rope
from cutwork.errors import CutworkError
from cutwork.plan.builder import Buffer, Plan, Rope

_KINDS = ("sliding_attention", "full_attention")


def emit(p: Plan, config: Mapping[str, Any]) -> None:
    """The forward pass."""
    for key in ("final_logit_softcapping", "attn_logit_softcapping", "use_bidirectional_attention"):
        if config.get(key):
            raise CutworkError(f"config.json: {key} = {config[key]!r} is not supported for Gemma 3")
    kinds = _layer_kinds(config)
    window = integer(config, "sliding_window", maximum=1 << 24, default=4096)
    c = _parse(config, tuple(window if kind == "sliding_attention" else None for kind in kinds))
    ropes = {kind: replace(_rope(config, kind, c.head_dim), name=f"rope.{kind}") for kind in dict.fromkeys(kinds)}
    scale = number(config, "query_pre_attn_scalar", 256, minimum=1e-6) ** -0.5

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
        a = p.attention(q, k, v, cache=i, heads=heads, kv_heads=kv_heads, window=seen, scale=scale)
        a = p.linear(a, f"{attention}.o_proj", c.hidden_size, bias=c.output_bias)
        x = p.add(x, norm(a, f"{layer}.post_attention_layernorm"))
        h = norm(x, f"{layer}.pre_feedforward_layernorm")
        gate, up = p.linears(h, {f"{layer}.mlp.{n}_proj": c.intermediate_size for n in ("gate", "up")})
        h = p.glu(gate, up, c.hidden_act)
        h = p.linear(h, f"{layer}.mlp.down_proj", c.hidden_size)
        x = p.add(x, norm(h, f"{layer}.post_feedforward_layernorm"))
    last = norm(p.gather_rows(x), "model.norm")
    p.logits(last, "model.embed_tokens" if c.tie_word_embeddings else "lm_head", c.vocab_size)


def _parse(config: Mapping[str, Any], windows: tuple[int | None, ...]) -> LlamaConfig:
    usual = {
        "hidden_act": config.get("hidden_activation", "gelu_pytorch_tanh"),
        "head_dim": config.get("head_dim", 256),
        "tie_word_embeddings": config.get("tie_word_embeddings", True),
        "rope_parameters": None,
    }
    bias = bool(config.get("attention_bias"))
    return decoder({**config, **usual}, qkv_bias=bias, output_bias=bias, windows=windows, default_kv_heads=4)


def _layer_kinds(config: Mapping[str, Any]) -> list[str]:
    """What each layer attends to; older configs say only which one of so many sees everything."""
    layers = integer(config, "num_hidden_layers", maximum=1024)
    kinds = config.get("layer_types")
    if kinds is None:
        every = integer(config, "sliding_window_pattern", maximum=1024, default=6)
        return [_KINDS[(i + 1) % every == 0] for i in range(layers)]
    if not isinstance(kinds, list) or len(kinds) != layers or not set(kinds) <= set(_KINDS):
        raise CutworkError("config.json: layer_types must name full_attention or sliding_attention for every layer")
    return kinds


def _rope(config: Mapping[str, Any], kind: str, head_dim: int) -> Rope:
    """RoPE of one kind of layers; only those that see everything may have it scaled in older configs."""
    given = config.get("rope_parameters") or {}
    if isinstance(given, dict) and isinstance(given.get(kind), dict):
        return parse_rope({**config, "rope_parameters": given[kind], "rope_scaling": None}, head_dim)
    if kind == "sliding_attention":
        return parse_rope({"rope_theta": config.get("rope_local_base_freq", 10000.0)}, head_dim)
    return parse_rope({"rope_theta": 1e6, **config, "rope_parameters": None}, head_dim)


ARCHITECTURE = Architecture(
    "gemma3_text",
    models="Gemma 3 1B and 270M, and the text part of larger ones saved apart",
    source="arXiv 2503.19786",
    decoder=emit,
    unread=UNREAD,
)
