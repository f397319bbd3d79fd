"""What a run shows: examples before it, one live line while it trains, and every step in a JSONL file."""

import json
import time
from collections.abc import Sequence
from contextlib import suppress
from itertools import groupby
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from cutwork.progress import progress_bar
from cutwork.store.atomic import write_atomically
from cutwork.tasks.rendering import IGNORED

_SECONDS_BETWEEN_LINES = 15.0  # where nothing can be redrawn, as in a file or a CI log
_LAYERS, _EXAMPLES = 5, 2  # that are shown


class TrainingLog(TrainerCallback):
    """Writes each log to `path` as a JSON line and keeps the console up to date (first process only)."""

    def __init__(self, console: Console, path: Path, description: str) -> None:
        self.console, self.path, self.description = console, path, description
        self.progress = progress_bar(console, lines=False)  # it has its own, of losses
        self._bar: Any = None
        self._last_line = 0.0

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Start the bar; drop lines of steps that a resumed run is going to repeat."""
        if not state.is_world_process_zero:
            return
        if self.path.exists():
            lines = [line for line in read_log(self.path) if line["step"] <= state.global_step]
            write_atomically(self.path, "".join(f"{json.dumps(line)}\n" for line in lines))
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

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        metrics: dict[str, float] | None = None,
        **_: Any,
    ) -> None:
        """Show the validation loss."""
        if state.is_world_process_zero and metrics:
            self.console.print(f"step {state.global_step}: validation loss {metrics['eval_loss']:.4g}", highlight=False)

    def close(self) -> None:
        """Stop drawing; also after an error or an interrupt."""
        self.progress.stop()


def read_log(path: Path) -> list[dict[str, Any]]:
    """The lines of a run's log, but for one that a crash cut off; none if there is no log."""
    lines = []
    with suppress(ValueError):
        for line in path.read_bytes().split(b"\n")[:-1] if path.is_file() else ():
            lines.append(json.loads(line))
    return lines


def show_layers(console: Console, lines: Sequence[dict[str, Any]]) -> None:
    """The blocks that are furthest from the teacher at the end of a run, from its log; nothing without SquareHead."""
    prefix = "squarehead/"
    layers = [key for key in (lines[-1] if lines else {}) if key.startswith(prefix)]
    if not layers:
        return
    window = max(1, min(10, len(lines) // 4))  # steps that are averaged at either end

    def mean(key: str, part: Sequence[dict[str, Any]]) -> float:
        return float(sum(line[key] for line in part)) / len(part)

    ends = {key: (mean(key, lines[:window]), mean(key, lines[-window:])) for key in layers}
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("furthest from the teacher")
    for name in ("at first", "at last"):
        table.add_column(name, justify="right")
    for key in sorted(ends, key=lambda key: -ends[key][1])[:_LAYERS]:
        table.add_row(key.removeprefix(prefix), *(f"{value:.4f}" for value in ends[key]))
    console.print(table)


def show_examples(console: Console, tokenizer: Any, data: Sequence[Any]) -> None:
    """The first examples as text: what is learned in green, or «so» where there are no colours."""
    decode = getattr(tokenizer, "tokenizer", tokenizer).decode
    for index in range(min(_EXAMPLES, len(data))):
        example = data[index]
        labels = example["labels"]
        given = [IGNORED] * len(example.get("input_ids", ()))
        ids, marks = example.get("input_ids", []), labels
        apart = IGNORED not in labels and list(labels) != list(ids)  # nor plain text, of which all is learned
        if len(given) != len(labels) or apart:  # the answer is apart from the prompt
            ids, marks = [*ids, *labels], [*given, *labels]
        text = Text()
        for learned, run in groupby(zip(ids, marks, strict=True), key=lambda pair: pair[1] != IGNORED):
            piece = decode([token for token, _ in run])
            plain = not console.is_terminal or console.no_color
            text.append(f"«{piece}»" if learned and plain else piece, style="green" if learned else "dim")
        tokens = sum(label != IGNORED for label in labels)
        console.print(Text(f"example {index + 1}: {len(ids)} tokens, {tokens} learned", style="bold"))
        console.print(text, soft_wrap=True)


def _shown(logs: dict[str, Any]) -> list[str]:
    terms = [key for key in ("ce", "kl", "squarehead") if key in logs]
    return [
        "loss",
        *(terms if len(terms) > 1 else []),
        "grad_norm",
        "learning_rate",
        *(["sparsity"] if logs.get("sparsity") else []),
    ]
