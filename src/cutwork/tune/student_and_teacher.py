"""The two models of a fine-tuning, in the numbers that it keeps their weights in."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from cutwork.errors import CutworkError
from cutwork.recipe import Losses, TuneSettings, WeightsDType
from cutwork.torch_models.blocks import block_lists
from cutwork.torch_models.load import load_model


def store_as(model: nn.Module, weights: WeightsDType) -> None:
    """Keep the parameters of a model in `weights`; vectors (norms, biases), which are few, in float32 always."""
    for parameter in model.parameters():
        parameter.data = parameter.data.to(getattr(torch, weights) if parameter.ndim > 1 else torch.float32)


def load_student(path: Path, settings: TuneSettings, attention: str, processes: int) -> Any:
    """The model that is trained by so many processes; CutworkError if it cannot be."""
    model = load_model(path, getattr(torch, settings.weights), attention)
    store_as(model, settings.weights)
    # A block left out has no hidden state to compare, and no gradient, for which the other processes would wait.
    if settings.losses.squarehead > 0 or processes > 1:
        never_skip(model)
    return model


def checkpoint_activations(model: Any) -> None:
    """Have the backward pass compute again what is inside a block, instead of keeping it.

    Raises CutworkError for a model that cannot.
    """
    try:
        getattr(model, "activation_checkpointing_enable", model.gradient_checkpointing_enable)()
    except ValueError:
        raise CutworkError(
            f"transformers' {model.config.model_type} cannot compute its blocks again in the backward pass; leave out "
            "gradient_checkpointing (--gradient-checkpointing)"
        ) from None


def check_teacher(losses: Losses, teacher: object | None) -> None:
    """Raise CutworkError for losses that compare with a teacher where there is none."""
    if losses.needs_teacher and teacher is None:
        raise CutworkError("the kl and squarehead losses compare with a teacher; give the dense model as --teacher")


def check_teacher_device(device: str) -> None:
    """Raise CutworkError for a teacher_device that is not here."""
    with _put_on(device):
        torch.zeros(1, device=None if device == "auto" else device)


def load_teacher(
    path: Path, settings: TuneSettings, bfloat16: bool, attention: str, student: Any, device: torch.device
) -> Any:
    """The model that a student learns from, where the settings want it.

    Raises CutworkError if it is not the dense model of that student, or cannot be put there.
    """
    teacher = load_model(path, getattr(torch, teacher_dtype(settings, bfloat16)), attention).requires_grad_(False)
    for key in ("model_type", "hidden_size", "num_hidden_layers", "vocab_size"):
        if getattr(teacher.config, key, None) != getattr(student.config, key, None):
            raise CutworkError(
                f"the teacher {path} has another {key} ({getattr(teacher.config, key, None)}, the student "
                f"{getattr(student.config, key, None)}); the teacher is the dense model the student was pruned from"
            )
    blocks, own = ([len(stack) for stack in block_lists(model).values()] for model in (teacher, student))
    if settings.losses.squarehead > 0 and blocks != own:
        raise CutworkError(
            f"squarehead compares block by block, and the teacher {path} has other stacks of blocks ({blocks}, the "
            f"student {own}); the teacher is the dense model the student was pruned from"
        )
    with _put_on(settings.teacher_device):
        return teacher.to(device if settings.teacher_device == "auto" else settings.teacher_device)


def teacher_dtype(settings: TuneSettings, bfloat16: bool) -> WeightsDType:
    """What the teacher is kept in; `bfloat16`: whether forward passes compute in it."""
    if settings.teacher_dtype != "auto":
        return settings.teacher_dtype
    return "bfloat16" if bfloat16 else "float32"


@contextmanager
def _put_on(device: str) -> Iterator[None]:
    """Inside of this, what a device refuses is one sentence."""
    try:
        yield
    except (RuntimeError, AssertionError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise CutworkError(f"cannot put the teacher on teacher_device '{device}': {reason}") from None


def never_skip(model: nn.Module) -> None:
    """Call every block in every step, and leave none out at random (LayerDrop)."""
    for module in model.modules():
        if hasattr(module, "layerdrop"):
            module.layerdrop = 0.0
