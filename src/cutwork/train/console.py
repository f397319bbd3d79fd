"""What a run shows while it trains: one live line on the console, and every step in a JSONL file."""

import json
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

_SECONDS_BETWEEN_LINES = 15.0  # where nothing can be redrawn, as in a file or a CI log


def progress_bar(console: Console) -> Progress:
    """A progress bar that shows counts, elapsed and remaining time, and the task's `note` field."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
        console=console,
        disable=not console.is_terminal,
    )


class TrainingLog(TrainerCallback):
    """Writes each log to `path` as a JSON line and keeps the console up to date (first process only)."""

    def __init__(self, console: Console, path: Path, description: str) -> None:
        self.console, self.path, self.description = console, path, description
        self.progress = progress_bar(console)
        self._bar: Any = None
        self._last_line = 0.0

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Start the bar; drop lines of steps that a resumed run is going to repeat."""
        if not state.is_world_process_zero:
            return
        if self.path.exists():
            lines = [
                line for line in self.path.read_text().splitlines() if json.loads(line)["step"] <= state.global_step
            ]
            self.path.write_text("".join(f"{line}\n" for line in lines))
        self.progress.start()
        self._bar = self.progress.add_task(
            self.description, total=state.max_steps, completed=state.global_step, note="first step"
        )

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **_: Any,
    ) -> None:
        """Record a step and show its losses."""
        if not state.is_world_process_zero or not logs or "loss" not in logs:
            return
        with self.path.open("a") as file:
            file.write(json.dumps({"step": state.global_step, **logs}) + "\n")
        note = "  ".join(f"{key} {logs[key]:.4g}" for key in _shown(logs))
        self.progress.update(self._bar, completed=state.global_step, note=note)
        due = time.monotonic() - self._last_line > _SECONDS_BETWEEN_LINES or state.global_step == state.max_steps
        if not self.console.is_terminal and due:
            self._last_line = time.monotonic()
            self.console.print(f"{self.description} {state.global_step}/{state.max_steps}  {note}", soft_wrap=True)

    def close(self) -> None:
        """Stop drawing; also after an error or an interrupt."""
        self.progress.stop()


def _shown(logs: dict[str, Any]) -> list[str]:
    terms = [key for key in ("ce", "kl", "squarehead") if key in logs]
    return [
        "loss",
        *(terms if len(terms) > 1 else []),
        "grad_norm",
        "learning_rate",
        *(["sparsity"] if logs.get("sparsity") else []),
    ]
