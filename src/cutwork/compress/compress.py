"""The fastest model within a budget: choose, prune, tune, quantise, pack, evaluate, until the promise holds.

What is made lies in the output directory, as stages that resume (`run/stages.py`):

    errors.json, others.json    of the dense model: what candidates cost it, what is no linear
    frontier.json, .png         the best choices for every speed, and what was tried
    dense/, 2.31x/, …           the dense model packed, and one directory for each choice that was trained
    packed/, recipe.yaml        the model that keeps the promise, and the recipe that makes it again
    compress.json               the report
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from cutwork.architectures import kind_of as model_kind
from cutwork.compress.frontier import as_json, frontiers, plot
from cutwork.compress.menu import Choice, Menu, menu
from cutwork.compress.milliseconds import Prices, Purpose, other_milliseconds
from cutwork.compress.promise import Loss, Metric, loss, scores
from cutwork.compress.recipe_of import recipe_of, write_recipe
from cutwork.engine.model import Model
from cutwork.errors import CutworkError, require
from cutwork.machine import cpu_name
from cutwork.measure.compare import Measurements
from cutwork.measure.speed import measure
from cutwork.recipe import PackSettings, Recipe
from cutwork.run.stages import Source, Stage, Stages, key_of, path_of, sample_digest
from cutwork.store.atomic import write_atomically
from cutwork.store.directory import kind_of as directory_kind
from cutwork.store.directory import read_config
from cutwork.store.json_file import read_json, write_json
from cutwork.store.resolve import resolve
from cutwork.tasks.load import load_task
from cutwork.tasks.task import Sample, Task


@dataclass(frozen=True)
class Goal:
    """What is promised, one of these: points lost at most, a speed-up over the dense model in bfloat16, bytes."""

    within: float | None = None
    speedup: float | None = None
    nbytes: float | None = None
    sure: bool = False  # of `within`: the interval must keep it too, not only what was measured


@dataclass(frozen=True)
class Tried:
    """A choice that was trained and evaluated on the validation samples."""

    choice: Choice
    recipe: Recipe
    packed: Stage
    quantized: Source
    loss: Loss
    kept: bool

    def as_json(self) -> dict[str, Any]:
        """Plain numbers."""
        numbers = {key: getattr(self.choice, key) for key in ("speedup", "milliseconds", "nbytes", "kl", "zeros")}
        return {**numbers, "loss": asdict(self.loss), "kept": self.kept, "directory": str(self.packed.output)}


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
    choices are trained at most to find the one that keeps `goal.within`. With `dry_run` nothing is trained, and the
    report says what is predicted. After an interruption the same call goes on. Raises CutworkError for whatever the
    user can put right, and, when the frontier has been written, if the goal cannot be kept.
    """
    console = console or Console(stderr=True)
    _check(goal)
    task = _task(base, needs_validation=not dry_run)
    work = _Work(base, task, purpose, metric, console)
    found = frontiers(work.menu)
    direct = _direct(work.menu, goal)
    report: dict[str, Any] = {"model": base.model, "goal": asdict(goal), "for": purpose, "machine": work.machine}
    if dry_run:
        work.write_frontier(found, [])
        chosen = {} if direct is None else {"choice": direct.as_json()}
        return report | chosen | as_json(found, [])
    tried = [work.attempt(direct, goal)] if direct else _bisect(work, goal, attempts)
    work.write_frontier(found, tried)
    kept = [each for each in tried if each.kept]
    if not kept:
        raise CutworkError(_refusal(tried, goal, base.output))
    best = max(kept, key=lambda each: each.choice.speedup)
    report |= {"choice": best.choice.as_json(), "validation": asdict(best.loss), "tried": [t.as_json() for t in tried]}
    report |= work.finish(best)
    write_json(base.output / "compress.json", report)
    return report


class _Work:
    """The output directory's stages and measurements, and the menu that they give."""

    def __init__(self, base: Recipe, task: Task, purpose: Purpose, metric: Metric, console: Console) -> None:
        self.base, self.task, self.purpose, self.metric, self.console = base, task, purpose, metric, console
        self._kept = Measurements(base.output / "measurements")
        self._group_size = base.quantize.group_size if base.quantize else 128
        prices = Prices(purpose, base.compare.threads, self._group_size)
        self.machine = {"cpu": cpu_name(), "threads": prices.threads}
        stages = self._stages()
        self._source = self._dense(stages)
        settings = [base.prune.calibration_samples, base.prune.seed, base.prune.damping, self._group_size]
        data = [sample_digest(task.train), base.task.max_length, base.task.long]
        errors = stages.add("errors.json", "prune", self._write_errors, [*settings, *data], self._source)
        others = stages.add("others.json", "prune", self._write_others, [purpose, self.machine], self._source)
        self.dense = stages.pack("dense/packed", self._source, PackSettings(dtype="bf16"))
        stages.carry_out()
        self.menu: Menu = menu(read_json(errors.output), read_json(others.output), prices)

    def attempt(self, choice: Choice, goal: Goal) -> Tried:
        """Prune, tune, quantise, pack and evaluate a choice."""
        self.console.print(
            f"[bold]{choice.speedup:.2f}×[/bold] predicted: {choice.milliseconds:.2f} ms, "
            f"{choice.nbytes / 1e6:.0f} MB, {choice.zeros:.0%} zeros",
            highlight=False,
        )
        recipe, stages, folder = recipe_of(self.base, choice), self._stages(), f"{choice.speedup:.2f}x"
        source = self._dense(stages)
        pruned = stages.prune(f"{folder}/pruned", source, recipe.prune)
        final = stages.tune(f"{folder}/sparse", "tune", pruned, recipe.tune, teacher=source)
        if recipe.quantize:
            final = stages.quantize(f"{folder}/quantized", final, recipe.quantize)
        packed = stages.pack(f"{folder}/packed", final, recipe.pack)
        stages.carry_out()
        lost = self._loss(packed, self.task.validation)
        limit = math.inf if goal.within is None else goal.within
        kept = (lost.high if goal.sure else lost.points) <= limit
        verdict = "" if goal.within is None else f", {'within' if kept else 'not within'} {goal.within:g}"
        self.console.print(f"{folder}: loses {lost} on validation{verdict}", highlight=False)
        return Tried(choice, recipe, packed, final, lost, kept)

    def finish(self, best: Tried) -> dict[str, Any]:
        """Pack the best model as the result, write its recipe, and measure it on the untouched test samples."""
        output, stages = self.base.output, self._stages()
        self._dense(stages)
        packed = stages.pack("packed", best.quantized, best.recipe.pack)
        stages.carry_out()
        note = f"{best.choice.speedup:.2f}x by cutwork compress; loses {best.loss} on validation"
        recipe = best.recipe.model_copy(update={"output": output / "run"})
        write_recipe(recipe, output / "recipe.yaml", note)
        test = self._loss(packed, self.task.test)
        speeds = self._kept.get([self.dense.key, packed.key, self.purpose, self.machine], partial(self._speeds, packed))
        return {"packed": str(packed.output), "test": asdict(test), "measured": speeds}

    def write_frontier(self, found: dict[str, list[Choice]], tried: Sequence[Tried]) -> None:
        """frontier.json and, where matplotlib is installed, frontier.png."""
        results = [each.as_json() for each in tried]
        write_json(self.base.output / "frontier.json", as_json(found, results))
        title = f"{self.base.model} · {self.purpose} · {self.machine['cpu']} · {self.machine['threads']} threads"
        try:
            write_atomically(self.base.output / "frontier.png", plot(found, results, title))
        except CutworkError as error:
            self.console.print(str(error))

    def _stages(self) -> Stages:
        return Stages(self.base.output, self.task, self.base.task.max_length, self.console, self.base.task.long)

    def _dense(self, stages: Stages) -> Source:
        dense = resolve(self.base.model)
        return stages.tune("teacher", "teacher", dense, self.base.teacher) if self.base.teacher else dense

    def _loss(self, packed: Stage, samples: Sequence[Sample]) -> Loss:
        samples = samples[: self.base.compare.accuracy_samples]
        before, after = (self._scores(stage, tuple(samples)) for stage in (self.dense, packed))
        if self.metric == "answers" and max(before) == 0:
            raise CutworkError(
                f"the dense model answers none of {len(samples)} held-out questions right, so points of that say "
                "nothing; give --metric tokens, or a model that has learned the task"
            )
        return loss(before, after)

    def _scores(self, stage: Stage, samples: tuple[Sample, ...]) -> list[float]:
        settings = self.base.compare
        key = [stage.key, self.metric, sample_digest(samples), settings.max_new_tokens, settings.num_beams]

        def measure_it() -> dict[str, Any]:
            context = self.base.task.max_length + settings.max_new_tokens
            with Model.load(stage.output, threads=settings.threads, max_context=context) as model:
                return {"scores": scores(model, self.task.name, samples, self.metric, settings, self.console)}

        found: list[float] = self._kept.get(key, measure_it)["scores"]
        return found

    def _speeds(self, packed: Stage) -> dict[str, Any]:
        settings, batch = self.base.compare, 16 if self.purpose == "batch16" else 1
        room = settings.prompt_tokens + settings.decode_tokens + 1
        loading = {"threads": settings.threads, "max_context": room, "max_batch": batch}
        with Model.load(self.dense.output, **loading) as dense, Model.load(packed.output, **loading) as ours:
            models = {"dense": dense, "compressed": ours}
            found = measure(
                models,
                settings.prompt_tokens,
                settings.decode_tokens,
                settings.repeats,
                batch=batch,
                console=self.console,
            )
            sizes = {name: model.memory_bytes["weights"] for name, model in models.items()}
        of = "prefill" if self.purpose == "prefill" else "decode"
        ratio = getattr(found["compressed"], of) / getattr(found["dense"], of)
        return {"speedup": ratio, "nbytes": sizes, **{name: speed.as_json() for name, speed in found.items()}}

    def _write_errors(self, file: Path) -> None:
        from cutwork.compress.examine import examine

        task = self.base.task
        write_json(
            file,
            examine(
                path_of(self._source),
                self.task.train,
                self.base.prune,
                group_size=self._group_size,
                max_length=task.max_length,
                long=task.long,
                console=self.console,
            ),
        )

    def _write_others(self, file: Path) -> None:
        path = path_of(self._source)
        milliseconds, nbytes = other_milliseconds(path, self.purpose, self.base.compare.threads)
        write_json(file, {"milliseconds": milliseconds, "nbytes": nbytes, "source": key_of(self._source)})


def _bisect(work: _Work, goal: Goal, attempts: int) -> list[Tried]:
    """Choices between the dense model's speed and the fastest, each in the middle of what is not known yet."""
    best = work.menu.solver()
    slow, fast = 1.0, work.menu.dense_milliseconds / best.least
    tried: list[Tried] = []
    for _ in range(attempts):
        speedup = math.sqrt(slow * fast)
        choice = best.within(work.menu.dense_milliseconds / speedup)
        if choice is None or any(choice.labels == each.choice.labels for each in tried):
            break
        tried.append(work.attempt(choice, goal))
        slow, fast = (max(speedup, choice.speedup), fast) if tried[-1].kept else (slow, speedup)
        if slow >= fast:
            break
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


def _refusal(tried: Sequence[Tried], goal: Goal, output: Path) -> str:
    slowest = min(tried, key=lambda each: each.choice.speedup)
    sure = ", as far as so many samples can tell" if goal.sure else ""
    return (
        f"none of {len(tried)} choices loses {goal.within:g} points or less{sure}; the slowest, "
        f"{slowest.choice.speedup:.2f}×, loses {slowest.loss}. {output / 'frontier.json'} has them all; allow more "
        "points, more --attempts or more training"
    )


def _check(goal: Goal) -> None:
    given = [value for value in (goal.within, goal.speedup, goal.nbytes) if value is not None]
    require(
        {
            "give one goal: --within POINTS, --speedup TIMES or --memory SIZE": len(given) == 1,
            "--within is how many points may be lost, so not below 0": goal.within is None or goal.within >= 0,
            "--speedup is over the dense model in bfloat16, so it must be at least 1": (goal.speedup or 1) >= 1,
        }
    )


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
