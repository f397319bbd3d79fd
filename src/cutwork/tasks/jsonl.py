"""Any local data: one JSON object a line."""

import json
from pathlib import Path

from cutwork.errors import CutworkError
from cutwork.tasks.task import Sample, Task


def jsonl(
    train_samples: int,
    test_samples: int,
    *,
    test: str,
    train: str | None = None,
    prompt: str = "prompt",
    answer: str = "answer",
) -> Task:
    """The first samples of two files of `{prompt: …, answer: …}` lines; `prompt` and `answer` name the keys.

    Prompts of `test` are left out of `train`. Raises CutworkError for files that cannot be read that way.
    """
    held_out = read_samples(Path(test), prompt, answer)[:test_samples]
    kept = read_samples(Path(train), prompt, answer) if train else []
    asked = {sample.prompt for sample in held_out}
    learned = [sample for sample in kept if sample.prompt not in asked][:train_samples]
    return Task("jsonl", tuple(learned), tuple(held_out))


def read_samples(path: Path, prompt: str, answer: str) -> list[Sample]:
    """The samples in a JSONL file, or CutworkError naming the line."""
    try:
        lines = path.expanduser().read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise CutworkError(f"cannot read task data from {path}: {error}") from None
    samples = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
            sample = Sample(record[prompt], record[answer])
        except (ValueError, KeyError, TypeError):
            sample = Sample("", "")
        if not all(isinstance(text, str) and text for text in (sample.prompt, sample.answer)):
            raise CutworkError(f"{path}, line {number}: expected an object with texts '{prompt}' and '{answer}'")
        samples.append(sample)
    if not samples:
        raise CutworkError(f"{path} holds no samples")
    return samples
