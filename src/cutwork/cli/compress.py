"""`cutwork compress`: the fastest model within a budget."""

import re
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from pydantic import ValidationError
from rich.console import Console

from cutwork.cli.console import Listing, console, print_json
from cutwork.cli.options import Json
from cutwork.cli.training import (
    CheckpointArgument,
    LongOption,
    MaxLength,
    OutputArgument,
    TaskOptionsOption,
    task_options,
)
from cutwork.errors import CutworkError
from cutwork.recipe import CompareSettings, Pruner, PruneSettings, Recipe, TaskSettings, TuneSettings
from cutwork.recipe_file import load_recipe
from cutwork.tasks.load import LEFT_TO_EVAL, generated
from cutwork.tasks.table import is_file_of_rows

_BYTES = {"": 1, "K": 1e3, "M": 1e6, "G": 1e9}
_POINTS = {"answers": "right answers", "tokens": "the reference's tokens"}
_COMPARE, _PRUNE, _TUNE, _TASK = CompareSettings(), PruneSettings(), TuneSettings(), TaskSettings(name="")
_DECIDED = (  # by the recipe, where there is one
    "samples", "test_samples", "task_option", "max_length", "max_new_tokens", "long", "method", "calibration_samples",
    "epochs", "max_steps", "learning_rate", "batch_size", "micro_batch_size", "kl", "squarehead", "seed",
)  # fmt: skip


def compress(
    context: typer.Context,
    model: CheckpointArgument,
    output: OutputArgument,
    task: Annotated[
        str | None,
        typer.Option(
            "--task",
            "--data",
            help="A JSONL, JSON, CSV or Parquet file of yours, parts of which are held out; a task; a dataset of "
            "the Hub.",
        ),
    ] = None,
    task_option: TaskOptionsOption = None,
    recipe: Annotated[
        Path | None,
        typer.Option(
            "--recipe",
            help="Take task, pruner, fine-tuning, quantiser and what compare asks from this recipe, in place of the "
            "options for them.",
        ),
    ] = None,
    within: Annotated[
        float | None, typer.Option(help="Points that may be lost on validation samples: the fastest such model.")
    ] = None,
    speedup: Annotated[
        float | None, typer.Option(help="Over the model in bfloat16: the best so fast, timed before it is made.")
    ] = None,
    memory: Annotated[str | None, typer.Option(help="Of weights, as 600MB: the best so small.")] = None,
    sure: Annotated[
        bool, typer.Option("--sure", help="The 95% interval of what is lost must be within --within, too.")
    ] = False,
    purpose: Annotated[
        Literal["decode", "prefill", "batch16"], typer.Option("--for", help="What is to be fast.")
    ] = "decode",
    metric: Annotated[
        Literal["answers", "tokens"],
        typer.Option(help="What points are of: right answers, or tokens of the reference that are the likeliest."),
    ] = "answers",
    threads: Annotated[int, typer.Option("--threads", "-t", min=0, help="0: every CPU this process may use.")] = 0,
    attempts: Annotated[
        int, typer.Option(min=1, help="Choices that are made at most, to keep --within or --memory.")
    ] = 4,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run", help="Predict speed, memory and error of what could be made, in minutes; train nothing."
        ),
    ] = False,
    samples: Annotated[int, typer.Option(min=1, help="Training samples.")] = _TASK.train_samples,
    validation_samples: Annotated[int, typer.Option(min=1, help="Held out, by which choices are judged.")] = 200,
    test_samples: Annotated[int, typer.Option(min=1, help="Held out, measured once at the end.")] = _TASK.test_samples,
    max_length: MaxLength = _TASK.max_length,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Tokens per answer.")] = _COMPARE.max_new_tokens,
    long: LongOption = _TASK.long,
    method: Annotated[Pruner, typer.Option(help="How is pruned.")] = _PRUNE.method,
    calibration_samples: Annotated[
        int, typer.Option(min=1, help="Samples that errors and methods are calibrated with.")
    ] = _PRUNE.calibration_samples,
    epochs: Annotated[float, typer.Option(help="Passes over the samples, for each choice.")] = _TUNE.epochs,
    max_steps: Annotated[int, typer.Option(help="Optimiser steps; overrides --epochs.")] = _TUNE.max_steps,
    learning_rate: Annotated[float, typer.Option("--learning-rate", "--lr", help="Peak.")] = _TUNE.learning_rate,
    batch_size: Annotated[int, typer.Option(min=1, help="Samples per optimiser step.")] = _TUNE.batch_size,
    micro_batch_size: Annotated[int, typer.Option(min=1, help="Samples per forward pass.")] = _TUNE.micro_batch_size,
    kl: Annotated[
        float, typer.Option(min=0, help="Weight of the KL divergence from MODEL, in tokens of answers.")
    ] = _TUNE.losses.kl,
    squarehead: Annotated[
        float,
        typer.Option(min=0, help="Weight of SquareHead: more for each step, of which fewer fit into the same time."),
    ] = _TUNE.losses.squarehead,
    seed: Annotated[int, typer.Option(help="Draws samples, and seeds the training.")] = _TASK.seed,
    as_json: Json = False,
) -> None:
    """Make the fastest model within a budget: of points lost, of time, or of memory.

    Each linear gets the zeros and the bits that cost the model least for what they save on this machine. Then the model
    is pruned, fine-tuned, quantised, packed and compared with the dense one on held-out samples, until the promise is
    kept. OUT/packed is the result, OUT/recipe.yaml makes it again, OUT/frontier.png shows what
    else could be had. The same command goes on after an interruption.

    Example: [bold]cutwork compress out/dense out/fast --data mine.jsonl --within 1.0[/bold]

    Example: [bold]cutwork compress out/dense out/fast --recipe my-recipe.yaml --speedup 3 --for batch16[/bold]

    Example: [bold]cutwork compress out/dense out/fast --data mine.jsonl --memory 600MB --dry-run[/bold]
    """
    from cutwork.compress.compress import Goal
    from cutwork.compress.compress import compress as carry_out

    settings: dict[str, Any] = {
        "task": {
            "train_samples": samples,
            "validation_samples": validation_samples,
            "test_samples": test_samples,
            "seed": seed,
            "max_length": max_length,
            "long": long,
        },
        "prune": {"method": method, "calibration_samples": calibration_samples, "seed": seed},
        "quantize": {"calibration_samples": calibration_samples, "seed": seed},
        "tune": {
            "epochs": epochs,
            "max_steps": max_steps,
            "learning_rate": learning_rate,
            "batch_size": batch_size,
            "micro_batch_size": min(micro_batch_size, batch_size),
            "seed": seed,
            "losses": {"kl": kl, "squarehead": squarehead},
        },
        "compare": {"accuracy_samples": test_samples, "max_new_tokens": max_new_tokens},
    }
    if recipe:
        _refuse_beside_recipe(context)
    base = _base(context, model, output, task, task_options(task_option), recipe, settings)
    if _given(context, "threads"):
        base = base.model_copy(update={"compare": base.compare.model_copy(update={"threads": threads})})
    if recipe and not dry_run and recipe.resolve() == (output / "recipe.yaml").resolve():
        raise CutworkError(f"{recipe} would be replaced by the recipe that is made; move it away or choose another OUT")
    if sure and within is None:
        raise CutworkError("--sure is for --within alone; give that, or leave it out")
    report = carry_out(
        base,
        Goal(within, speedup, None if memory is None else _bytes(memory), sure),
        purpose=purpose,
        metric=metric,
        attempts=attempts,
        dry_run=dry_run,
        validation_samples=validation_samples,
        console=Console(stderr=True),
    )
    if as_json:
        print_json(report)
    elif dry_run:
        _print_frontier(report)
    else:
        _print_result(report, output, _more_tests(base, by_recipe=bool(recipe)))
    if report.get("promise") == "broken":
        surer = "" if sure else "--sure, for "
        of_recipe = "task.validation_samples of the recipe, set before the dense model is trained,"
        judges = of_recipe if recipe and base.task.validation_samples else "--validation-samples"
        raise CutworkError(
            f"on the test it loses more than the {within:g} points that were promised, by the whole interval; what was "
            f"made stays. Ask for {surer}fewer points, or for more {judges} to choose by"
        )


def _more_tests(base: Recipe, *, by_recipe: bool) -> str:
    """What would let more samples test, and whether it changes the model."""
    task = base.task
    if by_recipe and base.compare.accuracy_samples < task.test_samples:
        return "more compare.accuracy_samples of the recipe would tell"
    option = "task.test_samples and compare.accuracy_samples of the recipe" if by_recipe else "--test-samples"
    shared = task.options.get("train") == task.options.get("test", task.name)  # whose first rows are the test's
    moved = shared or (by_recipe and generated(task.name))  # by options, its training is drawn behind the longest test
    anew = ", but of a model made anew, as they leave other samples to train on" if moved else ""
    return f"more {option} would tell{anew}"


def _print_result(report: dict[str, Any], output: Path, more_tests: str) -> None:
    """What was made, and whether it is what was asked for; more_tests: what would tell where so few samples do not."""
    choice, measured = report["choice"], report["measured"]
    print(
        f"{report['packed']}: {choice['zeros']:.0%} zeros, {measured['nbytes']['compressed'] / 1e6:.0f} MB; "
        f"{report['for']} {measured['speedup']:.2f} times as fast as the dense model "
        f"(predicted {choice['speedup']:.2f})"
    )
    for kind in ("validation", "test"):
        lost, of = report[kind], _POINTS[report["metric"]]
        interval = f"95% interval {lost['low']:.1f} to {lost['high']:.1f}"
        print(f"lost on {kind}: {lost['points']:.1f} points of {of}, {interval}")
    goal = report["goal"]
    if report.get("promise") == "not told":
        print(
            f"the test's loss is above the {goal['within']:g} points, which so few samples may owe to chance; "
            f"{more_tests}"
        )
    if goal["speedup"] is not None and measured["speedup"] < goal["speedup"]:
        print(f"timed again it is {measured['speedup']:.2f} times as fast, less than the {goal['speedup']:g} asked for")
    if goal["nbytes"] is not None and (taken := measured["nbytes"]["compressed"]) > goal["nbytes"]:
        print(f"loaded again its weights take {taken / 1e6:.2f} MB, more than the {goal['nbytes'] / 1e6:.2f} asked for")
    written = [output / name for name in ("recipe.yaml", "frontier.json", "frontier.png")]
    print(f"wrote {', '.join(str(file) for file in written if file.exists())}")


def _base(
    context: typer.Context,
    model: str,
    output: Path,
    task: str | None,
    options: dict[str, Any],
    recipe: Path | None,
    settings: dict[str, Any],
) -> Recipe:
    """The recipe whose rates are to be chosen: that of a file for this model and output, or one of options."""
    if bool(task) == bool(recipe):
        raise CutworkError("give --data FILE.jsonl, --task NAME or --recipe FILE to say what the samples are")
    where = {"model": model, "output": output}
    if recipe:
        base = load_recipe(recipe)
        if base.task.validation_samples and _given(context, "validation_samples"):
            raise CutworkError("the recipe says what --validation-samples would; leave it out, or change the recipe")
        return base.model_copy(update={**where, "teacher": None})
    assert task
    named = {"name": task, "options": {**({"train": task} if is_file_of_rows(task) else {}), **options}}
    settings["task"] |= named
    if generated(task):
        if (asked := settings["task"]["test_samples"]) > LEFT_TO_EVAL:
            raise CutworkError(
                f"--test-samples {asked}: of {task}, what comes after {LEFT_TO_EVAL} is what tune trains on; ask for "
                "fewer"
            )
        # Behind what `eval` asks and `tune` trains on, of the stream that both draw from.
        before = LEFT_TO_EVAL + TaskSettings(name=task).train_samples
        settings["task"] |= {"test_samples": before, "seed": 0}  # of which as many are asked as compare says
    try:
        return Recipe.model_validate({"name": output.name, **where, **settings})
    except ValidationError as error:
        problem = error.errors()[0]
        option = str(problem["loc"][-1]).replace("_", "-")
        raise CutworkError(f"--{option}: {problem['msg'].lower()} (got {problem['input']!r})") from None


def _refuse_beside_recipe(context: typer.Context) -> None:
    """Raise CutworkError for options that the recipe decides."""
    given = [name for name in _DECIDED if _given(context, name)]
    if given:
        options = ", ".join(f"--{name.replace('_', '-')}" for name in given)
        raise CutworkError(f"the recipe says what {options} would; leave it out, or change the recipe")


def _given(context: typer.Context, name: str) -> bool:
    return getattr(context.get_parameter_source(name), "name", "") == "COMMANDLINE"


def _bytes(text: str) -> float:
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMG]?)B?\s*", text, re.IGNORECASE)
    if not found or not float(found[1]):
        raise CutworkError(f"--memory: expected a size such as 600MB or 1.5GB (got '{text}')")
    return float(found[1]) * _BYTES[found[2].upper()]


def _print_frontier(report: dict[str, Any]) -> None:
    """What could be made, as predicted."""
    from cutwork.compress.frontier import rows
    from cutwork.compress.menu import Choice

    out = console()
    points = report["frontiers"]["zeros and bits"]
    shown = Listing(
        f"predicted for {report['for']}, before any training", "most linears|head", "speed-up|ms|MB|zeros|KL"
    )
    choices = [Choice(**{key: value for key, value in point.items() if key != "by_kind"}) for point in points]
    for *numbers, head, linears in rows(choices):
        shown.add_row(linears, head, *numbers)
    out.print(shown)
    if "choice" in report:
        chosen = Choice(**report["choice"])
        out.print(
            f"chosen: {chosen.speedup:.2f}× as fast as in bfloat16 and {chosen.milliseconds:.2f} ms, by timing, "
            f"{chosen.nbytes / 1e6:.0f} MB, KL {chosen.kl:.3g} nats per token before training"
        )
    out.print(f"[dim]{report['machine']['cpu']}, {report['machine']['threads']} threads[/dim]")
