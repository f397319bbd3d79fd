"""The loss terms against their formulas written out."""

import math

import pytest
import torch

from cutwork.tune.losses import cross_entropy, kl_divergence, squarehead, teacher_energy


def test_cross_entropy_by_hand() -> None:
    logits = torch.tensor([[0.0, math.log(3.0)], [math.log(4.0), 0.0]])
    expected = (-math.log(3 / 4) - math.log(4 / 5)) / 5
    assert cross_entropy(logits, torch.tensor([1, 0]), 5).item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_kl_by_hand(temperature: float) -> None:
    torch.manual_seed(0)
    student, teacher = torch.randn(3, 7, dtype=torch.float64), torch.randn(3, 7, dtype=torch.float64)
    p, q = (torch.exp(x / temperature) for x in (teacher, student))
    p, q = p / p.sum(1, keepdim=True), q / q.sum(1, keepdim=True)
    expected = temperature**2 * (p * (p / q).log()).sum() / 11
    assert kl_divergence(student, teacher, temperature, 11).item() == pytest.approx(expected.item(), rel=1e-5)


def test_kl_of_equals_is_zero_and_the_gradient_pulls_towards_the_teacher() -> None:
    teacher = torch.randn(4, 9)
    assert kl_divergence(teacher, teacher, 1.0, 4).item() == pytest.approx(0, abs=1e-6)
    student = torch.zeros(4, 9, requires_grad=True)
    kl_divergence(student, teacher, 1.0, 1).backward()
    expected = torch.softmax(student, 1) - torch.softmax(teacher, 1)  # d/dz of -Σ p log softmax(z)
    assert torch.allclose(student.grad, expected, atol=1e-6)


def test_squarehead_is_the_ratio_of_means_summed_over_layers() -> None:
    torch.manual_seed(0)
    student = [torch.randn(2, 5, 6) for _ in range(3)]
    teacher = [torch.randn(2, 5, 6) * scale for scale in (1e-3, 1.0, 100.0)]
    mask = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])
    expected = 0.0
    for s, t in zip(student, teacher, strict=True):
        real_s, real_t = s[mask.bool()], t[mask.bool()]
        expected += ((real_s - real_t) ** 2).mean().item() / (real_t**2).mean().item()
    per_layer = squarehead(student, teacher, mask, teacher_energy(teacher, mask))
    assert per_layer.shape == (3,)
    value = per_layer.sum().item()
    assert value == pytest.approx(expected, rel=1e-5)


def test_squarehead_of_small_layers_is_not_biased_and_padding_does_not_count() -> None:
    teacher = [torch.full((1, 4, 8), 1e-4)]
    mask = torch.tensor([[1, 1, 0, 0]])
    student = [teacher[0] * 2]
    student[0][:, 2:] = 1e6
    assert squarehead(student, teacher, mask, teacher_energy(teacher, mask)).item() == pytest.approx(1.0, rel=1e-5)


def test_reductions_are_in_float32() -> None:
    # In bfloat16, a sum of 4096 ones stops growing at 256.
    hidden = [torch.ones(1, 4096, 1, dtype=torch.bfloat16)]
    assert teacher_energy(hidden, torch.ones(1, 4096, dtype=torch.long)).tolist() == [4096.0]


def test_no_label_tokens_give_zero_loss_and_zero_gradient() -> None:
    logits = torch.randn(0, 7, requires_grad=True)
    loss = cross_entropy(logits, torch.empty(0, dtype=torch.long), 0) + kl_divergence(logits, torch.randn(0, 7), 1.0, 0)
    loss.backward()
    assert loss.item() == 0
    zeros = [torch.zeros(1, 2, 3)]
    mask = torch.ones(1, 2)
    assert squarehead(zeros, zeros, mask, teacher_energy(zeros, mask)).item() == 0
