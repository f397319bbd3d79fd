"""Language modelling on plain text: nothing is asked, everything is learned."""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from cutwork.errors import CutworkError
from cutwork.tasks.apart import apart
from cutwork.tasks.perplexity import read_text
from cutwork.tasks.task import Sample, Task


def text(train_samples: int, test_samples: int, *, test: str, train: str | None = None, characters: int = 1500) -> Task:
    """Pieces of two UTF-8 files, in their order, each of at most that many characters and cut between words.

    A piece is a sample without a prompt; what goes beyond `task.max_length` tokens is left out. Pieces of the test are
    left out of `train`: of one file for both, the training's come behind the test's. Raises CutworkError for files that
    cannot be read.
    """
    if characters < 1:
        raise CutworkError(f"text: characters must be at least 1, not {characters}")

    def samples(path: str) -> Iterator[Sample]:
        return (Sample("", piece) for piece in pieces(read_text(Path(path)), characters))

    held_out = tuple(islice(samples(test), test_samples))
    training = tuple(islice(apart(samples(train), held_out, []), train_samples)) if train else ()
    return Task("text", training, held_out)


def pieces(whole: str, characters: int) -> list[str]:
    """A text in pieces of at most so many characters, whole words if one fits."""
    cut, start = [], 0
    while start < len(whole):
        end = min(start + characters, len(whole))
        if end < len(whole):
            end = max(whole.rfind(mark, start + 1, end) + 1 for mark in (" ", "\n")) or end
        cut.append(whole[start:end])
        start = end
    return [piece for piece in cut if piece.strip()]
