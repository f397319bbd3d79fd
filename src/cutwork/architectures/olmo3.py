"""OLMo 3: OLMo 2 in which three layers of four see a window, the others turn by a scaled RoPE (arXiv 2512.13961)."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from cutwork.architectures import olmo2
from cutwork.architectures.architecture import Architecture
from cutwork.architectures.config import integer
from cutwork.architectures.llama import UNREAD
from cutwork.architectures.rope import layer_kinds, rope_of_kind
from cutwork.plan.builder import Plan

_THETA = 5e5


def emit(p: Plan, config: Mapping[str, Any]) -> None:
    """The forward pass."""
    kinds = layer_kinds(config, every=4)
    window = integer(config, "sliding_window", maximum=1 << 24, default=4096)
    windows = tuple(window if kind == "sliding_attention" else None for kind in kinds)
    c = olmo2.parse({**config, "rope_parameters": None, "rope_scaling": None}, windows)
    # Also a `rope_theta` of older configs is of both kinds, as in transformers 4: 5 gives it to the layers that see
    # everything alone, by a slip, which changes no published model.
    base = {"rope_theta": _THETA, **config}
    ropes = {
        kind: replace(rope_of_kind(base, kind, base["rope_theta"], c.head_dim), name=f"rope.{kind}")
        for kind in dict.fromkeys(kinds)
    }
    olmo2.emit_layers(p, c, [ropes[kind] for kind in kinds])


ARCHITECTURE = Architecture("olmo3", models="OLMo 3", source="arXiv 2512.13961", decoder=emit, unread=UNREAD)
