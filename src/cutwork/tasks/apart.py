"""Splits that ask nothing of each other, so that no answer is known by heart."""

from collections import Counter
from collections.abc import Iterable, Iterator

from cutwork.tasks.task import Sample

_OFTEN, _SHARE = 10, 0.01  # samples, and of all samples, that one question may have before it tells nothing


def apart(samples: Iterable[Sample], others: Iterable[Sample], left_out: list[Sample]) -> Iterator[Sample]:
    """Those samples that ask nothing that `others` ask; the rest is added to `left_out`.

    What more than ten samples and a hundredth of those so far ask, such as "Write a poem.", has no one answer: of these
    only samples that give an answer of the others are left out.
    """
    others = tuple(others)
    asked, said = {sample.asked() for sample in others}, {tuple(sample.texts()) for sample in others}
    times: Counter[tuple[str, ...]] = Counter()
    for number, sample in enumerate(samples, 1):
        question = sample.asked()
        if question not in asked and tuple(sample.texts()) not in said:
            yield sample
            continue
        left_out.append(sample)
        times[question] += 1
        if question in asked and times[question] > max(_OFTEN, _SHARE * number):
            asked.remove(question)
            back = [each for each in left_out if each.asked() == question and tuple(each.texts()) not in said]
            left_out[:] = [each for each in left_out if each.asked() != question or tuple(each.texts()) in said]
            yield from back
