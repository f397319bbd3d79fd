"""What the command says of what it made, and of its options."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.core import TyperOption
from typer.main import get_command

from cutwork.cli.compress import _more_tests, _print_result
from cutwork.errors import CutworkError
from cutwork.recipe import Recipe
from tests.compress.command import app, call

LOST = {"points": 1.0, "low": -1.0, "high": 3.0}


def report(goal: dict[str, float], **changed: Any) -> dict[str, Any]:
    """A report of what takes 600 MB and is twice as fast."""
    return {
        "packed": "out/packed",
        "choice": {"zeros": 0.5, "speedup": 2.0},
        "measured": {"nbytes": {"compressed": 6e8}, "speedup": 2.0},
        "for": "decode",
        "metric": "answers",
        "validation": LOST,
        "test": LOST,
        "goal": {"within": None, "speedup": None, "nbytes": None, **goal},
        **changed,
    }


@pytest.mark.parametrize(
    ("goal", "said"),
    [
        ({"nbytes": 6e8}, ""),
        ({"nbytes": 5.99e8}, "loaded again its weights take 600.00 MB, more than the 599.00 asked for"),
        ({"speedup": 2.0}, ""),
        ({"speedup": 2.1}, "timed again it is 2.00 times as fast, less than the 2.1 asked for"),
    ],
)
def test_a_goal_that_the_last_measurement_misses_is_told(
    goal: dict[str, float], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _print_result(report(goal), tmp_path, "")
    told = [line for line in capsys.readouterr().out.splitlines() if "again" in line]
    assert told == ([said] if said else [])


@pytest.mark.parametrize(("metric", "of"), [("answers", "right answers"), ("tokens", "the reference's tokens")])
def test_what_points_are_of_is_told(metric: str, of: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _print_result(report({"within": 2.0}, metric=metric), tmp_path, "")
    shown = capsys.readouterr().out
    for kind in ("validation", "test"):
        assert f"lost on {kind}: 1.0 points of {of}, 95% interval -1.0 to 3.0\n" in shown


BOTH = "task.test_samples and compare.accuracy_samples of the recipe"


@pytest.mark.parametrize(
    ("by_recipe", "name", "options", "test_samples", "more", "anew"),
    [
        (False, "gsm_symbolic", {}, 200, "--test-samples", False),
        (False, "gsm8k", {}, 200, "--test-samples", False),
        (False, "a.jsonl", {"train": "b.jsonl"}, 200, "--test-samples", False),
        (False, "a.jsonl", {"train": "a.jsonl"}, 200, "--test-samples", True),
        (True, "a.jsonl", {"train": "a.jsonl"}, 200, BOTH, True),
        (True, "a.jsonl", {"train": "a.jsonl"}, 300, "compare.accuracy_samples of the recipe", False),
        (True, "gsm8k", {}, 200, BOTH, False),
        (True, "gsm_symbolic", {}, 200, BOTH, True),
    ],
)
def test_what_would_let_more_samples_test_is_what_can_be_asked_for(
    by_recipe: bool, name: str, options: dict[str, str], test_samples: int, more: str, anew: bool
) -> None:
    task = {"name": name, "options": options, "test_samples": test_samples}
    settings = {"name": "a", "model": "b", "output": "c", "task": task, "compare": {"accuracy_samples": 200}}
    said = _more_tests(Recipe.model_validate(settings), by_recipe=by_recipe)
    assert said.startswith(f"more {more} would tell") and ("made anew" in said) == anew


@pytest.mark.parametrize(("by_recipe", "held_out"), [(True, 9), (True, 0), (False, 0)])
def test_a_broken_promise_names_what_more_samples_to_choose_by_are_asked_for_with(
    by_recipe: bool, held_out: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = report({"within": 0.5}, promise="broken")
    monkeypatch.setattr("cutwork.compress.compress.compress", lambda *_, **__: broken)
    recipe = tmp_path / "recipe.yaml"
    task = {"name": "gsm8k", "validation_samples": held_out}
    recipe.write_text(json.dumps({"name": "a", "model": "b", "output": "c", "task": task}))
    samples = ["--recipe", recipe] if by_recipe else ["--task", "gsm8k"]
    of_recipe = r"task\.validation_samples of the recipe, set before the dense model is trained,"
    more = of_recipe if held_out else "--validation-samples"
    with pytest.raises(CutworkError, match=f"or for more {more} to choose by"):
        call("model", tmp_path / "out", *samples, "--within", 0.5)


def test_help_says_all_that_a_recipe_decides() -> None:
    [option] = [each for each in get_command(app).params if each.name == "recipe"]
    assert isinstance(option, TyperOption) and option.help
    for decided in ("task", "pruner", "fine-tuning", "quantiser", "compare"):
        assert decided in option.help
