"""The results of a run as `cutwork run` leaves them in `results.json`."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cutwork.errors import CutworkError
from cutwork.store.json_file import read_json

_TEXTS = ("recipe", "task")
_COLUMNS = ("name", "sparsity", "accuracy", "perplexity", "disk_bytes", "memory_bytes")


def load_results(directory: Path) -> dict[str, Any]:
    """The results in a run's output directory; CutworkError if there are none or they are not ours."""
    file = directory / "results.json"
    if not file.is_file():
        raise CutworkError(f"{directory} has no results.json; finish its run first: cutwork run RECIPE")
    results = read_json(file)
    rows = results.get("variants")
    ours = isinstance(results.get("machine"), dict) and all(isinstance(results.get(key), str) for key in _TEXTS)
    if not (ours and rows and isinstance(rows, list)) or not all(
        isinstance(row, dict) and all(column in row for column in _COLUMNS) for row in rows
    ):
        raise CutworkError(f"{file} is not what cutwork run writes; run the recipe's compare stage again")
    return results


def told_apart(results: Sequence[dict[str, Any]], directories: Sequence[Path]) -> list[dict[str, Any]]:
    """Results of several runs, those of recipes of one name called by their directories instead."""
    times = Counter(run["recipe"] for run in results)
    return [
        {**run, "recipe": str(directory)} if times[run["recipe"]] > 1 else run
        for run, directory in zip(results, directories, strict=True)
    ]
