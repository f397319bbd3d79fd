"""Gemma 2: norms around every part, every other layer sees a window, capped scores and logits (arXiv 2408.00118)."""

from collections.abc import Mapping
from typing import Any

from cutwork.architectures.architecture import Architecture
from cutwork.architectures.config import flag
from cutwork.architectures.gemma import emit_decoder, parse
from cutwork.architectures.llama import BARE, UNREAD
from cutwork.architectures.rope import layer_kinds, parse_rope
from cutwork.errors import CutworkError
from cutwork.plan.builder import Plan

CAPS = {"attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0}  # where a config names none


def emit(p: Plan, config: Mapping[str, Any]) -> None:
    """The forward pass."""
    if flag(config, "use_bidirectional_attention"):
        raise CutworkError("config.json: use_bidirectional_attention is not supported for Gemma 2")
    kinds = layer_kinds(config, every=2)
    stack = parse(p, {**CAPS, **config}, kinds)
    emit_decoder(stack, [parse_rope(config, stack.c.head_dim)] * len(kinds), head_norms=False)


ARCHITECTURE = Architecture(
    "gemma2",
    models="Gemma 2 2B, 9B and 27B",
    source="arXiv 2408.00118",
    decoder=emit,
    renames=BARE,
    unread=UNREAD,
)
