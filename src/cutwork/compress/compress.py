"""The fastest model within a budget: choose, prune, tune, quantise, pack, evaluate, until the promise holds.

What is made lies in the output directory, as stages that resume (`run/stages.py`):

    errors.json                 what candidates cost the dense model
    milliseconds.json           what they take on this machine, and what is no linear
    frontier.json, .png         the best choices for every speed by these prices, and what was tried, timed
    dense/, zeros-44-c0ffee/, … the dense model packed, and one directory for each choice that was tried
    packed/, recipe.yaml        the model that keeps the promise, and the recipe that makes it again
    compress.json               the report
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from cutwork.architectures import check_runnable
from cutwork.architectures import kind_of as model_kind
from cutwork.compress.frontier import as_json, frontiers, plot
from cutwork.compress.menu import Choice
from cutwork.compress.milliseconds import Purpose
from cutwork.compress.promise import Metric, loss, samples_to_tell
from cutwork.compress.recipe_of import MADE_BY, check_recipe_free, write_recipe
from cutwork.compress.search import Goal, Tried, direct, drop_all_but, refusal, search, speedup_of, surest
from cutwork.compress.workshop import Workshop
from cutwork.errors import CutworkError, require
from cutwork.recipe import Recipe
from cutwork.run.stages import read_state
from cutwork.store.atomic import write_atomically
from cutwork.store.directory import check_plain, read_config
from cutwork.store.fingerprint import digest
from cutwork.store.json_file import read_json, write_json
from cutwork.store.output import check_apart
from cutwork.store.resolve import resolve
from cutwork.tasks.load import load_task, with_validation_behind
from cutwork.tasks.task import Task

__all__ = ["Goal", "compress"]


def compress(
    base: Recipe,
    goal: Goal,
    *,
    purpose: Purpose = "decode",
    metric: Metric = "answers",
    attempts: int = 4,
    dry_run: bool = False,
    validation_samples: int = 0,
    console: Console | None = None,
) -> dict[str, Any]:
    """Make the fastest model that keeps the goal in `base.output`; returns the report that is also written there.

    `base` says the model, the task (with validation samples, all of which judge, and `compare.accuracy_samples` of the
    test's), and how to prune, tune and quantise; its rates, patterns and schemes are chosen here. If its task holds
    none out, so many `validation_samples` are taken from behind its training's, which the model may have been trained
    on. `purpose` is what is to be fast, with `base.compare.threads`; `attempts` how many choices are made at most to
    find the one that keeps `goal.within`. With `dry_run` nothing is trained, and the report says what is predicted.
    After an interruption the same call goes on. Raises CutworkError for whatever the user can put right, and, when the
    frontier has been written, if the goal cannot be kept.
    """
    console = console or Console(stderr=True)
    _check(base, goal)
    if goal.sure:
        goal = replace(goal, looks=attempts * (2 if base.tune else 1))  # each in one shot and trained
    check_apart(base.output, resolve(base.model))
    if not dry_run:
        _check_free(base.output)
    task = _task(base, needs_validation=not dry_run, behind=validation_samples)
    if goal.sure and not dry_run:
        _check_enough(goal, len(task.validation), attempts)
    shop = Workshop(base, task, purpose, metric, console)
    found = frontiers(shop.menu)
    _write_frontier(shop, goal, found, None)
    chosen = direct(shop, goal)
    report: dict[str, Any] = {"model": base.model, "goal": asdict(goal), "for": purpose, "metric": metric}
    report |= {"attempts": attempts, "machine": shop.machine}
    if dry_run:
        choice = {} if chosen is None else {"choice": chosen.as_json()}
        return report | choice | as_json(found, [])
    shop.check_metric(goal.within)
    tried = search(shop, chosen, goal, attempts)
    _write_frontier(shop, goal, found, tried)
    kept = [each for each in tried if each.kept]
    if not kept:
        former = base.output / "packed"
        stays = f". {former} is still that of an earlier call" if former.exists() else ""
        raise CutworkError(refusal(tried, goal, base.output) + stays)
    best = max(kept, key=speedup_of)
    if trained := surest(shop, best, goal):
        tried += trained
        _write_frontier(shop, goal, found, tried)
        best = min(best, *trained, key=lambda each: (not each.kept, each.loss.points))
    (base.output / "compress.json").unlink(missing_ok=True)  # an interruption would leave it beside another model
    packed = shop.take(best.packed)
    note = f"{best.choice.speedup:.2f}x {MADE_BY}; loses {best.loss} on validation"
    compared = base.compare.model_copy(update={"models": ()})  # what the base recipe names may lack what was chosen
    again = best.recipe.model_copy(update={"output": base.output / "run", "compare": compared})
    write_recipe(again, base.output / "recipe.yaml", note)
    tested = shop.loss(packed, task.test)
    report |= {
        "choice": best.choice.as_json(),
        "tried": [each.as_json() for each in tried],
        "packed": str(packed.output),
        "validation": asdict(best.loss),
        "test": asdict(tested),
        "measured": shop.speeds(packed),
    }
    if goal.within is not None:
        report["promise"] = tested.against(goal.within)
    write_json(base.output / "compress.json", report)
    drop_all_but(best, tried, shop, pruned=True)
    return report


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


def _check_enough(goal: Goal, count: int, attempts: int) -> None:
    """Raise CutworkError if by so few samples not even what changes no answer would surely keep the goal."""
    same = [1.0] * count  # which leaves shares of tokens open as far as answers, as any may be lost whole
    within, least = goal.within or 0.0, loss(same, same, goal.looks).high
    if least <= within:
        return
    needed = samples_to_tell(same, same, within, goal.looks) if within else 0
    raise CutworkError(
        f"--sure: with --attempts {attempts}, {count} validation samples leave {least:.1f} points open even where no "
        f"answer differs, more than --within {within:g}; "
        + (f"give at least {needed:,} --validation-samples" if within else "allow some, or leave --sure out")
    )


def _check_free(output: Path) -> None:
    """Raise CutworkError if what is not of this command lies where its results are to be."""
    check_recipe_free(output / "recipe.yaml")
    packed = output / "packed"
    if packed.exists() and packed.name not in read_state(output):
        raise CutworkError(f"{packed} is not from cutwork compress; move it away or choose another OUT")


def _task(base: Recipe, *, needs_validation: bool, behind: int = 0) -> Task:
    directory = resolve(base.model)
    check_plain(directory)
    config = read_config(directory)
    if model_kind(config) != "text":
        raise CutworkError("only decoder-only models can be compressed by budget; prune and quantise others by recipe")
    check_runnable(config)  # or what cannot be packed would be found out after hours
    behind = 0 if base.task.validation_samples else behind
    task = with_validation_behind(base.task, behind) if behind else load_task(base.task)
    if needs_validation and behind and task.train and not task.validation:
        raise CutworkError(
            f"nothing is left to judge by behind the {len(task.train):,} samples that the recipe trains on; give more "
            "data, or set its task.validation_samples before the dense model is trained"
        )
    if not task.train or not task.test or (needs_validation and not task.validation):
        raise CutworkError(
            f"task {task.name} has {len(task.train)} samples to train on, {len(task.validation)} to validate and "
            f"{len(task.test)} to test with, and compress needs all three; give more data or ask for fewer"
        )
    # A generated task's test is drawn longer than it is asked: what comes later is what `tune` trains on.
    return replace(task, test=task.test[: base.compare.accuracy_samples])
