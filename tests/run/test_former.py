"""What a stage had made stays until the new one is there: other settings may be refused, interrupted or taken back."""

import json
from pathlib import Path
from typing import Any

import pytest

from cutwork.errors import CutworkError
from cutwork.recipe import Gradual, Recipe
from cutwork.run.run import run
from cutwork.run.stages import Stages, read_state

pytest.importorskip("torch")

from tests.run.test_run import changed, silent, stages_to_do, tiny_settings
from tests.tiny_checkpoint import write_tiny_checkpoint


@pytest.fixture
def tuned(tmp_path: Path) -> Recipe:
    """A recipe that was carried out up to its fine-tuning."""
    settings = tiny_settings(write_tiny_checkpoint(tmp_path / "tiny"), tmp_path / "out") | {"teacher": None}
    recipe = Recipe.model_validate(settings)
    run(recipe, until="tune", console=silent())
    return recipe


def contents(output: Path) -> dict[str, tuple[int, bytes]]:
    models = [file for name in ("pruned", "sparse") for file in (output / name).iterdir()]
    return {str(file): (file.stat().st_mtime_ns, file.read_bytes()) for file in models}


def leftovers(output: Path) -> list[str]:
    return [path.name for path in output.iterdir() if "former" in path.name or "stale" in path.name]


def noted(output: Path) -> list[dict[str, Any]]:
    return [json.loads((output / name).read_text()) for name in ("stages.json", "seconds.json")]


def interrupted(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


def test_what_was_made_stays_where_other_settings_are_refused(tuned: Recipe) -> None:
    before, state = contents(tuned.output), noted(tuned.output)
    for refused, said in (
        (changed(tuned, "tune", gradual=Gradual(sparsity=0.3)), "gradual ends at 0.3 zeros"),
        (changed(tuned, "prune", modules={"*.down_prj": 0.3}), "did you mean"),
        (changed(tuned, "tune", teacher_device="cuda:7"), "cuda:7"),
    ):
        with pytest.raises(CutworkError, match=said):
            run(refused, until="tune", console=silent())
        assert (contents(tuned.output), noted(tuned.output)) == (before, state)
    assert not leftovers(tuned.output)
    run(tuned, until="tune", console=silent())
    assert contents(tuned.output) == before


def test_what_was_made_is_back_where_other_settings_are_taken_back(
    tuned: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, state = contents(tuned.output), noted(tuned.output)
    other, third = changed(tuned, "tune", learning_rate=2e-3), changed(tuned, "tune", learning_rate=3e-3)
    with monkeypatch.context() as patch:
        patch.setattr("cutwork.tune.tune._train", interrupted)
        for recipe in (other, third):
            with pytest.raises(KeyboardInterrupt):
                run(recipe, until="tune", console=silent())
            assert not (tuned.output / "sparse").exists() and stages_to_do(tuned)[0] == "sparse"
    with monkeypatch.context() as patch:
        patch.setattr("cutwork.tune.tune.tune", lambda *_, **__: pytest.fail("trained again"))
        patch.setattr(Stages, "_say_how_long", lambda *_: None)
        run(tuned, until="tune", console=silent())
    assert (contents(tuned.output), noted(tuned.output)) == (before, state)
    assert not leftovers(tuned.output)


def test_it_goes_when_the_new_one_is_there(tuned: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    other = changed(tuned, "tune", learning_rate=2e-3)
    with monkeypatch.context() as patch:
        patch.setattr("cutwork.tune.tune._train", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run(other, until="tune", console=silent())
    assert leftovers(tuned.output) == [".sparse.former"]
    run(other, until="tune", console=silent())
    assert not leftovers(tuned.output) and set(read_state(tuned.output)) == {"pruned", "sparse"}
    assert "sparse" in stages_to_do(tuned)


def test_unfinished_training_comes_back_too(tuned: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    longer = changed(tuned, "tune", max_steps=4, save_every=1)
    work = tuned.output / "sparse.work"

    def some(run: Any, *_: object, **__: object) -> None:
        (run.work / "checkpoint-1").mkdir(parents=True)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("cutwork.tune.tune._train", some)
        with pytest.raises(KeyboardInterrupt):
            run(longer, until="tune", console=silent())
    (tuned.output / ".sparse.former").rename(tuned.output / "moved")  # nothing was finished before
    with pytest.raises(CutworkError, match=r"gradual ends at 0\.3"):
        run(changed(tuned, "tune", gradual=Gradual(sparsity=0.3)), until="tune", console=silent())
    assert (work / "checkpoint-1").is_dir() and json.loads((work / "run.json").read_text())
    of_longer = (work / "run.json").read_bytes()
    with monkeypatch.context() as patch:  # two others, of which neither takes its place aside
        patch.setattr("cutwork.tune.tune._train", some)
        for rate in (2e-3, 3e-3):
            with pytest.raises(KeyboardInterrupt):
                run(changed(longer, "tune", learning_rate=rate), until="tune", console=silent())
    assert (tuned.output / ".sparse.work.former" / "run.json").read_bytes() == of_longer
    run(longer, until="tune", console=silent())
    assert not leftovers(tuned.output) and not work.exists()
