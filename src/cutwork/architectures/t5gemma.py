"""T5Gemma: an encoder and a decoder of Gemma 2's blocks, adapted from Gemma 2 (arXiv 2504.06225)."""

from collections.abc import Mapping
from typing import Any

from cutwork.architectures.architecture import HEAD, Architecture
from cutwork.architectures.config import flag
from cutwork.architectures.gemma import Stack, parse
from cutwork.architectures.gemma2 import CAPS
from cutwork.architectures.lengths import Lengths, LengthsOf, relative
from cutwork.architectures.rope import layer_kinds, parse_rope
from cutwork.errors import CutworkError
from cutwork.plan.builder import Plan, Rope


def emit_encoder(p: Plan, config: Mapping[str, Any]) -> None:
    """The encoder; it ends with the keys and values of every decoder layer's cross attention."""
    stack, ropes = _stack(p, config, "encoder")
    across, _ = _stack(p, config, "decoder")
    x = stack.embed("model.encoder.embed_tokens")
    for i, rope in enumerate(ropes):
        layer, attention = f"model.encoder.layers.{i}", f"model.encoder.layers.{i}.self_attn"
        h = stack.norm(x, f"{layer}.pre_self_attn_layernorm")
        q, k, v = stack.project(h, attention, rope, head_norms=False)
        a = stack.attend_around(q, k, v, stack.c.sliding_windows[i])
        x = stack.attended(x, a, attention, f"{layer}.post_self_attn_layernorm")
        x = stack.feed_forward(x, layer)
    x = stack.norm(x, "model.encoder.norm")
    heads = across.c.num_key_value_heads
    for i in range(len(across.c.sliding_windows)):
        names = {f"model.decoder.layers.{i}.cross_attn.{n}_proj": heads * across.c.head_dim for n in "kv"}
        k, v = p.linears(x, names, bias=across.c.qkv_bias)
        p.kv_append(k, v, cache=i, heads=heads)


def emit(p: Plan, config: Mapping[str, Any]) -> None:
    """The decoder."""
    stack, ropes = _stack(p, config, "decoder")
    heads, kv_heads = stack.c.num_attention_heads, stack.c.num_key_value_heads
    embedding = "model.decoder.embed_tokens"
    x = stack.embed(embedding)
    for i, rope in enumerate(ropes):
        layer = f"model.decoder.layers.{i}"
        attention, across = f"{layer}.self_attn", f"{layer}.cross_attn"
        h = stack.norm(x, f"{layer}.pre_self_attn_layernorm")
        a = stack.attend_back(i, *stack.project(h, attention, rope, head_norms=False))
        x = stack.attended(x, a, attention, f"{layer}.post_self_attn_layernorm")
        h = stack.norm(x, f"{layer}.pre_cross_attn_layernorm")
        q = p.linear(h, f"{across}.q_proj", heads * stack.c.head_dim, bias=stack.c.qkv_bias)
        a = p.cross_attention(q, cache=i, heads=heads, kv_heads=kv_heads, scale=stack.scale, cap=stack.cap)
        x = stack.attended(x, a, across, f"{layer}.post_cross_attn_layernorm")
        x = stack.feed_forward(x, layer)
    last = stack.norm(p.gather_rows(x), "model.decoder.norm")
    head = embedding if flag(config, "tie_word_embeddings", True) else "lm_head"
    p.logits(last, head, stack.c.vocab_size, cap=stack.final_cap)


def _part(config: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    part = config.get(name)
    if not isinstance(part, dict):
        raise CutworkError(f"config.json: {name} must be an object, not {part!r}")
    return part


def _stack(p: Plan, config: Mapping[str, Any], name: str) -> tuple[Stack, list[Rope]]:
    part = _part(config, name)
    kinds = layer_kinds(part, every=2)
    stack = parse(p, {**CAPS, **part}, kinds, longest=_lengths(name)(config).most)
    return stack, [parse_rope(part, stack.c.head_dim)] * len(kinds)


def _lengths(name: str) -> LengthsOf:
    of_part = relative("max_position_embeddings")

    def lengths(config: Mapping[str, Any]) -> Lengths:
        return of_part(_part(config, name))

    return lengths


ARCHITECTURE = Architecture(
    "t5gemma",
    models="T5Gemma 2B-2B, 9B-2B and 9B-9B, and those of T5's sizes",
    source="arXiv 2504.06225",
    decoder=emit,
    encoder=emit_encoder,
    kind="translation",
    context=_lengths("decoder"),
    inputs=_lengths("encoder"),
    embedding="model.decoder.embed_tokens.weight",
    renames=(("lm_head.out_proj.", "lm_head."),),
    unread=(HEAD,),
    start=("decoder_start_token_id", "bos_token_id"),
)
