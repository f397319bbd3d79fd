"""The recipe and the options that say how, and what stands in neither."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from cutwork.cli.compress import _base, compress
from cutwork.cli.training import training_task
from cutwork.compress.candidates import DENSE, Candidate
from cutwork.compress.compress import _task
from cutwork.compress.menu import HEAD
from cutwork.compress.promise import Loss
from cutwork.compress.recipe_of import recipe_of
from cutwork.compress.workshop import Workshop
from cutwork.errors import CutworkError
from cutwork.recipe import DEFAULT_IGNORED, Recipe, TaskSettings
from cutwork.recipe_file import load_recipe
from cutwork.run.stages import sample_digest
from cutwork.tasks.load import LEFT_TO_EVAL, load_task
from tests.compress.command import FEW, call

pytestmark = pytest.mark.usefixtures("as_long_as_bytes_take")


def test_a_recipe_that_trains_nothing_tries_a_choice_once(
    given: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Workshop, "loss", lambda *_: Loss(1.0, -3.0, 9.0))
    recipe = tmp_path / "recipe.yaml"
    samples = {"train_samples": 20, "validation_samples": 8, "test_samples": 8, "options": {"train": str(given[1])}}
    content = {"name": "x", "model": "y", "output": "z", "task": {"name": str(given[1]), **samples}}
    recipe.write_text(json.dumps({**content, "prune": {"calibration_samples": 4}, "tune": None}))
    options = ["--recipe", recipe, "--within", 2, "--attempts", 1, "--metric", "tokens", "--json"]
    report = json.loads(call(given[0], tmp_path / "out", *options))
    assert [each["trained"] for each in report["tried"]] == [False] and report["promise"] == "kept"


def test_the_recipe_names_no_models_that_may_be_missing(
    given: tuple[Path, Path],
    finished: tuple[Path, dict[str, Any]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def naming(*arguments: Any) -> Recipe:
        base = _base(*arguments)
        return base.model_copy(update={"compare": base.compare.model_copy(update={"models": ("dense-f32",)})})

    monkeypatch.setitem(compress.__globals__, "_base", naming)
    out = shutil.copytree(finished[0], tmp_path / "out")
    call(given[0], out, "--data", given[1], *FEW, "--speedup", 1.3)
    assert load_recipe(out / "recipe.yaml").compare.models == ()


@pytest.mark.parametrize(
    "changes",
    [
        {"tune": {"gradual": {"sparsity": 0.5}}},
        {"tune": {"keep_zeros": False}},
        {"prune": {"levels": [0.5, 0.6]}},
    ],
)
def test_a_recipe_that_would_undo_the_choice_is_refused(
    changes: dict[str, Any], given: tuple[Path, Path], tmp_path: Path
) -> None:
    settings = {"name": "a", "model": "b", "output": "c", "task": {"name": str(given[1])}, **changes}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(settings))
    with pytest.raises(CutworkError, match=r"would undo; leave them out of the recipe"):
        call(given[0], tmp_path / "out", "--recipe", tmp_path / "recipe.yaml", "--speedup", 2)


@pytest.mark.parametrize("changes", [{"keep_best": True}, {"patience": 2}])
def test_validation_samples_that_judge_choose_no_checkpoint(
    changes: dict[str, Any], given: tuple[Path, Path], tmp_path: Path
) -> None:
    settings = {"name": "a", "model": "b", "output": "c", "task": {"name": str(given[1])}, "tune": changes}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(settings))
    with pytest.raises(CutworkError, match=r"may not choose tune\.keep_best or tune\.patience's checkpoint; leave"):
        call(given[0], tmp_path / "out", "--recipe", tmp_path / "recipe.yaml", "--speedup", 2)


@pytest.mark.parametrize(("options", "threads"), [([], 2), (["--threads", 0], 0), (["-t", 1], 1)])
def test_threads_that_are_asked_for_come_before_the_recipes(
    options: list[object], threads: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def carry_out(base: Recipe, *_: object, **__: object) -> None:
        raise CutworkError(f"{base.compare.threads} threads")

    monkeypatch.setattr("cutwork.compress.compress.compress", carry_out)
    settings = {"name": "a", "model": "b", "output": "c", "task": {"name": "gsm8k"}, "compare": {"threads": 2}}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(settings))
    with pytest.raises(CutworkError, match=f"^{threads} threads"):
        call("model", tmp_path / "out", "--recipe", tmp_path / "recipe.yaml", "--speedup", 2, *options)


def test_a_generated_task_trains_and_judges_behind_what_eval_asks_and_tune_learns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[Recipe] = []
    monkeypatch.setattr("cutwork.compress.compress.compress", lambda base, *_, **__: found.append(base))
    with pytest.raises(TypeError):  # of the report that is none
        call("model", tmp_path / "out", "--task", "gsm_symbolic", "--speedup", 2, "--seed", 7, "--samples", 20)
    [base] = found
    own, learned = load_task(base.task), training_task("gsm_symbolic", None, None, 0)
    asked = load_task(TaskSettings(name="gsm_symbolic", test_samples=LEFT_TO_EVAL))
    known = {sample.prompt for sample in (*asked.test, *learned.train)}
    assert len(own.train) == 20 and len(own.validation) == 200
    assert not known & {sample.prompt for sample in (*own.train, *own.validation)}
    assert own.test[:200] == asked.test[:200] and base.compare.accuracy_samples == 200
    with pytest.raises(CutworkError, match=r"^--test-samples 1001: .*after 1000 is what tune trains on"):
        call("model", tmp_path / "out", "--task", "gsm_symbolic", "--speedup", 2, "--test-samples", 1001)


@pytest.mark.parametrize(("validation", "test"), [(1500, 200), (200, 50)])
def test_a_generated_test_is_as_long_as_it_was_asked_for(
    validation: int, test: int, given: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[Recipe] = []
    monkeypatch.setattr("cutwork.compress.compress.compress", lambda base, *_, **__: found.append(base))
    counts = ["--samples", 20, "--validation-samples", validation, "--test-samples", test]
    with pytest.raises(TypeError):  # of the report that is none
        call(given[0], tmp_path / "out", "--task", "gsm_symbolic", "--speedup", 2, *counts)
    [base] = found
    task = _task(base, needs_validation=True)
    assert task.test == load_task(TaskSettings(name="gsm_symbolic", test_samples=test)).test
    assert len(task.validation) == validation and base.compare.accuracy_samples == test


@pytest.mark.parametrize("name", ["gsm_symbolic", "jsonl", "gsm8k"])
def test_what_a_recipe_trains_on_does_not_judge(name: str, given: tuple[Path, Path], tmp_path: Path) -> None:
    options: dict[str, Any] = {}
    if name == "gsm_symbolic":
        pytest.importorskip("reasoning_gym")
    elif name == "jsonl":
        options = {"train": str(given[1]), "test": str(given[1])}
    else:
        options = {"directory": str(tmp_path)}
        for split in ("train", "test"):
            rows = [{"question": f"{split} {i % 35}", "answer": "a"} for i in range(60)]
            (tmp_path / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    settings = {"name": name, "train_samples": 30, "test_samples": 8, "options": options}
    base = Recipe.model_validate({"name": "a", "model": str(given[0]), "output": "c", "task": settings})
    task = _task(base, needs_validation=True, behind=8)
    assert task.train == load_task(base.task).train and len(task.train) == 30
    assert 5 <= len(task.validation) <= 8  # of gsm8k's rows, 35 are different
    assert not {s.asked() for s in task.validation} & {s.asked() for s in (*task.train, *task.test)}
    held = base.model_copy(update={"task": base.task.model_copy(update={"validation_samples": 5})})
    assert _task(held, needs_validation=True, behind=8) == load_task(held.task)
    if name == "jsonl":
        every = base.model_copy(update={"task": base.task.model_copy(update={"train_samples": 60})})
        with pytest.raises(CutworkError, match=r"judge by behind the \d+ samples that the recipe trains on; give more"):
            _task(every, needs_validation=True, behind=8)
        assert not _task(every, needs_validation=False, behind=8).validation


@pytest.mark.parametrize("held_out", [0, 9])
def test_a_recipe_keeps_what_it_holds_out(held_out: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def carry_out(base: Recipe, *_: object, validation_samples: int, **__: object) -> None:
        raise CutworkError(f"{base.task.validation_samples}, else {validation_samples}")

    monkeypatch.setattr("cutwork.compress.compress.compress", carry_out)
    settings = {"name": "a", "model": "b", "output": "c", "task": {"name": "gsm8k", "validation_samples": held_out}}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(settings))
    with pytest.raises(CutworkError, match=f"^{held_out}, else 200$"):
        call("model", tmp_path / "out", "--recipe", tmp_path / "recipe.yaml", "--speedup", 2)


def test_all_that_is_held_out_judges_and_the_recipe_says_how_much_tests(given: tuple[Path, Path]) -> None:
    counts = {"train_samples": 20, "validation_samples": 8, "test_samples": 8, "options": {"train": str(given[1])}}
    settings = {"task": {"name": str(given[1]), **counts}, "compare": {"accuracy_samples": 3}}
    base = Recipe.model_validate({"name": "a", "model": str(given[0]), "output": "c", **settings})
    task = _task(base, needs_validation=True)
    assert (len(task.validation), len(task.test)) == (8, 3)
    shop = Workshop.__new__(Workshop)
    shop.base, shop.metric = base, "answers"
    shop.kept = SimpleNamespace(get=lambda key, _: {"scores": key})  # type: ignore[assignment]
    judged = shop.scores(SimpleNamespace(key="dense"), task.validation)  # type: ignore[arg-type]
    assert sample_digest(task.validation) in judged


@pytest.mark.parametrize(
    ("options", "weights"), [([], "1, 0, 0"), (["--squarehead", 0.5], "1, 0, 0.5"), (["--kl", 2], "1, 2, 0")]
)
def test_the_loss_is_cross_entropy_unless_more_is_asked_for(
    options: list[object], weights: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def carry_out(base: Recipe, *_: object, **__: object) -> None:
        assert base.tune
        assert (base.tune.max_grad_norm == 0) == bool(base.tune.losses.squarehead)
        losses = base.tune.losses
        raise CutworkError(f"{losses.ce:g}, {losses.kl:g}, {losses.squarehead:g}")

    monkeypatch.setattr("cutwork.compress.compress.compress", carry_out)
    with pytest.raises(CutworkError, match=f"^{weights}$"):
        call("model", tmp_path / "out", "--task", "gsm8k", "--speedup", 2, *options)


@pytest.mark.parametrize("option", ["--epochs", "--kl", "--squarehead", "--max-steps", "--calibration-samples"])
def test_what_the_recipe_says_is_not_asked_for_beside_it(option: str, tmp_path: Path) -> None:
    with pytest.raises(CutworkError, match=f"recipe says what {option} would"):
        call("model", tmp_path / "out", "--recipe", "recipes/demo.yaml", "--speedup", 2, option, 1)


def test_a_recipe_may_say_how(given: tuple[Path, Path], tmp_path: Path) -> None:
    settings = {
        "name": "mine",
        "model": "nowhere",
        "output": "nowhere",
        "task": {
            "name": str(given[1]),
            "train_samples": 20,
            "test_samples": 8,
            "max_length": 128,
            "options": {"train": str(given[1])},
        },
        "prune": {"method": "sparsegpt", "calibration_samples": 8},
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(settings))
    settings["task"]["validation_samples"] = 8  # type: ignore[index]
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(settings))
    with pytest.raises(CutworkError, match="recipe says what --validation-samples would"):
        call(given[0], tmp_path / "out", "--recipe", tmp_path / "own.yaml", "--validation-samples", 9, "--within", 1)
    options = ["--recipe", tmp_path / "recipe.yaml", "--validation-samples", 8, "--threads", 1]
    report = json.loads(call(given[0], tmp_path / "out", *options, "--speedup", 1.2, "--dry-run", "--json"))
    assert report["choice"]["speedup"] >= 1.2
    refused = [*options, "--speedup", 1000, "--json"]
    (tmp_path / "out" / "frontier.json").unlink()
    with pytest.raises(CutworkError, match="not 1000"):
        call(given[0], tmp_path / "out", *refused)
    assert json.loads((tmp_path / "out" / "frontier.json").read_text())["frontiers"]["zeros and bits"]


def test_what_the_recipe_left_out_is_rounded_if_it_was_chosen() -> None:
    base = Recipe.model_validate(
        {
            "name": "a",
            "model": "b",
            "output": "c",
            "task": {"name": "gsm8k"},
            "prune": {},
            "quantize": {"ignore": ["*.down_proj"], "method": "rtn"},
        }
    )
    labels = {"x.down_proj": Candidate("unstructured", 0.0, "w8a8").label, "x.up_proj": DENSE.label}
    settings = recipe_of(base, SimpleNamespace(labels=labels)).quantize  # type: ignore[arg-type]
    assert settings and settings.ignore == DEFAULT_IGNORED and settings.overrides == {"x.up_proj": "skip"}


@pytest.mark.parametrize("scheme", [None, "w8a8", "w4a16"])
@pytest.mark.parametrize("of_head", [None, "w8a8", "w4a16"])
def test_a_head_is_rounded_while_it_is_packed_but_in_int4(scheme: Any, of_head: Any) -> None:
    where = {"name": "a", "model": "b", "output": "c", "task": {"name": "gsm8k"}}
    base = Recipe.model_validate({**where, "quantize": {"scheme": "w4a16", "group_size": 64, "head": "w8a8"}})
    labels = {"x.up_proj": replace(DENSE, scheme=scheme).label, HEAD: replace(DENSE, scheme=of_head).label}
    recipe = recipe_of(base, SimpleNamespace(labels=labels))  # type: ignore[arg-type]
    assert Recipe.model_validate(recipe.model_dump(mode="json")) == recipe
    int4 = of_head == "w4a16"
    assert (recipe.pack.head, recipe.pack.embedding) == (
        "i8" if of_head == "w8a8" else "auto",
        "i8" if int4 else "auto",
    )
    assert bool(recipe.quantize) == bool(scheme or int4)
    if recipe.quantize:
        assert recipe.quantize.head == ("w4a16" if int4 else "skip")
        assert recipe.quantize.overrides == ({} if scheme else {"x.up_proj": "skip"})
        assert recipe.quantize.group_size == (64 if "w4a16" in (scheme, of_head) else 128)


@pytest.mark.parametrize("sparsity", [0.0, 0.5])
def test_what_a_choice_has_no_use_for_is_left_out_of_its_recipe(sparsity: float) -> None:
    prune = {"method": "sparsegpt", "block_size": 64, "damping": 0.1, "rates": "owl", "owl_spread": 0.1}
    quantize = {"scheme": "w4a16", "group_size": 64}
    where = {"name": "a", "model": "b", "output": "c", "task": {"name": "gsm8k"}}
    base = Recipe.model_validate({**where, "prune": prune, "quantize": quantize})
    labels = {"x.up_proj": Candidate("unstructured", sparsity, "w8a8").label}
    recipe = recipe_of(base, SimpleNamespace(labels=labels))  # type: ignore[arg-type]
    assert Recipe.model_validate(recipe.model_dump(mode="json")) == recipe
    assert recipe.prune.damping == (0.1 if sparsity else 0.01)
