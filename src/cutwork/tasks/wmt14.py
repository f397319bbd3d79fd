"""WMT14 English to German, the paper's task for T5."""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from cutwork.errors import CutworkError
from cutwork.tasks.table import hub
from cutwork.tasks.task import Sample, Task

PROMPT = "translate English to German: "  # what T5 was pre-trained with


def wmt14(train_samples: int, test_samples: int, *, directory: str | None = None) -> Task:
    """The first sentence pairs of each split, from the Hub or from a directory's files.

    The files are train.en, train.de, test.en and test.de, one sentence a line. Raises CutworkError if neither can be
    read.
    """
    parts = {}
    for split, count in (("train", train_samples), ("test", test_samples)):
        pairs = (_local(Path(directory), split) if directory else _remote(split)) if count else iter(())
        parts[split] = tuple(Sample(PROMPT + english, german) for english, german in islice(pairs, count))
    return Task("wmt14-en-de", parts["train"], parts["test"], metric="translation")


def _remote(split: str) -> Iterator[tuple[str, str]]:
    for row in hub("wmt/wmt14", split, "de-en"):
        yield row["translation"]["en"], row["translation"]["de"]


def _local(directory: Path, split: str) -> Iterator[tuple[str, str]]:
    try:
        texts = [(directory / f"{split}.{side}").read_text(encoding="utf-8-sig") for side in ("en", "de")]
        sides = [text.removesuffix("\n").split("\n") for text in texts]
    except (OSError, UnicodeDecodeError) as error:
        raise CutworkError(f"cannot read the sentences of {split} in {directory}: {error}") from None
    if len(sides[0]) != len(sides[1]):
        raise CutworkError(
            f"{directory}: {split}.en has {len(sides[0])} lines and {split}.de {len(sides[1])}; they must be pairs"
        )
    return ((english, german) for english, german in zip(*sides, strict=True) if english.strip() and german.strip())
