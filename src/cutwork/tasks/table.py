"""Any data in rows: local JSONL, CSV, TSV and Parquet files, or a dataset of the Hugging Face Hub."""

import csv
import json
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain, islice
from pathlib import Path
from typing import Any

from cutwork.errors import CutworkError, check_text
from cutwork.tasks.columns import reader_of
from cutwork.tasks.task import Sample, Task

SUFFIXES = (".jsonl", ".csv", ".tsv", ".parquet")


def table(
    train_samples: int,
    test_samples: int,
    *,
    test: str,
    train: str | None = None,
    prompt: str | None = None,
    answer: str | None = None,
    messages: str | None = None,
    config: str | None = None,
    train_split: str = "train",
    test_split: str = "test",
) -> Task:
    """The first samples of two files, or of two splits of a Hub dataset, of one row each.

    `prompt` and `answer` name columns, or are templates such as "Translate: {en}"; `messages` names a column of
    conversations instead. Without any of them the layout is told by the names of the columns (tasks/columns.py). For
    the Hub, `test` (and `train`, by default the same) is a dataset's name, `config` its configuration. A chat model
    gets the prompt through its own template. Prompts of the test samples are left out of `train`. Raises CutworkError
    for data that cannot be read that way.
    """
    if train is None and not test.endswith(SUFFIXES):
        train = test

    def samples(source: str, split: str) -> Iterator[Sample]:
        return _samples(rows(source, split, config), source, prompt, answer, messages)

    held_out = tuple(islice(samples(test, test_split), test_samples))
    if not held_out:
        raise CutworkError(f"{test} holds no samples")
    asked = {sample.asked() for sample in held_out}
    training = (sample for sample in samples(train, train_split) if sample.asked() not in asked) if train else ()
    return Task(test, tuple(islice(training, train_samples)), held_out)


def read_samples(
    source: str, prompt: str | None = None, answer: str | None = None, most: int | None = None
) -> list[Sample]:
    """The first samples in a file of rows, or in the train split of a dataset of the Hub, with columns as `table` has.

    Raises CutworkError, naming the row, for data that cannot be read that way.
    """
    found = list(islice(_samples(rows(source), source, prompt, answer, None), most))
    if not found:
        raise CutworkError(f"{source} holds no samples")
    return found


def _samples(
    found: Iterable[Mapping[str, Any]], source: str, prompt: str | None, answer: str | None, messages: str | None
) -> Iterator[Sample]:
    """The samples of rows, which are all like the first."""
    every = iter(found)
    for first in every:
        read = reader_of(first.keys(), prompt, answer, messages)
        for number, row in enumerate(chain([first], every), 1):
            sample = read(row, f"{source}, row {number}")
            for text in sample.texts():
                check_text(text, f"{source}, row {number}")
            yield sample


def rows(source: str, split: str = "train", config: str | None = None) -> Iterable[Mapping[str, Any]]:
    """The rows of a local file, told by its suffix, or of a split of a Hub dataset; CutworkError if there are none."""
    path = Path(source).expanduser()
    if source.endswith(SUFFIXES):
        try:
            return {".jsonl": _jsonl, ".csv": _csv, ".tsv": _tsv, ".parquet": _parquet}[path.suffix](path)
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise CutworkError(f"cannot read task data from {path}: {error}") from None
    return hub(source, split, config)


def hub(name: str, split: str, config: str | None = None) -> Iterable[Mapping[str, Any]]:
    """The rows of a dataset of the Hub; CutworkError if the library is missing or the Hub out of reach."""
    try:
        from datasets import load_dataset
    except ImportError:
        raise CutworkError("data from the Hub needs datasets; install it with: pip install 'cutwork[train]'") from None
    try:
        found: Iterable[Mapping[str, Any]] = load_dataset(name, config, split=split)
    except Exception as error:  # the client's transports raise errors of several libraries
        raise CutworkError(
            f"'{name}' could not be loaded from the Hugging Face Hub ({type(error).__name__}); check its name, "
            "configuration and split, or give a local .jsonl, .csv or .parquet file"
        ) from None
    return found


def _jsonl(path: Path) -> list[dict[str, Any]]:
    found = []
    # splitlines() would end a line at U+2028 too, which JSON may hold
    for number, line in enumerate(path.read_text(encoding="utf-8-sig").split("\n"), 1):
        if line.strip():
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise CutworkError(f"{path}, line {number} is not JSON: {error}") from None
            if not isinstance(row, dict):
                raise CutworkError(f"{path}, line {number}: expected a JSON object")
            found.append(row)
    return found


def _csv(path: Path) -> list[dict[str, Any]]:
    return _separated(path, strict=True)


def _tsv(path: Path) -> list[dict[str, Any]]:
    return _separated(path, delimiter="\t", quoting=csv.QUOTE_NONE)


def _separated(path: Path, **how: Any) -> list[dict[str, Any]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        found: list[dict[Any, Any]] = list(csv.DictReader(file, **how))
    for number, row in enumerate(found, 1):
        if None in row:
            raise CutworkError(f"{path}, row {number} has more fields than there are columns; quote texts with commas")
    return found


def _parquet(path: Path) -> list[dict[str, Any]]:
    try:
        from pyarrow import ArrowException, parquet
    except ImportError:
        raise CutworkError("Parquet files need pyarrow; install it with: pip install 'cutwork[train]'") from None
    try:
        found: list[dict[str, Any]] = parquet.read_table(path).to_pylist()
    except ArrowException as error:
        raise CutworkError(f"cannot read task data from {path}: {' '.join(str(error).split())}") from None
    return found
