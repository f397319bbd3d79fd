"""BERT: an encoder with norms behind attention and MLP, learned positions and types of tokens (arXiv 1810.04805)."""

from collections.abc import Mapping
from typing import Any

from cutwork.architectures.architecture import Architecture
from cutwork.architectures.config import MAX_WIDTH, activation, flag, integer, number
from cutwork.errors import CutworkError
from cutwork.plan.builder import Plan


def emit(p: Plan, config: Mapping[str, Any], first_position: int = 0) -> None:
    """The forward pass; `first_position` is the row of the table of positions that the first token has."""
    width, mlp = (
        integer(config, "hidden_size", maximum=MAX_WIDTH),
        integer(config, "intermediate_size", maximum=MAX_WIDTH),
    )
    heads = check_encoder(config)
    act, eps = activation(config, "gelu"), number(config, "layer_norm_eps", 1e-12)
    positions = integer(config, "max_position_embeddings", maximum=1 << 24, default=512, minimum=first_position + 2)
    types = integer(config, "type_vocab_size", maximum=1024, default=2, minimum=0)

    x = p.embed("embeddings.word_embeddings", integer(config, "vocab_size", maximum=1 << 24), width)
    x = p.add_positions(x, "embeddings.position_embeddings", positions, first=first_position)
    if types:
        x = p.add_types(x, "embeddings.token_type_embeddings", types)
    x = p.layer_norm(x, "embeddings.LayerNorm", eps)
    for i in range(integer(config, "num_hidden_layers", maximum=1024)):
        layer, attention = f"encoder.layer.{i}", f"encoder.layer.{i}.attention"
        q, k, v = p.linears(x, {f"{attention}.self.{n}": width for n in ("query", "key", "value")}, bias=True)
        a = p.self_attention(q, k, v, heads=heads)
        x = p.linear(a, f"{attention}.output.dense", width, bias=True, residual=x)
        x = p.layer_norm(x, f"{attention}.output.LayerNorm", eps)
        h = p.linear(x, f"{layer}.intermediate.dense", mlp, bias=True, activation=act)
        x = p.linear(h, f"{layer}.output.dense", width, bias=True, residual=x)
        x = p.layer_norm(x, f"{layer}.output.LayerNorm", eps)
    p.output(p.gather_rows(x))


def check_encoder(config: Mapping[str, Any]) -> int:
    """The number of heads. Raises CutworkError for a config of what is no plain encoder."""
    width, heads = config["hidden_size"], integer(config, "num_attention_heads", maximum=4096)
    if width % heads:
        raise CutworkError(f"config.json: hidden_size {width} is not a multiple of num_attention_heads {heads}")
    if flag(config, "is_decoder") or flag(config, "add_cross_attention"):
        raise CutworkError(f"config.json: a {config.get('model_type')} as a decoder is not supported")
    if config.get("position_embedding_type", "absolute") != "absolute":
        raise CutworkError(f"config.json: positions of type {config['position_embedding_type']!r} are not supported")
    return heads


UNREAD = ("embeddings.position_ids", "pooler.*", "classifier.*")  # what is beside the blocks: heads
ARCHITECTURE = Architecture(
    "bert",
    models="BERT, MiniLM, E5, GTE v1, BGE v1 and v1.5, ms-marco cross-encoders",
    source="arXiv 1810.04805",
    encoder=emit,
    kind="embedding",
    embedding="embeddings.word_embeddings.weight",
    renames=(("bert.", ""),),
    endings=(("LayerNorm.gamma", "LayerNorm.weight"), ("LayerNorm.beta", "LayerNorm.bias")),  # of its first checkpoints
    unread=(*UNREAD, "cls.*"),
)
