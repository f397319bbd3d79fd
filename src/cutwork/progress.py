"""The progress bars that commands show, and times for people."""

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text


class _Note(ProgressColumn):
    """The task's field `note`, if it has one."""

    def render(self, task: Task) -> Text:
        return Text(task.fields.get("note", ""))


def progress_bar(console: Console | None = None, *, transient: bool = False) -> Progress:
    """A bar on `console` (standard error by default) with counts, elapsed and remaining time, and the task's `note`.

    Nothing is shown where it cannot be redrawn, as in a file; a `transient` bar vanishes at its end.
    """
    console = console or Console(stderr=True)
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        _Note(),
        console=console,
        transient=transient,
        disable=not console.is_terminal,
    )


def duration(seconds: float) -> str:
    """About how long, for people: "40 s", "7 min", "2.5 h"."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
