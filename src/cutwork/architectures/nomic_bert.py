"""NomicBERT: BERT with rotary positions, a gated MLP and no biases in its linears (arXiv 2402.01613).

Its configs, and its tensors, are as transformers calls them or as Nomic's own code did (`n_embd`, `Wqkv`); transformers
writes its own configs beside Nomic's tensors.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from cutwork.architectures.architecture import Architecture
from cutwork.architectures.bert import UNREAD, check_encoder
from cutwork.architectures.config import MAX_WIDTH, activation, flag, integer, number
from cutwork.architectures.lengths import Lengths, absolute
from cutwork.architectures.phi3 import split
from cutwork.architectures.rope import parse_rope
from cutwork.errors import CutworkError
from cutwork.plan.builder import Buffer, Plan

_OWN = {  # keys of Nomic's own configs → transformers'
    "n_embd": "hidden_size",
    "n_inner": "intermediate_size",
    "n_layer": "num_hidden_layers",
    "n_head": "num_attention_heads",
    "n_positions": "max_position_embeddings",
    "layer_norm_epsilon": "layer_norm_eps",
    "rotary_emb_base": "rope_theta",
}
# What Nomic's own code could do besides, and no published model does.
_ONLY = {
    "prenorm": False,
    "parallel_block": False,
    "qkv_proj_bias": False,
    "mlp_fc1_bias": False,
    "mlp_fc2_bias": False,
    "rotary_emb_fraction": 1.0,
    "rotary_emb_interleaved": False,
    "rotary_scaling_factor": None,
    "use_rms_norm": False,
    "causal": False,
}
_OWN_TENSORS = "nomic_tensors"  # noted in configs: whether tensors have the names of Nomic's code


def emit(p: Plan, config: Mapping[str, Any]) -> None:
    """The forward pass."""
    own = flag(config, _OWN_TENSORS, "n_embd" in config)
    config = _as_transformers(config)
    width = integer(config, "hidden_size", maximum=MAX_WIDTH // 3)
    mlp = integer(config, "intermediate_size", maximum=MAX_WIDTH)
    heads = check_encoder(config)
    head_dim = integer(config, "head_dim", maximum=1024, default=width // heads)
    if head_dim * heads != width or head_dim % 2:
        raise CutworkError(f"config.json: {heads} heads of {head_dim} are not the hidden_size {width}, or not even")
    act, eps, rope = activation(config), number(config, "layer_norm_eps", 1e-12), parse_rope(config, head_dim)
    types = integer(config, "type_vocab_size", maximum=1024, default=2, minimum=0)

    def attend(x: Buffer, layer: str) -> Buffer:
        if own:
            q, k, v = split(p, p.linear(x, f"{layer}.attn.Wqkv", 3 * width), width, width, width)
        else:
            q, k, v = p.linears(x, {f"{layer}.self_attn.{n}_proj": width for n in "qkv"})
        a = p.self_attention(p.rope(q, heads, rope), p.rope(k, heads, rope), v, heads=heads)
        return p.linear(a, f"{layer}.{'attn.out' if own else 'self_attn.o'}_proj", width, residual=x)

    def feed_forward(x: Buffer, layer: str) -> Buffer:
        up, gate, down = ("fc11", "fc12", "fc2") if own else ("up_proj", "gate_proj", "down_proj")
        gated, plain = p.linears(x, {f"{layer}.mlp.{name}": mlp for name in (gate, up)})
        return p.linear(p.glu(gated, plain, act), f"{layer}.mlp.{down}", width, residual=x)

    x = p.embed("embeddings.word_embeddings", integer(config, "vocab_size", maximum=1 << 24), width)
    if types:
        x = p.add_types(x, "embeddings.token_type_embeddings", types)
    x = p.layer_norm(x, "emb_ln" if own else "embeddings.LayerNorm", eps)
    for i in range(integer(config, "num_hidden_layers", maximum=1024)):
        layer = f"encoder.layers.{i}" if own else f"layers.{i}"
        x = p.layer_norm(attend(x, layer), f"{layer}.{'norm1' if own else 'post_attention_layernorm'}", eps)
        x = p.layer_norm(feed_forward(x, layer), f"{layer}.{'norm2' if own else 'post_mlp_layernorm'}", eps)
    p.output(p.gather_rows(x))


def told_by_names(config: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
    """Whose names the tensors have, where they are not those of whose the config is."""
    own = any(".attn.Wqkv.weight" in name for name in names)
    return {} if own == ("n_embd" in config) else {_OWN_TENSORS: own}


def context(config: Mapping[str, Any]) -> Lengths:
    """What the model was made for."""
    return absolute("max_position_embeddings")(_as_transformers(config))


def _as_transformers(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config by transformers' names. Raises CutworkError for what only Nomic's own code can do."""
    if "n_embd" not in config:
        return {"rope_theta": 1000.0, **config}
    for key, value in _ONLY.items():
        if config.get(key, value) != value:
            raise CutworkError(f"config.json: {key} = {config[key]!r} is not supported for NomicBERT")
    if config.get("activation_function") != "swiglu" or not flag(config, "use_flash_attn", True):
        raise CutworkError("config.json: a NomicBERT without swiglu is not supported")
    return {"hidden_act": "silu", **config, **{name: config.get(key) for key, name in _OWN.items()}}


ARCHITECTURE = Architecture(
    "nomic_bert",
    models="Nomic Embed v1 and v1.5",
    source="arXiv 2402.01613",
    encoder=emit,
    kind="embedding",
    context=context,
    told_by_names=told_by_names,
    embedding="embeddings.word_embeddings.weight",
    renames=(("nomic_bert.", ""), ("bert.", "")),
    unread=(*UNREAD, "cls.*", "lm_head.*"),
)
