"""What `tune`, `prune` and `quantize` share: where samples come from, and how options become settings."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer
from pydantic import ValidationError

from cutwork.cli.console import Listing, console, print_json
from cutwork.errors import CutworkError
from cutwork.recipe import Long, Settings, TaskSettings, TokenWeights
from cutwork.recipe_file import load_recipe
from cutwork.tasks.load import LEFT_TO_EVAL, hold_out, load_task, of_rows, one_stream, training_rows
from cutwork.tasks.task import Task

CheckpointArgument = Annotated[str, typer.Argument(metavar="MODEL", help="A checkpoint directory or a Hub name.")]
OutputArgument = Annotated[Path, typer.Argument(metavar="OUT", help="Directory to make.")]
TaskOption = Annotated[
    str | None,
    typer.Option(
        "--task",
        help="A task (gsm8k, gsm_symbolic, …), OWNER/NAME of a dataset of the Hub, a folder of recordings, or a JSONL, "
        "JSON, CSV, TSV or Parquet file: rows of prompt and answer, messages, conversations (ShareGPT), or "
        "instruction, input, output (Alpaca).",
    ),
]
TaskOptionsOption = Annotated[
    list[str] | None,
    typer.Option(
        "--task-option",
        metavar="KEY=VALUE",
        help="What a recipe's task.options would say: prompt=COLUMN, answer=COLUMN, config=main, …; may be given "
        "several times.",
    ),
]
RecipeOption = Annotated[Path | None, typer.Option("--recipe", help="Take the task and its options from this recipe.")]
MaxLength = Annotated[
    int | None,
    typer.Option(
        min=2, help="Tokens per sample at most; see --long. Default: the recipe's, or 512.", show_default=False
    ),
]
LongOption = Annotated[
    Long | None,
    typer.Option(
        "--long",
        help="What becomes of longer samples; drop and cut are counted. Default: the recipe's, drop.",
        show_default=False,
    ),
]

CalibrationSamples = Annotated[int, typer.Option(min=1, help="Samples the method sees.")]
Damping = Annotated[float, typer.Option(help="Of the Hessian's mean diagonal.")]
TokenWeightsOption = Annotated[
    TokenWeights,
    typer.Option(
        help="answers: calibration tokens count as much as the model's answers owe to them (decoder-only); for that "
        "the whole model is in memory, with gradients."
    ),
]

# Settings that options have other names for.
_OPTIONS = {"alpha": "lora-alpha", "modules": "module", "rank": "lora-rank", "targets": "lora-targets"}

AnySettings = TypeVar("AnySettings", bound=Settings)


def lengths(recipe: Path | None, max_length: int | None, long: Long | None) -> tuple[int, Long]:
    """Tokens per sample, and what becomes of longer ones: as given, or as the recipe says."""
    settings = load_recipe(recipe).task if recipe else TaskSettings(name="")
    return max_length or settings.max_length, long or settings.long


def task_options(texts: Sequence[str] | None) -> dict[str, Any]:
    """A task's options from KEY=VALUE, as texts or lists of numbers. Raises CutworkError for what is not like that."""
    options: dict[str, Any] = {}
    for text in texts or ():
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise CutworkError(f"--task-option {text}: expected KEY=VALUE, as in prompt=COLUMN")
        options[key] = [int(n) for n in re.findall(r"\d+", value)] if re.fullmatch(r"\[[\d, ]*\]", value) else value
    return options


def training_task(
    task: str | None,
    recipe: Path | None,
    count: int | None,
    seed: int,
    validation: int = 0,
    least: int = 0,
    options: Sequence[str] | None = None,
) -> Task:
    """A named task, a file's rows or a recipe's task, of which training and validation samples are wanted.

    count: None for as many as the recipe says; without one 2,000. least: of calibration, at least so many, and of
    recordings, which take memory, no more. Raises CutworkError unless exactly one of the first two is given.
    """
    if bool(task) == bool(recipe):
        raise CutworkError("give either --task NAME, --task FILE.jsonl or --recipe FILE to say what the samples are")
    if recipe:
        if options:
            raise CutworkError("--task-option is for --task alone; the recipe says it in task.options")
        settings = load_recipe(recipe).task
        held_out = settings.validation_samples
        if validation:
            settings = settings.model_copy(update={"validation_samples": validation})
        if count and count > settings.train_samples:
            if held_out:
                raise CutworkError(
                    f"--samples {count}: the recipe has {settings.train_samples}, and more would move what it holds "
                    "out for validation; raise task.train_samples in the recipe"
                )
            settings = settings.model_copy(update={"train_samples": count})
        found = load_task(settings)
        return replace(found, train=found.train[:count])
    assert task
    heard = task in ("speech", "common_voice") or Path(task).expanduser().is_dir()
    count = count or (least if heard and least else max(TaskSettings(name=task).train_samples, least))
    if of_rows(task):  # of which no test split is needed
        return hold_out(training_rows(task, count + validation, task_options(options)), validation, seed)
    # Always of the same seed, and apart from what `eval` asks, or training would show its questions; of recordings,
    # which are all decoded, from those that it asks unless it is told otherwise.
    held = TaskSettings(name=task).test_samples if heard else LEFT_TO_EVAL
    named = {"name": task, "train_samples": count + validation, "test_samples": held, "options": task_options(options)}
    settings = TaskSettings.model_validate(named)
    found = load_task(settings)
    if not found.train and one_stream(task, settings.options):
        raise CutworkError(
            f"{settings.options['test']} is for training and test both, of which the first {held:,} are left to eval, "
            f"and it has {len(found.test)}; give another file for one of them, or a recipe, which says "
            "task.test_samples"
        )
    return hold_out(found, validation, seed)


def settings_of(kind: type[AnySettings], **options: Any) -> AnySettings:
    """Settings from options; CutworkError, naming the option, for a value that is out of range."""
    try:
        return kind(**options)
    except ValidationError as error:
        problem = error.errors()[0]
        option = "-".join(str(part) for part in problem["loc"]).replace("_", "-")
        option = _OPTIONS.get(str(problem["loc"][0]), option) if option else ""
        message = problem["msg"].removeprefix("Value error, ")
        if not option:  # about several at once
            raise CutworkError(message) from None
        raise CutworkError(f"--{option}: {message[0].lower()}{message[1:]} (got {problem['input']!r})") from None


def refuse_without_data(method: str, given: Mapping[str, object]) -> None:
    """Raise CutworkError for the first option that was `given`, if any, to a method that looks at no data."""
    for option, value in given.items():
        if value:
            raise CutworkError(f"{method} looks at no data; leave out {option}, or choose another --method")


def print_layers(report: dict[str, Any], title: str, output: Path, as_json: bool) -> None:
    """What a one-shot method did to each layer."""
    if as_json:
        print_json({"output": str(output), **report})
        return
    error = "output_error" if "output_error" in report["layers"][0] else "weight_error"
    numbers = f"zeros|{error.replace('_', ' ')}|dead|damping|seconds"
    shown = Listing(title, "layer|shape", numbers, "damping|dead|seconds|shape")
    for layer in report["layers"]:
        shown.add_row(
            layer["name"],
            f"{layer['rows']}×{layer['columns']}",
            f"{layer['sparsity']:.2%}",
            f"{layer[error]:.2e}",
            str(layer.get("dead_inputs", "–")),
            f"{layer['damping']:.2e}" if "damping" in layer else "–",
            f"{layer['seconds']:.2f}",
        )
    out = console()
    out.print(shown)
    out.print(f"[bold]{output}[/bold]: {report['sparsity']:.2%} zeros, made in {report['seconds']:.0f} s")
