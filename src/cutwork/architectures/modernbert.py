"""ModernBERT: a pre-norm encoder with rotary positions, most of whose layers see a window (arXiv 2412.13663)."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from cutwork.architectures.architecture import Architecture
from cutwork.architectures.bert import check_encoder
from cutwork.architectures.config import MAX_WIDTH, activation, flag, integer, number
from cutwork.architectures.phi3 import split
from cutwork.architectures.rope import layer_kinds, rope_of_kind
from cutwork.errors import CutworkError
from cutwork.plan.builder import Plan

_LARGEST_BIAS = 1 << 24  # numbers
_UNSEEN = -1e30  # added to the scores of keys beyond the window


def emit(p: Plan, config: Mapping[str, Any]) -> None:
    """The forward pass."""
    width = integer(config, "hidden_size", maximum=MAX_WIDTH // 3)
    mlp = integer(config, "intermediate_size", maximum=MAX_WIDTH // 2)
    heads = check_encoder(config)
    act = activation({"hidden_act": config.get("hidden_activation", "gelu")})
    eps, norm_bias = number(config, "norm_eps", 1e-5), flag(config, "norm_bias")
    attention_bias, mlp_bias = flag(config, "attention_bias"), flag(config, "mlp_bias")
    every = integer(config, "global_attn_every_n_layers", maximum=1024, default=3)
    kinds = layer_kinds(config, every=every, first=True)
    base, local = {**config, "rope_theta": config.get("global_rope_theta", 160000.0)}, config.get("local_rope_theta")
    ropes = {
        kind: replace(rope_of_kind(base, kind, local, width // heads, both_scaled=True), name=f"rope.{kind}")
        for kind in dict.fromkeys(kinds)
    }
    seen = integer(config, "local_attention", maximum=1 << 16, default=128) // 2
    window = window_bias(heads, seen, ARCHITECTURE.context(config).most)

    x = p.embed("embeddings.tok_embeddings", integer(config, "vocab_size", maximum=1 << 24), width)
    x = p.layer_norm(x, "embeddings.norm", eps, bias=norm_bias)
    for i, kind in enumerate(kinds):
        layer = f"layers.{i}"
        h = p.layer_norm(x, f"{layer}.attn_norm", eps, bias=norm_bias) if i else x
        qkv = p.linear(h, f"{layer}.attn.Wqkv", 3 * width, bias=attention_bias)
        q, k, v = split(p, qkv, width, width, width)
        q, k = p.rope(q, heads, ropes[kind]), p.rope(k, heads, ropes[kind])
        a = p.self_attention(q, k, v, heads=heads, bias=window if kind == "sliding_attention" else None)
        x = p.linear(a, f"{layer}.attn.Wo", width, bias=attention_bias, residual=x)
        h = p.layer_norm(x, f"{layer}.mlp_norm", eps, bias=norm_bias)
        gate, up = split(p, p.linear(h, f"{layer}.mlp.Wi", 2 * mlp, bias=mlp_bias), mlp, mlp)
        x = p.linear(p.glu(gate, up, act), f"{layer}.mlp.Wo", width, bias=mlp_bias, residual=x)
    p.output(p.layer_norm(p.gather_rows(x), "final_norm", eps, bias=norm_bias))


def window_bias(heads: int, seen: int, longest: int) -> np.ndarray | None:
    """A bias [heads, 2n + 1] of `self_attention` that hides keys more than so many tokens away, None where the longest
    text has none such. Raises CutworkError if it would be larger than any model's: nothing but the config says so."""
    if seen >= longest:
        return None
    if heads * (2 * seen + 3) > _LARGEST_BIAS:
        raise CutworkError(
            f"config.json: windows of {seen} tokens to each side are more than this engine computes for {heads} heads"
        )
    bias = np.zeros((heads, 2 * seen + 3), np.float32)
    bias[:, [0, -1]] = _UNSEEN
    return bias


ARCHITECTURE = Architecture(
    "modernbert",
    models="ModernBERT, GTE ModernBERT, Nomic Embed ModernBERT, Granite Embedding R2",
    source="arXiv 2412.13663",
    encoder=emit,
    kind="embedding",
    embedding="embeddings.tok_embeddings.weight",
    renames=(("model.", ""),),
    unread=("head.*", "decoder.*", "classifier.*"),
)
