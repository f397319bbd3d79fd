"""BART: an encoder and a decoder with norms behind attention and MLP, learned positions (arXiv 1910.13461).

mBART, Marian and M2M100 differ in where the norms are and what positions are; they are emitted here, too.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from cutwork.architectures.architecture import HEAD, Architecture
from cutwork.architectures.config import MAX_WIDTH, activation, flag, integer
from cutwork.architectures.lengths import absolute
from cutwork.errors import CutworkError
from cutwork.plan.builder import Buffer, Derived, Plan

_EPS = 1e-5
_SHARED = "model.shared"
_LARGEST_TABLE = 1 << 28  # numbers


@dataclass(frozen=True)
class Style:
    """What tells the relatives apart.

    norms_first: before attention and MLP, with one more behind the last block; else behind each. embedding_norm:
    behind the embedding. table: the positions' vectors float32 [positions, width], of models that compute them; else
    they are learned, and the first `skipped` rows of the stored ones are no positions. logits_bias: whether logits have
    one.
    """

    norms_first: bool = False
    embedding_norm: bool = True
    table: np.ndarray | None = None
    skipped: int = 2
    logits_bias: bool = True


@dataclass(frozen=True)
class _Stack:
    """One of the two stacks, as the config describes it."""

    name: str
    layers: int
    heads: int
    mlp: int


def emit_encoder(p: Plan, config: Mapping[str, Any], style: Style | None = None) -> None:
    """The encoder; it ends with the keys and values of every decoder layer's cross attention."""
    style, stack, decoder = style or Style(), _stack(config, "encoder"), _stack(config, "decoder")
    x = _embed(p, config, stack, style)
    act = _activation(config)
    for i in range(stack.layers):
        layer = f"model.encoder.layers.{i}"
        x = _self_attention(p, x, layer, stack, style, cache=None)
        x = _feed_forward(p, x, layer, stack.mlp, act, style)
    if style.norms_first:
        x = p.layer_norm(x, "model.encoder.layer_norm", _EPS)
    for i in range(decoder.layers):
        attention = f"model.decoder.layers.{i}.encoder_attn"
        k, v = p.linears(x, {f"{attention}.{n}_proj": x.width for n in "kv"}, bias=True)
        p.kv_append(k, v, cache=i, heads=decoder.heads)


def emit(p: Plan, config: Mapping[str, Any], style: Style | None = None) -> None:
    """The decoder."""
    style, stack = style or Style(), _stack(config, "decoder")
    x = _embed(p, config, stack, style)
    act = _activation(config)
    for i in range(stack.layers):
        layer = f"model.decoder.layers.{i}"
        x = _self_attention(p, x, layer, stack, style, cache=i)
        h = x if not style.norms_first else p.layer_norm(x, f"{layer}.encoder_attn_layer_norm", _EPS)
        q = p.linear(h, f"{layer}.encoder_attn.q_proj", x.width, bias=True)
        a = p.cross_attention(q, cache=i, heads=stack.heads)
        x = p.linear(a, f"{layer}.encoder_attn.out_proj", x.width, bias=True, residual=x)
        if not style.norms_first:
            x = p.layer_norm(x, f"{layer}.encoder_attn_layer_norm", _EPS)
        x = _feed_forward(p, x, layer, stack.mlp, act, style)
    last = p.gather_rows(x)
    if style.norms_first:
        last = p.layer_norm(last, "model.decoder.layer_norm", _EPS)
    vocabulary = _vocabulary(config)
    bias = Derived("final_logits_bias", (1, vocabulary), lambda stored: stored.reshape(-1))
    p.logits(last, _SHARED, vocabulary, bias=bias if style.logits_bias else False)


def _embed(p: Plan, config: Mapping[str, Any], stack: _Stack, style: Style) -> Buffer:
    width = integer(config, "d_model", maximum=MAX_WIDTH)
    positions = integer(config, "max_position_embeddings", maximum=1 << 20, default=1024)
    x = p.embed(_SHARED, _vocabulary(config), width, math.sqrt(width) if flag(config, "scale_embedding") else 1.0)
    name = f"model.{stack.name}.embed_positions"
    if style.table is None:
        x = p.add_positions(x, name, positions + style.skipped, first=style.skipped)
    else:
        x = p.add_positions(x, name, positions, table=style.table)
    return p.layer_norm(x, f"model.{stack.name}.layernorm_embedding", _EPS) if style.embedding_norm else x


def _self_attention(p: Plan, x: Buffer, layer: str, stack: _Stack, style: Style, cache: int | None) -> Buffer:
    """x plus attention among the tokens: all of them, or in a decoder those before, by a cache."""
    norm = f"{layer}.self_attn_layer_norm"
    h = p.layer_norm(x, norm, _EPS) if style.norms_first else x
    q, k, v = p.linears(h, {f"{layer}.self_attn.{n}_proj": x.width for n in "qkv"}, bias=True)
    if cache is None:
        a = p.self_attention(q, k, v, heads=stack.heads)
    else:
        a = p.attention(q, k, v, cache=cache, heads=stack.heads, kv_heads=stack.heads)
    x = p.linear(a, f"{layer}.self_attn.out_proj", x.width, bias=True, residual=x)
    return x if style.norms_first else p.layer_norm(x, norm, _EPS)


def _feed_forward(p: Plan, x: Buffer, layer: str, mlp: int, act: str, style: Style) -> Buffer:
    norm = f"{layer}.final_layer_norm"
    h = p.layer_norm(x, norm, _EPS) if style.norms_first else x
    h = p.linear(h, f"{layer}.fc1", mlp, bias=True, activation=act)
    x = p.linear(h, f"{layer}.fc2", x.width, bias=True, residual=x)
    return x if style.norms_first else p.layer_norm(x, norm, _EPS)


def computed_positions(config: Mapping[str, Any], width: int, skipped: int = 0) -> int:
    """How many positions a table holds that is computed, apart from those skipped. Raises CutworkError if it would be
    larger than any model's: nothing but the config says so."""
    positions = integer(config, "max_position_embeddings", maximum=1 << 16, default=1024)
    if (positions + skipped) * width > _LARGEST_TABLE:
        raise CutworkError(f"config.json: {positions} positions of d_model {width} are more than this engine computes")
    return positions


def _stack(config: Mapping[str, Any], name: str) -> _Stack:
    heads = integer(config, f"{name}_attention_heads", maximum=4096)
    if integer(config, "d_model", maximum=MAX_WIDTH) % heads:
        raise CutworkError(
            f"config.json: d_model {config['d_model']} is not a multiple of {name}_attention_heads {heads}"
        )
    layers, mlp = (
        integer(config, f"{name}_layers", maximum=1024),
        integer(config, f"{name}_ffn_dim", maximum=MAX_WIDTH),
    )
    return _Stack(name, layers, heads, mlp)


def _vocabulary(config: Mapping[str, Any]) -> int:
    if not flag(config, "tie_word_embeddings", True):
        raise CutworkError("config.json: stacks with embeddings of their own (tie_word_embeddings) are not supported")
    return integer(config, "vocab_size", maximum=1 << 24)


def _activation(config: Mapping[str, Any]) -> str:
    return activation({"hidden_act": config.get("activation_function", "gelu")})


POSITIONS = absolute("max_position_embeddings")
_COPIES = ("model.decoder.embed_tokens.weight", "model.encoder.embed_tokens.weight")  # of the shared embedding
# Copies, also of computed positions, and what checkpoints of the first conversions carry.
UNREAD = (HEAD, *_COPIES, "model.*.version", "classification_head.*")
ARCHITECTURE = Architecture(
    "bart",
    models="BART, DistilBART and others that summarise",
    source="arXiv 1910.13461",
    decoder=emit,
    encoder=emit_encoder,
    kind="translation",
    context=POSITIONS,
    inputs=POSITIONS,
    embedding="model.shared.weight",
    copies=_COPIES,
    unread=UNREAD,
)
