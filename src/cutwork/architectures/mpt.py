"""MPT: pre-norm without biases, ALiBi instead of positions, queries, keys and values from one matrix."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from cutwork.architectures.architecture import HEAD, Architecture
from cutwork.architectures.config import MAX_WIDTH, flag, integer, number
from cutwork.architectures.lengths import absolute
from cutwork.errors import CutworkError
from cutwork.plan.builder import Plan


def emit(p: Plan, config: Mapping[str, Any]) -> None:
    """The forward pass, as transformers' `mpt` computes it, and with the `qk_ln`, `alibi` and `alibi_bias_max` that
    only MPT's own code reads."""
    attention = config.get("attn_config") or {}
    if not isinstance(attention, dict):
        raise CutworkError(f"config.json: attn_config must be an object, not {attention!r}")
    _refuse_variants(config, attention)
    vocabulary = integer(config, "vocab_size", maximum=1 << 24)
    width = integer(config, "d_model", maximum=MAX_WIDTH // 4)
    heads = integer(config, "n_heads", maximum=4096)
    if width % heads:
        raise CutworkError(f"config.json: d_model {width} is not a multiple of n_heads {heads}")
    eps = number(config, "layer_norm_epsilon", 1e-5)
    clip = None if attention.get("clip_qkv") is None else number(attention, "clip_qkv")
    scale = None if attention.get("softmax_scale") is None else number(attention, "softmax_scale")
    slopes = alibi_slopes(heads, number(attention, "alibi_bias_max", 8)) if flag(attention, "alibi", True) else None

    x = p.embed("transformer.wte", vocabulary, width)
    for i in range(integer(config, "n_layers", maximum=1024)):
        block = f"transformer.blocks.{i}"
        h = p.layer_norm(x, f"{block}.norm_1", eps, bias=False)
        qkv = p.linear(h, f"{block}.attn.Wqkv", 3 * width)
        if clip is not None:
            qkv = p.clip(qkv, clip)
        q, k, v = (p.slice(qkv, pieces=1, width=width, stride=width, first=part * width) for part in range(3))
        if flag(attention, "qk_ln"):
            q, k = (p.layer_norm(y, f"{block}.attn.{n}_ln", eps, bias=False) for y, n in ((q, "q"), (k, "k")))
        a = p.attention(q, k, v, cache=i, heads=heads, kv_heads=heads, scale=scale, slopes=slopes)
        x = p.linear(a, f"{block}.attn.out_proj", width, residual=x)
        h = p.layer_norm(x, f"{block}.norm_2", eps, bias=False)
        h = p.linear(h, f"{block}.ffn.up_proj", 4 * width, activation="gelu")
        x = p.linear(h, f"{block}.ffn.down_proj", width, residual=x)
    last = p.layer_norm(p.gather_rows(x), "transformer.norm_f", eps, bias=False)
    p.logits(last, "transformer.wte" if flag(config, "tie_word_embeddings", True) else "lm_head", vocabulary)


def alibi_slopes(heads: int, bias_max: float) -> np.ndarray:
    """float32 [heads]: 2^(-bias_max·i/n) for n the next power of two; every second one first if n exceeds `heads`."""
    power = 1 << (heads - 1).bit_length()
    slopes = 2.0 ** (-bias_max * np.arange(1, power + 1) / power)
    if power != heads:
        slopes = np.concatenate([slopes[1::2], slopes[::2]])[:heads]
    return slopes.astype(np.float32)


def _refuse_variants(config: Mapping[str, Any], attention: Mapping[str, Any]) -> None:
    """What MPT's own code had and transformers' has not."""
    expected = {"prefix_lm": False, "attn_uses_sequence_id": False, "attn_type": "multihead_attention", "rope": False}
    for key, value in expected.items():
        if attention.get(key, value) != value:
            raise CutworkError(f"config.json: attn_config.{key} = {attention[key]!r} is not supported for MPT")
    if config.get("expansion_ratio", 4) != 4:
        raise CutworkError(f"config.json: an expansion_ratio of {config['expansion_ratio']!r} is not supported for MPT")
    if "rms" in str(config.get("norm_type")):
        raise CutworkError(f"config.json: a norm_type of {config['norm_type']!r} is not supported for MPT")
    if not flag(config, "no_bias", True) or config.get("logit_scale") is not None:
        raise CutworkError("config.json: MPT with biases or a logit_scale is not supported")


ARCHITECTURE = Architecture(
    "mpt",
    models="MPT-7B and MPT-30B, with `clip_qkv` and `qk_ln`",
    source="Databricks 2023",
    decoder=emit,
    context=absolute("max_seq_len"),
    embedding="transformer.wte.weight",
    unread=(HEAD,),
)
