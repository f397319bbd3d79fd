"""ROSE against the order that its authors' description gives and SparseGPT in that order."""

import pytest
import torch
from torch import Tensor

from cutwork.prune.input_statistics import Hessian
from cutwork.prune.pattern import KeepNOfM, Unstructured
from cutwork.prune.rose import column_order, rose
from cutwork.prune.second_order import output_error
from cutwork.prune.sparsegpt import sparsegpt
from tests.prune.test_pruners import correlated, random_weight
from tests.prune.test_second_order import slow_sparsegpt


def columnar(rows: int, columns: int) -> Tensor:
    """A weight whose large columns are all in its last quarter, which SparseGPT reaches last."""
    weight = random_weight(rows, columns)
    weight[:, -columns // 4 :] *= 4
    return weight


def slow_order(weight: Tensor, statistics: Hessian, sparsity: float, block: int) -> list[int]:
    """The order in plain loops: sums of the smallest scores of a block, by column and of the whole block."""
    scores = (weight.abs() * statistics.squares.sqrt()).double()
    blocks = []
    for start in range(0, weight.shape[1], block):
        part = scores[:, start : start + block]
        largest_lost = part.flatten().sort().values[round(sparsity * part.numel()) - 1]
        losses = [part[:, j][part[:, j] <= largest_lost].sum().item() for j in range(block)]
        blocks.append((sum(losses), [start + j for j in sorted(range(block), key=lambda j: -losses[j])]))
    assert 1 - min(blocks)[0] / max(blocks)[0] > 0.5
    return [column for _, columns in sorted(blocks, key=lambda item: -item[0]) for column in columns]


def test_rose_is_sparsegpt_in_the_order_of_losses() -> None:
    weight, statistics = columnar(10, 32), correlated(32)
    order = slow_order(weight, statistics, 0.6, 8)
    found = column_order(weight, statistics, Unstructured(0.6), 8)
    assert found is not None and found.tolist() == order
    pruned, mask = rose(weight, statistics, Unstructured(0.6), block_size=8)
    added = statistics.applied[-1].added
    expected = slow_sparsegpt(weight[:, order], statistics.matrix[order][:, order], added, 0.6, 8)
    assert torch.allclose(pruned[:, order].double(), expected, rtol=1e-3, atol=1e-4)
    assert torch.equal(mask[:, order], expected != 0)


def test_a_layer_whose_blocks_lose_alike_is_left_to_sparsegpt() -> None:
    weight, pattern = torch.randn(64, 256), Unstructured(0.6)
    statistics = Hessian(torch.eye(256), 1000)
    assert column_order(weight, statistics, pattern, 64) is None
    ours, theirs = rose(weight, statistics, pattern, 64), sparsegpt(weight, statistics, pattern, 64)
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("sparsity", [0.5, 0.7])
def test_a_columnar_layer_loses_less_than_by_sparsegpt(sparsity: float) -> None:
    weight, statistics = columnar(64, 256), correlated(256, tokens=2000)
    pattern = Unstructured(sparsity)
    errors = [
        output_error(weight - prune(weight, statistics, pattern, 64)[0], statistics.matrix).sum().item()
        for prune in (rose, sparsegpt)
    ]
    assert errors[0] < 0.6 * errors[1]


def test_columns_that_are_chosen_together_stay_together() -> None:
    weight, statistics = columnar(16, 64), correlated(64)
    for pattern, block in ((KeepNOfM(2, 4), 4), (Unstructured(0.5, 1, 4), 16)):
        order = column_order(weight, statistics, pattern, block)
        assert order is not None
        units = order.unflatten(0, (-1, 4))
        assert torch.equal(units, units[:, :1] // 4 * 4 + torch.arange(4))
        assert sorted(order.tolist()) == list(range(64))
