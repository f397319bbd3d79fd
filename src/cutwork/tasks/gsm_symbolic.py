"""GSM-Symbolic (arXiv 2410.05229): word problems drawn from templates, generated on this machine by reasoning-gym."""

import inspect
from collections.abc import Callable, Iterator
from random import Random
from typing import Any

from cutwork.errors import CutworkError
from cutwork.tasks.task import Sample, Task

Generator = Callable[[Random, float], dict[str, Any]]

_PATIENCE = 500  # draws in a row without a new question before a template counts as used up


def gsm_symbolic(
    train_samples: int, test_samples: int, seed: int, *, templates: list[int] | str = "all", difficulty: float = 1.0
) -> Task:
    """Problems of the given templates in equal shares, answered step by step and ending in `#### number`.

    `templates` are numbers of the original templates, or "all" that reasoning-gym can draw from; `difficulty` widens
    the numbers' ranges. Everything follows from `seed`; no text occurs twice, in either split. Raises CutworkError if
    reasoning-gym is missing, a template unknown, or the templates cannot give that many different problems.
    """
    generators = _generators(templates)
    if not isinstance(difficulty, int | float) or not 1 <= difficulty <= 10:
        raise CutworkError(f"gsm_symbolic: difficulty must be a number from 1 to 10, not {difficulty!r}")
    problems = _problems(generators, float(difficulty), Random(seed))
    # Test first: the held-out problems stay the same however many are trained on.
    test = tuple(next(problems) for _ in range(test_samples))
    train = tuple(next(problems) for _ in range(train_samples))
    return Task("gsm_symbolic", train, test)


def _generators(templates: list[int] | str) -> list[Generator]:
    try:
        from reasoning_gym.arithmetic.gsm_symbolic import generators_00_49, generators_50_99
        from reasoning_gym.arithmetic.gsm_symbolic.gsm_symbolic import tasks_ok
    except ImportError:
        raise CutworkError("gsm_symbolic needs reasoning-gym; install it with: pip install 'cutwork[demo]'") from None
    wanted = tasks_ok if templates == "all" else templates
    if not isinstance(wanted, list) or not wanted or len(set(map(repr, wanted))) != len(wanted):
        raise CutworkError(f"gsm_symbolic: templates must be 'all' or a list of different numbers, not {templates!r}")
    known = dict(inspect.getmembers(generators_00_49) + inspect.getmembers(generators_50_99))
    chosen = [known.get(f"generate_{number}") for number in wanted]
    for number, generator in zip(wanted, chosen, strict=True):
        if generator is None:
            raise CutworkError(f"gsm_symbolic has no template {number!r}; they are numbered from 0 to 99")
    return [generator for generator in chosen if generator]


def _problems(generators: list[Generator], difficulty: float, random: Random) -> Iterator[Sample]:
    """Different problems, template after template; templates that give no more new ones drop out."""
    seen: set[str] = set()
    while generators:
        for generator in list(generators):
            problem = _new_problem(generator, difficulty, random, seen)
            if problem:
                yield problem
            else:
                generators.remove(generator)
    raise CutworkError(
        f"gsm_symbolic: these templates give only {len(seen)} different problems; use fewer samples or more templates"
    )


def _new_problem(generator: Generator, difficulty: float, random: Random, seen: set[str]) -> Sample | None:
    for _ in range(_PATIENCE):
        try:
            problem = generator(Random(random.getrandbits(64)), difficulty)
        except (ValueError, ZeroDivisionError, IndexError):
            continue  # some templates fail on some draws
        question, steps = problem["question"], problem["metadata"]["answer_cot"]
        if question not in seen and "####" in steps:
            seen.add(question)
            return Sample(question, steps)
    return None
