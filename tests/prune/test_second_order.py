"""The column sweep, SparseGPT and magnitude pruning against slow float64 implementations."""

import pytest
import torch
from torch import Tensor

from cutwork.errors import CutworkError
from cutwork.prune.input_statistics import Hessian
from cutwork.prune.magnitude import magnitude
from cutwork.prune.pattern import Unstructured
from cutwork.prune.second_order import damp, factorise, output_error
from cutwork.prune.sparsegpt import sparsegpt


def correlated(inputs: int, tokens: int = 400, seed: int = 0) -> Hessian:
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(inputs, inputs, generator=generator) * torch.logspace(-1, 0.5, inputs)
    x = torch.randn(tokens, inputs, generator=generator) @ mix
    return Hessian(x.T @ x / tokens, tokens)


def slow_sparsegpt(weight: Tensor, hessian: Tensor, damping: float, sparsity: float, block: int) -> Tensor:
    """SparseGPT as the paper derives it: float64, and the inverse of what is left of H recomputed for every column."""
    w, h = weight.double().clone(), hessian.double().clone()
    h.diagonal().add_(damping)
    rows, columns = w.shape
    zeros, quota = w == 0, round(sparsity * w.numel()) - int((w == 0).sum())
    remaining = int((~zeros).sum())
    keep = ~zeros
    for start in range(0, columns, block):
        end = min(start + block, columns)
        # [H_FF⁻¹]_jj with F = the columns from j on: what removing w_j costs once all before it are fixed.
        pivots = torch.stack([torch.linalg.inv(h[j:, j:])[0, 0] for j in range(start, end)])
        costs = w[:, start:end] ** 2 / pivots
        candidates = [(costs[r, c].item(), r, start + c) for r in range(rows) for c in range(end - start)]
        candidates = sorted(item for item in candidates if not zeros[item[1], item[2]])
        count = round(quota * len(candidates) / remaining)
        for _, r, c in candidates[:count]:
            keep[r, c] = False
        quota, remaining = quota - count, remaining - len(candidates)
        for j in range(start, end):
            inverse = torch.linalg.inv(h[j:, j:])
            error = torch.where(keep[:, j], 0.0, w[:, j])
            w[:, j:] -= (error / inverse[0, 0])[:, None] * inverse[0][None, :]
            w[:, j] = torch.where(keep[:, j], w[:, j], 0.0)
    return w


@pytest.mark.parametrize("block", [8, 128])
@pytest.mark.parametrize("existing", [0.0, 0.3])
def test_sparsegpt_is_the_papers(block: int, existing: float) -> None:
    statistics = correlated(24)
    weight = torch.randn(10, 24, generator=torch.Generator().manual_seed(1))
    weight[torch.rand(weight.shape, generator=torch.Generator().manual_seed(2)) < existing] = 0
    pruned, mask = sparsegpt(weight, statistics, Unstructured(0.6), block)
    expected = slow_sparsegpt(weight, statistics.matrix, statistics.applied[0].added, 0.6, block)
    assert torch.equal(mask, expected != 0)
    assert torch.allclose(pruned.double(), expected, rtol=1e-3, atol=1e-4)


def test_the_factor_is_that_of_the_inverse() -> None:
    statistics = correlated(30)
    upper, applied = factorise(statistics.matrix, 0.05)
    damped = statistics.matrix.double()
    assert applied.added == pytest.approx(0.05 * damped.diagonal().mean().item())
    damped.diagonal().add_(applied.added)
    assert torch.allclose(damp(statistics.matrix, 0.05)[0].double(), damped)
    upper = upper.double()
    assert torch.equal(upper, upper.triu())
    assert torch.allclose(upper.T @ upper, torch.linalg.inv(damped), rtol=1e-3, atol=1e-4)
    assert applied.attempts == 1


@pytest.mark.parametrize("sparsity", [0.0, 0.5, 0.605, 0.9, 0.999])
@pytest.mark.parametrize("shape", [(7, 13), (64, 300)])
def test_sparsity_is_exact_to_the_rounding(sparsity: float, shape: tuple[int, int]) -> None:
    weight = torch.randn(*shape)
    for pruned, mask in (
        sparsegpt(weight, correlated(shape[1]), Unstructured(sparsity)),
        magnitude(weight, None, Unstructured(sparsity)),
    ):
        assert int((pruned == 0).sum()) == int((~mask).sum()) == round(sparsity * weight.numel())


def test_zeros_never_come_back_however_they_are_spread() -> None:
    weight = torch.randn(32, 256)
    weight[:, :100] = 0  # whole blocks of them
    weight[3] = 0
    zeros = weight == 0
    statistics = correlated(256)
    for sparsity in (0.2, 0.5, 0.8):
        pruned, mask = sparsegpt(weight, statistics, Unstructured(sparsity))
        assert (pruned[zeros] == 0).all()
        assert int((~mask).sum()) == max(round(sparsity * weight.numel()), int(zeros.sum()))
    pruned, _ = magnitude(weight, None, Unstructured(0.5))
    assert (pruned[zeros] == 0).all()


def test_sparsegpt_beats_magnitude_where_it_counts() -> None:
    statistics = correlated(128)
    weight = torch.randn(64, 128)
    best, _ = sparsegpt(weight, statistics, Unstructured(0.6))
    plain, _ = magnitude(weight, None, Unstructured(0.6))
    error = [output_error(weight - pruned, statistics.matrix).sum().item() for pruned in (best, plain)]
    assert error[0] < 0.5 * error[1]


def test_output_error_is_the_mean_squared_error_of_the_output() -> None:
    x, change = torch.randn(50, 9), torch.randn(4, 9)
    expected = (x @ change.T).square().mean(0)
    assert torch.allclose(output_error(change, x.T @ x / 50), expected, rtol=1e-4)


def test_magnitude_keeps_the_largest() -> None:
    weight = torch.tensor([[3.0, -1.0, 0.5], [-4.0, 2.0, -0.25]])
    pruned, mask = magnitude(weight, None, Unstructured(0.5))
    assert pruned.tolist() == [[3, 0, 0], [-4, 2, 0]]
    assert mask.tolist() == [[True, False, False], [True, True, False]]


def test_dead_inputs_are_pruned_first_and_counted() -> None:
    statistics = correlated(16)
    statistics.matrix[[3, 9]] = 0
    statistics.matrix[:, [3, 9]] = 0
    assert statistics.dead == 2
    weight = torch.ones(8, 16)
    pruned, _ = sparsegpt(weight, statistics, Unstructured(2 / 16))
    assert torch.isfinite(pruned).all()
    assert not pruned[:, [3, 9]].any()


def test_too_few_tokens_and_none_at_all_still_factor() -> None:
    few = correlated(64, tokens=3)
    assert torch.isfinite(few.upper).all()
    nothing = Hessian(torch.zeros(8, 8), 0)
    assert torch.allclose(nothing.upper, nothing.upper[0, 0] * torch.eye(8))


def test_a_failed_factorisation_damps_more_and_says_so() -> None:
    indefinite = torch.diag(torch.tensor([-0.5, 1.5, 2.0]))  # what rounding can do to a nearly singular one
    _, applied = factorise(indefinite, 0.1)
    assert applied.attempts == 2
    assert applied.added == pytest.approx(10 * 0.1)
    with pytest.raises(CutworkError, match="not positive definite even with a damping"):
        factorise(indefinite, 1e-30)
    with pytest.raises(CutworkError, match="not finite"):
        factorise(torch.full((2, 2), torch.nan), 0.1)
