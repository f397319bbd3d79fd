"""One short file per model family: how it computes (the plan of its forward pass), and what is peculiar about it.

A file with an `ARCHITECTURE` is a family; nothing else has to be told of it.
"""

from collections.abc import Mapping
from importlib import import_module
from pkgutil import iter_modules
from typing import Any

from cutwork.architectures.architecture import Architecture, Classified, Emit, Kind
from cutwork.architectures.wrappers import check_wrapper
from cutwork.errors import CutworkError
from cutwork.plan.builder import Plan
from cutwork.plan.ops import Linear
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
    if classifies(config) or config.get("use_bidirectional_attention") is True:
        return "embedding"
    family = find(config)
    if family is not None:
        return family.kind
    if not config.get("is_encoder_decoder"):
        return "text"
    return "speech" if "num_mel_bins" in config else "translation"


def classifies(config: Mapping[str, Any]) -> Classified | None:
    """What a model of this configuration gives classes of, by the class of transformers' that it was saved from."""
    names = config.get("architectures")
    name = names[0] if isinstance(names, list) and names and isinstance(names[0], str) else ""
    if name.endswith("ForSequenceClassification"):
        return "text"
    return "token" if name.endswith("ForTokenClassification") else None


def build_plan(config: Mapping[str, Any]) -> Plan:
    """The verified plan of what makes a model's result: its decoder, or its encoder if that is all there is.

    Raises CutworkError for an unknown `model_type` or a config that does not describe a model this engine runs.
    """
    architecture = architecture_of(config)
    check_wrapper(config)
    emit = architecture.decoder or architecture.encoder
    assert emit
    if architecture.decoder and config.get("is_causal") is False:
        raise CutworkError("config.json: a decoder that sees what comes later (is_causal: false) is not supported")
    return _build(emit, config)


def build_encoder_plan(config: Mapping[str, Any]) -> Plan | None:
    """The verified plan of an encoder whose cache is what the model's decoder attends to; None if it has none."""
    architecture = architecture_of(config)
    return _build(architecture.encoder, config) if architecture.encoder and architecture.decoder else None


def check_runnable(config: Mapping[str, Any]) -> None:
    """Raise CutworkError for what this engine does not run, which can be told before a model is made."""
    build_plan(config)
    build_encoder_plan(config)


def build_embedding_plan(config: Mapping[str, Any], *, scored: bool = False) -> Plan:
    """The verified plan up to the last hidden states, which are its result. Raises as `build_plan` does.

    scored: by rows of the output head, so that logits come out; then whatever factor these have stays.
    """
    headless = {} if scored else dict(architecture_of(config).headless)
    plan = build_plan({**config, **headless}).without_head()
    verify(plan)
    return plan


def linears(config: Mapping[str, Any]) -> set[str]:
    """What plans call the stored matrices that a model's tokens are multiplied by; raises as `build_plan` does."""
    found: set[str] = set()
    for plan in filter(None, (build_plan(config), build_encoder_plan(config))):
        names = list(plan.weights)
        multiplied = {names[weight] for op in plan.ops if isinstance(op, Linear) for weight in op.weights}
        found |= multiplied - plan.constants.keys() - plan.derived.keys()
    return found


def _build(emit: Emit, config: Mapping[str, Any]) -> Plan:
    plan = Plan()
    emit(plan, config)
    verify(plan)
    return plan
