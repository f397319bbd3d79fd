"""Rounding and masked GPTQ against slow float64 implementations."""

import pytest
import torch
from torch import Tensor

from cutwork.quantize.gptq import gptq
from cutwork.quantize.rtn import channel_scales, rtn
from cutwork.train.obs import factorise, output_error
from tests.train.test_obs import correlated


def sparse_weight(rows: int, columns: int, sparsity: float, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(rows, columns, generator=generator)
    return weight * (torch.rand(rows, columns, generator=generator) >= sparsity)


def slow_gptq(weight: Tensor, hessian: Tensor, damping: float) -> Tensor:
    """Column by column, with the inverse of what is left of H recomputed each time; zeros can only become zero."""
    w, h = weight.double().clone(), hessian.double().clone()
    h.diagonal().add_(damping)
    scale = w.abs().amax(1) / 127
    live = w != 0
    for j in range(w.shape[1]):
        inverse = torch.linalg.inv(h[j:, j:])
        code = (w[:, j] / scale).round().clamp(-127, 127)
        fixed = torch.where(live[:, j], code * scale, 0.0)
        w[:, j:] -= ((w[:, j] - fixed) / inverse[0, 0])[:, None] * inverse[0][None, :]
        w[:, j] = fixed
    return (w / scale[:, None]).round()


def test_rtn_by_hand() -> None:
    result = rtn(torch.tensor([[1.27, -0.634, 0.0, 0.004], [0.0, 0.0, 0.0, 0.0]]))
    assert result.codes.tolist() == [[127, -63, 0, 0], [0, 0, 0, 0]]
    assert result.codes.dtype == torch.int8
    assert result.scales.tolist() == pytest.approx([0.01, 1.0])


def test_rtn_is_within_half_a_step_and_uses_the_whole_range() -> None:
    weight = torch.randn(40, 70)
    result = rtn(weight)
    assert ((weight - result.weight()).abs() <= result.scales[:, None] * 0.5001).all()
    assert result.codes.abs().amax(1).eq(127).all()
    assert torch.equal(channel_scales(weight), weight.abs().amax(1) / 127)


@pytest.mark.parametrize("sparsity", [0.0, 0.6])
def test_gptq_is_the_papers_row_by_row_or_rounding(sparsity: float) -> None:
    statistics = correlated(40)
    weight = sparse_weight(12, 40, sparsity)
    factor = factorise(statistics, 0.01)
    found = gptq(weight, factor, statistics.hessian, block_size=16).codes
    expected = slow_gptq(weight, statistics.hessian, factor.damping)
    nearest = rtn(weight).codes
    fed_back = (found == expected).all(1)
    assert fed_back.sum() >= 8
    assert ((found == nearest).all(1) | fed_back).all()


@pytest.mark.parametrize("sparsity", [0.0, 0.5, 0.75, 0.95])
def test_gptq_beats_rounding_and_keeps_zeros(sparsity: float) -> None:
    statistics = correlated(192)
    weight = sparse_weight(96, 192, sparsity)
    weight[5] = 0
    result = gptq(weight, factorise(statistics, 0.01), statistics.hessian)
    assert not result.codes[weight == 0].any()
    assert result.codes.min() >= -127
    ours = output_error(weight - result.weight(), statistics.hessian)
    rounding = output_error(weight - rtn(weight).weight(), statistics.hessian)
    assert (ours <= rounding).all()
    if sparsity < 0.9:
        assert ours.sum() < 0.95 * rounding.sum()
