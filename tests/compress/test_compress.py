"""The command on a tiny model, from the dense checkpoint to the packed one, resumed, reproduced and refused."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import typer
import yaml
from typer.testing import CliRunner

from cutwork.cli.compress import _base, compress
from cutwork.cli.training import training_task
from cutwork.compress import workshop
from cutwork.compress.candidates import DENSE, Candidate, parse
from cutwork.compress.menu import HEAD
from cutwork.compress.promise import Loss
from cutwork.compress.recipe_of import MADE_BY, recipe_of
from cutwork.compress.workshop import Workshop
from cutwork.errors import CutworkError
from cutwork.pack.pack import pack
from cutwork.pack.reader import read_packed
from cutwork.recipe import DEFAULT_IGNORED, Recipe, TaskSettings, load_recipe
from cutwork.run.run import run
from cutwork.run.stages import Stage
from cutwork.store.directory import kind_of
from cutwork.store.fingerprint import fingerprint
from cutwork.store.lock import only_process
from cutwork.tasks.load import LEFT_TO_EVAL, load_task
from tests.compress.prices_of_bytes import price_by_bytes
from tests.tiny_checkpoint import write_tiny_checkpoint
from tests.torch_models.tiny import sums

app = typer.Typer()
app.command()(compress)

FEW = ["--samples", 20, "--validation-samples", 8, "--test-samples", 8, "--max-length", 128, "--max-new-tokens", 4]
FEW += ["--calibration-samples", 8, "--method", "sparsegpt", "--max-steps", 2, "--batch-size", 4, "--threads", 1]
FEW += ["--metric", "tokens"]


def call(*arguments: object) -> str:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.fixture(scope="module", autouse=True)
def as_long_as_bytes_take() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        price_by_bytes(patch.setattr)
        yield


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A dense model and data."""
    directory = tmp_path_factory.mktemp("given")
    data = directory / "sums.jsonl"
    data.write_text("".join(json.dumps({"prompt": s.prompt, "answer": s.answer}) + "\n" for s in sums(60)))
    return write_tiny_checkpoint(directory / "dense"), data


@pytest.fixture(scope="module")
def finished(given: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """What was made 1.3 times as fast, and the report."""
    output = tmp_path_factory.mktemp("finished") / "out"
    model, data = given
    return output, json.loads(call(model, output, "--data", data, "--speedup", 1.3, *FEW, "--json"))


def test_of_one_shot_and_training_the_better_is_taken(finished: tuple[Path, dict[str, Any]]) -> None:
    output, report = finished
    [tried] = report["tried"]
    [folder] = output.glob("zeros-*")
    assert {file.parent for file in folder.rglob("packed")} == {folder, folder / "one-shot"}
    assert Path(tried["directory"]) == (folder if tried["trained"] else folder / "one-shot") / "packed"


def test_it_leaves_a_packed_model_a_recipe_and_the_frontier(finished: tuple[Path, dict[str, Any]]) -> None:
    output, report = finished
    assert kind_of(output / "packed") == "packed"
    assert report["choice"]["speedup"] >= 1.3 and report["validation"]["low"] <= report["validation"]["points"]
    assert report == json.loads((output / "compress.json").read_text())
    labels = report["choice"]["labels"]
    assert set(labels) == {*json.loads((output / "errors.json").read_text())["linears"]} and HEAD in labels
    stored = read_packed(output / "packed").weights
    dtypes = {None: "bf16", "w8a8": "i8", "w4a16": "i4"}
    for name, label in labels.items():
        weight = stored["model.embed_tokens.weight" if name == HEAD else f"{name}.weight"]
        assert weight.dtype == dtypes[parse(label).scheme], name
        assert weight.sparsity >= parse(label).sparsity - 0.01, name
    frontier = json.loads((output / "frontier.json").read_text())
    assert set(frontier["frontiers"]) == {"zeros and bits", "bits alone", "zeros alone"}
    both, bits = frontier["frontiers"]["zeros and bits"], frontier["frontiers"]["bits alone"]
    assert both[0]["speedup"] == pytest.approx(1) and both[-1]["speedup"] > bits[-1]["speedup"]
    assert [point["kl"] for point in both] == sorted(point["kl"] for point in both)
    assert len(frontier["tried"]) == 1
    assert (output / "frontier.png").read_bytes().startswith(b"\x89PNG")


def test_called_again_it_does_nothing(given: tuple[Path, Path], finished: tuple[Path, dict[str, Any]]) -> None:
    output, report = finished
    kept = [file for file in output.rglob("*") if file.is_file() and "frontier" not in file.name]
    kept = [file for file in kept if file.name not in ("compress.json", "recipe.yaml")]
    before = {file: file.stat().st_mtime_ns for file in kept}
    again = json.loads(call(given[0], output, "--data", given[1], "--speedup", 1.3, *FEW, "--json"))
    assert again == report
    assert {file: file.stat().st_mtime_ns for file in kept} == before


def test_an_interrupted_call_goes_on(
    given: tuple[Path, Path], finished: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    output, report = finished
    copy = tmp_path / "out"
    shutil.copytree(output, copy)
    [folder] = copy.glob("zeros-*")
    for made in (folder / "quantized", folder / "packed", copy / "packed"):
        shutil.rmtree(made)
    before = (folder / "sparse" / "model.safetensors").stat().st_mtime_ns
    again = json.loads(call(given[0], copy, "--data", given[1], "--speedup", 1.3, *FEW, "--json"))
    assert again["choice"] == report["choice"] and again["validation"] == report["validation"]
    assert (folder / "sparse" / "model.safetensors").stat().st_mtime_ns == before


def test_the_recipe_makes_the_same_model(finished: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    output, _ = finished
    run(load_recipe(output / "recipe.yaml"), output=tmp_path, until="pack")
    made, expected = (read_packed(path).weights for path in (tmp_path / "packed" / "sparse-int8", output / "packed"))
    assert set(made) == set(expected)
    for name, weight in made.items():
        assert (weight.values == expected[name].values).all(), name


def test_the_promise_is_bisected_for_and_a_broken_one_is_said(given: tuple[Path, Path], tmp_path: Path) -> None:
    common = [given[0], tmp_path / "out", "--data", given[1], *FEW, "--attempts", 2, "--json"]
    report = json.loads(call(*common, "--within", 20))
    speeds = [each["speedup"] for each in report["tried"]]
    assert len(speeds) == 2 and speeds[0] < speeds[1] == report["choice"]["speedup"]
    assert not any(each["trained"] for each in report["tried"])  # they are good enough as they are
    assert not list((tmp_path / "out").glob("zeros-*/sparse"))
    [whole] = (tmp_path / "out").glob("zeros-*/pruned")  # of the slower one only what is packed stays
    assert str(whole.parent) in report["tried"][1]["directory"]
    again = load_recipe(tmp_path / "out" / "recipe.yaml")
    assert again.tune is None
    run(again, output=tmp_path / "again", until="pack")
    made, wanted = (tmp_path / where for where in ("again/packed/sparse-int8", "out/packed"))
    assert fingerprint(made) == fingerprint(wanted)
    with pytest.raises(CutworkError, match=r"none of 2 choices loses 0 points or less.*more training"):
        call(*common, "--within", 0, "--sure")
    tried = json.loads((tmp_path / "out" / "frontier.json").read_text())["tried"]
    assert [each["kept"] for each in tried] == [False, False]
    assert len(list((tmp_path / "out").glob("zeros-*/packed"))) == 2  # what one shot does not keep is trained
    assert not [
        *(tmp_path / "out").glob("zeros-*/sparse"),
        *(tmp_path / "out").glob("zeros-*/quantized"),
    ]  # for nothing
    assert tried[1]["speedup"] < tried[0]["speedup"] == speeds[0]


@pytest.mark.parametrize("gain", [0.5, -0.5])
def test_what_one_shot_may_keep_by_luck_is_trained_too(
    given: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gain: float
) -> None:
    def loss(shop: Workshop, packed: Stage, samples: object) -> Loss:
        return Loss(1.0, -3.0, 9.0) if "one-shot" in str(packed.output) else Loss(1.0 - gain, -3.0, 4.0)

    monkeypatch.setattr(Workshop, "loss", loss)
    common = [given[0], tmp_path / "out", "--data", given[1], *FEW, "--attempts", 1, "--json"]
    report = json.loads(call(*common, "--within", 2))
    assert [each["trained"] for each in report["tried"]] == [False, True]
    assert report["validation"]["points"] == min(1.0, 1.0 - gain)
    assert (load_recipe(tmp_path / "out" / "recipe.yaml").tune is not None) == (gain > 0)


@pytest.mark.parametrize(("test", "said"), [((3.0, 2.5, 3.5), "broken"), ((3.0, 1.5, 4.5), "not told")])
def test_a_promise_that_the_test_breaks_is_told(
    given: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, test: tuple[float, ...], said: str
) -> None:
    losses = [Loss(0.0, -1.0, 1.0), Loss(*test)]
    monkeypatch.setattr(Workshop, "loss", lambda *_: losses.pop(0))
    common = [given[0], tmp_path / "out", "--data", given[1], *FEW, "--attempts", 1, "--within", 2]
    if said == "broken":
        with pytest.raises(CutworkError, match="more than the 2 points that were promised"):
            call(*common)
    else:
        assert "above the 2 points, which so few samples may owe to chance" in call(*common)
    report = json.loads((tmp_path / "out" / "compress.json").read_text())
    assert report["promise"] == said and Path(report["packed"]).is_dir()


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


def test_a_dry_run_trains_nothing(given: tuple[Path, Path], tmp_path: Path) -> None:
    output = tmp_path / "out"
    shown = call(given[0], output, "--data", given[1], "--memory", "0.1MB", *FEW, "--dry-run")
    assert "before any training" in shown and "chosen: " in shown
    assert not list(output.glob("zeros-*")) and (output / "frontier.json").is_file()


def test_so_small_is_what_was_packed_not_what_was_predicted(
    given: tuple[Path, Path], finished: tuple[Path, dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = shutil.copytree(finished[0], tmp_path / "out")
    points = json.loads((out / "frontier.json").read_text())["frontiers"]["zeros and bits"]
    most = min(point["nbytes"] for point in points) + 2000
    common = [given[0], out, "--data", given[1], *FEW, "--memory", f"{most / 1e3}KB", "--json"]
    report = json.loads(call(*common))
    assert any("w4a16" in label for label in report["choice"]["labels"].values())
    assert report["measured"]["nbytes"]["compressed"] <= most
    assert report["measured"]["nbytes"]["compressed"] == pytest.approx(report["choice"]["nbytes"], rel=0.02)
    sizes = [most + 500, most + 1e6, most - 1]
    monkeypatch.setattr(Workshop, "nbytes", lambda *_: sizes.pop(0))
    with pytest.raises(CutworkError, match=r"the smallest of 2 choices takes .* MB, more than .*; allow more --memory"):
        call(*common)
    first, second = json.loads((out / "frontier.json").read_text())["tried"]
    assert not first["kept"] and not second["kept"] and second["nbytes"] <= most - 500


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ([], "give one goal"),
        (["--within", 1, "--speedup", 2], "give one goal"),
        (["--speedup", 0.5], "must be at least 1"),
        (["--speedup", 0], "must be at least 1"),
        (["--within", -1], "not below 0"),
        (["--memory", "600 apples"], "expected a size such as 600MB"),
        (["--speedup", 1000], r"none is more than \d\.\d+ times as fast, so not 1000; ask for less"),
        (["--memory", "1KB"], "the smallest choice of all takes"),
        (["--within", 1, "--validation-samples", 60], "leave none to train on"),
        (["--within", 1, "--test-samples", 60], "leave none to train on"),
        (["--within", 1, "--learning-rate", -1], "--learning-rate: "),
    ],
)
def test_what_cannot_be_done_is_said(
    options: list[object], said: str, given: tuple[Path, Path], tmp_path: Path
) -> None:
    with pytest.raises(CutworkError, match=said):
        call(given[0], tmp_path / "out", "--data", given[1], *FEW, *options)


def test_points_of_nothing_are_refused_before_any_training(given: tuple[Path, Path], tmp_path: Path) -> None:
    options = [*FEW[: FEW.index("--metric")], "--metric", "answers"]
    with pytest.raises(CutworkError, match=r"none of 8 validation questions right.*give --metric tokens"):
        call(given[0], tmp_path / "out", "--data", given[1], *options, "--within", 1)
    assert not list((tmp_path / "out").glob("zeros-*"))


def test_a_promise_that_cannot_be_broken_is_refused(
    given: tuple[Path, Path], finished: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    out = shutil.copytree(finished[0], tmp_path / "out")
    with pytest.raises(CutworkError, match=r"has 2\d\.\d points on validation, so that --within 50 cannot be broken"):
        call(given[0], out, "--data", given[1], *FEW, "--within", 50)


def test_a_sample_that_is_too_long_is_refused_before_any_work(given: tuple[Path, Path], tmp_path: Path) -> None:
    data = tmp_path / "long.jsonl"
    data.write_text("".join(json.dumps({"prompt": f"{i}" * 200, "answer": "1"}) + "\n" for i in range(40)))
    with pytest.raises(CutworkError, match=r"validation sample 1, .*has no answer within 132 tokens"):
        call(given[0], tmp_path / "out", "--data", data, *FEW, "--within", 1)
    assert not (tmp_path / "out" / "errors.json").exists()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--micro-batch-size", 3], "batch_size 4 is not a multiple of micro_batch_size 3"),
        (["--long", "error", "--max-length", 6], "more than task.max_length = 6"),
    ],
)
def test_training_that_cannot_be_is_refused_before_any_work(
    options: list[object], said: str, given: tuple[Path, Path], tmp_path: Path
) -> None:
    with pytest.raises(CutworkError, match=said):
        call(given[0], tmp_path / "out", "--data", given[1], *FEW, "--speedup", 1.3, *options)
    assert not list(tmp_path.rglob("*.json"))


def test_an_output_that_holds_the_model_is_refused(given: tuple[Path, Path], tmp_path: Path) -> None:
    inside = shutil.copytree(given[0], tmp_path / "out" / "dense")
    for output in (inside, tmp_path / "out"):
        with pytest.raises(CutworkError, match="holds the model to read; choose another output directory"):
            call(inside, output, "--data", given[1], *FEW, "--speedup", 2, "--dry-run")


def test_what_lies_at_the_results_place_is_kept(given: tuple[Path, Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    (out / "packed").mkdir(parents=True)
    common = [given[0], out, "--speedup", 1.2]
    with pytest.raises(CutworkError, match="packed is not from cutwork compress; move it away"):
        call(*common, "--data", given[1])
    (out / "packed").rmdir()
    (out / "recipe.yaml").write_text("name: mine\n")
    with pytest.raises(CutworkError, match=r"recipe\.yaml is not from cutwork compress; move it away"):
        call(*common, "--data", given[1])
    settings = {"name": "a", "model": "b", "output": "c", "task": {"name": "gsm8k"}}
    (out / "recipe.yaml").write_text(f"# 2.00x {MADE_BY}\n{yaml.safe_dump(settings)}")
    with pytest.raises(CutworkError, match=r"recipe\.yaml would be replaced"):
        call(*common, "--recipe", out / "recipe.yaml")


def test_what_was_tried_stays_for_the_same_model_data_settings_and_goal(
    given: tuple[Path, Path], finished: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    out = shutil.copytree(finished[0], tmp_path / "out")

    def tried(*options: object) -> int:
        call(given[0], out, "--data", given[1], *FEW, "--dry-run", *options)
        return len(json.loads((out / "frontier.json").read_text())["tried"])

    assert tried("--speedup", 1.3) == 1
    assert tried("--speedup", 1.3, "--max-steps", 3) == 0
    shutil.copyfile(finished[0] / "frontier.json", out / "frontier.json")
    assert tried("--speedup", 1.2) == 0


def test_prices_belong_to_a_build(
    given: tuple[Path, Path],
    finished: tuple[Path, dict[str, Any]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out = shutil.copytree(finished[0], tmp_path / "out")
    monkeypatch.setattr(workshop, "cache_path", lambda: Path("costs-scalar-0.json"))
    before = (out / "milliseconds.json").stat().st_mtime_ns
    call(given[0], out, "--data", given[1], *FEW, "--dry-run", "--speedup", 1.3)
    assert (out / "milliseconds.json").stat().st_mtime_ns > before


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


@pytest.mark.parametrize(("options", "weight"), [([], 0.0), (["--squarehead", 0.5], 0.5)])
def test_the_loss_is_cross_entropy_unless_squarehead_is_asked_for(
    options: list[object], weight: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def carry_out(base: Recipe, *_: object, **__: object) -> None:
        assert base.tune
        assert (base.tune.max_grad_norm == 0) == bool(base.tune.losses.squarehead)
        raise CutworkError(f"{base.tune.losses.ce:g} and {base.tune.losses.squarehead:g}")

    monkeypatch.setattr("cutwork.compress.compress.compress", carry_out)
    with pytest.raises(CutworkError, match=f"^1 and {weight:g}$"):
        call("model", tmp_path / "out", "--task", "gsm8k", "--speedup", 2, *options)


def test_nothing_is_dropped_where_another_process_works(tmp_path: Path) -> None:
    shop = Workshop.__new__(Workshop)
    shop.base = Recipe.model_validate({"name": "a", "model": "b", "output": tmp_path, "task": {"name": "gsm8k"}})
    (tmp_path / "2x" / "sparse").mkdir(parents=True)
    with only_process(tmp_path / ".lock", "taken"):
        shop.drop("2x", pruned=True)
    assert (tmp_path / "2x" / "sparse").exists()
    shop.drop("2x", pruned=True)
    assert not (tmp_path / "2x" / "sparse").exists()


def test_only_checkpoints_and_data(given: tuple[Path, Path], tmp_path: Path) -> None:
    pack(given[0], tmp_path / "packed")
    with pytest.raises(CutworkError, match="needs the plain checkpoint"):
        call(tmp_path / "packed", tmp_path / "out", "--data", given[1], "--within", 1)
    with pytest.raises(CutworkError, match="give --data"):
        call(given[0], tmp_path / "out", "--within", 1)


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
