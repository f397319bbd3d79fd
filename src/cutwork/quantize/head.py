"""The output head in few bits: which module it is, a weight of its own for it, and the inputs that its errors meet.

Its inputs have means and directions that most errors of rounding add up along, so that int4 rounded to the nearest
costs a model more here than in all of its blocks; with their Hessian GPTQ leaves a tenth of it. Positions whose next
token is learned count, as no other's logits are ever read; where answers are short, so that there are few of them, what
all others together say counts as much as one such position for every input.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from cutwork.architectures import kind_of
from cutwork.errors import CutworkError
from cutwork.prune.input_statistics import Hessian, SumOfProducts
from cutwork.torch_models.model_inputs import inputs_of
from cutwork.torch_models.precision import wants_bfloat16


def output_head(model: Any) -> tuple[str, nn.Module]:
    """The module that makes logits and its name; CutworkError for a model whose head must stay what it is."""
    config = model.config.to_dict()
    head = model.get_output_embeddings() if kind_of(config) == "text" and not config.get("is_encoder_decoder") else None
    if head is None:
        raise CutworkError(
            f"head: {type(model).__name__} has none that can be quantised, only models that continue text have; "
            "leave it out"
        )
    return next((name, module) for name, module in model.named_modules() if module is head)


def untie(model: Any) -> None:
    """Give the head a weight of its own, where it is the embedding: rows that are looked up stay as they are."""
    _, head = output_head(model)
    if head.weight is model.get_input_embeddings().weight:
        head.weight = nn.Parameter(head.weight.detach().clone(), requires_grad=False)
    model.config.tie_word_embeddings = False


class _EnoughSeenError(Exception):
    """Raised out of the model's forward pass once the head's inputs are known."""


def head_statistics(model: Any, batches: Sequence[dict[str, Tensor]], damping: float) -> Hessian:
    """The Hessian of the head's inputs, most of all where the next token is learned, of the model as it is by now."""
    _, head = output_head(model)
    inputs, device, columns = inputs_of(model.config), head.weight.device, head.weight.shape[1]
    total = SumOfProducts(columns, device, damping)
    learned = sum(int(inputs.label_rows(batch)[0].sum()) for batch in batches)
    others = sum(int(batch["attention_mask"].sum()) for batch in batches) - learned
    weight = min(1.0, columns / max(others, 1))  # of each of the others
    rows, rest = torch.empty(0), torch.empty(0)

    def see(_: nn.Module, given: tuple[Tensor, ...]) -> None:
        with torch.autocast(device.type, enabled=False):
            total.add(given[0][rows].float())
            total.add(given[0][rest].float() * math.sqrt(weight))
        raise _EnoughSeenError

    hook = head.register_forward_pre_hook(see)
    bfloat16 = wants_bfloat16("auto", device)
    try:
        with torch.no_grad():
            for batch in batches:
                here = {key: value.to(device) for key, value in batch.items()}
                rows, _ = inputs.label_rows(here)
                rest = here["attention_mask"].bool() & ~rows
                try:
                    with torch.autocast(device.type, torch.bfloat16, enabled=bfloat16):
                        model(**inputs.keywords(here))
                except _EnoughSeenError:
                    continue
    finally:
        hook.remove()
    return total.mean(round(learned + weight * others))
