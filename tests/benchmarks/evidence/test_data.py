from random import Random

import pytest
from reasoning_gym.arithmetic.gsm_symbolic.gsm_symbolic import tasks_ok

from benchmarks.evidence.data import FRESH_TEST, splits
from benchmarks.evidence.designs import DESIGNS
from benchmarks.evidence.parts import equations, seen_steps
from benchmarks.evidence.seen_numbers import seen_numbers
from cutwork.recipe_file import load_recipe
from cutwork.tasks.gsm_symbolic import numbers
from cutwork.tasks.load import load_task
from cutwork.tasks.task import Sample, Task


def test_the_announced_templates_are_drawn() -> None:
    design = DESIGNS["announced"]
    drawn = Random(2310).sample(list(tasks_ok), 20)
    assert load_recipe(design.recipe).task.options["templates"] == drawn[:16]
    assert list(design.held_out) == drawn[16:]


def test_the_short_ones_are_too() -> None:
    """Sorted and drawn; that they are the short ones takes a tokenizer to see."""
    design = DESIGNS["short"]
    trained = load_recipe(design.recipe).task.options["templates"]
    drawn = Random(2310).sample(sorted([*trained, *design.held_out]), 10)
    assert (drawn[:8], tuple(drawn[8:])) == (trained, design.held_out)


@pytest.mark.parametrize("name", [name for name in DESIGNS if name != "gsm8k" and not DESIGNS[name].fresh])
def test_the_splits_share_no_question(name: str) -> None:
    design = DESIGNS[name]
    recipe = load_recipe(design.recipe)
    assert not set(recipe.task.options["templates"]) & set(design.held_out)
    parts = splits(design, recipe)
    prompts = {name: {sample.prompt for sample in task.test} for name, task in parts.items()}
    test = recipe.task.test_samples - design.validation
    assert [len(found) for found in prompts.values()] == [design.validation, test, design.unseen]
    prompts["train"] = {sample.prompt for sample in parts["test"].train}
    everything = set().union(*prompts.values())
    assert len(everything) == sum(map(len, prompts.values()))


@pytest.mark.parametrize("name", [name for name in DESIGNS if DESIGNS[name].fresh])
def test_fresh_questions_have_numbers_of_their_own(name: str) -> None:
    design = DESIGNS[name]
    recipe = load_recipe(design.recipe)
    parts = splits(design, recipe)
    assert [len(task.test) for task in parts.values()] == [design.validation, 1000] == [500, FRESH_TEST]
    asked = [numbers(sample.prompt) for task in parts.values() for sample in task.test]
    former = {numbers(sample.prompt) for sample in load_task(recipe.task).test}
    assert len(set(asked)) == len(asked) and not former & set(asked)
    assert not seen_numbers(parts["test"]).any()


def test_steps_are_told_by_their_equations() -> None:
    answer = "He has 33 - 9 = 24 marbles.\nTogether, 33 + 24 = 57, at $1,200/4=$300.\n#### 57"
    assert equations(answer) == {"33-9=24", "33+24=57", "$1200/4=$300"}
    assert equations("There are 17 girls x 2 boys/girl = 34 boys.") == {"17x2=34"}
    train = (Sample("", "1 + 1 = 2\n#### 2"), Sample("", "2*3 = 6\n#### 6"))
    test = (Sample("", "2 * 3 = 6, 1+1 = 2\n#### 2"), Sample("", "1 + 1 = 2 and 2 + 2 = 4\n#### 4"))
    assert seen_steps(Task("sums", train, test)).tolist() == [True, False]


def test_no_number_of_the_new_ones_was_in_training() -> None:
    design = DESIGNS["new-numbers"]
    test = splits(design, load_recipe(design.recipe))["test"]
    assert len({numbers(sample.prompt) for sample in test.test}) == len(test.test)
    assert not seen_numbers(test).any()
    short = splits(DESIGNS["short"], load_recipe(DESIGNS["short"].recipe))
    assert seen_numbers(short["test"]).mean() > 0.8
