"""The results of a run as `cutwork run` leaves them in `results.json`."""

from pathlib import Path
from typing import Any

from cutwork.errors import CutworkError
from cutwork.store.json_file import read_json

EXAMPLES = "examples.json"  # a few of the task's held-out questions, for people to try
_COLUMNS = ("name", "sparsity", "accuracy", "perplexity", "disk_bytes", "memory_bytes")


def load_results(directory: Path) -> dict[str, Any]:
    """The results in a run's output directory; CutworkError if there are none or they are not ours."""
    file = directory / "results.json"
    if not file.is_file():
        raise CutworkError(f"{directory} has no results.json; finish its run first: cutwork run RECIPE")
    results = read_json(file)
    rows = results.get("variants")
    if not isinstance(rows, list) or not all(
        isinstance(row, dict) and all(column in row for column in _COLUMNS) for row in rows
    ):
        raise CutworkError(f"{file} is not what cutwork run writes; run the recipe's compare stage again")
    return results


def examples(directory: Path) -> list[tuple[str, str]]:
    """Held-out questions of a run's task with their reference answers; CutworkError if the run left none."""
    file = directory / EXAMPLES
    rows = read_json(file).get("examples") if file.is_file() else None
    if not isinstance(rows, list) or not rows or not all(isinstance(row, dict) for row in rows):
        raise CutworkError(f"{directory} has no {EXAMPLES} with questions of its task; give one with --question")
    return [(str(row.get("prompt", "")), str(row.get("answer", ""))) for row in rows]
