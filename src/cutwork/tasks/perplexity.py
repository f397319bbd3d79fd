"""The text whose perplexity tells how much of the language a pruned model kept."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cutwork.errors import CutworkError, reason
from cutwork.tasks.rendering import render_answer, render_prompt
from cutwork.tasks.task import Sample


def read_text(path: Path) -> str:
    """A UTF-8 text file, or CutworkError."""
    try:
        text = path.expanduser().read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise CutworkError(f"cannot read {path} as UTF-8 text: {reason(error)}") from None
    if not text.strip():
        raise CutworkError(f"{path} is empty")
    return text


def task_text(tokenizer: Any, samples: Sequence[Sample]) -> str:
    """Samples one after the other, rendered as in training: the text to use where there is no other."""
    eos = tokenizer.eos_token or ""
    return "\n".join(
        render_prompt(tokenizer, sample) + render_answer(tokenizer, sample.answer) + eos
        if sample.prompt
        else sample.answer
        for sample in samples
    )
