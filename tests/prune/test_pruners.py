"""Every pruner with every pattern: exact density, nested zeros, and errors in the order that was published."""

from typing import get_args

import pytest
import torch
from torch import Tensor

from cutwork.errors import CutworkError
from cutwork.prune.adaptive import AdaptiveTiles
from cutwork.prune.alps import alps, refit
from cutwork.prune.input_statistics import Hessian
from cutwork.prune.pattern import KeepNOfM, Pattern, Unstructured, cheapest
from cutwork.prune.pruners import Prune, pruner
from cutwork.prune.second_order import output_error
from cutwork.prune.sparsegpt import sparsegpt
from cutwork.prune.wanda import wanda
from cutwork.recipe import Pruner

PRUNERS: dict[str, Prune] = {name: pruner(name) for name in get_args(Pruner)}
BY_ERROR = ("magnitude", "wanda", "sparsegpt", "alps")
PATTERNS: dict[str, Pattern] = {
    "50%": Unstructured(0.5),
    "83%": Unstructured(0.83),
    "1x4": Unstructured(0.6, 1, 4),
    "4x1": Unstructured(0.6, 4, 1),
    "2:4": KeepNOfM(2, 4),
    "4:8": KeepNOfM(4, 8),
    "16:32": KeepNOfM(16, 32),
    "16:64": KeepNOfM(16, 64),
    "4:16": KeepNOfM(4, 16),
    "adaptive": AdaptiveTiles(0.75),
}
every_pruner = pytest.mark.parametrize("prune", PRUNERS.values(), ids=PRUNERS)
every_pattern = pytest.mark.parametrize("pattern", PATTERNS.values(), ids=PATTERNS)


def correlated(inputs: int, tokens: int = 600, seed: int = 0) -> Hessian:
    """Inputs that share directions, with a few loud ones, as a transformer's are."""
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(inputs // 4, inputs, generator=generator)
    x = torch.randn(tokens, inputs // 4, generator=generator) @ mix / 4
    x += torch.randn(tokens, inputs, generator=generator)
    x[:, :: inputs // 8] *= 6
    return Hessian(x.T @ x / tokens, tokens)


def random_weight(rows: int = 48, columns: int = 192, seed: int = 0) -> Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))


def error(weight: Tensor, pruned: Tensor, statistics: Hessian) -> float:
    return output_error(weight - pruned, statistics.matrix).sum().item()


@every_pruner
@every_pattern
def test_density_is_exact_and_the_mask_says_where(prune: Prune, pattern: Pattern) -> None:
    weight = random_weight()
    before = weight.clone()
    pruned, mask = prune(weight, correlated(192), pattern)
    assert torch.equal(weight, before)
    assert torch.equal(pruned != 0, mask)
    wanted = pattern.zeros(weight != 0)
    assert int((~mask).sum()) == wanted
    if isinstance(pattern, KeepNOfM):
        assert (mask.unflatten(1, (-1, pattern.m)).sum(-1) == pattern.n).all()
    elif isinstance(pattern, AdaptiveTiles):
        assert wanted == pattern.sparsity * mask.numel()
        kept = mask.unflatten(1, (-1, 16)).sum(-1).unflatten(0, (-1, 16))  # of each row of each tile
        assert torch.equal(kept.amax(1), kept.amin(1)) and set(kept.unique().tolist()) <= {0, 4, 8, 12, 16}
    else:
        size = pattern.rows * pattern.columns
        assert wanted == round(pattern.sparsity * mask.numel() / size) * size
        blocks = mask.unflatten(1, (-1, pattern.columns)).unflatten(0, (-1, pattern.rows))
        assert torch.equal(blocks.all(3).all(1), blocks.any(3).any(1))


@every_pruner
@every_pattern
def test_zeros_never_come_back(prune: Prune, pattern: Pattern) -> None:
    """Unevenly spread ones: rows and columns without any weight, and a quarter of the rest."""
    weight = random_weight()
    weight[torch.rand(weight.shape, generator=torch.Generator().manual_seed(3)) < 0.25] = 0
    weight[:, 60:90] = 0
    weight[5] = 0
    zeros = weight == 0
    pruned, mask = prune(weight, correlated(192), pattern)
    assert not pruned[zeros].any()
    assert not mask[zeros].any()
    assert int((~mask).sum()) >= pattern.zeros(weight != 0)
    if pattern in (PATTERNS["50%"], PATTERNS["83%"]) or isinstance(pattern, KeepNOfM):
        assert int((~mask).sum()) == pattern.zeros(weight != 0)


@every_pruner
def test_levels_are_nested(prune: Prune) -> None:
    weight, statistics = random_weight(), correlated(192)
    previous = torch.ones_like(weight, dtype=torch.bool)
    for sparsity in (0.3, 0.5, 0.5, 0.75, 0.9):
        weight, mask = prune(weight, statistics, Unstructured(sparsity))
        assert not (mask & ~previous).any()
        assert int((~mask).sum()) == round(sparsity * mask.numel())
        weight = torch.where(mask, weight + 0.1, 0)  # as training would
        previous = mask


@every_pattern
def test_each_method_beats_the_one_before_it(pattern: Pattern) -> None:
    weight, statistics = random_weight(), correlated(192)
    errors = [error(weight, PRUNERS[name](weight, statistics, pattern)[0], statistics) for name in BY_ERROR]
    assert errors[1] < errors[0]
    assert errors[2] < errors[1]
    assert errors[3] < errors[2]


@every_pruner
def test_tiles_that_matter_keep_more(prune: Prune) -> None:
    weight = random_weight()
    weight[:16, :16] *= 10
    weight[16:32, 32:64] *= 0.01
    _, mask = prune(weight, correlated(192), AdaptiveTiles(0.75))
    kept = mask.unflatten(1, (-1, 16)).sum(-1).unflatten(0, (-1, 16))[:, 0]
    assert kept[0, 0] > 4 and not kept[1, 2:4].any()


def test_a_pattern_that_does_not_fit_is_one_sentence() -> None:
    with pytest.raises(CutworkError, match="10 inputs cannot keep 2 of every 4"):
        KeepNOfM(2, 4).check(8, 10)
    with pytest.raises(CutworkError, match="6×8 cannot be cut into blocks of 4×1"):
        Unstructured(0.5, 4, 1).check(6, 8)
    with pytest.raises(CutworkError, match="24×32 cannot be cut into tiles of 16×16"):
        AdaptiveTiles(0.5).check(24, 32)
    KeepNOfM(2, 4).check(3, 12)


def test_wanda_takes_as_much_from_every_output_and_changes_nothing() -> None:
    weight, statistics = random_weight(), correlated(192)
    weight[:7] *= 100
    pruned, mask = wanda(weight, statistics, Unstructured(0.5))
    assert (mask.sum(1) == 96).all()
    assert torch.equal(pruned[mask], weight[mask])
    scores = weight.abs() * statistics.squares.sqrt()
    assert (scores.masked_fill(~mask, torch.inf).amin(1) >= scores.masked_fill(mask, 0).amax(1)).all()


def test_alps_finds_the_best_support_of_a_tiny_layer() -> None:
    """Against every support there is: on average at most a tenth worse, and no worse than SparseGPT's."""
    from itertools import combinations

    ratios = []
    for seed in range(5):
        weight, statistics = random_weight(1, 8, seed), correlated(8, seed=seed)
        statistics.damping = 1e-4
        h = statistics.damped.double()
        w = weight[0].double()
        best = torch.inf
        for kept in map(list, combinations(range(8), 4)):
            refined = torch.zeros(8, dtype=torch.double)
            refined[kept] = torch.linalg.solve(h[kept][:, kept], (h @ w)[kept])
            best = min(best, float((w - refined) @ h @ (w - refined)))
        found = output_error(weight - alps(weight, statistics, Unstructured(0.5))[0], statistics.damped).item()
        greedy = sparsegpt(weight, statistics, Unstructured(0.5))[0]
        assert found <= 1.001 * output_error(weight - greedy, statistics.damped).item()
        ratios.append(found / best)
    assert min(ratios) > 0.999
    assert sum(ratios) / len(ratios) < 1.1


def test_refitting_on_a_support_solves_its_normal_equations() -> None:
    statistics = correlated(24)
    scale = statistics.squares.sqrt()
    hessian = statistics.matrix / scale / scale[:, None]
    weight = random_weight(6, 24)
    keep = torch.rand(6, 24, generator=torch.Generator().manual_seed(1)) < 0.5
    refined = refit(weight * keep, hessian, weight @ hessian, keep, 40)
    for row in range(6):
        kept = keep[row].nonzero().flatten()
        exact = torch.linalg.solve(hessian[kept][:, kept].double(), (weight @ hessian)[row, kept].double())
        assert torch.allclose(refined[row, kept].double(), exact, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("size", [7, 1000, 1 << 17])
def test_the_cheapest_are_the_cheapest(size: int) -> None:
    generator = torch.Generator().manual_seed(size)
    for costs in (torch.randn(size, generator=generator), torch.randint(0, 5, (size,), generator=generator).float()):
        for count in (0, 1, size // 3, size - 1, size):
            marked = cheapest(costs, count)
            assert int(marked.sum()) == count
            assert torch.equal(costs[marked].sort().values, costs.sort().values[:count])
