"""The command on a tiny model, from the dense checkpoint to the packed one, resumed and reproduced."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from cutwork.compress import workshop
from cutwork.compress.candidates import parse
from cutwork.compress.menu import HEAD
from cutwork.compress.promise import Loss
from cutwork.compress.workshop import Workshop
from cutwork.errors import CutworkError
from cutwork.pack.reader import read_packed
from cutwork.recipe import Recipe
from cutwork.recipe_file import load_recipe
from cutwork.run.run import run
from cutwork.run.stages import Stage
from cutwork.store.directory import kind_of
from cutwork.store.fingerprint import fingerprint
from cutwork.store.lock import only_process
from tests.compress.command import FEW, call

pytestmark = pytest.mark.usefixtures("as_long_as_bytes_take")


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
    assert report["metric"] == "tokens" and report["attempts"] == 4
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


def test_the_promise_is_bisected_for_and_a_broken_one_is_said(
    given: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
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
    monkeypatch.setattr(Workshop, "loss", lambda *_: Loss(1.0, -3.0, 5.0))
    with pytest.raises(CutworkError, match=r"none of 2 choices loses 0 points or less.*more training"):
        call(*common, "--within", 0)
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
    def loss(shop: Workshop, packed: Stage, samples: object, *_: object) -> Loss:
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
        with pytest.raises(CutworkError, match=r"more than the 2 points that were promised.*Ask for --sure, for fewer"):
            call(*common)
        monkeypatch.setattr("cutwork.compress.compress._check_enough", lambda *_: None)
        losses[:] = [Loss(0.0, -1.0, 1.0), Loss(*test)]
        with pytest.raises(CutworkError, match="Ask for fewer points, or for more --validation-samples"):
            call(*common, "--sure")
    else:
        assert "above the 2 points, which so few samples may owe to chance" in call(*common)
    report = json.loads((tmp_path / "out" / "compress.json").read_text())
    assert report["promise"] == said and Path(report["packed"]).is_dir()


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
    sizes = [most + 1, most + 1e6, most - 1]
    monkeypatch.setattr(Workshop, "nbytes", lambda *_: sizes.pop(0))
    with pytest.raises(CutworkError, match=r"the smallest of 2 choices takes .* MB, more than .*; allow more --memory"):
        call(*common)
    first, second = json.loads((out / "frontier.json").read_text())["tried"]
    assert not first["kept"] and not second["kept"] and second["nbytes"] < first["nbytes"]


def test_what_was_tried_stays_for_the_same_model_data_settings_and_goal(
    given: tuple[Path, Path], finished: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    out = shutil.copytree(finished[0], tmp_path / "out")

    def tried(*options: object) -> int:
        call(given[0], out, "--data", given[1], *FEW, "--dry-run", *options)
        return len(json.loads((out / "frontier.json").read_text())["tried"])

    assert tried("--speedup", 1.3) == 1
    for other in (["--max-steps", 3], ["--max-new-tokens", 5]):
        assert tried("--speedup", 1.3, *other) == 0
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


def test_nothing_is_dropped_where_another_process_works(tmp_path: Path) -> None:
    shop = Workshop.__new__(Workshop)
    shop.base = Recipe.model_validate({"name": "a", "model": "b", "output": tmp_path, "task": {"name": "gsm8k"}})
    (tmp_path / "2x" / "sparse").mkdir(parents=True)
    with only_process(tmp_path / ".lock", "taken"):
        shop.drop("2x", pruned=True)
    assert (tmp_path / "2x" / "sparse").exists()
    shop.drop("2x", pruned=True)
    assert not (tmp_path / "2x" / "sparse").exists()
