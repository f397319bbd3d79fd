"""Marian, of which OPUS-MT's translators are: BART with computed positions and no norm behind the embedding
(arXiv 1804.00344)."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from cutwork.architectures import bart
from cutwork.architectures.config import MAX_WIDTH, flag, integer
from cutwork.errors import CutworkError
from cutwork.plan.builder import Plan


def emit_encoder(p: Plan, config: Mapping[str, Any]) -> None:
    """The encoder."""
    bart.emit_encoder(p, config, _style(config))


def emit(p: Plan, config: Mapping[str, Any]) -> None:
    """The decoder."""
    bart.emit(p, config, _style(config))


def _style(config: Mapping[str, Any]) -> bart.Style:
    if not flag(config, "share_encoder_decoder_embeddings", True):
        raise CutworkError("config.json: a Marian model with two vocabularies is not supported")
    width = integer(config, "d_model", maximum=MAX_WIDTH)
    if width % 2:
        raise CutworkError(f"config.json: d_model must be even, not {width}")
    return bart.Style(embedding_norm=False, table=waves(bart.computed_positions(config, width), width))


def waves(positions: int, width: int) -> np.ndarray:
    """Sines, then cosines, of each position at width / 2 wavelengths: float32 [positions, width]."""
    angles = np.arange(positions)[:, None] / 10000.0 ** (np.arange(0, width, 2) / width)
    return np.concatenate([np.sin(angles), np.cos(angles)], 1).astype(np.float32)


ARCHITECTURE = replace(
    bart.ARCHITECTURE,
    model_type="marian",
    models="Marian, OPUS-MT's translators",
    source="arXiv 1804.00344",
    decoder=emit,
    encoder=emit_encoder,
    unread=(*bart.UNREAD, "model.*.embed_positions.weight"),
)
