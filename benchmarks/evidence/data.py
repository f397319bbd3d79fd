"""Which questions are for validation, for the test, and which are of templates that nobody sees before the test."""

from dataclasses import replace

from benchmarks.evidence.designs import Design
from cutwork.recipe import Recipe
from cutwork.recipe_file import load_recipe
from cutwork.tasks.load import load_task
from cutwork.tasks.task import Task


def splits(design: Design, recipe: Recipe) -> dict[str, Task]:
    """The recipe's task with the questions of "validation", "test" and "unseen" as its held-out ones."""
    task = load_task(recipe.task)
    test = task.test[design.validation :]
    if design.test_seed is not None:
        fresh = load_task(recipe.task.model_copy(update={"train_samples": 1, "seed": design.test_seed})).test
        known = {sample.prompt for sample in (*task.train, *task.test)}
        test = tuple(sample for sample in fresh if sample.prompt not in known)[: len(test)]
    found = {
        "validation": replace(task, test=task.test[: design.validation]),
        "test": replace(task, test=test),
    }
    if design.held_out:
        options = {"templates": [*design.held_out]}
        settings = recipe.task.model_copy(
            update={"train_samples": 1, "test_samples": design.unseen, "options": options}
        )
        found["unseen"] = replace(task, test=load_task(settings).test)
    return found


def recipe_of(design: Design, model: str | None = None, data: str | None = None) -> Recipe:
    """The design's recipe, with directories in place of the model and of the task's data, where they are given."""
    recipe = load_recipe(design.recipe)
    task = recipe.task.model_copy(update={"options": {"directory": data}}) if data else recipe.task
    return recipe.model_copy(update={"task": task, "model": model or recipe.model})
