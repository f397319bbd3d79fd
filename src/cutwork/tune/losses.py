"""The three loss terms, as sums over one micro-batch divided by a total over the whole optimiser step.

Because every divisor covers the step, adding up micro-batches gives the loss of the undivided batch, however it is
split. All reductions are in float32 whatever the dtype of the inputs.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional


def cross_entropy(logits: Tensor, targets: Tensor, count: Tensor | int) -> Tensor:
    """Cross entropy of logits [N, vocabulary] against token ids [N], summed and divided by `count`; 0 if N is 0."""
    return functional.cross_entropy(logits.float(), targets, reduction="sum") / _at_least_one(count)


def kl_divergence(student: Tensor, teacher: Tensor, temperature: float, count: Tensor | int) -> Tensor:
    """T²·KL(softmax(teacher/T) ‖ softmax(student/T)) of logits [N, vocabulary], summed and divided by `count`.

    Hinton et al., arXiv 1503.02531; the factor T² keeps the gradient's size independent of T.
    """
    log_p = functional.log_softmax(teacher.float() / temperature, dim=-1)
    log_q = functional.log_softmax(student.float() / temperature, dim=-1)
    total = functional.kl_div(log_q, log_p, reduction="sum", log_target=True)
    return total * temperature**2 / _at_least_one(count)


def squarehead(student: Sequence[Tensor], teacher: Sequence[Tensor], mask: Tensor, energy: Tensor) -> Tensor:
    """‖student − teacher‖² / energy per layer, of hidden states [B, T, D] where a mask [B, T] counts: float32 [layers].

    `energy` [layers] is what `teacher_energy` gives, summed over the micro-batches of the step: then the sum over
    layers is SquareHead (arXiv 2310.06927), mean((f_s − f_t)²) / mean(f_t²) per layer, since both means are over the
    same elements.
    """
    distances = [_squares(s.float() - t.float(), mask) for s, t in zip(student, teacher, strict=True)]
    # A layer whose teacher is all zeros has nothing to be compared with; an added epsilon would bias small layers.
    return torch.stack(distances) / energy.clamp_min(torch.finfo(torch.float32).tiny)


def teacher_energy(teacher: Sequence[Tensor], mask: Tensor) -> Tensor:
    """Σ f_t² over the counted tokens and all channels, per layer: float32 [layers]."""
    return torch.stack([_squares(hidden.float(), mask) for hidden in teacher])


def _squares(values: Tensor, mask: Tensor) -> Tensor:
    return (values.square().sum(dim=-1) * mask).sum()


def _at_least_one(count: Tensor | int) -> Tensor:
    return torch.as_tensor(count).clamp_min(1)
