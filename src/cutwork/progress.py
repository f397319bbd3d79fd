"""The progress bars that commands show, and times for people."""

from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

_SECONDS_BETWEEN_LINES = 60.0
_SECONDS_OF_SPEED = 600.0  # rich's half a minute is less than a block of a large model takes: nothing was foretold


class _Note(ProgressColumn):
    """The task's field `note`, if it has one."""

    def render(self, task: Task) -> Text:
        return Text(task.fields.get("note", ""))


class _Lines(Progress):
    """What a bar would show as a line a minute, where it cannot be redrawn: in a file, or the log of a cluster."""

    def __init__(self, *columns: ProgressColumn, **options: Any) -> None:
        super().__init__(*columns, disable=True, **options)
        self._said: dict[TaskID, float] = {}

    def advance(self, task_id: TaskID, advance: float = 1) -> None:
        """Advance a task."""
        super().advance(task_id, advance)
        self._say(task_id)

    def update(self, task_id: TaskID, **changes: Any) -> None:
        """Change a task."""
        super().update(task_id, **changes)
        self._say(task_id)

    def _say(self, task_id: TaskID) -> None:
        task, now = self._tasks[task_id], self.get_time()
        last = self._said.get(task_id, task.start_time)
        if last is None or now - last < _SECONDS_BETWEEN_LINES:
            return
        self._said[task_id] = now
        whole = f"/{task.total:.0f}" if task.total is not None else ""
        left = f", about {duration(task.time_remaining)} left" if task.time_remaining else ""
        line = f"{task.description} {task.completed:.0f}{whole}, {duration(task.elapsed or 0)} so far{left}"
        self.console.print(line, highlight=False, markup=False, soft_wrap=True)


def progress_bar(console: Console | None = None, *, transient: bool = False, lines: bool = True) -> Progress:
    """A bar on `console` (standard error by default) with counts, elapsed and remaining time, and the task's `note`.

    Where it cannot be redrawn, as in a file, it is a line a minute, or nothing without `lines`; a `transient` bar
    vanishes at its end.
    """
    console = console or Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        _Note(),
    )
    if lines and not console.is_terminal:
        return _Lines(*columns, console=console, speed_estimate_period=_SECONDS_OF_SPEED)
    return Progress(
        *columns,
        console=console,
        transient=transient,
        disable=not console.is_terminal,
        speed_estimate_period=_SECONDS_OF_SPEED,
    )


def duration(seconds: float) -> str:
    """About how long, for people: "40 s", "7 min", "2.5 h"."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
