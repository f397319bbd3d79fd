"""mBART and mBART-50: BART with norms before attention and MLP (arXiv 2001.08210)."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from cutwork.architectures import bart
from cutwork.plan.builder import Plan

_STYLE = bart.Style(norms_first=True)


def emit_encoder(p: Plan, config: Mapping[str, Any]) -> None:
    """The encoder."""
    bart.emit_encoder(p, config, _STYLE)


def emit(p: Plan, config: Mapping[str, Any]) -> None:
    """The decoder."""
    bart.emit(p, config, _STYLE)


ARCHITECTURE = replace(
    bart.ARCHITECTURE,
    model_type="mbart",
    models="mBART, mBART-50 and its many-to-many translators",
    source="arXiv 2001.08210",
    decoder=emit,
    encoder=emit_encoder,
)
