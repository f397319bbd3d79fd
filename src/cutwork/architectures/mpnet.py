"""MPNet: RoBERTa without types of tokens, and with T5's biases of attention by distance (arXiv 2004.09297)."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from cutwork.architectures import bert, roberta
from cutwork.architectures.architecture import Architecture
from cutwork.architectures.config import MAX_WIDTH, activation, integer, number
from cutwork.architectures.lengths import Lengths
from cutwork.architectures.t5 import bucket
from cutwork.plan.builder import Derived, Plan

_PADDING = 1  # whatever the config says
_FARTHEST = 128  # tokens from which on distances share a bucket
_BUCKETS = 32  # that distances fall into, whatever the config says: it only makes the table longer


def emit(p: Plan, config: Mapping[str, Any]) -> None:
    """The forward pass."""
    width, mlp = (
        integer(config, "hidden_size", maximum=MAX_WIDTH),
        integer(config, "intermediate_size", maximum=MAX_WIDTH),
    )
    heads = bert.check_encoder(config)
    act, eps = activation(config, "gelu"), number(config, "layer_norm_eps", 1e-12)
    first = _PADDING + 1
    positions = integer(config, "max_position_embeddings", maximum=1 << 24, default=512, minimum=first + 2)
    rows = integer(config, "relative_attention_num_buckets", maximum=4096, default=_BUCKETS, minimum=_BUCKETS)
    buckets = bucket(np.arange(-_FARTHEST, _FARTHEST + 1), _BUCKETS, _FARTHEST, bidirectional=True)
    bias = Derived(
        "encoder.relative_attention_bias.weight",
        (rows, heads),
        lambda stored: np.ascontiguousarray(stored[buckets].T).reshape(-1),
    )

    x = p.embed("embeddings.word_embeddings", integer(config, "vocab_size", maximum=1 << 24), width)
    x = p.add_positions(x, "embeddings.position_embeddings", positions, first=first)
    x = p.layer_norm(x, "embeddings.LayerNorm", eps)
    for i in range(integer(config, "num_hidden_layers", maximum=1024)):
        layer, attention = f"encoder.layer.{i}", f"encoder.layer.{i}.attention"
        q, k, v = p.linears(x, {f"{attention}.attn.{n}": width for n in "qkv"}, bias=True)
        a = p.self_attention(q, k, v, heads=heads, bias=bias)
        x = p.linear(a, f"{attention}.attn.o", width, bias=True, residual=x)
        x = p.layer_norm(x, f"{attention}.LayerNorm", eps)
        h = p.linear(x, f"{layer}.intermediate.dense", mlp, bias=True, activation=act)
        x = p.linear(h, f"{layer}.output.dense", width, bias=True, residual=x)
        x = p.layer_norm(x, f"{layer}.output.LayerNorm", eps)
    p.output(p.gather_rows(x))


def context(config: Mapping[str, Any]) -> Lengths:
    """The tokens that there are positions for."""
    return roberta.context({**config, "pad_token_id": _PADDING})


ARCHITECTURE = Architecture(
    "mpnet",
    models="MPNet, all-mpnet-base, multi-qa-mpnet",
    source="arXiv 2004.09297",
    encoder=emit,
    kind="embedding",
    context=context,
    padding=lambda _: _PADDING,
    embedding="embeddings.word_embeddings.weight",
    renames=(("mpnet.", ""),),
    unread=(*bert.UNREAD, "lm_head.*"),
)
