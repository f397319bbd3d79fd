"""What the T5 is trained on, chosen by and tested on."""

import random
from collections.abc import Iterable
from itertools import islice
from pathlib import Path

from benchmarks.translation.model import PREFIX
from cutwork.tasks.task import Sample, Task

VALIDATION, TEST = range(500, 900), range(900, 1900)  # of the held-out sentences; earlier models were asked the others


def make_task(train: int, extra: Path | None) -> Task:
    """Made sentences, and for training one real pair in ten where there are any."""
    from benchmarks.translation.sentences import pairs, read_extra

    chosen = list(islice(pairs(0, held_out=False), train))
    if extra:
        rng = random.Random(0)
        found = read_extra(extra)
        rng.shuffle(found)
        chosen[: train // 10] = found[: train // 10]
    return Task("translation", _samples(chosen), held_out(TEST), metric="translation", validation=held_out(VALIDATION))


def held_out(some: range) -> tuple[Sample, ...]:
    """Sentences that say what no training sentence says."""
    from benchmarks.translation.sentences import pairs

    return _samples(islice(pairs(0, held_out=True), some.start, some.stop))


def _samples(some: Iterable[tuple[str, str]]) -> tuple[Sample, ...]:
    return tuple(Sample(PREFIX + english, german) for english, german in some)
