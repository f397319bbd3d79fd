"""What a fine-tuning will take, before its first step: memory by purpose, and time.

One micro-batch is run on tensors without contents (torch's fake tensors), which counts what the backward pass will
keep, the multiplications and the bytes that are read and written, of any architecture; only the speeds of this machine
are measured.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd.graph import saved_tensors_hooks
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode
from transformers.initialization import no_init_weights

from cutwork.errors import CutworkError
from cutwork.progress import duration
from cutwork.recipe import Losses, TuneSettings
from cutwork.torch_models.blocks import block_linears
from cutwork.torch_models.data import Examples, collate
from cutwork.torch_models.load import empty_model
from cutwork.torch_models.machine_speed import copy_seconds, matmul_seconds
from cutwork.torch_models.model_inputs import Batch, EncoderInputs, ModelInputs, inputs_of
from cutwork.torch_models.packing import check_decoder_only
from cutwork.tune.gradual import check_fits
from cutwork.tune.lora import add_adapters
from cutwork.tune.optimizer_state import state_bytes
from cutwork.tune.optimizers import block_matrices
from cutwork.tune.student_and_teacher import checkpoint_activations, never_skip, store_as, teacher_dtype

# How much longer a step takes than its products and its memory one after the other, at their best (SmolLM2-135M in
# float32 and bfloat16 and Qwen2.5-0.5B in bfloat16, two cores with AMX: 1.3, 1.5 and, by the day, 1.4 or 1.9 times).
_OVERHEAD = 1.4


@dataclass(frozen=True)
class Estimate:
    """Bytes per process by purpose, and seconds for all steps."""

    memory: dict[str, int]
    steps: int
    seconds: float

    def sentence(self) -> str:
        """One line for people."""
        parts = ", ".join(f"{name} {_gigabytes(size)}" for name, size in self.memory.items() if size)
        total = _gigabytes(sum(self.memory.values()))
        return f"estimate: {total} of memory ({parts}); {self.steps} steps in about {duration(self.seconds)}"


def estimate(
    config: Any,
    data: Examples,
    settings: TuneSettings,
    *,
    bfloat16: bool,
    attention: str,
    device: torch.device,
    steps: int,
    micro_batch: int,
    accumulation: int,
    shards: int,
) -> Estimate:
    """What `steps` optimiser steps of `accumulation` micro-batches take in each of the processes of a run.

    `shards` is how many processes share the weights (FSDP2), 1 if each has all of them. Raises CutworkError for
    settings that do not fit the model, and other errors for a model that does not run without contents.
    """
    losses, model_inputs = settings.losses, inputs_of(config)
    if settings.packing:
        check_decoder_only(config)
    longest = max(range(len(data)), key=data.lengths.__getitem__)
    batch = collate([data[longest]] * micro_batch)
    labels = int(model_inputs.label_rows(batch)[0].sum())  # which tensors without contents do not tell
    with FakeTensorMode(allow_non_fake_inputs=True) as fake:
        try:
            with no_init_weights():  # an initialisation may ask what its tensors hold, and these hold nothing
                model = empty_model(config, attention)
        except CutworkError as error:
            raise RuntimeError(str(error)) from None  # with contents it may be built all the same
        model.tie_weights()
        if settings.gradual:
            check_fits(settings.gradual, model)
        store_as(model, settings.weights)
        never_skip(model)  # without contents, nothing can be drawn
        if settings.gradient_checkpointing:
            checkpoint_activations(model)
        zeros = sum(linear.get_parameter("weight").numel() for linear in block_linears(model).values())
        parameters = sum(parameter.numel() for parameter in model.parameters())
        if settings.lora:
            add_adapters(model, settings.lora, settings.keep_zeros)
        model.train()
        saved_for_backward = _Kept({parameter.untyped_storage()._cdata for parameter in model.parameters()})
        products, moved = FlopCounterMode(display=False), _Moved()
        with saved_tensors_hooks(saved_for_backward.pack, lambda saved: saved), products, moved:
            answers = _forward(model, model_inputs, batch, labels, losses, fake, bfloat16)
        weights = sum(parameter.nbytes for parameter in model.parameters())
        gradients = sum(parameter.nbytes for parameter in model.parameters() if parameter.requires_grad)
        optimiser = state_bytes(settings.optimizer, model)
        # Autocast keeps a bfloat16 copy of each through the forward pass; without checkpointing, it is kept anyway.
        if bfloat16 and settings.weights == "float32" and settings.gradient_checkpointing:
            saved_for_backward.bytes += sum(2 * parameter.numel() for parameter in block_matrices(model))
    teacher_bytes = getattr(torch, teacher_dtype(settings, bfloat16)).itemsize
    memory = {
        "weights": weights // shards,
        "gradients": gradients // shards,
        "optimiser": optimiser // shards,
        "masks": zeros // shards if settings.keep_zeros else 0,
        "activations": saved_for_backward.bytes,
        "teacher": teacher_bytes * (parameters + accumulation * answers) if losses.needs_teacher else 0,
    }
    per_byte, per_product = copy_seconds(device), matmul_seconds(torch.bfloat16 if bfloat16 else torch.float32, device)
    forward = products.get_total_flops() * per_product + moved.bytes * per_byte
    passes = 3 + settings.gradient_checkpointing + losses.needs_teacher
    mean = sum(data.lengths) / len(data.lengths) / data.lengths[longest]  # micro-batches are of similar lengths
    added_up = 3 * gradients * per_byte  # the sum so far is read and written, what is added to it read
    updated = 2 * (2 * gradients + optimiser) / shards * per_byte  # what has no gradient is not updated
    seconds = accumulation * (forward * passes * mean + added_up) + updated
    return Estimate(memory, steps, _OVERHEAD * steps * seconds)


def _forward(
    model: Any,
    model_inputs: ModelInputs,
    batch: Batch,
    labels: int,
    losses: Losses,
    fake: FakeTensorMode,
    bfloat16: bool,
) -> int:
    """Run a micro-batch with so many `labels` and its losses, of logits at these only as the trainer does.

    Returns how many numbers a teacher's answer to it holds.
    """
    inputs = {
        key: value if isinstance(value, bool) else fake.from_tensor(value)
        for key, value in model_inputs.keywords(batch).items()
        if key != "attention_mask"  # asking a mask what it hides needs contents
    }
    predicts = not isinstance(model_inputs, EncoderInputs)
    head = model.get_output_embeddings() if predicts else torch.nn.Identity()
    handle = head.register_forward_pre_hook(lambda _, given: (given[0].flatten(0, 1)[:labels][None],))
    with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
        outputs = model(**inputs, output_hidden_states=losses.squarehead > 0)
    handle.remove()
    loss: Any = 0
    if predicts:
        loss = functional.cross_entropy(outputs.logits[0].float(), torch.zeros(labels, dtype=torch.long))
    hidden: list[Tensor] = []
    if losses.squarehead > 0:
        batch["attention_mask"] = torch.ones(1)
        hidden = [h for group in model_inputs.features(outputs, batch) for h in group.hidden]
        loss = loss + sum((h.float() - h.detach().float()).square().sum() for h in hidden)
    answers: int = sum(h.numel() for h in hidden) + (outputs.logits.numel() if losses.kl > 0 else 0)
    return answers


class _Kept:
    """Counts the bytes that a forward pass keeps for the backward one, each storage once, weights left out."""

    def __init__(self, seen: set[int]) -> None:
        self._seen, self.bytes = seen, 0
        self._alive: list[Tensor] = []  # a freed storage's address may come again

    def pack(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in self._seen:
            self._seen.add(storage._cdata)
            self._alive.append(tensor)
            self.bytes += storage.nbytes()
        return tensor


class _Moved(TorchDispatchMode):
    """Counts the bytes that operations read and write."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = operation(*args, **(kwargs or {}))
        view = operation.is_view or operation is torch.ops.aten._unsafe_view.default
        if not view and operation.namespace != "prim":
            given = tree_leaves((args, result))
            self.bytes += sum(value.nbytes for value in given if isinstance(value, Tensor))
        return result


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 5e7 else f"{size / 1e6:.1f} MB"
