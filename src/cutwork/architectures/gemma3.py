"""Gemma 3, text: norms around every part, most layers see a window and turn by another base (arXiv 2503.19786)."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from cutwork.architectures.architecture import Architecture
from cutwork.architectures.config import flag, integer
from cutwork.architectures.gemma import emit_decoder, parse
from cutwork.architectures.lengths import absolute
from cutwork.architectures.llama import BARE, UNREAD
from cutwork.architectures.rope import layer_kinds, rope_of_kind
from cutwork.plan.builder import Plan

# What Google's configs of 4B, 12B and 27B leave to transformers' defaults.
_LONGEST = 131072
_DEFAULTS = {"vocab_size": 262208, "hidden_size": 2304, "intermediate_size": 9216, "num_hidden_layers": 26,
             "num_attention_heads": 8, "num_key_value_heads": 4, "max_position_embeddings": _LONGEST}  # fmt: skip


def emit(p: Plan, config: Mapping[str, Any]) -> None:
    """The forward pass."""
    # transformers keeps the cap on scores of Gemma 2 in the config, but does not apply it.
    config = {**_DEFAULTS, **config, "attn_logit_softcapping": None}
    kinds = layer_kinds(config, every=integer(config, "sliding_window_pattern", maximum=1024, default=6))
    local = config.get("rope_local_base_freq", 10000.0)
    stack = parse(p, config, kinds, longest=ARCHITECTURE.context(config).most)
    ropes = {
        kind: replace(rope_of_kind({"rope_theta": 1e6, **config}, kind, local, stack.c.head_dim), name=f"rope.{kind}")
        for kind in dict.fromkeys(kinds)
    }
    both_ways = flag(config, "use_bidirectional_attention")
    emit_decoder(stack, [ropes[kind] for kind in kinds], head_norms=True, both_ways=both_ways)


ARCHITECTURE = Architecture(
    "gemma3_text",
    models="Gemma 3 270M and 1B, and the text part of 4B, 12B and 27B; EmbeddingGemma",
    source="arXiv 2503.19786",
    decoder=emit,
    context=absolute("max_position_embeddings", _LONGEST),
    renames=BARE,
    unread=UNREAD,
)
