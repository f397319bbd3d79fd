"""Phi-3: Llama with one matrix for queries, keys and values, and one for gate and up (arXiv 2404.14219)."""

from collections.abc import Mapping
from itertools import accumulate
from typing import Any

from cutwork.architectures.architecture import Architecture
from cutwork.architectures.config import integer
from cutwork.architectures.llama import UNREAD, LlamaConfig, decoder
from cutwork.errors import CutworkError
from cutwork.plan.builder import Buffer, Plan

_LONGROPE = ("longrope", "su", "yarn")  # its names in configs of Phi-3, where "yarn" is not what others call so


def emit(p: Plan, config: Mapping[str, Any]) -> None:
    """The forward pass."""
    c = _parse(config)
    heads, kv_heads = c.num_attention_heads, c.num_key_value_heads
    widths = (heads * c.head_dim, kv_heads * c.head_dim, kv_heads * c.head_dim)
    x = p.embed("model.embed_tokens", c.vocab_size, c.hidden_size)
    for i, window in enumerate(c.sliding_windows):
        layer = f"model.layers.{i}"
        h = p.rms_norm(x, f"{layer}.input_layernorm", c.rms_norm_eps)
        q, k, v = split(p, p.linear(h, f"{layer}.self_attn.qkv_proj", sum(widths)), *widths)
        q, k = p.rope(q, heads, c.rope), p.rope(k, kv_heads, c.rope)
        a = p.attention(q, k, v, cache=i, heads=heads, kv_heads=kv_heads, window=window)
        x = p.linear(a, f"{layer}.self_attn.o_proj", c.hidden_size, residual=x)
        h = p.rms_norm(x, f"{layer}.post_attention_layernorm", c.rms_norm_eps)
        h = p.linear(h, f"{layer}.mlp.gate_up_proj", 2 * c.intermediate_size)
        gate, up = split(p, h, c.intermediate_size, c.intermediate_size)
        x = p.linear(p.glu(gate, up, c.hidden_act), f"{layer}.mlp.down_proj", c.hidden_size, residual=x)
    last = p.rms_norm(p.gather_rows(x), "model.norm", c.rms_norm_eps)
    p.logits(last, "model.embed_tokens" if c.tie_word_embeddings else "lm_head", c.vocab_size)


def split(p: Plan, x: Buffer, *widths: int) -> list[Buffer]:
    """Columns of x as buffers of these widths."""
    firsts = accumulate(widths, initial=0)
    return [p.slice(x, pieces=1, width=w, stride=w, first=first) for w, first in zip(widths, firsts, strict=False)]


def _parse(config: Mapping[str, Any]) -> LlamaConfig:
    for key in ("rope_scaling", "rope_parameters"):
        settings = config.get(key)
        kind = (settings.get("rope_type") or settings.get("type")) if isinstance(settings, dict) else None
        if kind in _LONGROPE:
            raise CutworkError(
                "this engine does not support RoPE of type 'longrope', which depends on the length of the sequence; "
                "use a Phi-3 for 4k tokens"
            )
    window = config.get("sliding_window")
    if window is not None:
        window = integer(config, "sliding_window", maximum=1 << 24)
    layers = integer(config, "num_hidden_layers", maximum=1024)
    return decoder({"rms_norm_eps": 1e-5, **config}, windows=(window,) * layers)


ARCHITECTURE = Architecture(
    "phi3",
    models="Phi-3 and Phi-3.5 mini and medium with a context of 4k, Phi-4",
    source="arXiv 2404.14219",
    decoder=emit,
    unread=UNREAD,
)
