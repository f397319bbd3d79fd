"""Inverse frequencies of rotary position embeddings, from a Hugging Face config."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from cutwork.architectures.config import flag, integer, number
from cutwork.errors import CutworkError
from cutwork.plan.builder import Rope

_KINDS = ("sliding_attention", "full_attention")


def parse_rope(config: Mapping[str, Any], head_dim: int, *, partial: bool = False) -> Rope:
    """RoPE of a config, whichever generation wrote it (`rope_parameters`, or `rope_theta` with `rope_scaling`).

    Types: default; linear (positions divided by a factor); llama3 (Llama 3.1); yarn (arXiv 2309.00071). partial:
    whether the family heeds `partial_rotary_factor`. Raises CutworkError for other types, as what they do depends on
    the length of the sequence, and for a factor where transformers has no meaning for it.
    """
    settings = {"rope_theta": config.get("rope_theta")}
    for key in ("rope_scaling", "rope_parameters"):
        given = config.get(key) or {}
        if not isinstance(given, dict):
            raise CutworkError(f"config.json: {key} must be an object, not {config[key]!r}")
        if "type" in given:
            given = {"rope_type": given["type"], **given}
        if key == "rope_parameters" and given and not _agree(settings, given):
            raise CutworkError(
                "config.json: rope_scaling and rope_parameters disagree; write what is meant into rope_parameters alone"
            )
        settings |= given
    if config.get("original_max_position_embeddings"):
        settings["original_max_position_embeddings"] = config["original_max_position_embeddings"]
    kind = settings.get("rope_type") or "default"
    part = number(settings, "partial_rotary_factor", number(config, "partial_rotary_factor", 1.0))
    if not partial:
        if kind != "default" and int(head_dim * part) != head_dim:
            raise CutworkError(
                f"config.json: a {config.get('model_type')} turns whole heads; remove partial_rotary_factor"
            )
        part = 1.0
    rotary_dim = int(head_dim * part)  # dimensions that are rotated; the others are left as they are
    if not 2 <= rotary_dim <= head_dim or rotary_dim % 2:
        raise CutworkError(f"config.json: partial_rotary_factor {part:g} rotates {rotary_dim} of {head_dim} dimensions")
    base = number(settings, "rope_theta", 10000.0, minimum=2.0)
    inv_freq = 1.0 / base ** (np.arange(0, rotary_dim, 2, dtype=np.float64) / rotary_dim)
    scaling = 1.0
    if kind == "linear":
        inv_freq = inv_freq / number(settings, "factor", minimum=1e-6)
    elif kind == "llama3":
        inv_freq = _llama3(inv_freq, settings, _original_context(settings, config))
    elif kind == "yarn":
        inv_freq, scaling = _yarn(inv_freq, base, settings, config)
    elif kind != "default":
        raise CutworkError(
            f"this engine does not support RoPE of type {kind!r}; it runs default, linear, llama3 and yarn"
        )
    return Rope(inv_freq.astype(np.float32), scaling)


def _agree(scaling: Mapping[str, Any], parameters: Mapping[str, Any]) -> bool:
    """Whether an older config's scaling says nothing else than newer parameters beside it, whatever the base."""
    return all(parameters.get(key) == value for key, value in scaling.items() if key not in ("rope_theta", "type"))


def layer_kinds(config: Mapping[str, Any], *, every: int, first: bool = False) -> list[str]:
    """What each layer attends to; configs without `layer_types` have one that sees everything in `every` layers, the
    first or the last of them."""
    layers = integer(config, "num_hidden_layers", maximum=1024)
    kinds = config.get("layer_types")
    if kinds is None:
        return [_KINDS[(i if first else i + 1) % every == 0] for i in range(layers)]
    if not isinstance(kinds, list) or len(kinds) != layers or not set(kinds) <= set(_KINDS):
        raise CutworkError("config.json: layer_types must name full_attention or sliding_attention for every layer")
    return kinds


def rope_of_kind(
    config: Mapping[str, Any], kind: str, sliding_theta: object, head_dim: int, *, both_scaled: bool = False
) -> Rope:
    """RoPE of one kind of layers; older configs scale only that of layers that see everything, unless both are."""
    scaling = config.get("rope_scaling") if both_scaled or kind == "full_attention" else None
    given = config.get("rope_parameters") or {}
    if isinstance(given, dict) and isinstance(given.get(kind), dict):
        return parse_rope({**config, "rope_parameters": given[kind], "rope_scaling": scaling}, head_dim)
    if isinstance(scaling, dict) and "rope_type" not in scaling:
        raise CutworkError("config.json: rope_scaling needs a rope_type; by another name transformers ignores it here")
    theta = {"rope_theta": sliding_theta} if kind == "sliding_attention" else {}
    return parse_rope({**config, **theta, "rope_parameters": None, "rope_scaling": scaling}, head_dim)


def _llama3(inv_freq: np.ndarray, settings: Mapping[str, Any], context: int) -> np.ndarray:
    """Long waves are stretched by `factor`, short ones kept, those between blended."""
    factor = number(settings, "factor", minimum=1e-6)
    low, high = number(settings, "low_freq_factor"), number(settings, "high_freq_factor")
    if high <= low:
        raise CutworkError("config.json: high_freq_factor must exceed low_freq_factor")
    turns = context * inv_freq / (2 * math.pi)  # rotations over the original context
    keep = np.clip((turns - low) / (high - low), 0.0, 1.0)
    return inv_freq * (keep + (1.0 - keep) / factor)


def _yarn(
    inv_freq: np.ndarray, base: float, settings: Mapping[str, Any], config: Mapping[str, Any]
) -> tuple[np.ndarray, float]:
    context = _original_context(settings, config)
    longest = integer(config, "max_position_embeddings", maximum=1 << 24, default=context)
    factor = number(settings, "factor", longest / context, minimum=1e-6)
    fast, slow = number(settings, "beta_fast", 32.0), number(settings, "beta_slow", 1.0)
    half = len(inv_freq)

    def dimension(turns: float) -> float:
        """The pair of dimensions that turns so many times over the original context."""
        return half * math.log(context / (turns * 2 * math.pi)) / math.log(base)

    low, high = dimension(fast or 32.0), dimension(slow or 1.0)
    if flag(settings, "truncate", True):
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, 2 * half - 1)
    ramp = np.clip((np.arange(half) - low) / ((high - low) or 0.001), 0.0, 1.0)
    return inv_freq * (1.0 - ramp + ramp / factor), _attention_factor(factor, settings)


def _attention_factor(factor: float, settings: Mapping[str, Any]) -> float:
    if settings.get("attention_factor") is not None:
        return number(settings, "attention_factor")

    def mscale(weight: float) -> float:
        return 0.1 * weight * math.log(factor) + 1.0 if factor > 1 else 1.0

    if settings.get("mscale") and settings.get("mscale_all_dim"):
        return mscale(number(settings, "mscale")) / mscale(number(settings, "mscale_all_dim"))
    return mscale(1.0)


def _original_context(settings: Mapping[str, Any], config: Mapping[str, Any]) -> int:
    default = integer(config, "max_position_embeddings", maximum=1 << 24, default=2048)
    return integer(settings, "original_max_position_embeddings", maximum=1 << 24, default=default)
