"""Rounding and masked GPTQ against slow float64 implementations."""

import pytest
import torch
from torch import Tensor

from cutwork.prune.adaptive import AdaptiveTiles
from cutwork.prune.pattern import KeepNOfM, Pattern, Unstructured
from cutwork.prune.second_order import output_error
from cutwork.prune.sparsegpt import sparsegpt
from cutwork.quantize.gptq import gptq
from cutwork.quantize.grid import Grid
from cutwork.quantize.joint import prune_and_quantize
from cutwork.quantize.rtn import rtn
from cutwork.quantize.schemes import grid_of
from cutwork.recipe import QuantizeSettings
from tests.prune.test_second_order import correlated
from tests.torch_models.tiny import at_random, holds

INT8 = Grid()
INT4 = Grid(bits=4, group=32)


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


def test_groups_are_such_as_the_kernels_read() -> None:
    def group(columns: int, size: int) -> int | None:
        return grid_of("w4a16", columns, size, torch.float32).group

    assert [group(columns, 128) for columns in (4096, 96, 80)] == [128, 32, None]
    assert group(1000, 160) is None  # of which 40 is the greatest common divisor
    with pytest.raises(ValueError, match="groups of multiples of 32 columns"):
        QuantizeSettings(scheme="w4a16", group_size=48)


def test_rtn_by_hand() -> None:
    result = rtn(torch.tensor([[1.27, -0.634, 0.0, 0.004], [0.0, 0.0, 0.0, 0.0]]), INT8)
    assert result.codes.tolist() == [[127, -63, 0, 0], [0, 0, 0, 0]]
    assert result.codes.dtype == torch.int8
    assert result.scales.flatten().tolist() == pytest.approx([0.01, 1.0])


def test_rtn_is_within_half_a_step_and_uses_the_whole_range() -> None:
    weight = torch.randn(40, 70)
    result = rtn(weight, INT8)
    assert ((weight - result.weight()).abs() <= result.scales * 0.5001).all()
    assert result.codes.abs().amax(1).eq(127).all()
    assert torch.equal(result.scales, weight.abs().amax(1, keepdim=True) / 127)


@pytest.mark.parametrize("importance", [None, torch.rand(96) + 0.1])
def test_int4_scales_are_the_best_of_a_slow_search(importance: Tensor | None) -> None:
    weight = sparse_weight(7, 96, 0.5)
    weight[2, 32:64] = 0
    grid = Grid(bits=4, group=32, scale_dtype=torch.bfloat16)
    result = rtn(weight, grid, importance)
    assert result.scales.shape == (7, 3)
    assert torch.equal(result.scales, result.scales.bfloat16().float())
    assert result.codes.min() >= -8 and result.codes.max() <= 7
    cost = torch.ones(96) if importance is None else importance
    found = ((result.weight() - weight).square() * cost).unflatten(1, (3, 32)).sum(2)
    for row in range(7):
        for group in range(3):
            values, weights = weight[row, group * 32 :][:32].double(), cost[group * 32 :][:32].double()
            tried = []
            for percent in range(100, 49, -2):
                scale = (values.abs().max() / 7.5 * percent / 100).bfloat16().double() if values.any() else 1.0
                rounded = (values / scale).round().clamp(-8, 7) * scale
                tried.append(((rounded - values).square() * weights).sum())
            assert found[row, group].item() == pytest.approx(min(tried).item(), rel=1e-4)


@pytest.mark.parametrize("bits", [8, 4])
def test_small_weights_in_half_precision_use_all_codes(bits: int) -> None:
    weight = 1e-3 * sparse_weight(7, 96, 0.5)
    exact, half = (rtn(weight, Grid(bits, None, scale_dtype=kind)) for kind in (torch.float32, torch.float16))
    error, least = ((each.weight() - weight).square().sum() for each in (half, exact))
    assert error < 1.1 * least
    assert torch.equal(half.scales, half.scales.half().float())


def test_a_clipped_scale_beats_the_whole_range() -> None:
    weight = torch.randn(64, 256)
    found = (rtn(weight, Grid(4, 128)).weight() - weight).square().sum()
    whole = weight.unflatten(1, (2, 128)).abs().amax(2) / 7.5
    plain = (Grid(4, 128).nearest(weight, whole).weight() - weight).square().sum()
    assert found < 0.95 * plain


@pytest.mark.parametrize("sparsity", [0.0, 0.6])
def test_gptq_is_the_papers_row_by_row_or_rounding(sparsity: float) -> None:
    statistics = correlated(40)
    weight = sparse_weight(12, 40, sparsity)
    found = gptq(weight, statistics, INT8, block_size=16).codes
    expected = slow_gptq(weight, statistics.matrix, statistics.applied[0].added)
    nearest = rtn(weight, INT8).codes
    fed_back = (found == expected).all(1)
    assert fed_back.sum() >= 8
    assert ((found == nearest).all(1) | fed_back).all()


@pytest.mark.parametrize("grid", [INT8, INT4], ids=["int8", "int4"])
@pytest.mark.parametrize(
    "pattern",
    [*map(Unstructured, (0.0, 0.5, 0.75, 0.95)), KeepNOfM(4, 16), AdaptiveTiles(0.75)],
    ids=["0%", "50%", "75%", "95%", "4:16", "adaptive"],
)
def test_gptq_beats_rounding_and_keeps_zeros(pattern: Pattern, grid: Grid) -> None:
    statistics = correlated(192)
    weight = sparse_weight(96, 192, 0.0) * at_random((96, 192), pattern)
    weight[5] = 0
    result = gptq(weight, statistics, grid)
    assert not result.codes[weight == 0].any()
    assert holds(pattern, result.codes)
    assert result.codes.min() >= grid.lowest and result.codes.max() <= grid.highest
    ours = output_error(weight - result.weight(), statistics.matrix)
    rounding = output_error(weight - rtn(weight, grid, statistics.squares).weight(), statistics.matrix)
    assert (ours <= rounding).all()
    if pattern.sparsity < 0.9:
        assert ours.sum() < 0.97 * rounding.sum()


@pytest.mark.parametrize("grid", [INT8, INT4], ids=["int8", "int4"])
@pytest.mark.parametrize(
    "pattern",
    [Unstructured(0.6), KeepNOfM(2, 4), KeepNOfM(4, 16), AdaptiveTiles(0.75)],
    ids=["60%", "2:4", "4:16", "adaptive"],
)
def test_pruning_and_quantising_together_beats_one_after_the_other(grid: Grid, pattern: Pattern) -> None:
    statistics = correlated(192)
    weight = sparse_weight(96, 192, 0.2)
    result = prune_and_quantize(weight, statistics, grid, pattern)
    assert not result.codes[weight == 0].any()
    zeros = int((result.codes == 0).sum())
    assert (
        pattern.zeros(weight != 0) <= zeros <= pattern.zeros(weight != 0) + (0.01 if grid is INT8 else 0.1) * 96 * 192
    )
    if isinstance(pattern, KeepNOfM):
        assert (result.codes.unflatten(1, (-1, pattern.m)) != 0).sum(2).max() <= pattern.n
    else:
        assert holds(pattern, result.codes)
    pruned, _ = sparsegpt(weight, statistics, pattern)
    ours = output_error(weight - result.weight(), statistics.matrix).sum()
    for after in (
        rtn(pruned, grid, statistics.squares),
        gptq(pruned, statistics, grid),
    ):
        assert ours < output_error(weight - after.weight(), statistics.matrix).sum()
