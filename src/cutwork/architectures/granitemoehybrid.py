"""Granite 4, dense: Granite 3 with gate and up in one matrix, with or without positions (IBM 2025)."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from cutwork.architectures.architecture import Architecture
from cutwork.architectures.config import MAX_WIDTH, flag, integer
from cutwork.architectures.granite import HEADLESS, with_factors
from cutwork.architectures.llama import UNREAD, LlamaConfig, decoder, like_llama
from cutwork.architectures.phi3 import split
from cutwork.errors import CutworkError
from cutwork.plan.builder import Buffer, Plan


def parse(config: Mapping[str, Any]) -> LlamaConfig:
    """The config of a `granitemoehybrid` model without experts, all of whose layers attend."""
    layers = integer(config, "num_hidden_layers", maximum=1024)
    kinds = config.get("layer_types") or config.get("layers_block_type")
    if not isinstance(kinds, list) or len(kinds) != layers or not set(kinds) <= {"attention", "full_attention"}:
        raise CutworkError(
            "this engine runs Granite 4 where all layers attend, as in granite-4.0-micro, 1b and 350m; the models "
            "with -h- in their name have layers with a recurrent state"
        )
    if integer(config, "num_local_experts", maximum=1 << 16, minimum=0, default=8):
        raise CutworkError("this engine runs Granite 4 without experts, as granite-4.0-micro, 1b and 350m")
    width = integer(config, "shared_intermediate_size", maximum=MAX_WIDTH, default=1024)
    bias = flag(config, "attention_bias")
    c = decoder({**config, "intermediate_size": width}, qkv_bias=bias, output_bias=bias)
    turns = config.get("position_embedding_type") == "rope"
    c = with_factors(replace(c, rotary=(turns,) * layers), config)
    # Null is 1/√head_dim in transformers, what is missing 1.
    return replace(c, attention_scale=None) if config.get("attention_multiplier", 1.0) is None else c


def _mlp(p: Plan, h: Buffer, layer: str, c: LlamaConfig, x: Buffer) -> Buffer:
    h = p.linear(h, f"{layer}.shared_mlp.input_linear", 2 * c.intermediate_size)
    gate, up = split(p, h, c.intermediate_size, c.intermediate_size)
    return p.linear(p.glu(gate, up, c.hidden_act), f"{layer}.shared_mlp.output_linear", c.hidden_size, residual=x)


ARCHITECTURE = Architecture(
    "granitemoehybrid",
    models="Granite 4.0 micro, 1B and 350M, dense",
    source="IBM 2025",
    decoder=like_llama(parse, _mlp),
    unread=UNREAD,
    headless=HEADLESS,
)
