"""A report in a directory: `results.md` and, where matplotlib is installed, `results.png`."""

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from cutwork.errors import CutworkError, reason
from cutwork.measure.report.plots import plot
from cutwork.measure.report.tables import markdown
from cutwork.store.atomic import write_atomically


def write_report(results: Sequence[dict[str, Any]], directory: Path) -> list[Path]:
    """Write the table and the plot of one or several runs; returns the files, of which the plot may be missing. Raises
    CutworkError if they cannot be written."""
    contents: dict[str, str | bytes] = {"results.md": markdown(results)}
    if find_spec("matplotlib"):
        contents["results.png"] = plot(results)
    written = []
    for name, content in contents.items():
        try:
            directory.mkdir(parents=True, exist_ok=True)
            write_atomically(directory / name, content)
        except OSError as error:
            raise CutworkError(f"cannot write the report to {directory}: {reason(error)}") from None
        written.append(directory / name)
    return written
