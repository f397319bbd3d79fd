"""The whole chain on a tiny random model: every stage once, and again only when something it depends on changed."""

import io
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console
from typer.testing import CliRunner

from cutwork.errors import CutworkError
from cutwork.measure.report.results import load_results
from cutwork.pack.reader import read_packed
from cutwork.recipe import Recipe
from cutwork.recipe_file import load_recipe
from cutwork.run.run import run, stages_of
from cutwork.run.stages import GROUPS, Stages
from cutwork.store.directory import kind_of
from cutwork.store.examples import read_examples
from cutwork.tasks.load import load_task

pytest.importorskip("torch")

from tests.tiny_checkpoint import write_tiny_checkpoint

VARIANTS = {
    "dense-f32",
    "dense-bf16",
    "dense-int8",
    "pruned-f32",
    "pruned-bf16",
    "sparse-f32",
    "sparse-bf16",
    "sparse-int8",
}
STAGES = ["teacher", "pruned", "sparse", "dense-quantized", "sparse-quantized"]


def tiny_settings(model: Path, output: Path) -> dict[str, Any]:
    tune = {"max_steps": 2, "batch_size": 4, "micro_batch_size": 4, "warmup_steps": 0, "learning_rate": 0.001}
    return {
        "name": "tiny",
        "model": str(model),
        "output": str(output),
        "task": {
            "name": "gsm_symbolic",
            "train_samples": 12,
            "test_samples": 4,
            "max_length": 512,
            "options": {"templates": [43, 10]},
        },
        "teacher": tune,
        "prune": {"sparsity": 0.5, "calibration_samples": 4},
        "tune": {**tune, "losses": {"squarehead": 1.0}},
        "quantize": {"calibration_samples": 4},
        "compare": {
            "accuracy_samples": 2,
            "max_new_tokens": 4,
            "perplexity_tokens": 64,
            "prompt_tokens": 8,
            "decode_tokens": 2,
            "repeats": 1,
            "threads": 1,
        },
    }


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_checkpoint(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture(scope="module")
def finished(model: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Recipe, Path]:
    """A recipe that was carried out to the end, read from its YAML file as a user's would be."""
    directory = tmp_path_factory.mktemp("run")
    file = directory / "recipe.yaml"
    file.write_text(yaml.safe_dump(tiny_settings(model, directory / "out")))
    recipe = load_recipe(file)
    return recipe, run(recipe, console=silent())


@pytest.fixture
def copy(finished: tuple[Recipe, Path], tmp_path: Path) -> tuple[Recipe, Path]:
    """A finished run that a test may spoil."""
    recipe, output = finished
    shutil.copytree(output, tmp_path / "out")
    return recipe.model_copy(update={"output": tmp_path / "out"}), tmp_path / "out"


def silent() -> Console:
    return Console(file=open("/dev/null", "w"))


def stages_to_do(recipe: Recipe) -> list[str]:
    return [stage.name for stage in stages_of(recipe, recipe.output, silent()).missing()]


def changed(recipe: Recipe, section: str, **settings: Any) -> Recipe:
    return recipe.model_copy(update={section: getattr(recipe, section).model_copy(update=settings)})


def test_every_stage_leaves_its_kind_of_model(finished: tuple[Recipe, Path]) -> None:
    _, output = finished
    kinds = {name: kind_of(output / name) for name in STAGES}
    assert kinds == {
        "teacher": "checkpoint",
        "pruned": "checkpoint",
        "sparse": "checkpoint",
        "dense-quantized": "quantized",
        "sparse-quantized": "quantized",
    }
    assert {path.name for path in (output / "packed").iterdir()} == VARIANTS
    assert all(kind_of(path) == "packed" for path in (output / "packed").iterdir())
    assert not list(output.rglob("*.partial-*"))
    assert not list(output.rglob("*.work"))


def test_the_results_cover_every_variant(finished: tuple[Recipe, Path]) -> None:
    _, output = finished
    rows = {row["name"]: row for row in load_results(output)["variants"]}
    assert set(rows) == VARIANTS
    for name, row in rows.items():
        dense = name.startswith("dense")
        assert row["sparsity"] == pytest.approx(0.0 if dense else 0.5, abs=0.02)
        assert row["samples"] == 2
        assert row["perplexity"] > 1
        assert min(row["disk_bytes"], row["memory_bytes"], row["decode_tokens_per_second"]) > 0
    assert rows["dense-f32"]["decode_speedup_over_dense_f32"] == 1
    assert rows["dense-int8"]["prefill_speedup_over_dense_int8"] == 1
    assert rows["sparse-f32"]["memory_bytes"] < rows["dense-f32"]["memory_bytes"]
    assert (output / "results.md").read_text().count("\n|") == 1 + len(VARIANTS)
    seconds = load_results(output)["seconds"]
    assert set(seconds) == {*STAGES, *(f"packed/{name}" for name in VARIANTS)} and min(seconds.values()) >= 0
    assert (output / "results.png").read_bytes().startswith(b"\x89PNG")


def test_a_finished_run_does_nothing_again(finished: tuple[Recipe, Path]) -> None:
    recipe, output = finished
    before = {path: path.stat().st_mtime_ns for path in output.rglob("*") if path.is_file()}
    run(recipe, console=silent())
    assert {path: path.stat().st_mtime_ns for path in output.rglob("*") if path.is_file()} == before


def test_what_was_left_when_a_stage_was_finished_is_removed(copy: tuple[Recipe, Path]) -> None:
    recipe, output = copy
    there = sorted(output.rglob("*"))
    (output / "teacher.work" / "checkpoint-2").mkdir(parents=True)
    (output / ".teacher.lock").touch()
    run(recipe, console=silent())
    assert sorted(output.rglob("*")) == there


def test_only_what_this_run_discarded_is_removed(copy: tuple[Recipe, Path]) -> None:
    recipe, output = copy
    ours = [output / ".pruned.stale", output / ".teacher.work.stale", output / "packed" / ".dense-f32.stale"]
    theirs = [output / ".notes.stale", output / "sparse" / ".pruned.stale", output / "mine" / ".a.stale"]
    for path in (*ours, *theirs):
        path.mkdir(parents=True)
    run(recipe, console=silent())
    assert not any(path.exists() for path in ours) and all(path.exists() for path in theirs)


def test_other_questions_take_the_place_of_those_that_were_packed(copy: tuple[Recipe, Path]) -> None:
    recipe, output = copy

    def kept() -> list[list[str]]:
        return [read_examples(path) for path in sorted((output / "packed").iterdir())]

    before = kept()
    packed = (output / "packed" / "dense-f32" / "model.safetensors").stat().st_mtime_ns
    shorter = changed(recipe, "compare", repeats=2)
    task = load_task(recipe.task)
    other = replace(task, test=tuple(replace(sample, prompt=f"{i}?") for i, sample in enumerate(task.test)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("cutwork.run.run.load_task", lambda _: other)
        run(shorter, console=silent())
    assert before[0] and kept() == [["0?", "1?", "2?", "3?"] for _ in before]
    assert (output / "packed" / "dense-f32" / "model.safetensors").stat().st_mtime_ns == packed


@pytest.mark.parametrize(
    ("change", "redone"),
    [
        (lambda r: changed(r, "compare", repeats=2), {"results.json"}),
        (lambda r: changed(r, "pack", dtype="bf16"), {"packed/dense-int8", "packed/sparse-int8", "results.json"}),
        (
            lambda r: changed(r, "tune", learning_rate=2e-3),
            {"sparse", "sparse-quantized", "packed/sparse-f32", "packed/sparse-bf16", "packed/sparse-int8"}
            | {"results.json"},
        ),
        (
            lambda r: changed(r, "prune", sparsity=0.6),
            {"pruned", "sparse", "sparse-quantized", "packed/pruned-f32", "packed/pruned-bf16", "packed/sparse-f32"}
            | {"packed/sparse-bf16", "packed/sparse-int8", "results.json"},
        ),
        (
            lambda r: changed(r, "task", seed=1),
            {*STAGES, *(f"packed/{name}" for name in VARIANTS), "results.json"},
        ),
    ],
)
def test_a_change_redoes_only_what_depends_on_it(
    finished: tuple[Recipe, Path], change: Callable[[Recipe], Recipe], redone: set[str]
) -> None:
    recipe, _ = finished
    assert set(stages_to_do(change(recipe))) == redone


def test_a_text_of_ones_own_is_what_perplexity_is_of(copy: tuple[Recipe, Path], tmp_path: Path) -> None:
    recipe, output = copy
    before = {row["name"]: row["perplexity"] for row in load_results(output)["variants"]}
    (tmp_path / "own.txt").write_text("some words that nobody will remember " * 20)
    own = changed(recipe, "compare", perplexity_text=tmp_path / "own.txt")
    assert stages_to_do(own) == ["results.json"]
    run(own, console=silent())
    after = {row["name"]: row["perplexity"] for row in load_results(output)["variants"]}
    assert before.keys() == after.keys() and all(before[name] != after[name] for name in before)
    assert stages_to_do(own) == []
    (tmp_path / "own.txt").write_text("other words that nobody will remember " * 20)
    assert stages_to_do(own) == ["results.json"]


def test_what_is_pruned_while_quantising_is_compared_with_a_dense_model(copy: tuple[Recipe, Path]) -> None:
    recipe = changed(copy[0], "quantize", sparsity=0.75)
    assert "sparse-quantized" in stages_to_do(recipe) and "dense-quantized" not in stages_to_do(recipe)
    run(recipe, until="quantize", console=silent())
    report = json.loads((recipe.output / "sparse-quantized" / "quantize-report.json").read_text())
    assert report["sparsity"] > 0.7


def test_a_changed_model_redoes_everything(finished: tuple[Recipe, Path], tmp_path: Path) -> None:
    recipe, _ = finished
    other = write_tiny_checkpoint(tmp_path / "other", seed=1)
    assert stages_to_do(recipe.model_copy(update={"model": str(other)}))[0] == "teacher"


def test_a_changed_stage_replaces_the_old_one(copy: tuple[Recipe, Path]) -> None:
    recipe, output = copy
    old = (output / "pruned" / "model.safetensors").read_bytes()
    sharper = changed(recipe, "prune", sparsity=0.75)
    run(sharper, until="prune", console=silent())
    assert (output / "pruned" / "model.safetensors").read_bytes() != old
    assert "pruned" not in stages_to_do(sharper)
    assert "sparse" in stages_to_do(sharper)


def test_what_an_interruption_left_is_used(copy: tuple[Recipe, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    recipe, output = copy
    kept = (output / "pruned" / "model.safetensors").stat().st_mtime_ns
    shutil.rmtree(output / "sparse")

    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("cutwork.tune.tune.tune", interrupt)
        with pytest.raises(KeyboardInterrupt):
            run(recipe, console=silent())
    assert stages_to_do(recipe) == ["sparse"]
    run(recipe, console=silent())
    assert stages_to_do(recipe) == []
    assert (output / "pruned" / "model.safetensors").stat().st_mtime_ns == kept


def test_the_command_prints_the_results(finished: tuple[Recipe, Path]) -> None:
    from cutwork.cli import app

    _, output = finished
    arguments = ["run", str(output.parent / "recipe.yaml")]
    outcome = CliRunner().invoke(app, [*arguments, "--json"])
    assert outcome.exit_code == 0
    assert "all stages are already there" in outcome.stderr
    assert {row["name"] for row in json.loads(outcome.stdout)["variants"]} == VARIANTS
    outcome = CliRunner().invoke(app, arguments, env={"COLUMNS": "200"})
    assert "sparse-int8" in outcome.stdout
    assert "results.png" in outcome.stdout


def test_a_run_begun_with_the_former_default_goes_on_with_it(model: Path, tmp_path: Path) -> None:
    settings = tiny_settings(model, tmp_path / "out") | {"teacher": None}
    before = Recipe.model_validate(settings | {"prune": settings["prune"] | {"method": "sparsegpt"}})
    run(before, until="prune", console=silent())
    now, said = Recipe.model_validate(settings), io.StringIO()
    assert now.prune.method == "alps"
    stages = stages_of(now, tmp_path / "out", Console(file=said, width=200))
    assert stages.missing()[0].name == "sparse"
    assert "goes on with it; set prune.method to alps to make it anew" in said.getvalue()
    chosen = changed(now, "prune", method="alps")
    run(chosen, until="prune", console=silent())
    assert json.loads((tmp_path / "out" / "pruned" / "prune-report.json").read_text())["settings"]["method"] == "alps"
    assert stages_to_do(now)[0] == "sparse"  # and now the default is what it was made with


def test_until_stops_after_its_stage(model: Path, tmp_path: Path) -> None:
    recipe = Recipe.model_validate(tiny_settings(model, tmp_path / "out") | {"teacher": None})
    run(recipe, until="prune", console=silent())
    assert stages_to_do(recipe)[0] == "sparse"
    with pytest.raises(CutworkError, match=f"the stages are {', '.join(GROUPS)}"):
        run(recipe, until="training")


def test_foreign_files_are_not_overwritten(model: Path, tmp_path: Path) -> None:
    recipe = Recipe.model_validate(tiny_settings(model, tmp_path / "out"))
    (tmp_path / "out" / "teacher").mkdir(parents=True)
    with pytest.raises(CutworkError, match="teacher is not from this command"):
        run(recipe, console=silent())


def test_a_recipe_without_tuning_packs_what_was_pruned(model: Path, tmp_path: Path) -> None:
    settings = tiny_settings(model, tmp_path / "out") | {"teacher": None, "tune": None}
    output = run(Recipe.model_validate(settings), console=silent())
    assert not (output / "sparse").exists()
    pruned, sparse = (read_packed(output / "packed" / f"{name}-f32").weights for name in ("pruned", "sparse"))
    assert all((pruned[name].values == weight.values).all() for name, weight in sparse.items())
    assert {row["name"] for row in json.loads((output / "results.json").read_text())["variants"]} >= {"sparse-int8"}


def test_what_the_end_needs_is_asked_for_at_the_beginning(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {}
    for name, count in (("train", 9), ("test", 3)):
        files[name] = str(tmp_path / f"{name}.jsonl")
        rows = [{"source": f"{name} {i}", "target": "a"} for i in range(count)]
        Path(files[name]).write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = tiny_settings(model, tmp_path / "out")
    settings["task"] = {"name": "translation", "options": files}
    monkeypatch.setattr("cutwork.measure.quality.find_spec", lambda _: None)
    with pytest.raises(CutworkError, match="what is measured in the end needs sacrebleu"):
        run(Recipe.model_validate(settings), console=silent())
    assert not (tmp_path / "out").exists()


def test_an_answer_that_is_judged_otherwise_is_measured_again(model: Path, tmp_path: Path) -> None:
    rows = [{"source": f"house {i}", "target": f"haus {i}"} for i in range(9)]
    for name, part in (("train", rows[3:]), ("test", rows[:3])):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in part))
    files = {name: str(tmp_path / f"{name}.jsonl") for name in ("train", "test")}

    def keys(name: str, **options: str) -> dict[str, str]:
        settings = tiny_settings(model, tmp_path / "out") | {"task": {"name": name, "options": files | options}}
        stages = stages_of(Recipe.model_validate(settings), tmp_path / "out", silent()).stages
        return {stage.name: stage.key for stage in stages}

    exact, translated = keys("jsonl", prompt="source", answer="target"), keys("translation")
    assert {name for name in exact if exact[name] != translated[name]} == {"results.json"}


def test_an_output_that_holds_the_model_is_refused(model: Path, tmp_path: Path) -> None:
    inside = shutil.copytree(model, tmp_path / "out" / "dense")
    for output in (inside, tmp_path / "out"):
        with pytest.raises(CutworkError, match="holds the model to read; choose another output directory"):
            run(Recipe.model_validate(tiny_settings(inside, output)), console=silent())
    assert not list(inside.glob("*.lock"))


def test_what_does_not_fit_the_context_is_said_before_any_work(model: Path, tmp_path: Path) -> None:
    recipe = changed(Recipe.model_validate(tiny_settings(model, tmp_path / "out")), "compare", decode_tokens=100_000)
    with pytest.raises(CutworkError, match="compare: 100009 tokens do not fit the context"):
        run(recipe, console=silent())
    assert not (tmp_path / "out").exists()


def test_a_quantised_model_is_refused_before_any_work(model: Path, tmp_path: Path) -> None:
    recipe = Recipe.model_validate(tiny_settings(model, tmp_path / "out"))
    quantized = run(recipe, until="quantize", console=silent()) / "dense-quantized"
    with pytest.raises(CutworkError, match="dense-quantized is a quantized model; this step needs the plain"):
        run(Recipe.model_validate(tiny_settings(quantized, tmp_path / "again")), console=silent())
    assert not (tmp_path / "again").exists()


def test_an_int4_head_goes_through_all_stages_or_is_refused_before_any(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = tiny_settings(model, tmp_path / "out")
    del said["teacher"]
    said |= {"tune": None, "pack": {"embedding": "i8"}}
    said["compare"] |= {"models": ["sparse-int8"]}
    with monkeypatch.context() as patched:
        patched.setattr(Stages, "carry_out", lambda *_: pytest.fail("work was begun"))
        with pytest.raises(CutworkError, match="has no embedding apart from its output head; leave embedding out"):
            run(Recipe.model_validate(said), console=silent())
    said["quantize"] = {"calibration_samples": 4, "scheme": "w4a16", "group_size": 32, "head": "w4a16"}
    run(Recipe.model_validate(said), console=silent())
    weights = read_packed(tmp_path / "out/packed/sparse-int8").weights
    assert {weights[name].dtype for name in ("lm_head.weight", "model.layers.0.mlp.up_proj.weight")} == {"i4"}
    assert weights["model.embed_tokens.weight"].dtype == "i8"


def test_levels_are_stages_with_nested_zeros(model: Path, tmp_path: Path) -> None:
    settings = tiny_settings(model, tmp_path / "out") | {"teacher": None, "prune": {"levels": [0.3, 0.6]}}
    recipe = Recipe.model_validate(settings)
    run(recipe, until="prune", console=silent())
    assert sorted(path.name for path in (tmp_path / "out").iterdir() if path.is_dir() and path.name[0] != ".") == [
        "pruned-1",
        "pruned-2",
        "sparse-1",
    ]
    shutil.rmtree(tmp_path / "out" / "pruned-2")  # as if interrupted
    assert stages_to_do(recipe)[:2] == ["pruned-2", "sparse-2"]
    run(recipe, until="tune", console=silent())
    assert "packed/sparse-f32" in stages_to_do(recipe)
    from safetensors.torch import load_file

    zeros: dict[str, Any] = {}
    for name, share in (("pruned-1", 0.3), ("sparse-1", 0.3), ("pruned-2", 0.6), ("sparse-2", 0.6)):
        weights = load_file(tmp_path / "out" / name / "model.safetensors")
        for key, weight in weights.items():
            if "proj" in key:
                assert int((weight == 0).sum()) == round(share * weight.numel())
                assert not weight[zeros.get(key, weight == 0)].any()  # none of the level before was revived
                zeros[key] = weight == 0
