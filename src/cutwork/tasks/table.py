"""Any data in rows: local JSONL, JSON, CSV, TSV and Parquet files, or a dataset of the Hugging Face Hub."""

import csv
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache
from itertools import chain, islice
from pathlib import Path
from textwrap import shorten
from typing import Any

from rich.console import Console

from cutwork.errors import CutworkError, check_text, reason
from cutwork.extras import install
from cutwork.tasks.apart import apart
from cutwork.tasks.columns import reader_of
from cutwork.tasks.task import Sample, Task

SUFFIXES = (".jsonl", ".json", ".csv", ".tsv", ".parquet")
_LONGEST_FIELD = 2**31 - 1  # of CSV: all that a C long holds everywhere
_QUOTED = re.compile(r'(?:^|\t)"(?:[^"\t]*"")+[^"\t]*"(?=\t|\r?\n?$)')  # a field with doubled quotes in quotes
_ROWS = 1024  # of a Parquet file, read at a time


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
    gets the prompt through its own template. Prompts of the test samples are left out of `train` (see `apart`), and
    empty rows out of the test; those of `train` are left out, and counted, where tokens are made of them. Columns and
    rows left aside are told on standard error. No more rows are kept than needed. Raises CutworkError for data that
    cannot be read that way.
    """
    if train is None and not is_file_of_rows(test):
        train = test
    if not train_samples:
        train = None

    def samples(source: str, split: str) -> Iterator[Sample]:
        return _samples(rows(source, split, config), source, prompt, answer, messages)

    held_out: tuple[Sample, ...] = ()
    if test_samples:
        held_out = tuple(islice((s for s in samples(test, test_split) if not s.is_empty), test_samples))
    if test_samples and not held_out:
        raise CutworkError(f"{test} holds no samples")
    left_out: list[Sample] = []
    found = tuple(islice(apart(samples(train, train_split), held_out, left_out), train_samples)) if train else ()
    same = train == test and (is_file_of_rows(test) or train_split == test_split)
    others = len(left_out) - (len(held_out) if same else 0)  # the test's own rows ask that, of course
    if train:
        tell_left_out(train, others)
    if not (found or held_out):
        raise CutworkError(f"{test} holds no samples")
    return Task(test, found, held_out)


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
        read, left = reader_of(first.keys(), prompt, answer, messages)
        for number, row in enumerate(chain([first], every), 1):
            where = f"{source}, row {number}"
            try:
                sample = read(row, where)
                texts = sample.texts()
            except RecursionError:
                raise CutworkError(f"{where} is nested too deeply; write it flatter") from None
            for text in texts:
                check_text(text, where)
            if left:
                _tell(f"{source}: left aside are the columns {', '.join(map(str, left))}")
            yield sample


def tell_left_out(source: str, count: int) -> None:
    """Say on standard error how many rows `apart` left out of training, if any."""
    if count:
        _tell(f"{source}: {count} rows ask what the test asks and are not trained on")


@cache  # once, though training and test read the same
def _tell(sentence: str) -> None:
    Console(stderr=True).print(sentence, highlight=False, markup=False, soft_wrap=True)


def rows(
    source: str, split: str = "train", config: str | None = None, *, quotes: bool = True
) -> Iterable[Mapping[str, Any]]:
    """The rows of a local file, told by how its name ends and read as they are asked for, or of a split of a Hub
    dataset.

    quotes: whether a TSV file may have quotes around texts, which are no part of them. Raises CutworkError, also while
    rows are read, for what cannot be.
    """
    path = Path(source).expanduser()
    tsv = _tsv if quotes else _unquoted_tsv
    for suffix, read in zip(SUFFIXES, (_jsonl, _json, _csv, tsv, _parquet), strict=True):
        if source.lower().endswith(suffix):
            return _local(read, path)
    if path.is_file():
        raise CutworkError(f"{path} is a file, but of files only {', '.join(SUFFIXES)} are read; make it one of them")
    return hub(source, split, config)


def is_file_of_rows(source: str) -> bool:
    """Whether a name ends as those of files do that are read here."""
    return source.lower().endswith(SUFFIXES)


def hub(name: str, split: str, config: str | None = None) -> Iterable[Mapping[str, Any]]:
    """The rows of a dataset of the Hub; CutworkError if the library is missing or the Hub out of reach."""
    try:
        from datasets import load_dataset
    except ImportError:
        raise CutworkError(f"data from the Hub needs datasets; install it with: {install('train')}") from None
    try:
        found: Iterable[Mapping[str, Any]] = load_dataset(name, config, split=split)
    except Exception as error:  # the client's transports raise errors of several libraries
        said = shorten(str(error), 200, placeholder=" …").rstrip(".") or type(error).__name__
        raise CutworkError(
            f"'{name}' could not be loaded from the Hugging Face Hub ({said}); check its name, configuration and "
            "split, or give a local .jsonl, .json, .csv or .parquet file"
        ) from None
    return found


def _local(read: Callable[[Path], Iterable[dict[str, Any]]], path: Path) -> Iterator[dict[str, Any]]:
    try:
        yield from read(path)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise CutworkError(f"cannot read task data from {path}: {reason(error)}") from None


def _jsonl(path: Path) -> Iterator[dict[str, Any]]:
    # Other ends of lines, such as U+2028, JSON may hold.
    with path.open(encoding="utf-8-sig", newline="\n") as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                try:
                    row = json.loads(line)
                except (ValueError, RecursionError) as error:
                    found = f"{error.msg}, column {error.colno}" if isinstance(error, json.JSONDecodeError) else error
                    raise CutworkError(f"{path}, line {number} is not JSON: {found}") from None
                if not isinstance(row, dict):
                    raise CutworkError(f"{path}, line {number}: expected a JSON object")
                yield row


def _json(path: Path) -> list[dict[str, Any]]:
    text = path.read_text(encoding="utf-8-sig")
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CutworkError(f"{path} is not JSON: {error}; if each of its lines is, call it .jsonl") from None
    if not isinstance(found, list) or not all(isinstance(row, dict) for row in found):
        raise CutworkError(f"{path}: expected an array of JSON objects, [{{…}}, …]")
    return found


def _csv(path: Path) -> Iterator[dict[str, Any]]:
    return _separated(path, strict=True)


def _tsv(path: Path) -> Iterator[dict[str, Any]]:
    return _separated(path, delimiter="\t") if _has_quotes(path) else _unquoted_tsv(path)


def _unquoted_tsv(path: Path) -> Iterator[dict[str, Any]]:
    return _separated(path, delimiter="\t", quoting=csv.QUOTE_NONE)


def _has_quotes(path: Path) -> bool:
    """Whether quotes around the fields of a TSV file are no part of them: pandas and Excel write them around texts with
    quotes, which they double, with tabs or line breaks; Common Voice and others never do.

    The whole file tells: without such quotes all rows have equally many fields, and with them they had not, or a field
    with doubled quotes or the first column's name stands in them.
    """
    csv.field_size_limit(_LONGEST_FIELD)
    widths = []
    with path.open(encoding="utf-8-sig", newline="") as file:
        seen = file.readline().startswith('"') or any(map(_QUOTED.search, file))
        for how in ({"quoting": csv.QUOTE_NONE}, {"strict": True}):
            file.seek(0)
            try:
                widths.append({len(row) for row in csv.reader(file, delimiter="\t", **how) if row})
            except csv.Error:
                return False
    return len(widths[1]) == 1 and (seen or len(widths[0]) > 1)


def _separated(path: Path, **how: Any) -> Iterator[dict[str, Any]]:
    csv.field_size_limit(_LONGEST_FIELD)  # a long document is no error
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file, **how)
        names = [name for name in reader.fieldnames or () if name]
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise CutworkError(f"{path} has two columns '{twice}', of which only one can be meant; rename the other")
        for number, row in enumerate(reader, 1):
            if None in row:
                raise CutworkError(
                    f"{path}, row {number} has more fields than there are columns; quote texts with commas"
                )
            # Of a row with fewer fields the last are not empty: they are not there.
            yield {name: value for name, value in row.items() if value is not None}


def _parquet(path: Path) -> Iterator[dict[str, Any]]:
    try:
        from pyarrow import ArrowException, parquet
    except ImportError:
        raise CutworkError("Parquet files need pyarrow; install it with: pip install pyarrow") from None
    try:
        with parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(_ROWS):
                yield from batch.to_pylist()
    except ArrowException as error:
        raise CutworkError(f"cannot read task data from {path}: {' '.join(str(error).split())}") from None
