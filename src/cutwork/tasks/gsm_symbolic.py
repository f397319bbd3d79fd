"""GSM-Symbolic (arXiv 2410.05229): word problems drawn from templates, generated on this machine by reasoning-gym."""

import inspect
import re
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from random import Random
from typing import Any
from zlib import crc32

from cutwork.errors import CutworkError
from cutwork.extras import install
from cutwork.tasks.task import Sample, Task

Generator = Callable[[Random, float], dict[str, Any]]

_PATIENCE = 500  # draws in a row without a new question before a template counts as used up
_NUMBER = re.compile(r"\d[\d,.]*%?")


def gsm_symbolic(
    train_samples: int,
    test_samples: int,
    seed: int,
    *,
    templates: list[int] | str = "all",
    difficulty: float = 1.0,
    held_out_numbers: float = 0.0,
) -> Task:
    """Problems of the given templates, equally many while they last, answered step by step and ending in `#### number`.

    `templates` are numbers of the original templates, or "all" that reasoning-gym can draw from; `difficulty` widens
    the numbers' ranges. `held_out_numbers`: the share of a problem's possible numbers, taken together and in their
    order, that the test alone has, whatever the seed, and each of them once; with 0 most numbers of the test occur in
    training, under other names. Everything else follows from `seed`; no text occurs twice, in either split. Raises
    CutworkError if reasoning-gym is missing, a template unknown, or the templates cannot give that many different
    problems.
    """
    generators = _generators(templates)
    if not 1 <= difficulty <= 10:
        raise CutworkError(f"gsm_symbolic: difficulty must be a number from 1 to 10, not {difficulty!r}")
    if not isinstance(held_out_numbers, int | float) or not 0 <= held_out_numbers <= 0.9:
        raise CutworkError(f"gsm_symbolic: held_out_numbers must be a share from 0 to 0.9, not {held_out_numbers!r}")
    draw = partial(_problems, generators, float(difficulty), Random(seed), set())
    # Test first: the held-out problems stay the same however many are trained on.
    if not held_out_numbers:
        problems = draw(lambda question: True)
        test = tuple(islice(problems, test_samples))
        return Task("gsm_symbolic", tuple(islice(problems, train_samples)), test)
    asked: set[tuple[str, ...]] = set()

    def is_new(question: str) -> bool:
        found = numbers(question)
        if found in asked or not _held_out(found, held_out_numbers):
            return False
        asked.add(found)
        return True

    test = tuple(islice(draw(is_new), test_samples))
    train = islice(draw(lambda question: not _held_out(numbers(question), held_out_numbers)), train_samples)
    return Task("gsm_symbolic", tuple(train), test)


def numbers(question: str) -> tuple[str, ...]:
    """The numbers of a question that are written in digits, in their order."""
    return tuple(number.rstrip(".,") for number in _NUMBER.findall(question))


def _held_out(found: tuple[str, ...], share: float) -> bool:
    return crc32(" ".join(found).encode()) < share * 2**32


def _generators(templates: list[int] | str) -> list[Generator]:
    try:
        from reasoning_gym.arithmetic.gsm_symbolic import generators_00_49, generators_50_99
        from reasoning_gym.arithmetic.gsm_symbolic.gsm_symbolic import tasks_ok
    except ImportError:
        raise CutworkError(f"gsm_symbolic needs reasoning-gym; install it with: {install('demo')}") from None
    wanted = tasks_ok if templates == "all" else templates
    if not isinstance(wanted, list) or not wanted or len(set(map(repr, wanted))) != len(wanted):
        raise CutworkError(f"gsm_symbolic: templates must be 'all' or a list of different numbers, not {templates!r}")
    known = dict(inspect.getmembers(generators_00_49) + inspect.getmembers(generators_50_99))
    chosen = [known.get(f"generate_{number}") for number in wanted]
    for number, generator in zip(wanted, chosen, strict=True):
        if generator is None:
            raise CutworkError(f"gsm_symbolic has no template {number!r}; they are numbered from 0 to 99")
    return [generator for generator in chosen if generator]


def _problems(
    generators: list[Generator], difficulty: float, random: Random, seen: set[str], wanted: Callable[[str], bool]
) -> Iterator[Sample]:
    """Different problems whose question is wanted, template after template; templates that give no more drop out."""
    left = list(generators)
    while left:
        for generator in list(left):
            problem = _new_problem(generator, difficulty, random, seen, wanted)
            if problem:
                yield problem
            else:
                left.remove(generator)
    raise CutworkError(
        f"gsm_symbolic: these templates give only {len(seen)} different problems; use fewer samples or more templates"
    )


def _new_problem(
    generator: Generator, difficulty: float, random: Random, seen: set[str], wanted: Callable[[str], bool]
) -> Sample | None:
    for _ in range(_PATIENCE):
        try:
            problem = generator(Random(random.getrandbits(64)), difficulty)
        except (ValueError, ZeroDivisionError, IndexError):
            continue  # some templates fail on some draws
        question, steps = problem["question"], problem["metadata"]["answer_cot"]
        if question not in seen and "####" in steps and wanted(question):
            seen.add(question)
            return Sample(question, steps)
    return None
