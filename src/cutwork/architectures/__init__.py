"""One short file per model family: how it computes (the plan of its forward pass), and what is peculiar about it.

A file with an `ARCHITECTURE` is a family; nothing else has to be told of it.
"""

from collections.abc import Mapping
from importlib import import_module
from pkgutil import iter_modules
from typing import Any

from cutwork.architectures.architecture import Architecture, Emit, Kind
from cutwork.errors import CutworkError
from cutwork.plan.builder import Plan
from cutwork.plan.verify import verify

_modules = (import_module(f"{__name__}.{module.name}") for module in iter_modules(__path__))
_families: list[Architecture] = [module.ARCHITECTURE for module in _modules if hasattr(module, "ARCHITECTURE")]
ARCHITECTURES = {family.model_type: family for family in _families}


def architecture_of(config: Mapping[str, Any]) -> Architecture:
    """The family of a Hugging Face config. Raises CutworkError for a `model_type` that this engine does not run."""
    family = find(config)
    if family is None:
        known = ", ".join(sorted(ARCHITECTURES))
        raise CutworkError(
            f"this engine does not know the architecture {str(config.get('model_type'))!r}; it runs {known}"
        )
    return family


def find(config: Mapping[str, Any]) -> Architecture | None:
    """The same, None for a `model_type` that this engine does not run."""
    return ARCHITECTURES.get(str(config.get("model_type")))


def kind_of(config: Mapping[str, Any]) -> Kind:
    """What a model does, also one that this engine does not run, which can be trained all the same."""
    family = find(config)
    if family is not None:
        return family.kind
    if not config.get("is_encoder_decoder"):
        return "text"
    return "speech" if "num_mel_bins" in config else "translation"


def build_plan(config: Mapping[str, Any]) -> Plan:
    """The verified plan of a model, from its Hugging Face config.

    Raises CutworkError for an unknown `model_type` or a config that does not describe a model this engine runs.
    """
    return _build(architecture_of(config).decoder, config)


def build_encoder_plan(config: Mapping[str, Any]) -> Plan | None:
    """The verified plan of a model's encoder, whose cache is what its decoder attends to; None if it has none."""
    emit = architecture_of(config).encoder
    return _build(emit, config) if emit else None


def _build(emit: Emit, config: Mapping[str, Any]) -> Plan:
    plan = Plan()
    emit(plan, config)
    verify(plan)
    return plan
