"""Weights that fill empty slots: more of them live, and no slot is added."""

import numpy as np
import pytest
import torch

from benchmarks.training.filling import STRIP, TAKE, WINDOW, at_bytes, fill
from cutwork import _native
from cutwork.prune.pattern import Unstructured


def steps(mask: torch.Tensor) -> list[int]:
    """How many steps each strip of rows takes, counted one by one."""
    found = []
    for first in range(0, len(mask), STRIP):
        rows = [row.nonzero().flatten().tolist() for row in mask[first : first + STRIP]]
        count = 0
        while any(rows):
            start = max(0, min(*(row[0] for row in rows if row), mask.shape[1] - WINDOW))
            for row in rows:
                taken = [column for column in row[:TAKE] if column < start + WINDOW]
                del row[: len(taken)]
            count += 1
        found.append(count)
    return found


@pytest.mark.parametrize(("rows", "columns", "zeros"), [(64, 576, 0.75), (6, 100, 0.9), (5, 40, 0.5), (16, 16, 0.8)])
def test_more_weights_live_in_the_same_steps(rows: int, columns: int, zeros: float) -> None:
    weight = torch.randn(rows, columns, generator=torch.Generator().manual_seed(1))
    weight[:, 3] = 0
    costs, live = weight.square(), weight != 0
    keep = Unstructured(zeros).keep(costs, live)
    filled = fill(keep, costs, live)
    assert (filled & ~live).sum() == 0 and (keep & ~filled).sum() == 0
    assert filled.sum() > keep.sum() and steps(filled) == steps(keep)


def test_the_engines_slots_are_no_more() -> None:
    weight = torch.randn(64, 576, generator=torch.Generator().manual_seed(2))
    keep = Unstructured(0.75).keep(weight.square(), weight != 0)
    filled = fill(keep, weight.square(), weight != 0)

    def stored(mask: torch.Tensor) -> int:
        slots = _native.Weight.dense(mask.to(torch.int8).numpy(), np.ones(64, np.float32)).in_slots()
        assert slots
        return slots.stored

    assert stored(filled) == stored(keep)


def test_errors_are_compared_at_equal_bytes() -> None:
    rows = [
        {"bytes": size, "error": error, "zeros": zeros} for size, error, zeros in ((1, 0.01, 0.5), (0.5, 0.04, 0.75))
    ]
    found = at_bytes(rows, 0.75)
    assert found and np.exp(found[0]) == pytest.approx(0.02) and found[1] == pytest.approx(0.625)
    assert at_bytes(rows, 0.4) is None
