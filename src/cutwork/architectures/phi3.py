"""Phi-3: Llama with one matrix for queries, keys and values, and one for gate and up (arXiv 2404.14219)."""

import math
from collections.abc import Mapping
from dataclasses import replace
from itertools import accumulate
from typing import Any

import numpy as np

from cutwork.architectures.architecture import Architecture
from cutwork.architectures.config import integer, number
from cutwork.architectures.lengths import Lengths, absolute
from cutwork.architectures.llama import UNREAD, LlamaConfig, decoder
from cutwork.errors import CutworkError
from cutwork.plan.builder import Buffer, Plan, Rope

_TRAINED = 4096  # tokens, unless a config says otherwise
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
    window = config.get("sliding_window")
    if window is not None:
        window = integer(config, "sliding_window", maximum=1 << 24)
    layers = integer(config, "num_hidden_layers", maximum=1024)
    as_usual = {key: {**longrope, "type": "default", "rope_type": "default"} for key, longrope in _longrope(config)}
    c = decoder({"rms_norm_eps": 1e-5, **config, **as_usual}, windows=(window,) * layers, partial_rope=True)
    return replace(c, rope=_stretched(c.rope, config))


def _longrope(config: Mapping[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """What a config says of LongRoPE (arXiv 2402.13753), by its key; nothing if positions are as usual."""
    given = [(key, config[key]) for key in ("rope_parameters", "rope_scaling") if isinstance(config.get(key), dict)]
    return [(key, each) for key, each in given if (each.get("rope_type") or each.get("type")) in _LONGROPE]


def _stretched(rope: Rope, config: Mapping[str, Any]) -> Rope:
    """LongRoPE of sequences no longer than those it was trained with before; longer ones have other factors."""
    for _, settings in _longrope(config):
        factors = settings.get("short_factor")
        if not isinstance(factors, list) or len(factors) != len(rope.inv_freq) or not all(map(_divides, factors)):
            raise CutworkError(f"config.json: short_factor must be {len(rope.inv_freq)} numbers above 0")
        original = _original_context(config)
        factor = number(settings, "factor", _longest(config) / original)
        usual = math.sqrt(1 + math.log(factor) / math.log(original)) if factor > 1 else 1.0
        scaling = number(settings, "attention_factor", usual)
        return Rope(rope.inv_freq / np.array(factors, np.float32), scaling)
    return rope


def _divides(factor: object) -> bool:
    return isinstance(factor, int | float) and not isinstance(factor, bool) and 1e-6 <= factor < math.inf


def _original_context(config: Mapping[str, Any]) -> int:
    return integer(config, "original_max_position_embeddings", maximum=1 << 24, default=_TRAINED, minimum=2)


def _longest(config: Mapping[str, Any]) -> int:
    return integer(config, "max_position_embeddings", maximum=1 << 24, default=_TRAINED)


def _context(config: Mapping[str, Any]) -> Lengths:
    """As far as LongRoPE's factors for short sequences hold: which ones do depends on the whole sequence."""
    if not _longrope(config):
        return absolute("max_position_embeddings")(config)
    tokens = min(_longest(config), _original_context(config))
    return Lengths(tokens, tokens)


ARCHITECTURE = Architecture(
    "phi3",
    models="Phi-3 and Phi-3.5 mini and medium, Phi-4 and Phi-4-mini; those for 128k tokens up to 4k",
    source="arXiv 2404.14219",
    decoder=emit,
    context=_context,
    unread=UNREAD,
)
