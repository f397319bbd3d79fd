"""Splits that ask nothing of each other, so that no answer is known by heart."""

from collections import Counter
from collections.abc import Iterable, Iterator

from cutwork.tasks.task import Sample

_OFTEN = ((100, 0.01), (10, 0.1))  # samples, and of all: what more than both ask tells nothing


def apart(samples: Iterable[Sample], others: Iterable[Sample], left_out: list[Sample]) -> Iterator[Sample]:
    """Those samples that ask nothing that `others` ask in the end; the rest is added to `left_out`.

    What more than 100 samples and a hundredth of all ask, or more than ten and a tenth, such as "Write a poem.", has no
    one answer: of these only samples that give an answer of the others are left out. Only all samples tell, in whatever
    order they are, so that these come last.
    """
    ends = {sample.exchanges()[-1] for sample in others}
    asked = {question for question, _ in ends}
    times: Counter[tuple[str, ...]] = Counter()
    held, before, number = [], len(left_out), 0
    for sample in samples:
        number += 1
        met = asked.intersection(question for question, _ in sample.exchanges())
        if not met:
            yield sample
            continue
        times.update(met)
        held.append((sample, met))
        left_out.append(sample)
    often = {question for question, n in times.items() if any(n > max(few, share * number) for few, share in _OFTEN)}
    back = [met <= often and ends.isdisjoint(sample.exchanges()) for sample, met in held]
    left_out[before:] = [sample for (sample, _), is_back in zip(held, back, strict=True) if not is_back]
    yield from (sample for (sample, _), is_back in zip(held, back, strict=True) if is_back)
