"""Which questions are for validation, for the test, and which are of templates that nobody sees before the test."""

from dataclasses import replace

from benchmarks.evidence.designs import Design
from cutwork.recipe import Recipe
from cutwork.tasks.load import load_task
from cutwork.tasks.task import Task


def splits(design: Design, recipe: Recipe) -> dict[str, Task]:
    """The recipe's task with the questions of "validation", "test" and "unseen" as its held-out ones."""
    task = load_task(recipe.task)
    settings = recipe.task.model_copy(
        update={"train_samples": 1, "test_samples": design.unseen, "options": {"templates": [*design.held_out]}}
    )
    return {
        "validation": replace(task, test=task.test[: design.validation]),
        "test": replace(task, test=task.test[design.validation :]),
        "unseen": replace(task, test=load_task(settings).test),
    }
