"""How different the questions of generated tests are, and how many have numbers that training showed.

    python -m benchmarks.evidence.questions     # seconds; after a recipe or a design has changed

Two questions with the same numbers in the same order are one problem under two names: a model has both right or neither
far more often than chance has it. Intervals draw them together (benchmarks/evidence/statistics.py).
Leaves questions.json in results/, with the problem of every question.
"""

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.common.results import QUESTIONS, RECIPES, save
from benchmarks.evidence.converged import Converged
from benchmarks.evidence.data import splits
from benchmarks.evidence.designs import DESIGNS
from benchmarks.evidence.feature_loss import RECIPE
from cutwork.recipe import Recipe, TaskSettings
from cutwork.recipe_file import load_recipe
from cutwork.tasks.gsm_symbolic import numbers
from cutwork.tasks.load import load_task
from cutwork.tasks.task import Sample, Task

_VALIDATED = ("one_shot", "patterns")  # results whose rows tell no split, and are of validation
Splits = Mapping[str, Task]  # each with the training samples and, as its test, the split's questions


def main() -> None:
    content = {"sets": {name: told(recipe, make(recipe)) for name, (recipe, make, _) in sets().items()}}
    content["of"] = {
        result: {"set": name, "split": "validation" if result in _VALIDATED else "test"}
        for name, (_, _, results) in sets().items()
        for result in results
    }
    print(table(save(QUESTIONS, content, compact=True)))


def sets() -> dict[str, tuple[Recipe, Callable[[Recipe], Splits], tuple[str, ...]]]:
    """By name: a recipe, the splits it gives, and the results that are answers to them."""

    def held_out(recipe: Recipe) -> Splits:
        task = load_task(recipe.task)
        asked = {"validation": task.validation, "test": task.test}
        return {name: replace(task, test=samples) for name, samples in asked.items() if samples}

    def of_design(name: str) -> Callable[[Recipe], Splits]:
        return lambda recipe: splits(DESIGNS[name], recipe)

    def design(name: str, *others: str) -> tuple[Recipe, Callable[[Recipe], Splits], tuple[str, ...]]:
        return load_recipe(DESIGNS[name].recipe), of_design(name), (DESIGNS[name].result, *others)

    short = ("feature_loss", "levels", "tuned_patterns", "one_shot", "own_rates", "beyond")
    converged = load_recipe(Converged.recipe_file)
    return {
        "the short task of compress": (load_recipe(RECIPE), held_out, short),
        "promises on new questions": (load_recipe(Path("benchmarks/compress/unseen.yaml")), held_out, ()),
        "the recipe `smollm2-gsm.yaml`": (load_recipe(RECIPES / "smollm2-gsm.yaml"), held_out, ()),
        "the short experiment": design("short", "pareto", "patterns"),
        "the longer experiment": design("longer", "pareto_longer"),
        "new numbers": design("new-numbers", "pareto_new_numbers", "new_losses", "int4_heads", "pareto_int4_heads"),
        "a teacher that has learned more": (converged, held_out, ("converged",)),
        "the same, at rates of its own": design("converged", "converged_rates", "pareto_converged"),
        "the same, longer": design("converged-longer", "pareto_converged_longer"),
        "the same, choices": (load_recipe(DESIGNS["converged-longer"].recipe), held_out, ()),
    }


def told(recipe: Recipe, found: Splits) -> dict[str, Any]:
    """By split: the problem of each question, and how many there are of which template and with training's numbers."""
    result = {}
    for split, task in found.items():
        if not task.test:
            continue
        train = {numbers(sample.prompt) for sample in task.train}
        in_any_order = {tuple(sorted(each)) for each in train}
        asked = [numbers(sample.prompt) for sample in task.test]
        problems: dict[tuple[str, ...], int] = {}
        result[split] = {
            "alike": [problems.setdefault(each, len(problems)) for each in asked],
            "in_training": sum(each in train for each in asked),
            "in_training_in_any_order": sum(tuple(sorted(each)) in in_any_order for each in asked),
            "templates": dict(Counter(templates(recipe, task)).most_common()),
        }
    return result


def templates(recipe: Recipe, task: Task) -> list[int]:
    """The template of each test question."""
    examples = _examples(recipe)
    return [_template(sample, examples) for sample in task.test]


def table(result: dict[str, Any]) -> str:
    """The counts, one line a split."""
    lines = [
        "| questions of | split | questions | different numbers | training has them, in that order | in any order "
        "| questions by template |",
        "|---|---|--:|--:|--:|--:|---|",
    ]
    for name, found in result["sets"].items():
        for split, about in found.items():
            alike = about["alike"]
            each = ", ".join(f"{template}: {count}" for template, count in about["templates"].items())
            cells = [len(alike), len(set(alike)), about["in_training"], about["in_training_in_any_order"]]
            lines.append(f"| {name} | {split} | {' | '.join(f'{cell:,}' for cell in cells)} | {each} |")
    return "\n".join(lines)


def _examples(recipe: Recipe) -> dict[int, Sequence[Sample]]:
    """Some problems of each template of a recipe's task, or of all that its designs hold out."""
    held_out = {number for design in DESIGNS.values() for number in design.held_out}
    known = {*recipe.task.options.get("templates", ()), *held_out}
    settings = TaskSettings(name="gsm_symbolic", train_samples=1, test_samples=8)
    return {
        number: load_task(settings.model_copy(update={"options": {"templates": [number]}})).test
        for number in sorted(known)
    }


def _template(sample: Sample, examples: Mapping[int, Sequence[Sample]]) -> int:
    """That of the example whose words are most like a sample's; templates have names and things of their own."""
    words = _words(sample)

    def likeness(other: Sample) -> float:
        theirs = _words(other)
        return len(words & theirs) / len(words | theirs)

    return max(examples, key=lambda number: max(map(likeness, examples[number])))


def _words(sample: Sample) -> set[str]:
    return set(re.findall(r"[a-z]+", f"{sample.prompt} {sample.answer}".lower()))


if __name__ == "__main__":
    main()
