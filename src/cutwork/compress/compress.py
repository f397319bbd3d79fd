"""The fastest model within a budget: choose, prune, tune, quantise, pack, evaluate, until the promise holds.

What is made lies in the output directory, as stages that resume (`run/stages.py`):

    errors.json                 what candidates cost the dense model
    milliseconds.json           what they take on this machine, and what is no linear
    frontier.json, .png         the best choices for every speed, and what was tried
    dense/, 2.31x-c0ffee/, …    the dense model packed, and one directory for each choice that was trained
    packed/, recipe.yaml        the model that keeps the promise, and the recipe that makes it again
    compress.json               the report
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from cutwork.architectures import kind_of as model_kind
from cutwork.compress.frontier import as_json, frontiers, plot
from cutwork.compress.menu import Choice, Menu
from cutwork.compress.milliseconds import Purpose
from cutwork.compress.promise import Loss, Metric
from cutwork.compress.recipe_of import MADE_BY, check_recipe_free, recipe_of, write_recipe
from cutwork.compress.workshop import Workshop
from cutwork.errors import CutworkError, require
from cutwork.recipe import Recipe
from cutwork.run.stages import Stage, read_state
from cutwork.store.atomic import write_atomically
from cutwork.store.directory import kind_of as directory_kind
from cutwork.store.directory import read_config
from cutwork.store.fingerprint import digest
from cutwork.store.json_file import read_json, write_json
from cutwork.store.output import check_apart
from cutwork.store.resolve import resolve
from cutwork.tasks.load import load_task
from cutwork.tasks.task import Task

_CLOSE = 1.005  # speed-ups that are nearer to each other are alike


@dataclass(frozen=True)
class Goal:
    """What is promised, one of these: points lost at most, a speed-up over the dense model in bfloat16, bytes."""

    within: float | None = None
    speedup: float | None = None
    nbytes: float | None = None
    sure: bool = False  # of `within`: the interval must keep it too, not only what was measured


@dataclass(frozen=True)
class Tried:
    """A choice that was made, in one shot or trained, and evaluated on the validation samples."""

    choice: Choice
    recipe: Recipe
    folder: str
    packed: Stage
    loss: Loss
    kept: bool
    made_nbytes: int | None = None  # where bytes are the goal: what they came to, of which `choice` holds the forecast

    def as_json(self) -> dict[str, Any]:
        """Plain numbers."""
        numbers = {key: getattr(self.choice, key) for key in ("speedup", "milliseconds", "nbytes", "kl", "zeros")}
        result = {"loss": asdict(self.loss), "kept": self.kept, "trained": bool(self.recipe.tune)}
        return {**numbers, **result, "directory": str(self.packed.output)}


def compress(
    base: Recipe,
    goal: Goal,
    *,
    purpose: Purpose = "decode",
    metric: Metric = "answers",
    attempts: int = 4,
    dry_run: bool = False,
    console: Console | None = None,
) -> dict[str, Any]:
    """Make the fastest model that keeps the goal in `base.output`; returns the report that is also written there.

    `base` says the model, the task (with validation samples), and how to prune, tune and quantise; its rates, patterns
    and schemes are chosen here. `purpose` is what is to be fast, with `base.compare.threads`; `attempts` how many
    choices are made at most to find the one that keeps `goal.within`. With `dry_run` nothing is trained, and the
    report says what is predicted. After an interruption the same call goes on. Raises CutworkError for whatever the
    user can put right, and, when the frontier has been written, if the goal cannot be kept.
    """
    console = console or Console(stderr=True)
    _check(base, goal)
    check_apart(base.output, resolve(base.model))
    if not dry_run:
        _check_free(base.output)
    task = _task(base, needs_validation=not dry_run)
    shop = Workshop(base, task, purpose, metric, console)
    found = frontiers(shop.menu)
    _write_frontier(shop, goal, found, None)
    direct = _direct(shop.menu, goal)
    report: dict[str, Any] = {"model": base.model, "goal": asdict(goal), "for": purpose, "machine": shop.machine}
    if dry_run:
        chosen = {} if direct is None else {"choice": direct.as_json()}
        return report | chosen | as_json(found, [])
    shop.check_metric(goal.within)
    tried = _fitted(shop, direct, goal, attempts) if direct else _bisect(shop, goal, attempts)
    _write_frontier(shop, goal, found, tried)
    kept = [each for each in tried if each.kept]
    if not kept:
        raise CutworkError(_refusal(tried, goal, base.output))
    best = max(kept, key=_speedup)
    if trained := _surest(shop, best, goal):
        tried += trained
        _write_frontier(shop, goal, found, tried)
        best = min(best, *trained, key=lambda each: (not each.kept, each.loss.points))
    packed = shop.take(best.packed)
    note = f"{best.choice.speedup:.2f}x {MADE_BY}; loses {best.loss} on validation"
    compared = base.compare.model_copy(update={"models": ()})  # what the base recipe names may lack what was chosen
    again = best.recipe.model_copy(update={"output": base.output / "run", "compare": compared})
    write_recipe(again, base.output / "recipe.yaml", note)
    report |= {
        "choice": best.choice.as_json(),
        "tried": [each.as_json() for each in tried],
        "packed": str(packed.output),
        "validation": asdict(best.loss),
        "test": asdict(shop.loss(packed, task.test)),
        "measured": shop.speeds(packed),
    }
    write_json(base.output / "compress.json", report)
    _drop_all_but(best, tried, shop, pruned=True)
    return report


def _try(shop: Workshop, choice: Choice, goal: Goal) -> Tried:
    """Make a choice and see what it loses on validation: in one shot and, unless that keeps the goal, trained.

    Of the two the one that loses less: a model that has converged may lose more by being trained again than by what few
    zeros and bits it lost.
    """
    facts = f"{choice.milliseconds:.2f} ms, {choice.nbytes / 1e6:.0f} MB, {choice.zeros:.0%} zeros"
    shop.console.print(f"[bold]{choice.speedup:.2f}x[/bold]: {facts} predicted", highlight=False)
    trained = recipe_of(shop.base, choice)
    one_shot = _make(shop, choice, trained.model_copy(update={"tune": None}), goal)
    if one_shot.kept and goal.within is not None:
        return one_shot
    if not one_shot.kept and goal.nbytes is not None:  # nor would it be smaller for being trained
        return one_shot
    return min(one_shot, _make(shop, choice, trained, goal), key=lambda each: (not each.kept, each.loss.points))


def _fitted(shop: Workshop, choice: Choice, goal: Goal, attempts: int) -> list[Tried]:
    """A choice that needs no search and, as long as what is made of it takes more bytes than the goal allows, the best
    choice that is so much smaller."""
    tried = [_try(shop, choice, goal)]
    budget = goal.nbytes or 0.0
    while (made := tried[-1].made_nbytes) and not tried[-1].kept and len(tried) < attempts:
        budget -= made - (goal.nbytes or 0.0)
        smaller = shop.menu.solver("nbytes").within(budget)
        if smaller is None:
            break
        tried.append(_try(shop, smaller, goal))
    return tried


def _surest(shop: Workshop, best: Tried, goal: Goal) -> list[Tried]:
    """The choice trained, if it keeps the goal in one shot but its interval does not, which so few samples may owe to
    luck; empty if there is nothing to be surer of."""
    if goal.within is None or best.recipe.tune or best.loss.high <= goal.within:
        return []
    return [_make(shop, best.choice, recipe_of(shop.base, best.choice), goal)]


def _make(shop: Workshop, choice: Choice, recipe: Recipe, goal: Goal) -> Tried:
    name = f"{choice.speedup:.2f}x"
    folder = f"{name}-{digest(choice.labels, digits=6)}"
    packed = shop.make(recipe, folder)
    lost = shop.loss(packed, shop.task.validation)
    kept, verdict, nbytes = True, "", None
    if goal.nbytes is not None:
        nbytes = shop.nbytes(packed)
        kept = nbytes <= goal.nbytes
        verdict = f", {nbytes / 1e6:.1f} MB"
    if goal.within is not None:
        kept = (lost.high if goal.sure else lost.points) <= goal.within
        verdict = f", {'within' if kept else 'not within'} {goal.within:g}"
    how = "trained" if recipe.tune else "in one shot"
    shop.console.print(f"{name}: loses {lost} on validation {how}{verdict}", highlight=False)
    return Tried(choice, recipe, folder, packed, lost, kept, nbytes)


def _drop_all_but(best: Tried | None, tried: Sequence[Tried], shop: Workshop, *, pruned: bool = False) -> None:
    """Free the disk of what others than the best left but packed; of what pruning left when it is not tried again."""
    for each in tried:
        if best is None or each.folder != best.folder:
            shop.drop(each.folder, pruned=pruned)


def _speedup(tried: Tried) -> float:
    return tried.choice.speedup


def _bisect(shop: Workshop, goal: Goal, attempts: int) -> list[Tried]:
    """Choices between the dense model's speed and the fastest, each in the middle of what is not known yet."""
    best = shop.menu.solver()
    slow, fast = 1.0, shop.menu.dense_milliseconds / best.least
    tried: list[Tried] = []
    while len(tried) < attempts and (not tried or fast > slow * _CLOSE):
        speedup = math.sqrt(slow * fast)
        choice = best.within(shop.menu.dense_milliseconds / speedup)
        if choice is None:
            break
        if any(choice.labels == each.choice.labels for each in tried):  # too much was lost then
            fast = speedup
            continue
        tried.append(_try(shop, choice, goal))
        _drop_all_but(max((each for each in tried if each.kept), key=_speedup, default=None), tried, shop)
        slow, fast = (max(speedup, choice.speedup), fast) if tried[-1].kept else (slow, speedup)
    return tried


def _direct(offered: Menu, goal: Goal) -> Choice | None:
    """The choice of a goal that needs no training to be found; CutworkError if there is none."""
    if goal.speedup is not None:
        best = offered.solver()
        choice = best.within(offered.dense_milliseconds / goal.speedup)
        most = offered.dense_milliseconds / best.least
        refusal = f"the fastest choice of all is predicted to be {most:.2f} times as fast, so not {goal.speedup:g}"
    elif goal.nbytes is not None:
        best = offered.solver("nbytes")
        choice = best.within(goal.nbytes)
        refusal = f"the smallest choice of all takes {best.least / 1e6:.0f} MB, more than {goal.nbytes / 1e6:.0f}"
    else:
        return None
    if choice is None:
        raise CutworkError(f"{refusal}; ask for less")
    return choice


def _write_frontier(
    shop: Workshop, goal: Goal, found: Mapping[str, Sequence[Choice]], tried: Sequence[Tried] | None
) -> None:
    """frontier.json and, where matplotlib is installed, frontier.png; `tried` is None before anything is, which leaves
    what was tried before for the same goal with the same model, data and settings."""
    output, depends = shop.base.output, digest([asdict(goal), *shop.inputs()])
    about = {"for": shop.purpose, "metric": shop.metric, "machine": shop.machine, "inputs": depends}
    if tried is None:
        file = output / "frontier.json"
        before = read_json(file) if file.is_file() else {}
        results = before["tried"] if before.get("about") == about else []
    else:
        results = [each.as_json() for each in tried]
    write_json(output / "frontier.json", {"about": about, **as_json(found, results)})
    title = f"{shop.base.model} · {shop.purpose} · {shop.machine['cpu']} · {shop.machine['threads']} threads"
    try:
        write_atomically(output / "frontier.png", plot(found, results, title))
    except CutworkError as error:
        shop.console.print(str(error))


def _refusal(tried: Sequence[Tried], goal: Goal, output: Path) -> str:
    if goal.within is None:
        least = min(each.made_nbytes or 0 for each in tried)
        return (
            f"the smallest of {len(tried)} choices takes {least / 1e6:.2f} MB, more than "
            f"{(goal.nbytes or 0) / 1e6:.2f}; allow more --memory or more --attempts"
        )
    slowest = min(tried, key=_speedup)
    sure = ", as far as so many samples can tell" if goal.sure else ""
    return (
        f"none of {len(tried)} choices loses {goal.within:g} points or less{sure}; the slowest, "
        f"{slowest.choice.speedup:.2f}×, loses {slowest.loss}. {output / 'frontier.json'} has them all; allow more "
        "points, more --attempts or more training"
    )


def _check(base: Recipe, goal: Goal) -> None:
    given = [value for value in (goal.within, goal.speedup, goal.nbytes) if value is not None]
    require(
        {
            "give one goal: --within POINTS, --speedup TIMES or --memory SIZE": len(given) == 1,
            "--within is how many points may be lost, so not below 0": goal.within is None or goal.within >= 0,
            "--speedup is over the dense model in bfloat16, so it must be at least 1": goal.speedup is None
            or goal.speedup >= 1,
            "compress chooses where zeros are, which tune.gradual, tune.keep_zeros: false and prune.levels would undo; "
            "leave them out of the recipe": not base.prune.levels
            and (base.tune is None or (base.tune.keep_zeros and base.tune.gradual is None)),
            "the validation samples judge what is promised, so they may not choose tune.keep_best or tune.patience's "
            "checkpoint; leave both out of the recipe": base.tune is None
            or not (base.tune.keep_best or base.tune.patience),
        }
    )


def _check_free(output: Path) -> None:
    """Raise CutworkError if what is not of this command lies where its results are to be."""
    check_recipe_free(output / "recipe.yaml")
    packed = output / "packed"
    if packed.exists() and packed.name not in read_state(output):
        raise CutworkError(f"{packed} is not from cutwork compress; move it away or choose another OUT")


def _task(base: Recipe, *, needs_validation: bool) -> Task:
    directory = resolve(base.model)
    if (stored := directory_kind(directory)) != "checkpoint":
        raise CutworkError(f"{directory} is a {stored} model; compress needs the plain checkpoint it was made from")
    if model_kind(read_config(directory)) != "text":
        raise CutworkError("only decoder-only models can be compressed by budget; prune and quantise others by recipe")
    task = load_task(base.task)
    if not task.train or not task.test or (needs_validation and not task.validation):
        raise CutworkError(
            f"task {task.name} has {len(task.train)} samples to train on, {len(task.validation)} to validate and "
            f"{len(task.test)} to test with, and compress needs all three; give more data or ask for fewer"
        )
    return task
