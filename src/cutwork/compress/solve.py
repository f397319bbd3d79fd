"""Which option each part of a model should take: the least error within every budget.

A multiple-choice knapsack: each part takes one of its options, costs and errors add up. Dynamic programming over costs
in whole units of a small part of the dearest choice; parts and options are few, so one table answers all budgets. It is
exact but for that rounding: a better choice may be missed that comes within half a unit for each part of the budget.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

_UNITS = 20_000  # that the dearest choice of all costs


@dataclass(frozen=True)
class Option:
    """What one choice costs (in any unit, as milliseconds) and adds to the error."""

    cost: float
    error: float


class Solver:
    """The best choices of options for `parts`, by budget. Every part needs an option."""

    def __init__(self, parts: Sequence[Sequence[Option]], units: int = _UNITS) -> None:
        self._parts = parts
        self._useful = [_undominated(options) for options in parts]
        dearest = sum(max(options[i].cost for i in useful) for options, useful in zip(parts, self._useful, strict=True))
        self._unit = dearest / units or 1.0
        # Half up: over many parts the roundings cancel, where rounding up would waste a unit of each.
        self._costs = [
            [int(options[i].cost / self._unit + 0.5) for i in useful]
            for options, useful in zip(parts, self._useful, strict=True)
        ]
        self._fill(sum(map(max, self._costs)) + 1)

    def _fill(self, size: int) -> None:
        least = np.zeros(size)  # error of the parts so far within each budget
        self._chosen = np.empty((len(self._parts), size), np.uint8)
        for part, (options, useful, costs) in enumerate(zip(self._parts, self._useful, self._costs, strict=True)):
            before, least = least, np.full(size, np.inf)
            for place, (index, cost) in enumerate(zip(useful, costs, strict=True)):
                error = before[: size - cost] + options[index].error
                better = error < least[cost:]
                least[cost:][better] = error[better]
                self._chosen[part, cost:][better] = place
        self._least = least

    @property
    def cheapest(self) -> float:
        """The least that any choice costs."""
        return sum(min(option.cost for option in options) for options in self._parts)

    def within(self, budget: float) -> list[int] | None:
        """The option of each part with the least error that together cost no more than `budget`; None if none do."""
        tolerance = 1e-9 * max(budget, 0)
        slack = len(self._parts) // 2 + 1  # by so many units, at most, the rounded costs of a choice can be too high
        for units in range(min(int(max(budget, 0) / self._unit) + slack, len(self._least) - 1), -1, -1):
            if not np.isfinite(self._least[units]):
                break
            choice = self._trace(units)
            if self.cost(choice) <= budget + tolerance:
                return choice
        cheapest = [
            min(range(len(options)), key=lambda i: (options[i].cost, options[i].error)) for options in self._parts
        ]
        return cheapest if self.cost(cheapest) <= budget + tolerance else None

    def cost(self, choice: Sequence[int]) -> float:
        """What a choice costs in all."""
        return sum(options[i].cost for options, i in zip(self._parts, choice, strict=True))

    def error(self, choice: Sequence[int]) -> float:
        """The sum of a choice's errors."""
        return sum(options[i].error for options, i in zip(self._parts, choice, strict=True))

    def _trace(self, units: int) -> list[int]:
        choice = []
        for part in range(len(self._parts) - 1, -1, -1):
            place = int(self._chosen[part, units])
            choice.append(self._useful[part][place])
            units -= self._costs[part][place]
        return choice[::-1]


def _undominated(options: Sequence[Option]) -> list[int]:
    """The options that no other beats in cost and error both, the cheapest first."""
    useful: list[int] = []
    for i in sorted(range(len(options)), key=lambda i: (options[i].cost, options[i].error)):
        if not useful or options[i].error < options[useful[-1]].error:
            useful.append(i)
    return useful
