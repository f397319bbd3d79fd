"""The search for the fastest choice, where choices are numbers and nothing is made."""

from collections.abc import Sequence
from dataclasses import replace
from io import StringIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from cutwork.compress.menu import Choice
from cutwork.compress.promise import Loss
from cutwork.compress.search import Goal, _bisect, direct, refusal
from cutwork.errors import CutworkError


def test_what_was_lost_is_looked_for_among_slower_choices(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a small model one choice may be the best at several speeds: that it loses too much is no reason to stop."""
    choices = [SimpleNamespace(speedup=speedup, labels={"a": str(speedup)}) for speedup in (3.0, 1.2)]
    tried: list[float] = []

    def attempt(shop: object, choice: Any, goal: object) -> Any:
        tried.append(choice.speedup)
        return SimpleNamespace(choice=choice, kept=choice.speedup < 2, folder="", packed="", loss=Loss(0, -5.0, 5.0))

    class Solver:
        least = 1.0

        def within(self, milliseconds: float) -> Any:
            return choices[1] if milliseconds > 8 / 1.2 else choices[0]

    menu = SimpleNamespace(solver=Solver, dense_milliseconds=8.0)
    monkeypatch.setattr("cutwork.compress.search._try", attempt)
    monkeypatch.setattr("cutwork.compress.search.drop_all_but", lambda *_: None)
    console, task = (
        Console(record=True, quiet=False, width=500, file=StringIO()),
        SimpleNamespace(validation=range(300)),
    )
    shop = SimpleNamespace(
        menu=menu, timed=lambda choice: choice, console=console, task=task, samples_to_tell=lambda *_: 7512
    )
    found = _bisect(shop, Goal(within=1), 4)  # type: ignore[arg-type]
    assert tried == [3.0, 1.2] and [each.kept for each in found] == [False, True]
    [said] = console.export_text().splitlines()
    assert (
        said.startswith("300 validation samples tell such a loss to ±5.0 points") and "about 7,500 would tell" in said
    )


@pytest.mark.parametrize(
    ("given", "losses", "needed", "said"),
    [
        ({"within": 2}, (3, 3), (250, 290), []),
        ({"within": 2}, (3, 1), (470, 1900), ["about 470 would", "about 1,900 would"]),
        ({"within": 2}, (3, 1), (1900, 2700), ["about 1,900 would"]),
        ({"within": 2}, (3, 0), (7500, 381), ["about 7,500 would", "about 380 would"]),
        ({"within": 2}, (40, 1), (7500, 4000), ["about 4,000 would"]),
        ({"within": 2, "sure": True}, (3, 1), (1900, 6100), []),
        ({"within": 0}, (3, 1), (1900, 6100), []),
    ],
)
def test_it_is_said_how_many_samples_would_tell_where_the_interval_holds_the_budget(
    given: dict[str, Any],
    losses: tuple[float, ...],
    needed: tuple[int, ...],
    said: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    left = iter(zip(losses, needed, strict=True))

    def attempt(shop: object, choice: Choice, goal: object) -> Any:
        points, samples = next(left)
        return SimpleNamespace(
            choice=choice, kept=False, folder="", packed=samples, loss=Loss(points, points - 5, points + 5)
        )

    monkeypatch.setattr("cutwork.compress.search._try", attempt)
    monkeypatch.setattr("cutwork.compress.search.drop_all_but", lambda *_: None)
    prices, file = Prices(1.0), StringIO()
    shop = SimpleNamespace(
        menu=prices,
        timed=prices.timed,
        console=Console(file=file, width=500),
        task=SimpleNamespace(validation=range(300)),
        samples_to_tell=lambda packed, within: packed,
    )
    _bisect(shop, Goal(**given), 2)  # type: ignore[arg-type]
    lines = file.getvalue().splitlines()
    assert len(lines) == len(said) and all(each in line for each, line in zip(said, lines, strict=True))


@pytest.mark.parametrize(
    ("sure", "said"),
    [(False, "more --attempts or more training"), (True, "more --validation-samples or more training")],
)
def test_what_is_to_be_sure_is_helped_by_samples_not_attempts(sure: bool, said: str) -> None:
    choice = Choice({}, 4.0, 1.0, 0.1, 0.5, 2.0)
    [tried] = [SimpleNamespace(choice=choice, loss=Loss(0.5, -1.0, 2.0))]
    assert refusal([tried], Goal(1, sure=sure), Path("out")).endswith(said)  # type: ignore[list-item]


class Prices:
    """A menu by whose prices a choice is as fast as its label says, and loses as much, up to four times; timed, it is
    `wrong` times as fast, and by `luck` more or less."""

    dense_milliseconds, least = 8.0, 2.0

    def __init__(self, wrong: float, luck: Sequence[float] = ()) -> None:
        self.menu, self.console, self.wrong = self, Console(quiet=True), wrong
        self.luck, self.asked = iter(luck), list[float]()

    def solver(self) -> "Prices":
        return self

    def within(self, milliseconds: float) -> Choice | None:
        speedup = self.dense_milliseconds / milliseconds
        return Choice({"a": f"{speedup:.6f}"}, milliseconds, 1.0, speedup, 0.0, speedup)

    def timed(self, choice: Choice) -> Choice:
        self.asked.append(choice.speedup)
        return replace(choice, speedup=next(self.luck, 1.0) * self.wrong * choice.speedup)


@pytest.mark.parametrize("wrong", [1.0, 0.8, 1.25, 1.01])
def test_a_choice_is_as_fast_as_was_asked_for_when_it_is_timed(wrong: float) -> None:
    shop = Prices(wrong)
    choice = direct(shop, Goal(speedup=2))  # type: ignore[arg-type]
    assert choice and 2 - 1e-6 <= choice.speedup <= 2.04 and len(shop.asked) <= 3
    assert choice.kl == pytest.approx(choice.speedup / wrong)


@pytest.mark.parametrize("luck", [(0.97, 1.1, 0.9, 0.9, 1.0), (1.2, 0.95), (0.8, 1.0, 1.0)])
def test_luck_in_one_timing_is_put_right_by_others(luck: tuple[float, ...]) -> None:
    choice = direct(Prices(0.95, luck), Goal(speedup=2))  # type: ignore[arg-type]
    assert choice and 2 - 1e-6 <= choice.speedup <= 2.2
    assert choice.speedup == pytest.approx(0.95 * choice.kl, rel=0.06)  # as it would be timed without luck


def test_only_what_was_timed_says_that_nothing_is_as_fast() -> None:
    shop = Prices(1.25)
    choice = direct(shop, Goal(speedup=4.9))  # type: ignore[arg-type]
    assert choice and choice.speedup >= 4.9 - 1e-6 and shop.asked[0] == pytest.approx(4)
    with pytest.raises(CutworkError, match=r"none is more than 3\.60 times as fast, so not 4; ask for less"):
        direct(Prices(0.9), Goal(speedup=4))  # type: ignore[arg-type]
