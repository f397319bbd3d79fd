"""One short file per model family, named after its `model_type`, that emits the plan of a forward pass."""

from collections.abc import Callable, Mapping
from typing import Any

from cutwork.engine.architectures import llama, mistral, qwen2
from cutwork.engine.plan import Plan
from cutwork.engine.verify import verify
from cutwork.errors import CutworkError

# model_type → the function that reads its config. All of them are variants of one decoder so far.
ARCHITECTURES: dict[str, Callable[[Mapping[str, Any]], llama.LlamaConfig]] = {
    "llama": llama.parse,
    "mistral": mistral.parse,
    "qwen2": qwen2.parse,
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
    llama.emit(plan, ARCHITECTURES[kind](config))
    verify(plan)
    return plan
