"""Ministral 3: Mistral without windows, with a RoPE that was stretched (Mistral AI 2025)."""

from collections.abc import Mapping
from typing import Any

from cutwork.architectures.architecture import Architecture
from cutwork.architectures.config import integer
from cutwork.architectures.lengths import Lengths
from cutwork.architectures.llama import UNREAD, like_llama
from cutwork.architectures.mistral import parse as parse_mistral

_TRAINED = 16384  # tokens, before RoPE was stretched
_YARN = {"rope_type": "yarn", "rope_theta": 1e6, "factor": 16.0, "original_max_position_embeddings": _TRAINED,
         "mscale": 1.0, "mscale_all_dim": 1.0}  # fmt: skip


def _with_defaults(config: Mapping[str, Any]) -> dict[str, Any]:
    rope = {} if config.get("rope_scaling") else {"rope_parameters": _YARN}
    usual = {"sliding_window": None, "rms_norm_eps": 1e-5, "head_dim": 128}
    return {**usual, **rope, **config, "layer_types": None}  # which transformers does not read, unlike Mistral's


def _context(config: Mapping[str, Any]) -> Lengths:
    """As far as it was trained before its RoPE was stretched: from there on queries are scaled by their position."""
    settings = config.get("rope_scaling") or _with_defaults(config)["rope_parameters"]
    longest = integer(config, "max_position_embeddings", maximum=1 << 24, default=262144)
    if not isinstance(settings, dict) or not settings.get("llama_4_scaling_beta", 0.1):
        return Lengths(longest, longest)
    key = "original_max_position_embeddings"
    original = min(longest, integer(settings, key, maximum=1 << 24, default=_TRAINED))
    return Lengths(original, original)


ARCHITECTURE = Architecture(
    "ministral3",
    models="Ministral 3 3B, 8B and 14B, the text part, up to 16k tokens",
    source="Mistral AI 2025",
    decoder=like_llama(lambda config: parse_mistral(_with_defaults(config))),
    context=_context,
    unread=UNREAD,
)
