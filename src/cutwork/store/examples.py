"""Prompts of a model's task, kept beside it for whoever wants to try it."""

import json
from collections.abc import Sequence
from pathlib import Path

from cutwork.store.atomic import write_atomically

FILE = "examples.json"
MOST, LONGEST = 4, 600  # prompts, and characters of one


def write_examples(directory: Path, prompts: Sequence[str]) -> None:
    """Keep the first prompts that are short enough, in place of former ones."""
    short = [prompt for prompt in prompts if 0 < len(prompt) <= LONGEST][:MOST]
    if short:
        write_atomically(directory / FILE, json.dumps(short, ensure_ascii=False, indent=1) + "\n")
    else:
        (directory / FILE).unlink(missing_ok=True)


def read_examples(directory: Path) -> list[str]:
    """A model's prompts; none if it has no such file, or one that is not like that."""
    try:
        found = json.loads((directory / FILE).read_bytes()[: 1 << 16])
    except (OSError, ValueError, RecursionError):
        return []
    texts = found if isinstance(found, list) else []
    return [text for text in texts[:MOST] if isinstance(text, str) and 0 < len(text) <= LONGEST]
