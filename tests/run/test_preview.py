"""What a run says before it trains: how long it will take, and how fast its zeros will be."""

import io
import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from rich.console import Console

from cutwork.errors import CutworkError
from cutwork.recipe import (
    CompareSettings,
    Gradual,
    Losses,
    Pruner,
    PruneSettings,
    Quantizer,
    QuantizeSettings,
    Recipe,
    TuneSettings,
)
from cutwork.run.durations import _SOLVING, Durations, sentence
from cutwork.run.preview import zeros_of
from cutwork.run.run import run, stages_of
from cutwork.tasks.load import load_task

pytest.importorskip("torch")

from tests.run.test_run import silent, tiny_settings
from tests.tiny_checkpoint import write_tiny_checkpoint
from tests.torch_models.tiny import mixture


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_checkpoint(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture
def recipe(model: Path, tmp_path: Path) -> Recipe:
    return Recipe.model_validate(tiny_settings(model, tmp_path / "out") | {"preview": True})


def test_speed_is_seen_before_any_training(recipe: Recipe) -> None:
    said = io.StringIO()
    run(recipe, until="preview", console=Console(file=said, width=200))
    lines = said.getvalue().splitlines()
    assert lines[0].startswith("about ") and "preview" in lines[0] and "teacher" not in lines[0]
    assert any(line.startswith("speed before any training: dense ") and "50% zeros" in line for line in lines)
    found = json.loads((recipe.output / "preview.json").read_text())
    assert min(found[name]["decode_tokens_per_second"] for name in ("dense", "sparse")) > 0
    assert {path.name for path in recipe.output.iterdir()} >= {"preview.json"}
    assert not [path for path in recipe.output.iterdir() if path.is_dir()]  # what was made for it is gone
    stages = stages_of(recipe, recipe.output, silent())
    assert next(stage.name for stage in stages.missing()) == "teacher"  # done, and never done again
    changed = recipe.model_copy(update={"prune": PruneSettings(pattern="4:16", calibration_samples=4)})
    assert stages_of(changed, recipe.output, silent()).missing()[0].name == "preview.json"


def test_zeros_are_those_that_a_run_ends_with(recipe: Recipe) -> None:
    def zeros(**changed: Any) -> tuple[float, str]:
        found = zeros_of(Recipe.model_validate(recipe.model_dump(mode="json", exclude_unset=True) | changed))
        return found.sparsity, found.pattern

    nothing = {"prune": {"method": "magnitude", "sparsity": 0.0}}
    assert zeros(**nothing, tune={"gradual": {"sparsity": 0.8, "pattern": "4x1"}}) == (0.8, "4x1")
    assert zeros(**nothing, quantize={"sparsity": 0.6}) == (0.6, "unstructured")
    assert zeros(prune={"pattern": "4:16"}, quantize={"sparsity": 0.6}) == (0.75, "4:16")


def test_which_glob_is_the_first_counts_for_the_preview(recipe: Recipe) -> None:
    def key(modules: dict[str, float]) -> str:
        prune = recipe.prune.model_copy(update={"modules": modules})
        stages = stages_of(recipe.model_copy(update={"prune": prune}), recipe.output, silent()).stages
        return next(stage.key for stage in stages if stage.name == "preview.json")

    rates = {"*.q_proj": 0.9, "*": 0.1}
    assert key(rates) == key(dict(rates)) != key(dict(reversed(rates.items())))


def test_the_zeros_that_are_told_are_those_that_were_timed(recipe: Recipe) -> None:
    said = io.StringIO()
    mixed = PruneSettings(sparsity=0.5, modules={"*.mlp.*": 0.9}, calibration_samples=4)
    run(recipe.model_copy(update={"prune": mixed}), until="preview", console=Console(file=said, width=200))
    zeros = re.search(r"with (\d+)% zeros", said.getvalue())
    assert zeros and 55 < int(zeros[1]) < 85


def test_recipes_have_no_preview_unless_they_ask(recipe: Recipe) -> None:
    without = recipe.model_copy(update={"preview": False})
    assert "preview.json" not in [stage.name for stage in stages_of(without, recipe.output, silent()).stages]


def test_only_the_models_that_are_compared_are_made(recipe: Recipe) -> None:
    def names(models: tuple[str, ...]) -> set[str]:
        compare = recipe.compare.model_copy(update={"models": models})
        stages = stages_of(recipe.model_copy(update={"compare": compare}), recipe.output, silent()).stages
        return {stage.name for stage in stages}

    some = names(("dense-f32", "sparse-int8"))
    assert {"packed/dense-f32", "packed/sparse-int8", "sparse-quantized"} <= some
    assert not {"packed/sparse-f32", "packed/dense-int8", "dense-quantized"} & some
    with pytest.raises(CutworkError, match=r"compare\.models: there is no 'sparse-int3'; they are dense-f32"):
        names(("sparse-int3",))
    with pytest.raises(CutworkError, match="without quantize there is no sparse-int8"):
        compare = recipe.compare.model_copy(update={"models": ("sparse-f32", "sparse-int8")})
        stages_of(recipe.model_copy(update={"quantize": None, "compare": compare}), recipe.output, silent())


def test_more_work_takes_longer(model: Path, recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cutwork.torch_models.machine_speed.matmul_seconds", lambda *_: 1e-11)
    monkeypatch.setattr("cutwork.tune.estimate.matmul_seconds", lambda *_: 1e-11)
    monkeypatch.setattr("cutwork.tune.estimate.copy_seconds", lambda *_: 1e-10)
    monkeypatch.chdir(model)
    durations = Durations(Path("."), load_task(recipe.task), 512, "drop")

    def longer(kind: str, less: Any, more: Any) -> bool:
        short, long = getattr(durations, kind)(*less), getattr(durations, kind)(*more)
        return bool(0 < short < long)

    taught = TuneSettings(max_steps=2, batch_size=4, micro_batch_size=4, losses=Losses(squarehead=1.0))
    plain, learned = (taught.model_copy(update=each) for each in ({"losses": Losses()}, {"dtype": "float32"}))
    assert longer("tune", [plain], [taught])
    assert longer("prune", [PruneSettings(method="magnitude")], [PruneSettings(method="sparsegpt")])
    assert longer("prune", [PruneSettings(method="sparsegpt")], [PruneSettings(method="alps")])
    assert longer("quantize", [QuantizeSettings(method="rtn")], [QuantizeSettings(method="gptq")])
    trained, rounded = QuantizeSettings(method="qat", qat=learned), QuantizeSettings(method="rtn")
    parts = [durations.tune(learned), durations.quantize(rounded)]
    assert durations.quantize(trained) == pytest.approx(sum(filter(None, parts)))
    assert longer("compare", [CompareSettings(), 2], [CompareSettings(), 3])
    assert [path.name for path in model.parent.iterdir()] == [model.name]


def test_no_name_of_a_model_stands_in_the_way_of_an_estimate(model: Path, recipe: Recipe, tmp_path: Path) -> None:
    named = shutil.copytree(model, tmp_path / "nothing")
    assert (Durations(named, load_task(recipe.task), 512, "drop").tune(recipe.tune) or 0) > 0


def test_every_method_says_how_much_it_computes() -> None:
    assert set(_SOLVING) == {*get_args(Pruner), *get_args(Quantizer)}


def test_how_long_lm_eval_asks_is_not_known(recipe: Recipe) -> None:
    durations = Durations(Path(recipe.model), load_task(recipe.task), 512, "drop")
    assert durations.compare(CompareSettings(lm_eval=("gsm8k",)), 2) is None


def test_a_run_that_keeps_the_best_is_estimated(recipe: Recipe) -> None:
    best = recipe.tune.model_copy(update={"keep_best": True, "save_every": 1})
    task = recipe.task.model_copy(update={"validation_samples": 2})
    chosen = recipe.model_copy(update={"tune": best, "task": task, "teacher": None})
    stages = stages_of(chosen, recipe.output, silent()).stages
    assert all((stage.seconds() or 0) > 0 for stage in stages)


def test_what_fits_alone_says_whether_anything_does(model: Path, recipe: Recipe) -> None:
    some = load_task(recipe.task).train[0]
    long = replace(some, prompt=some.prompt * 9)
    task = replace(
        load_task(recipe.task), train=(*[long, some] * 250,)
    )  # every other one, which a stride may pass over
    assert (Durations(model, task, 512, "drop").tune(recipe.tune) or 0) > 0
    for samples, most, told in (
        (task.train[::2], "drop", "every sample has more"),
        (task.train, "error", "a sample has"),
    ):
        with pytest.raises(CutworkError, match=told):
            Durations(model, replace(task, train=samples), 512, most).tune(recipe.tune)


def test_patterns_that_match_nothing_are_refused_before_any_work(recipe: Recipe, tmp_path: Path) -> None:
    rounded = recipe.quantize.model_copy(update={"overrides": {"*.down_prj": "skip"}})
    wrong = {"quantize": rounded, "prune": recipe.prune.model_copy(update={"modules": {"*.down_prj": 0.3}})}
    for key, settings in wrong.items():
        with pytest.raises(CutworkError, match="down_prj"):
            run(recipe.model_copy(update={key: settings, "preview": False}), output=tmp_path / key, console=silent())
        assert not list((tmp_path / key).iterdir() if (tmp_path / key).is_dir() else [])


def test_what_a_later_stage_would_refuse_is_refused_before_any_work(recipe: Recipe, tmp_path: Path) -> None:
    from transformers import AutoConfig, LlamaForCausalLM

    odd, experts = (write_tiny_checkpoint(tmp_path / name) for name in ("odd", "experts"))
    LlamaForCausalLM(AutoConfig.from_pretrained(odd, intermediate_size=54)).save_pretrained(odd)
    mixture().save_pretrained(experts)
    blocks = Gradual(sparsity=0.6, method="magnitude", pattern="1x4")
    changes: tuple[tuple[dict[str, Any], str], ...] = (
        ({"tune": recipe.tune.model_copy(update={"teacher_device": "moon"})}, "teacher_device 'moon'"),
        ({"model": str(odd), "tune": recipe.tune.model_copy(update={"gradual": blocks})}, "pattern 1x4 does not fit"),
        ({"model": str(experts)}, "as mixtures of experts do"),
    )
    for number, (change, told) in enumerate(changes):
        output = tmp_path / str(number)
        with pytest.raises(CutworkError, match=told):
            run(recipe.model_copy(update={**change, "preview": False}), output=output, until="tune", console=silent())
        assert not list(output.iterdir() if output.is_dir() else [])
    with pytest.raises(CutworkError, match="as mixtures of experts do"):
        Durations(experts, load_task(recipe.task), 512, "drop").quantize(QuantizeSettings(method="rtn"))


def test_what_the_engine_cannot_run_is_refused_before_any_work(recipe: Recipe, tmp_path: Path) -> None:
    odd, encoder = (write_tiny_checkpoint(tmp_path / name) for name in ("odd", "encoder"))
    for model, change in ((odd, {"hidden_act": "tanh"}), (encoder, {"use_bidirectional_attention": True})):
        config = json.loads((model / "config.json").read_text())
        (model / "config.json").write_text(json.dumps(config | change))
    weighed = {"token_weights": "answers"}
    changes: tuple[tuple[dict[str, Any], str, str], ...] = (
        ({"model": str(odd)}, "pack", "does not know the activation 'tanh'"),
        ({"model": str(odd), "preview": True}, "tune", "does not know the activation 'tanh'"),
        ({"model": str(encoder)}, "compare", "writes no text that could be compared; end with --until pack"),
        ({"model": str(encoder), "prune": recipe.prune.model_copy(update=weighed)}, "prune", "leave out token_weights"),
        (
            {"model": str(encoder), "quantize": recipe.quantize.model_copy(update=weighed)},
            "quantize",
            "leave out token_weights",
        ),
    )
    for number, (change, until, told) in enumerate(changes):
        output = tmp_path / str(number)
        plain = {"preview": False, "teacher": None, "tune": None}
        with pytest.raises(CutworkError, match=told):
            run(recipe.model_copy(update={**plain, **change}), output=output, until=until, console=silent())
        assert not list(output.iterdir() if output.is_dir() else [])


def test_an_unknown_duration_is_said_to_be_unknown(recipe: Recipe, tmp_path: Path) -> None:
    assert Durations(tmp_path, load_task(recipe.task), 512, "drop").pack() is None
    assert sentence({"prune": 100.0, "tune": 7200.0, "pack": None}) == (
        "about 2.0 h on this machine: prune 2 min, tune 2.0 h, pack ?"
    )
    assert sentence({"pack": None}) == "no estimate for this architecture"


def test_the_demo_needs_nothing_of_other_extras(recipe: Recipe, tmp_path: Path) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text(yaml.safe_dump(tiny_settings(Path(recipe.model), tmp_path / "out") | {"preview": True}))
    others = ("datasets", "soundfile", "soxr", "jiwer", "sacrebleu", "fastapi", "llguidance", "uvicorn", "ray")
    code = f"""
import sys
sys.modules |= dict.fromkeys({(*others, "peft", "lm_eval", "compressed_tensors", "tensorboard")})
sys.argv = ["cutwork", "run", {str(file)!r}]
from cutwork.cli import main; main()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "results.png").is_file()
