"""The solver against brute force, and against the bound that Lagrange multipliers give."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cutwork.compress.solve import Option, Solver

options = st.builds(Option, st.integers(0, 40).map(float), st.integers(0, 1000).map(float))
parts_of_options = st.lists(st.lists(options, min_size=1, max_size=5), min_size=1, max_size=5)


def best_by_trying(parts: list[list[Option]], budget: float) -> float | None:
    affordable = (c for c in itertools.product(*parts) if sum(option.cost for option in c) <= budget)
    return min((sum(option.error for option in choice) for choice in affordable), default=None)


@settings(deadline=None)
@given(parts_of_options, st.integers(-1, 210))
def test_it_is_as_good_as_trying_everything(parts: list[list[Option]], budget: int) -> None:
    dearest = int(sum(max(option.cost for option in options) for options in parts))
    solver = Solver(parts, units=max(dearest, 1))  # a unit is 1 or less, so nothing is rounded where it matters
    found, expected = solver.within(budget), best_by_trying(parts, budget)
    if expected is None:
        assert found is None
        return
    assert found is not None and solver.cost(found) <= budget
    if dearest == sum(max(o.cost for o in options if not dominated(o, options)) for options in parts):
        assert solver.error(found) == expected


def dominated(option: Option, others: list[Option]) -> bool:
    return any(
        o.cost <= option.cost and o.error <= option.error and (o.cost, o.error) != (option.cost, option.error)
        for o in others
    )


def test_a_model_sized_problem_reaches_the_bound_of_lagrange() -> None:
    random = np.random.default_rng(0)
    parts = []
    for _ in range(210):
        costs = np.sort(random.uniform(0.01, 1, 12))[::-1]
        errors = np.sort(random.lognormal(-4, 2, 12))
        parts.append([Option(float(c), float(e)) for c, e in zip(costs, errors, strict=True)])
    solver = Solver(parts)
    budget = 0.4 * sum(options[0].cost for options in parts)
    found = solver.within(budget)
    assert found is not None and solver.cost(found) <= budget
    bound = max(
        sum(min(o.error + price * o.cost for o in options) for options in parts) - price * budget
        for price in np.geomspace(1e-5, 10, 400)
    )
    assert bound <= solver.error(found) <= 1.01 * bound


def test_budgets_between_the_cheapest_and_the_dearest_are_all_kept() -> None:
    parts = [[Option(1.0, 0.0), Option(0.37, 1.0), Option(0.11, 5.0)]] * 9
    solver = Solver(parts, units=50)  # coarse: what rounding allows must still fit
    assert solver.cheapest == pytest.approx(0.99)
    assert solver.within(0.98) is None
    errors = []
    for budget in np.linspace(0.9901, 9, 60):
        choice = solver.within(float(budget))
        assert choice is not None and solver.cost(choice) <= budget + 1e-9
        errors.append(solver.error(choice))
    assert errors[0] == 45 and errors[-1] == 0
    assert all(after <= before for before, after in itertools.pairwise(errors))
