"""Ministral: Mistral whose layers see everything or a window (Mistral AI 2024)."""

from dataclasses import replace

from cutwork.architectures import mistral

ARCHITECTURE = replace(
    mistral.ARCHITECTURE,
    model_type="ministral",
    models="Ministral 8B",
    source="Mistral AI 2024",
)
