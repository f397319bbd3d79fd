"""Which questions are for training, for validation, for the test, and which templates nobody sees before the test."""

from dataclasses import replace
from random import Random

from cutwork.recipe import Recipe
from cutwork.tasks.load import load_task
from cutwork.tasks.task import Task

VALIDATION = 500  # of the task's held-out questions; every choice is made on these
UNSEEN = 1000  # questions of templates that are in no training sample
_DRAW, _TRAINED, _HELD_OUT = 2310, 16, 4


def templates() -> tuple[list[int], list[int]]:
    """The templates that are trained on, and those held out whole: drawn by a seed, not chosen."""
    from reasoning_gym.arithmetic.gsm_symbolic.gsm_symbolic import tasks_ok

    drawn = Random(_DRAW).sample(list(tasks_ok), _TRAINED + _HELD_OUT)
    return drawn[:_TRAINED], drawn[_TRAINED:]


def splits(recipe: Recipe) -> dict[str, Task]:
    """The recipe's task with the questions of "validation", "test" and "unseen" as its held-out ones."""
    task = load_task(recipe.task)
    settings = recipe.task.model_copy(
        update={"train_samples": 1, "test_samples": UNSEEN, "options": {"templates": templates()[1]}}
    )
    return {
        "validation": replace(task, test=task.test[:VALIDATION]),
        "test": replace(task, test=task.test[VALIDATION:]),
        "unseen": replace(task, test=load_task(settings).test),
    }
