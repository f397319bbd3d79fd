"""M2M100 and NLLB: BART with norms before attention and MLP, and computed positions (arXiv 2010.11125)."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from cutwork.architectures import bart
from cutwork.architectures.config import MAX_WIDTH, integer
from cutwork.architectures.roberta import first_position, padding
from cutwork.errors import CutworkError
from cutwork.plan.builder import Plan

_DEFAULTS = {"scale_embedding": True, "activation_function": "relu"}  # unlike BART's


def emit_encoder(p: Plan, config: Mapping[str, Any]) -> None:
    """The encoder."""
    bart.emit_encoder(p, {**_DEFAULTS, **config}, _style(config))


def emit(p: Plan, config: Mapping[str, Any]) -> None:
    """The decoder."""
    bart.emit(p, {**_DEFAULTS, **config}, _style(config))


def _style(config: Mapping[str, Any]) -> bart.Style:
    width = integer(config, "d_model", maximum=MAX_WIDTH)
    if width % 2 or width < 4:
        raise CutworkError(f"config.json: d_model must be even and at least 4, not {width}")
    first = first_position(config)
    positions = bart.computed_positions(config, width, skipped=first)
    return bart.Style(
        norms_first=True, embedding_norm=False, table=waves(positions + first, width)[first:], logits_bias=False
    )


def waves(positions: int, width: int) -> np.ndarray:
    """Sines, then cosines, of each position at width / 2 wavelengths from 2π to 20000π: float32 [positions, width]."""
    half = width // 2
    frequencies = np.exp(np.arange(half, dtype=np.float32) * -np.float32(np.log(10000) / (half - 1)))
    angles = np.arange(positions, dtype=np.float32)[:, None] * frequencies
    return np.concatenate([np.sin(angles), np.cos(angles)], 1)


ARCHITECTURE = replace(
    bart.ARCHITECTURE,
    model_type="m2m_100",
    models="M2M100, NLLB-200",
    source="arXiv 2010.11125",
    decoder=emit,
    encoder=emit_encoder,
    padding=padding,
    unread=(*bart.UNREAD, "model.*.embed_positions.weights"),
)
