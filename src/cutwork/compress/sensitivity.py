"""What an error in one place costs the whole model: the KL divergence of its next token, in answers.

To second order a change δ of a linear's outputs costs ½ E[(gᵀδ)²] in all, g being the gradient of the log-likelihood
of what the model itself would say where it answers: tokens drawn from its own distribution (the Fisher information).
One backward pass per sample tells g of every linear at every token, a prompt's too. An error that knows nothing of g
costs Σ g²δ² / 2, and g² of a token's outputs is taken to be what that token counts times what an output counts. Where
inputs are rounded to int8, δ is known at every token, and so is (gᵀδ)². The output head is measured as it would be
stored.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import torch
from rich.console import Console
from torch import Tensor, nn

from cutwork.progress import progress_bar
from cutwork.prune.answer_gradients import answer_gradients
from cutwork.quantize.gptq import gptq
from cutwork.quantize.head import head_statistics
from cutwork.quantize.qat import round_activations
from cutwork.quantize.rtn import rtn
from cutwork.quantize.schemes import grid_of
from cutwork.recipe import Scheme
from cutwork.torch_models.model_inputs import inputs_of

_LOGITS = 1 << 27  # of whole models, at most, beside those of one batch more
_LEAST = 1e-9  # of a measured KL: rounding may make it 0


@dataclass(frozen=True)
class Influence:
    """What the tokens of a model's answers owe to a linear's outputs, in nats per token of them.

    A change with squares s [T, out] costs ½ mean_t(tokens_t Σ_o outputs_o s_to). `rounded_inputs` is what it costs to
    round each token's inputs to int8.
    """

    tokens: Tensor  # float32 [T], in the order of the batches, real ones only
    outputs: Tensor  # float32 [out], 1 on average
    rounded_inputs: float


def influences(
    model: Any, batches: Sequence[dict[str, Tensor]], console: Console, seed: int = 0
) -> dict[str, Influence]:
    """Of every linear of the blocks of a decoder-only model, which stays as it is.

    `batches` are collated examples, best of few tokens each: the activations and logits of one are in memory.
    """
    notes: dict[str, _Notes] = defaultdict(_Notes)

    def learn(name: str, x: Tensor, towards: Tensor, gradients: Tensor) -> None:
        notes[name].add(x, towards, gradients)

    answers, _ = answer_gradients(model, batches, learn, console, "influences", seed)
    return {name: note.influence(answers) for name, note in notes.items()}


class _Notes:
    """What one linear's inputs and gradients say, batch by batch."""

    def __init__(self) -> None:
        self._tokens: list[Tensor] = []
        self._outputs, self._rounded = torch.zeros(1), 0.0

    def add(self, x: Tensor, towards: Tensor, gradients: Tensor) -> None:
        squares, lengths = gradients.square(), x.square().sum(1)
        self._tokens.append(squares.mean(1))
        self._outputs = self._outputs.to(x.device) + lengths @ squares
        [rounded] = round_activations(nn.Identity(), (x,))
        self._rounded += ((rounded - x) * towards).sum(1).square().sum().item()

    def influence(self, answers: int) -> Influence:
        tokens = torch.cat(self._tokens)
        tokens *= len(tokens) / max(answers, 1)
        outputs = self._outputs / self._outputs.mean().clamp_min(torch.finfo(torch.float32).tiny)
        return Influence(tokens, outputs, 0.5 * self._rounded / max(answers, 1))


def of_rounded_head(
    model: Any,
    calibration: Sequence[dict[str, Tensor]],
    batches: Sequence[dict[str, Tensor]],
    console: Console,
    *,
    group_size: int,
    damping: float,
) -> dict[Scheme, float]:
    """The KL divergence, nats per token of answers, that the head costs in int8 and, by GPTQ, in int4; empty without a
    head."""
    head = model.get_output_embeddings()
    if head is None:
        return {}
    int4 = grid_of("w4a16", head.weight.shape[1], group_size, torch.float32)
    by_gptq = gptq(head.weight.detach().float(), head_statistics(model, calibration, damping), int4).weight()
    damages = {"w8a8": partial(_stored_in_int8, model), "w4a16": partial(_stored_in_int4, model, by_gptq)}
    return cast(dict[Scheme, float], divergences(model, batches, damages, console))


Damage = Callable[[], AbstractContextManager[None]]  # makes a context in which the model is damaged


def divergences(
    model: Any, batches: Sequence[dict[str, Tensor]], damages: Mapping[str, Damage], console: Console
) -> dict[str, float]:
    """The mean KL divergence per token of the answers of each damaged model from the whole one."""
    totals = dict.fromkeys(damages, 0.0)
    tokens = 0
    inputs = inputs_of(model.config)

    def log_probabilities(batch: dict[str, Tensor]) -> Tensor:
        logits: Tensor = model(**inputs.keywords(batch)).logits
        return logits[inputs.label_rows(batch)[0]].float().log_softmax(-1)

    with torch.inference_mode(), progress_bar(console) as progress:
        bar = progress.add_task("divergences", total=len(batches) * len(damages))
        waiting = list(batches)
        while waiting:
            together: list[tuple[dict[str, Tensor], Tensor]] = []  # a model is damaged once for as many as fit
            while waiting and sum(whole.numel() for _, whole in together) < _LOGITS:
                together.append((waiting[0], log_probabilities(waiting.pop(0))))
            tokens += sum(len(whole) for _, whole in together)
            for key, damage in damages.items():
                with damage():
                    for batch, whole in together:
                        totals[key] += (whole.exp() * (whole - log_probabilities(batch))).sum().item()
                        progress.advance(bar)
    return {key: max(total / tokens, _LEAST) for key, total in totals.items()}


def _stored_in_int8(model: Any) -> AbstractContextManager[None]:
    """The head in int8 per row, and the embedding if it is the same weight."""
    head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    rounded = _int8(head.weight)
    return _stored(head, {head: rounded} | ({embedding: rounded} if embedding.weight is head.weight else {}))


def _stored_in_int4(model: Any, int4: Tensor) -> AbstractContextManager[None]:
    """The head in int4, and the embedding, which then is another weight, in int8 per row."""
    head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    return _stored(head, {head: int4, embedding: _int8(embedding.weight)})


def _int8(weight: Tensor) -> Tensor:
    return rtn(weight.float(), grid_of("w8a8", weight.shape[1], 0, torch.float32)).weight()


@contextmanager
def _stored(head: nn.Module, values: Mapping[nn.Module, Tensor]) -> Iterator[None]:
    """Modules with other weights, and the head's inputs as kernels read them."""
    before = {module: module.weight for module in values}
    for module, value in values.items():
        module.weight = nn.Parameter(value.to(before[module].dtype), requires_grad=False)
    hook = head.register_forward_pre_hook(round_activations)
    try:
        yield
    finally:
        hook.remove()
        for module, weight in before.items():
            module.weight = weight
