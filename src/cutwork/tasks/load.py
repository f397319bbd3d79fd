"""From a recipe's `task` section to the task."""

import inspect
import random
from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, TypeAdapter, ValidationError

from cutwork.errors import CutworkError
from cutwork.recipe import TaskSettings
from cutwork.tasks.apart import apart
from cutwork.tasks.columns import columns_read
from cutwork.tasks.gsm8k import gsm8k
from cutwork.tasks.gsm_symbolic import gsm_symbolic
from cutwork.tasks.speech import common_voice, speech
from cutwork.tasks.table import SUFFIXES, is_file_of_rows, rows, table, tell_left_out
from cutwork.tasks.task import Sample, Task
from cutwork.tasks.text import text
from cutwork.tasks.translation import translation
from cutwork.tasks.wmt14 import wmt14

TASKS: dict[str, Callable[..., Task]] = {
    "gsm_symbolic": gsm_symbolic,
    "gsm8k": gsm8k,
    "wmt14-en-de": wmt14,
    "common_voice": common_voice,
    "speech": speech,
    "translation": translation,
    "text": text,
    "jsonl": table,
}
_READ_ON = ("translation", "text", "jsonl")  # in the place of what the test asks, so that training has its number

# So many of a named task's questions are left to `eval` by commands that train and calibrate.
LEFT_TO_EVAL = 1000


def load_task(settings: TaskSettings) -> Task:
    """The task that `settings` names, or the samples of a local file of rows, a folder of recordings or a Hub dataset.

    What asks what the test asks is neither trained on nor validated with, and counted on standard error (see `apart`).
    Without training samples to give (`train_samples` 0) nothing is read for them. Raises CutworkError for an unknown
    task, options it does not have, or data it cannot get.
    """
    name, options = settings.name, dict(settings.options)
    if name not in TASKS and Path(name).expanduser().is_dir():
        name, options = "speech", {"directory": name, **options}
    if of_rows(name):
        name, options = _kind_of_rows(name, options), {"test": name, **options}
    if name not in TASKS:
        raise CutworkError(
            f"no task '{name}'; there are {', '.join(TASKS)}, or give a {', '.join(SUFFIXES)} file, a folder of "
            "recordings or a dataset of the Hub as owner/name"
        )
    load = TASKS[name]
    given: dict[str, Any] = {
        "train_samples": settings.train_samples + settings.validation_samples,
        "test_samples": settings.test_samples,
    }
    parameters = inspect.signature(load).parameters
    if "seed" in parameters:
        given["seed"] = settings.seed
    checked = _checked(name, options)
    task = load(**given, **checked)
    if name not in _READ_ON:
        left_out: list[Sample] = []
        task = replace(task, train=tuple(apart(task.train, task.test, left_out)))
        tell_left_out(task.name, len(left_out))
    return hold_out(task, settings.validation_samples, settings.seed)


def with_validation_behind(settings: TaskSettings, count: int) -> Task:
    """The task of settings that hold nothing out, and at most `count` samples for validation, none of which asks what
    those of training ask.

    They come behind the samples of training, which stay those that a model was trained on before.
    """
    task = load_task(settings)
    longer = load_task(settings.model_copy(update={"train_samples": settings.train_samples + count}))
    known = {question for sample in task.train for question, _ in sample.exchanges()}
    new = (s for s in longer.train if not s.is_empty and known.isdisjoint(question for question, _ in s.exchanges()))
    return replace(task, validation=tuple(islice(new, count)))


def training_rows(name: str, count: int, options: Mapping[str, Any]) -> Task:
    """A task of the first `count` samples of a file of rows, or of a Hub dataset's training split, without a test.

    options: those of `table` or `translation`. Raises CutworkError for others, or data that cannot be read that way.
    """
    kind = _kind_of_rows(name, options)
    if "train" in options or "test" in options:
        raise CutworkError(f"{name} is what is trained on; leave out the options train and test")
    return TASKS[kind](count, 0, **_checked(kind, {**options, "test": name, "train": name}))


def _kind_of_rows(name: str, options: Mapping[str, Any]) -> str:
    """Translation, if an option says so that no other file of rows has, or if the first row does and no option says
    what is read of it."""
    of_pairs = _options_of("translation").keys() - _options_of("jsonl").keys()
    unsaid = options.keys() <= {"train", "test"}
    pairs = of_pairs & options.keys() or (unsaid and is_file_of_rows(name) and _has_pairs(name))
    return "translation" if pairs else "jsonl"


def _options_of(name: str) -> dict[str, inspect.Parameter]:
    parameters = inspect.signature(TASKS[name]).parameters
    return {key: parameter for key, parameter in parameters.items() if parameter.kind is parameter.KEYWORD_ONLY}


def _checked(name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """A task's options as what it takes them for: numbers may be given as texts, and names of columns as numbers.

    Raises CutworkError for options that it does not have, for some that are missing, and for what they may not be.
    """
    allowed = _options_of(name)
    for key, parameter in allowed.items():
        if parameter.default is inspect.Parameter.empty and key not in options:
            raise CutworkError(f"task {name} needs the option '{key}'")
    checked = {}
    for key, value in options.items():
        if key not in allowed:
            raise CutworkError(f"task {name} has no option '{key}'; it has {', '.join(allowed)}")
        reader: TypeAdapter[Any] = TypeAdapter(allowed[key].annotation, config=ConfigDict(coerce_numbers_to_str=True))
        try:
            checked[key] = reader.validate_python(value)
        except ValidationError as error:
            message = error.errors()[0]["msg"]
            raise CutworkError(
                f"task {name}, option {key}: {message[0].lower()}{message[1:]} (got {value!r})"
            ) from None
    return checked


def of_rows(name: str) -> bool:
    """Whether a task's name is that of a file of rows or of a dataset of the Hub."""
    folder = Path(name).expanduser().is_dir()
    return name not in TASKS and not folder and (is_file_of_rows(name) or "/" in name)


def generated(name: str) -> bool:
    """Whether a task's samples, train and test, are drawn from one stream that follows from a seed."""
    return name in TASKS and "seed" in inspect.signature(TASKS[name]).parameters


def one_stream(name: str, options: Mapping[str, Any]) -> bool:
    """Whether a task's training samples come behind those of its test: generated ones, or rows of one source."""
    source = options.get("train")
    of_splits = name != "text" and not is_file_of_rows(str(source))
    other = of_splits and options.get("train_split", "train") != options.get("test_split", "test")
    return generated(name) or (source is not None and source == options.get("test") and not other)


def hold_out(task: Task, count: int, seed: int) -> Task:
    """A task of which so many training samples, drawn by the seed, are for validation instead.

    None that asks the same is left to train on (see `apart`). Raises CutworkError if nothing is left to train on.
    """
    if not count:
        return task
    drawn = set(random.Random(seed).sample(range(len(task.train)), min(count, len(task.train))))
    validation = tuple(sample for i, sample in enumerate(task.train) if i in drawn and not sample.is_empty)
    train = tuple(apart((sample for i, sample in enumerate(task.train) if i not in drawn), validation, []))
    if not train:
        raise CutworkError(
            f"task {task.name} has {len(task.train)} training samples; {count} for validation leave none to train on "
            f"beside {len(task.test)} for the test; ask for fewer validation_samples or test_samples, or give more rows"
        )
    return replace(task, train=train, validation=validation)


def _has_pairs(path: str) -> bool:
    """Whether a source and a target are what is read of the first row of a file."""
    return columns_read(next(iter(rows(path)), {}))[:2] == ("source", "target")
