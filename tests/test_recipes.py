"""Every shipped recipe is valid, opens with its command, and names a task and a model that exist."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from cutwork.errors import CutworkError
from cutwork.recipe import QAT, Losses, PruneSettings, QuantizeSettings, Recipe, TuneSettings
from cutwork.recipe_file import load_recipe
from cutwork.store.demo_model import NAMES
from cutwork.store.fingerprint import digest
from cutwork.tasks.load import TASKS, load_task

RECIPES = sorted((Path(__file__).parents[1] / "recipes").glob("*.yaml"))
WHOLE = {"name": "a", "model": "m", "output": "o", "task": {"name": "gsm8k"}}


def test_there_are_recipes() -> None:
    assert {"smollm2-gsm", "smollm2-gsm-long"} <= {path.stem for path in RECIPES}


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_shipped_recipe_is_valid(path: Path) -> None:
    recipe = load_recipe(path)
    assert re.match(rf"# cutwork run recipes/{path.name}( --until tune)?\n", path.read_text())
    assert recipe.name == path.stem
    assert recipe.output == Path("out") / path.stem
    assert recipe.task.name in TASKS
    assert recipe.model in NAMES or "/" in recipe.model
    if recipe.task.name != "gsm_symbolic":
        return  # its data is not here; tests/test_paper_recipes.py runs these recipes on stand-ins
    task = load_task(recipe.task)
    assert len(task.train) == recipe.task.train_samples
    assert len(task.test) >= recipe.compare.accuracy_samples


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_sections_of_a_shipped_recipe_are_explained(path: Path) -> None:
    sections = [key for key, value in yaml.safe_load(path.read_text()).items() if isinstance(value, dict)]
    assert {"task", "teacher", "prune", "tune", "compare"} <= set(sections)
    comments = re.findall(r"\S\s+#\s\S+", path.read_text())
    assert len(comments) >= 6


def test_settings_that_came_later_do_not_change_the_keys_of_runs_begun_before() -> None:
    first = {"scheme", "method", "calibration_samples", "damping", "ignore", "seed"}
    assert set(QuantizeSettings().model_dump(mode="json")) == first
    assert set(QuantizeSettings(scheme="w4a16", group_size=64).model_dump(mode="json")) == {*first, "group_size"}


def test_the_order_of_globs_makes_another_stage() -> None:
    rates = {"*.q_proj": 0.0, "*": 0.5}
    one, two = (PruneSettings(modules=dict(items)) for items in (rates.items(), reversed(rates.items())))
    assert digest(one.as_key()) != digest(two.as_key())
    exact = {"model.layers.0.a": 0.5, "model.layers.0.b": 0.25}
    one, two = (PruneSettings(modules=dict(items)) for items in (exact.items(), reversed(exact.items())))
    assert digest(one.as_key()) == digest(two.as_key())
    assert PruneSettings().as_key() == PruneSettings().model_dump(mode="json")


def test_settings_may_be_given_beside_a_recipe() -> None:
    path = next(path for path in RECIPES if path.stem == "smollm2-gsm")
    recipe = load_recipe(path)
    changed = load_recipe(path, ["prune.sparsity=0.25", "tune.losses.kl=1e-1", "teacher=null", "name=other"])
    assert (changed.prune.sparsity, changed.tune.losses.kl, changed.teacher, changed.name) == (0.25, 0.1, None, "other")
    assert changed.prune.model_copy(update={"sparsity": recipe.prune.sparsity}) == recipe.prune
    pattern = load_recipe(path, ["prune.sparsity=0.5", "prune.pattern=2:4", "quantize=null", "quantize.scheme=w4a16"])
    assert pattern.prune.pattern == "2:4"
    assert pattern.quantize == QuantizeSettings(scheme="w4a16")
    for change, message in (
        ("prune.sparsty=0.5", "unknown key 'prune.sparsty'; did you mean 'sparsity'"),
        ("prune.sparsity=2", r"prune.sparsity: .*less than 1"),
        ("prune.sparsity", "--set prune.sparsity: expected KEY=VALUE"),
        ("=1", "expected KEY=VALUE"),
        ("prune..sparsity=1", "expected KEY=VALUE"),
        ("tune=[1", "tune: "),
    ):
        with pytest.raises(CutworkError, match=message):
            load_recipe(path, [change])


def test_a_pattern_that_yaml_took_for_a_time_is_to_be_quoted(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    for prune in ("{pattern: 4:16}", "{patterns: {'*.q_proj': 2:4}}"):
        recipe.write_text(f"name: a\nmodel: m\noutput: o\ntask: {{name: gsm8k}}\nprune: {prune}\n")
        with pytest.raises(CutworkError, match='quote it, as in "4:16"'):
            load_recipe(recipe)


def test_what_stands_twice_is_refused(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    whole = "name: a\nmodel: m\noutput: o\ntask: {name: gsm8k}\nprune: {sparsity: 0.6}\n"
    recipe.write_text(f"{whole}prune:\n  method: wanda\n")
    with pytest.raises(CutworkError, match=r"recipe\.yaml is not valid YAML: 'prune' stands twice, in lines 5 and 6"):
        load_recipe(recipe)
    recipe.write_text(f"{whole}tune: &t {{epochs: 2}}\nteacher:\n  <<: *t\n  epochs: 3\n")
    assert load_recipe(recipe).teacher == TuneSettings(epochs=3)  # what is merged may be said otherwise


def test_nothing_needs_to_be_tuned_unless_it_is_pruned_by_levels() -> None:
    [path] = [path for path in RECIPES if path.stem == "demo"]
    assert load_recipe(path, ["tune=null"]).tune is None
    with pytest.raises(CutworkError, match=r"prune.levels: .*tune must not be null"):
        load_recipe(path, ["tune=null", "prune.levels=[0.3, 0.6]", "prune.pattern=unstructured"])


def test_what_is_said_of_a_stage_leaves_its_other_defaults(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("name: a\nmodel: m\noutput: o\ntask: {name: gsm8k}\n")
    changed = load_recipe(recipe, ["tune.epochs=2", "quantize.method=qat", "quantize.qat.max_steps=50"])
    assert changed.tune == TuneSettings(epochs=2, losses=Losses(squarehead=1.0))
    assert changed.quantize and changed.quantize.qat == QAT.model_copy(update={"max_steps": 50})
    losses = load_recipe(recipe, ["tune.losses.ce=0.5", "quantize.method=qat", "quantize.qat.losses.ce=0.5"])
    assert losses.tune and losses.quantize and losses.tune.losses == losses.quantize.qat.losses == Losses(ce=0.5)
    assert load_recipe(recipe, ["teacher.epochs=2"]).teacher == TuneSettings(epochs=2)
    with pytest.raises(CutworkError, match=r"unknown key 'tune\.epoch'; did you mean 'epochs'"):
        load_recipe(recipe, ["tune.epoch=2"])


def test_squareheads_gradient_is_not_clipped_unless_that_is_asked_for() -> None:
    squarehead = Losses(squarehead=1.0)
    assert TuneSettings(losses=squarehead).max_grad_norm == 0
    assert TuneSettings(losses=squarehead, max_grad_norm=0.5).max_grad_norm == 0.5
    assert TuneSettings().max_grad_norm == TuneSettings(losses=Losses(kl=1.0)).max_grad_norm == 1
    recipe = Recipe.model_validate(WHOLE)
    assert recipe.tune and recipe.tune.losses.squarehead and recipe.tune.max_grad_norm == 0
    other = Recipe.model_validate(recipe.model_dump(exclude_unset=True) | {"tune": {"losses": {"ce": 1.0}}})
    assert other.tune and other.tune.max_grad_norm == 1  # the default of these losses, not of those


def test_a_recipe_that_says_everything_says_the_same_as_before() -> None:
    plain = TuneSettings(max_steps=3)  # of cross-entropy alone
    learned = QAT.model_copy(update={"losses": Losses(), "learning_rate": 1e-4})
    said = {
        "tune": plain.model_dump(mode="json"),
        "quantize": {"method": "qat", "qat": learned.model_dump(mode="json")},
    }
    read = Recipe.model_validate(WHOLE | said)
    assert read.tune and read.tune.as_key() == plain.as_key()
    assert read.quantize and read.quantize.as_key() == QuantizeSettings(method="qat", qat=learned).as_key()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"prune": {"sparsity": 0.9, "levels": [0.5, 0.7]}}, "sparsity has no effect: levels end at 0.7; leave it out"),
        ({"prune": {"block_size": 64}}, "block_size has no effect: method alps does not go by blocks"),
        ({"prune": {"damping": 0.1, "method": "wanda"}}, "damping has no effect: method wanda has no Hessian"),
        ({"prune": {"owl_threshold": 3.0}}, "owl_threshold has no effect: rates are uniform"),
        ({"prune": {"owl_spread": 0.1}}, "owl_spread has no effect: rates are uniform"),
        ({"quantize": {"damping": 0.1, "method": "rtn"}}, "damping has no effect: method rtn has no Hessian"),
        ({"quantize": {"group_size": 64}}, "group_size has no effect: neither scheme nor overrides nor head say w4a16"),
        ({"quantize": {"qat": {"max_steps": 9}}}, "qat has no effect: method is gptq"),
        ({"tune": {"losses": {"temperature": 2.0}}}, "temperature has no effect: it is of the kl term alone"),
        ({"tune": {"losses": {}, "teacher_dtype": "float32"}}, "teacher_dtype has no effect: without kl and"),
        ({"teacher": {"teacher_device": "cpu"}}, "teacher_device has no effect: without kl and squarehead"),
        ({"teacher": {"gradual": {"sparsity": 0.5}}}, "teacher.gradual: what others learn from"),
        ({"tune": {"gradual": {"sparsity": 0.7, "method": "magnitude", "damping": 0.1}}}, "damping has no effect"),
        (
            {"tune": {"gradual": {"sparsity": 0.7, "method": "magnitude", "calibration_samples": 8}}},
            "calibration_samples has no effect: method magnitude looks at no samples; leave it out",
        ),
        ({"compare": {"lm_eval_limit": 5}}, "lm_eval_limit has no effect: there are no lm_eval tasks to limit"),
        ({"tune": {"gradual": {"sparsity": 0.7}, "keep_zeros": False}}, "gradual trains the weights"),
        ({"tune": {"gradual": {"sparsity": 0.7}, "lora": {}}}, "gradual trains the weights"),
        ({"tune": {"gradual": {"sparsity": 0.4}}}, "tune.gradual ends at 0.4 zeros, and prune has made 0.5 before it"),
        ({"tune": {"gradual": {"sparsity": 0.5}}, "prune": {"levels": [0.3, 0.6]}}, "prune has made 0.6 before it"),
    ],
)
def test_what_does_not_go_together_is_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=re.escape(said)):
        Recipe.model_validate(WHOLE | settings)


@pytest.mark.parametrize(
    "settings",
    [
        {"prune": {"levels": [0.5, 0.7]}, "tune": {"gradual": {"sparsity": 0.8}}},
        {"prune": {"sparsity": 0.7, "levels": [0.5, 0.7]}},
        {"prune": {"modules": {"*": 0.2}}, "tune": {"gradual": {"sparsity": 0.4}}},
        {"prune": {"rates": "owl", "owl_spread": 0.1}},
        {"quantize": {"overrides": {"*.down_proj": "w4a16"}, "group_size": 64}},
        {"quantize": {"head": "w4a16", "group_size": 64}, "pack": {"embedding": "i8"}},
        {"quantize": {"method": "qat", "head": "w8a8", "damping": 0.1}},
    ],
)
def test_what_goes_together_is_read_and_written(settings: dict[str, Any]) -> None:
    recipe = Recipe.model_validate(WHOLE | settings)
    assert Recipe.model_validate(recipe.model_dump(mode="json")) == recipe
