"""Which questions are for validation, for the test, and which are of templates that nobody sees before the test."""

from dataclasses import replace

from benchmarks.evidence.designs import Design
from cutwork.recipe import Recipe
from cutwork.recipe_file import load_recipe
from cutwork.tasks.gsm_symbolic import numbers
from cutwork.tasks.load import load_task
from cutwork.tasks.task import Sample, Task

FRESH_VALIDATION, FRESH_TEST = 500, 1000
_DRAWN = 20_000  # samples in which questions with other numbers than training's are looked for
_QUESTIONS = 2311  # the seed they are drawn with


def splits(design: Design, recipe: Recipe) -> dict[str, Task]:
    """The recipe's task with the questions of "validation", "test" and "unseen" as its held-out ones."""
    if design.fresh:
        return fresh_splits(recipe)
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


def fresh_splits(recipe: Recipe) -> dict[str, Task]:
    """Questions with numbers that neither a training sample nor the recipe's own test has, each of them once."""
    task = load_task(recipe.task)
    more = recipe.task.model_copy(update={"train_samples": _DRAWN, "test_samples": 1, "seed": _QUESTIONS})
    known = {numbers(sample.prompt) for sample in (*task.train, *task.test)}
    found: dict[tuple[str, ...], Sample] = {}
    for sample in load_task(more).train:
        if (own := numbers(sample.prompt)) not in known:
            found.setdefault(own, sample)
    fresh = tuple(found.values())
    asked = {"validation": fresh[:FRESH_VALIDATION], "test": fresh[FRESH_VALIDATION : FRESH_VALIDATION + FRESH_TEST]}
    return {name: replace(task, test=samples) for name, samples in asked.items()}


def recipe_of(design: Design, model: str | None = None, data: str | None = None) -> Recipe:
    """The design's recipe, with directories in place of the model and of the task's data, where they are given."""
    recipe = load_recipe(design.recipe)
    task = recipe.task.model_copy(update={"options": {"directory": data}}) if data else recipe.task
    return recipe.model_copy(update={"task": task, "model": model or recipe.model})
