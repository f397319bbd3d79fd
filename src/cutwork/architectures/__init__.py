"""One short file per model family, named after its `model_type`, that emits the plan of a forward pass."""

from collections.abc import Callable, Mapping
from typing import Any

from cutwork.architectures import gemma3, gpt2, gpt_neox, llama, mistral, mpt, qwen2, qwen3, t5, whisper
from cutwork.errors import CutworkError
from cutwork.plan.builder import Plan
from cutwork.plan.verify import verify


def _relative(parse: Callable[[Mapping[str, Any]], llama.LlamaConfig]) -> Callable[[Plan, Mapping[str, Any]], None]:
    """A model that differs from Llama only in what its config says."""
    return lambda plan, config: llama.emit(plan, parse(config))


# model_type → the function that emits its forward pass.
ARCHITECTURES: dict[str, Callable[[Plan, Mapping[str, Any]], None]] = {
    "gemma3_text": gemma3.emit,
    "gpt2": gpt2.emit,
    "gpt_neox": gpt_neox.emit,
    "llama": _relative(llama.parse),
    "mistral": _relative(mistral.parse),
    "mpt": mpt.emit,
    "qwen2": _relative(qwen2.parse),
    "qwen3": _relative(qwen3.parse),
    "t5": t5.emit,
    "whisper": whisper.emit,
}
# Those of them that decode what an encoder has read → the function that emits the encoder.
ENCODERS: dict[str, Callable[[Plan, Mapping[str, Any]], None]] = {
    "t5": t5.emit_encoder,
    "whisper": whisper.emit_encoder,
}


def build_plan(config: Mapping[str, Any]) -> Plan:
    """The verified plan of a model, from its Hugging Face config.

    Raises CutworkError for an unknown `model_type` or a config that does not describe a model this engine runs.
    """
    kind = str(config.get("model_type"))
    if kind not in ARCHITECTURES:
        raise CutworkError(
            f"this engine does not know the architecture {kind!r}; it runs {', '.join(sorted(ARCHITECTURES))}"
        )
    plan = Plan()
    ARCHITECTURES[kind](plan, config)
    verify(plan)
    return plan


def build_encoder_plan(config: Mapping[str, Any]) -> Plan | None:
    """The verified plan of a model's encoder, whose cache is what its decoder attends to; None if it has none."""
    emit = ENCODERS.get(str(config.get("model_type")))
    if emit is None:
        return None
    plan = Plan()
    emit(plan, config)
    verify(plan)
    return plan
