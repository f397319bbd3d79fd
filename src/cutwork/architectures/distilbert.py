"""DistilBERT: BERT with half of the layers, without types of tokens, by names of its own (arXiv 1910.01108)."""

from collections.abc import Mapping
from typing import Any

from cutwork.architectures import bert
from cutwork.architectures.architecture import Architecture
from cutwork.architectures.config import MAX_WIDTH, activation, integer
from cutwork.errors import CutworkError
from cutwork.plan.builder import Plan

_EPS = 1e-12


def emit(p: Plan, config: Mapping[str, Any]) -> None:
    """The forward pass."""
    width, mlp = integer(config, "dim", maximum=MAX_WIDTH), integer(config, "hidden_dim", maximum=MAX_WIDTH)
    heads = integer(config, "n_heads", maximum=4096)
    if width % heads:
        raise CutworkError(f"config.json: dim {width} is not a multiple of n_heads {heads}")
    act = activation({"hidden_act": config.get("activation", "gelu")})
    positions = integer(config, "max_position_embeddings", maximum=1 << 24, default=512, minimum=2)

    x = p.embed("embeddings.word_embeddings", integer(config, "vocab_size", maximum=1 << 24), width)
    x = p.add_positions(x, "embeddings.position_embeddings", positions)
    x = p.layer_norm(x, "embeddings.LayerNorm", _EPS)
    for i in range(integer(config, "n_layers", maximum=1024)):
        layer = f"transformer.layer.{i}"
        q, k, v = p.linears(x, {f"{layer}.attention.{n}_lin": width for n in "qkv"}, bias=True)
        a = p.self_attention(q, k, v, heads=heads)
        x = p.linear(a, f"{layer}.attention.out_lin", width, bias=True, residual=x)
        x = p.layer_norm(x, f"{layer}.sa_layer_norm", _EPS)
        h = p.linear(x, f"{layer}.ffn.lin1", mlp, bias=True, activation=act)
        x = p.linear(h, f"{layer}.ffn.lin2", width, bias=True, residual=x)
        x = p.layer_norm(x, f"{layer}.output_layer_norm", _EPS)
    p.output(p.gather_rows(x))


ARCHITECTURE = Architecture(
    "distilbert",
    models="DistilBERT, its classifiers (SST-2 and others), msmarco-distilbert",
    source="arXiv 1910.01108",
    encoder=emit,
    kind="embedding",
    embedding="embeddings.word_embeddings.weight",
    renames=(("distilbert.", ""),),
    unread=(*bert.UNREAD, "pre_classifier.*", "vocab_*"),
)
