"""GSM8K (arXiv 2110.14168): grade-school word problems answered step by step, ending in `#### number`."""

import re
from pathlib import Path

from cutwork.errors import CutworkError
from cutwork.tasks.table import hub, read_samples
from cutwork.tasks.task import Sample, Task

_CALCULATOR = re.compile(r"<<[^>]*>>")  # annotations for a calculator that no model here has


def gsm8k(train_samples: int, test_samples: int, *, directory: str | None = None) -> Task:
    """The first problems of each split, from `train.jsonl` and `test.jsonl` in `directory`, or from the Hub.

    Raises CutworkError if the files or the Hub cannot be read.
    """
    splits = []
    for split, count in (("train", train_samples), ("test", test_samples)):
        if not count:
            samples = []
        elif directory:
            samples = read_samples(str(Path(directory) / f"{split}.jsonl"), "question", "answer")
        else:
            samples = _download(split)
        asked = samples if split == "train" else [sample for sample in samples if not sample.is_empty]
        splits.append(tuple(Sample(s.prompt, _CALCULATOR.sub("", s.answer)) for s in asked[:count]))
    return Task("gsm8k", splits[0], splits[1])


def _download(split: str) -> list[Sample]:
    try:
        problems = hub("openai/gsm8k", split, "main")
    except CutworkError as error:
        raise CutworkError(
            f"{error}; or give the folder of its train.jsonl and test.jsonl as task.options.directory"
        ) from None
    return [Sample(row["question"], row["answer"]) for row in problems]
