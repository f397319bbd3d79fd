"""`prune` from directory to directory."""

import io
import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from cutwork.errors import CutworkError
from cutwork.prune.mapped import MappedModel
from cutwork.prune.prune import prune
from cutwork.prune.rates import outliers
from cutwork.recipe import Pruner, PruneSettings
from cutwork.tasks.task import Sample
from cutwork.torch_models.blocks import block_linears
from cutwork.torch_models.data import examples
from cutwork.torch_models.load import load_model, load_tokenizer
from cutwork.tune.masks import sparsity
from tests.tiny_checkpoint import write_tiny_checkpoint
from tests.torch_models.tiny import FAMILIES, gpt2, mixture, opt, sums, weights

QUIET = Console(quiet=True)
FEW = PruneSettings(sparsity=0.6, calibration_samples=16)


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_checkpoint(tmp_path_factory.mktemp("models") / "dense")


@pytest.mark.parametrize("method", ["alps", "sparsegpt", "magnitude"])
def test_result_is_a_plain_checkpoint_with_the_zeros_asked_for(method: str, dense: Path, tmp_path: Path) -> None:
    settings = FEW.model_copy(update={"method": method})
    report = prune(dense, tmp_path / "out", settings, sums(20), console=QUIET)
    before, after = weights(dense), weights(tmp_path / "out")
    assert before.keys() == after.keys()
    for name, weight in after.items():
        if "proj" in name:
            assert int((weight == 0).sum()) == round(0.6 * weight.numel()), name
            assert not weight[weight == 0].signbit().any(), name
        else:
            assert torch.equal(weight, before[name])
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert {layer["name"]: layer["sparsity"] for layer in report["layers"]} == pytest.approx(sparsity(model))
    assert report == json.loads((tmp_path / "out" / "prune-report.json").read_text())
    assert (tmp_path / "out" / "tokenizer.json").is_file()
    error = "weight_error" if method == "magnitude" else "output_error"
    assert all(0 < layer[error] < 1 and layer["seconds"] >= 0 for layer in report["layers"])


@pytest.mark.parametrize("method", ["alps", "sparsegpt"])
def test_the_output_is_harmed_less_than_by_magnitude(method: str, dense: Path, tmp_path: Path) -> None:
    prune(dense, tmp_path / "a", FEW.model_copy(update={"method": method}), sums(20), console=QUIET)
    prune(dense, tmp_path / "b", FEW.model_copy(update={"method": "magnitude"}), console=QUIET)
    models = [AutoModelForCausalLM.from_pretrained(path) for path in (dense, tmp_path / "a", tmp_path / "b")]
    error = torch.zeros(2)
    for example in examples(load_tokenizer(dense), sums(20), 64):
        ids = torch.tensor([example["input_ids"]])
        with torch.no_grad():
            exact, best, plain = (m(ids, output_hidden_states=True).hidden_states[-1] for m in models)
        error += torch.stack([(best - exact).square().sum(), (plain - exact).square().sum()])
    assert error[0] < 0.8 * error[1]


def test_pruning_again_keeps_all_zeros(dense: Path, tmp_path: Path) -> None:
    prune(dense, tmp_path / "a", FEW.model_copy(update={"sparsity": 0.3}), sums(20), console=QUIET)
    prune(tmp_path / "a", tmp_path / "b", FEW, sums(20), console=QUIET)
    first, second = weights(tmp_path / "a"), weights(tmp_path / "b")
    for name, weight in first.items():
        if "proj" in name:
            assert (second[name][weight == 0] == 0).all()
            assert int((second[name] == 0).sum()) == round(0.6 * weight.numel())


def test_the_checkpoints_dtype_and_family_do_not_matter(dense: Path, tmp_path: Path) -> None:
    directory = tmp_path / "opt"
    model = opt().to(torch.bfloat16)
    model.resize_token_embeddings(300)
    model.save_pretrained(directory)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (directory / name).write_bytes((dense / name).read_bytes())
    prune(directory, tmp_path / "out", FEW, sums(20), console=QUIET)
    after = weights(tmp_path / "out")
    assert {weight.dtype for weight in after.values()} == {torch.bfloat16}
    fc1 = after["model.decoder.layers.1.fc1.weight"]
    assert int((fc1 == 0).sum()) == round(0.6 * fc1.numel())


@pytest.mark.parametrize(("quick", "dtype"), [(True, torch.bfloat16), (False, torch.float32)])
def test_a_bfloat16_checkpoint_is_computed_in_what_is_quick_and_stays_one(
    quick: bool, dtype: torch.dtype, dense: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for user in ("mapped", "calibrate", "prune"):
        monkeypatch.setattr(f"cutwork.prune.{user}.wants_bfloat16", lambda *_: quick)
    shutil.copytree(dense, tmp_path / "half")
    halves = {name: weight.to(torch.bfloat16) for name, weight in weights(dense).items()}
    save_file(halves, tmp_path / "half" / "model.safetensors", metadata={"format": "pt"})
    assert MappedModel(tmp_path / "half", dense).dtype == dtype
    report = prune(tmp_path / "half", tmp_path / "out", FEW, sums(20), console=QUIET)
    assert report["bfloat16"] is quick
    after = weights(tmp_path / "out")
    assert {weight.dtype for weight in after.values()} == {torch.bfloat16}
    same = [name for name in after if "proj" not in name]
    assert same and all(torch.equal(after[name], halves[name]) for name in same)


@pytest.mark.parametrize("how", [{"method": "wanda"}, {"method": "magnitude", "rates": "owl"}])
def test_what_a_damaged_model_makes_of_its_input_is_told(how: dict[str, Any], dense: Path, tmp_path: Path) -> None:
    shutil.copytree(dense, tmp_path / "damaged")
    state = weights(dense)
    state["model.layers.0.input_layernorm.weight"][3] = torch.nan
    save_file(state, tmp_path / "damaged" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CutworkError, match="activations that are not finite"):
        prune(tmp_path / "damaged", tmp_path / "out", FEW.model_copy(update=how), sums(20), console=QUIET)
    assert not (tmp_path / "out").exists()


def test_a_layer_that_cannot_be_pruned_is_named_and_nothing_is_left(
    dense: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cutwork.prune.second_order.torch.isfinite", lambda x: torch.zeros_like(x, dtype=torch.bool))
    with pytest.raises(CutworkError, match=r"model\.layers\.0\.self_attn\.q_proj, .*not finite"):
        prune(dense, tmp_path / "out", FEW, sums(20), console=QUIET)
    assert list(tmp_path.iterdir()) == []


def test_bad_input_is_one_sentence(dense: Path, tmp_path: Path) -> None:
    with pytest.raises(CutworkError, match="needs samples"):
        prune(dense, tmp_path / "out", FEW, [], console=QUIET)
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "file").touch()
    with pytest.raises(CutworkError, match="already exists"):
        prune(dense, tmp_path / "taken", FEW, sums(4), console=QUIET)
    with pytest.raises(CutworkError, match="no model directory"):
        prune(tmp_path / "nowhere", tmp_path / "out", FEW, sums(4), console=QUIET)
    other = shutil.copytree(dense, tmp_path / "other")
    stored = load_file(dense / "model.safetensors")
    for first, said in (
        ("model.layers.0.self_attn.q_proj.weight", "other has no weight 'model.layers.0.self_attn.q_proj"),
        ("", "other has no weight of a block"),
    ):
        rest = {name: tensor for name, tensor in stored.items() if not name.startswith(first)}
        save_file(rest or {"norm": stored["model.norm.weight"]}, other / "model.safetensors", {"format": "pt"})
        with pytest.raises(CutworkError, match=said):
            prune(other, tmp_path / "out", FEW, sums(4), console=QUIET)


def test_a_missing_head_is_told_with_what_to_do_about_it(dense: Path, tmp_path: Path) -> None:
    """As of a decoder that makes vectors; where its config says what its head is, it is pruned."""
    other = shutil.copytree(dense, tmp_path / "other")
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": False}))
    with pytest.raises(
        CutworkError, match=r"other has no output head 'lm_head\.weight'; .*tie_word_embeddings to true"
    ):
        prune(other, tmp_path / "out", FEW, sums(4), console=QUIET)
    (other / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": True}))
    assert prune(other, tmp_path / "out", FEW, sums(4), console=QUIET)["sparsity"] > 0.4


def test_a_mixture_of_experts_is_refused_and_not_its_attention_pruned_alone(tmp_path: Path) -> None:
    mixture().save_pretrained(tmp_path / "mixture")
    with pytest.raises(CutworkError, match="as mixtures of experts do"):
        prune(tmp_path / "mixture", tmp_path / "out", FEW.model_copy(update={"method": "magnitude"}), console=QUIET)
    assert [path.name for path in tmp_path.iterdir()] == ["mixture"]


def store(model: Any, directory: Path, dense: Path, **options: Any) -> Path:
    """A checkpoint of any family, its vocabulary grown to the tokenizer's."""
    model.resize_token_embeddings(300)
    model.save_pretrained(directory, **options)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (directory / name).write_bytes((dense / name).read_bytes())
    return directory


@pytest.mark.parametrize("method", get_args(Pruner))
@pytest.mark.parametrize("pattern", ["2:4", "16:64", "4x1"])
def test_methods_and_patterns_reach_the_checkpoint(method: str, pattern: str, dense: Path, tmp_path: Path) -> None:
    settings = PruneSettings.model_validate({"method": method, "pattern": pattern, "calibration_samples": 8})
    report = prune(dense, tmp_path / "out", settings, sums(20), console=QUIET)
    assert report["sparsity"] == {"2:4": 0.5, "16:64": 0.75, "4x1": 0.5}[pattern]
    q = weights(tmp_path / "out")["model.layers.1.self_attn.q_proj.weight"] != 0
    if ":" in pattern:
        n, m = map(int, pattern.split(":"))
        assert (q.unflatten(1, (-1, m)).sum(-1) == n).all()
    else:
        assert torch.equal(q.unflatten(0, (-1, 4)).any(1), q.unflatten(0, (-1, 4)).all(1))


@pytest.mark.parametrize("family", FAMILIES)
def test_models_of_every_family_are_pruned_where_they_lie(
    family: str, dense: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = store(FAMILIES[family](), tmp_path / family, dense)
    samples = sums(12)
    if family == "whisper":
        processor = SimpleNamespace(feature_extractor=frames, tokenizer=load_tokenizer(dense))
        processor.tokenizer.language = "en"
        monkeypatch.setattr("cutwork.prune.prune.load_tokenizer", lambda _: processor)
        samples = [Sample("", sample.answer[:20], [float(i)]) for i, sample in enumerate(samples)]
    report = prune(source, tmp_path / "out", FEW, samples, activation_memory=0, console=QUIET)
    assert report["spilled_bytes"] > 0
    pruned = {f"{layer['name']}.weight" for layer in report["layers"]}
    before, after = weights(source), weights(tmp_path / "out")
    assert before.keys() == after.keys()
    for name, weight in after.items():
        if name in pruned:
            assert int((weight == 0).sum()) == round(0.6 * weight.numel()), name
        else:
            assert torch.equal(weight, before[name]), name
    assert pruned <= after.keys()
    assert all(0 < layer["output_error"] < 1 for layer in report["layers"])
    in_memory = prune(source, tmp_path / "again", FEW, samples, activation_memory=1 << 30, console=QUIET)
    assert in_memory["spilled_bytes"] == 0
    assert all(torch.equal(weight, after[name]) for name, weight in weights(tmp_path / "again").items())
    loaded = load_model(tmp_path / "out", "auto")
    assert sparsity(loaded) == pytest.approx({layer["name"]: layer["sparsity"] for layer in report["layers"]})


def frames(audio: list[float], **_: Any) -> dict[str, list[Any]]:
    return {"input_features": [torch.randn(8, 40, generator=torch.Generator().manual_seed(int(audio[0]))).numpy()]}


def test_shards_float16_and_a_bare_model_are_kept_as_they_are(dense: Path, tmp_path: Path) -> None:
    source = store(gpt2().to(torch.float16), tmp_path / "shards", dense, max_shard_size="40KB")
    assert len(list(source.glob("*.safetensors"))) > 1
    prune(source, tmp_path / "out", FEW, sums(20), console=QUIET)
    assert {file.name for file in source.iterdir()} <= {file.name for file in (tmp_path / "out").iterdir()}
    assert load_model(tmp_path / "out", "auto").dtype == torch.float16
    bare = gpt2()
    bare.resize_token_embeddings(300)
    bare.transformer.save_pretrained(tmp_path / "bare")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / "bare" / name).write_bytes((dense / name).read_bytes())
    config = json.loads((tmp_path / "bare" / "config.json").read_text())
    (tmp_path / "bare" / "config.json").write_text(json.dumps({**config, "architectures": ["GPT2LMHeadModel"]}))
    report = prune(tmp_path / "bare", tmp_path / "out2", FEW, sums(20), console=QUIET)
    assert report["sparsity"] == pytest.approx(0.6, abs=1e-3)
    assert "h.0.mlp.c_fc.weight" in weights(tmp_path / "out2")


@pytest.mark.parametrize("method", ["magnitude", "sparsegpt"])
def test_linears_of_several_dtypes_keep_theirs(method: str, dense: Path, tmp_path: Path) -> None:
    source = shutil.copytree(dense, tmp_path / "mixed")
    stored = load_file(dense / "model.safetensors")
    mixed = {name: w if "down_proj" in name or "up_proj" in name else w.bfloat16() for name, w in stored.items()}
    save_file(mixed, source / "model.safetensors", {"format": "pt"})
    settings = FEW.model_copy(update={"method": method, "modules": {"*.down_proj": 0.0, "*.k_proj": 0.0}})
    prune(source, tmp_path / "out", settings, sums(20), console=QUIET)
    after = weights(tmp_path / "out")
    assert all(after[name].dtype == weight.dtype for name, weight in mixed.items())
    for name, weight in mixed.items():
        if "down_proj" in name or "k_proj" in name:
            assert torch.equal(after[name], weight), name
    up = after["model.layers.0.mlp.up_proj.weight"]
    assert (up != up.bfloat16()).any()
    assert method != "magnitude" or torch.equal(up[up != 0], mixed["model.layers.0.mlp.up_proj.weight"][up != 0])


@pytest.mark.parametrize("settings", [FEW, PruneSettings(method="magnitude"), PruneSettings(pattern="2:4")])
def test_damaged_weights_are_told_by_name(settings: PruneSettings, dense: Path, tmp_path: Path) -> None:
    source = shutil.copytree(dense, tmp_path / "damaged")
    stored = load_file(dense / "model.safetensors")
    name = "model.layers.0.mlp.down_proj.weight"
    stored[name][3, 5] = torch.nan
    save_file(stored, source / "model.safetensors", {"format": "pt"})
    with pytest.raises(CutworkError, match=r"0\.mlp\.down_proj has weights that are not finite; the model is damaged"):
        prune(source, tmp_path / "out", settings, sums(20), console=QUIET)
    stored[name] = stored[name].to(torch.int8)
    save_file(stored, source / "model.safetensors", {"format": "pt"})
    with pytest.raises(CutworkError, match=r"stores 'model.*down_proj.weight' as I8; use the unquantised checkpoint"):
        prune(source, tmp_path / "out", settings, sums(20), console=QUIET)


def test_outliers_are_told_by_the_mean_of_the_whole_block() -> None:
    small, large = torch.ones(80), torch.full((20,), 10.0)
    assert outliers([small, large], 3.0) == 0.2
    assert outliers([small], 3.0) == outliers([large], 3.0) == 0


def test_owl_keeps_more_where_there_are_outliers_and_as_much_in_all(dense: Path, tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(dense)
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight[::16] *= 20
    store(model, tmp_path / "dense", dense)
    settings = FEW.model_copy(update={"rates": "owl"})
    report = prune(tmp_path / "dense", tmp_path / "out", settings, sums(20), console=QUIET)
    rates = [sum(r["zeros"] for r in report["layers"] if f"layers.{i}." in r["name"]) for i in range(2)]
    assert rates[0] > rates[1]
    assert report["sparsity"] == pytest.approx(0.6, abs=1e-3)
    assert {round(r["sparsity"], 2) for r in report["layers"]} == {0.68, 0.52}


def test_owl_spreads_rates_by_its_settings(dense: Path, tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(dense)
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight[::16] *= 20
    store(model, tmp_path / "dense", dense)

    def rates(name: str, **options: float) -> list[float]:
        settings = FEW.model_copy(update={"rates": "owl", **options})
        report = prune(tmp_path / "dense", tmp_path / name, settings, sums(20), console=QUIET)
        return sorted({round(layer["sparsity"], 2) for layer in report["layers"]})

    assert rates("wide", owl_spread=0.16) == [0.44, 0.76]
    assert rates("no outliers", owl_threshold=1e9) == [0.6]


def test_rates_of_modules_come_first(dense: Path, tmp_path: Path) -> None:
    rates = {"*.0.*.down_proj": 0.0, "*.down_proj": 0.25}
    report = prune(dense, tmp_path / "out", FEW.model_copy(update={"modules": rates}), sums(20), console=QUIET)
    found = {layer["name"]: layer["sparsity"] for layer in report["layers"]}
    assert "model.layers.0.mlp.down_proj" not in found
    assert found["model.layers.1.mlp.down_proj"] == 0.25
    assert found["model.layers.0.mlp.up_proj"] == pytest.approx(0.6, abs=1e-3)
    linears = block_linears(AutoModelForCausalLM.from_pretrained(tmp_path / "out"))
    every = torch.cat([linear.get_parameter("weight").flatten() for linear in linears.values()])
    assert report["sparsity"] == pytest.approx((every == 0).float().mean().item())  # of those that stay dense, too
    with pytest.raises(CutworkError, match=r"'\*\.dwn_proj' matches no linear of the blocks; did you mean"):
        prune(dense, tmp_path / "b", FEW.model_copy(update={"modules": {"*.dwn_proj": 0.5}}), sums(4), console=QUIET)


def test_patterns_of_modules_come_first(dense: Path, tmp_path: Path) -> None:
    settings = PruneSettings.model_validate(
        FEW.model_dump(exclude_unset=True)
        | {"patterns": {"*.0.*.up_proj": "4:16", "*.0.*": "adaptive"}, "modules": {"*.1.*": 0.0, "*.down_proj": 0.5}}
    )
    report = prune(dense, tmp_path / "out", settings, sums(20), console=QUIET)
    found = {layer["name"]: layer["sparsity"] for layer in report["layers"]}
    assert all(name.startswith("model.layers.0.") for name in found)
    assert found["model.layers.0.mlp.up_proj"] == 0.75
    assert found["model.layers.0.mlp.down_proj"] == 0.5
    mlp = AutoModelForCausalLM.from_pretrained(tmp_path / "out").model.layers[0].mlp
    assert int((mlp.up_proj.weight.unflatten(1, (-1, 16)) != 0).sum(-1).max()) == 4
    kept = (mlp.down_proj.weight.reshape(mlp.down_proj.weight.shape[0] // 16, 16, -1, 16) != 0).sum(-1)
    assert set(kept.flatten().tolist()) <= {0, 4, 8, 12, 16}
    bad = settings.model_copy(update={"patterns": {"*.dwn_proj": "4:16"}})
    with pytest.raises(CutworkError, match=r"patterns: '\*\.dwn_proj' matches no linear"):
        prune(dense, tmp_path / "b", bad, sums(4), console=QUIET)
    both = settings.model_copy(update={"modules": {"*.up_proj": 0.9}})
    with pytest.raises(CutworkError, match=r"0\.mlp\.up_proj: pattern 4:16 fixes the rate, and modules asks for 0\.9"):
        prune(dense, tmp_path / "b", both, sums(4), console=QUIET)
    with pytest.raises(ValueError, match="pattern 16:4 keeps n of every m"):
        PruneSettings(patterns={"*": "16:4"})


def test_a_damaged_layer_is_damped_more_and_reported(
    dense: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = torch.linalg.cholesky_ex
    calls = []

    def stubborn(matrix: torch.Tensor) -> Any:
        calls.append(len(matrix))
        lower, failed = real(matrix)
        return lower, torch.ones_like(failed) if len(calls) == 1 else failed

    monkeypatch.setattr("cutwork.prune.second_order.torch.linalg.cholesky_ex", stubborn)
    said = Console(file=io.StringIO(), width=200)
    report = prune(dense, tmp_path / "out", FEW, sums(20), console=said)
    assert [layer["attempts"] for layer in report["layers"]][:4] == [2, 2, 2, 1]
    assert report["layers"][0]["damping"] > 5 * report["layers"][3]["damping"] / 10
    assert "q_proj, model.layers.0.self_attn.k_proj" in said.file.getvalue()
    assert "damping raised to" in said.file.getvalue()


def test_settings_that_contradict_each_other_are_one_sentence() -> None:
    for settings, message in (
        ({"pattern": "4:2"}, "n must be less than m"),
        ({"pattern": "2:4", "sparsity": 0.7}, "makes 0.5 zeros"),
        ({"pattern": "2:4", "rates": "owl"}, "fixes the rate"),
        ({"levels": [0.5, 0.4]}, "levels must rise"),
        ({"levels": [0.4, 0.5], "patterns": {"*": "2:4"}}, "levels do not apply"),
        ({"pattern": "3x3"}, "pattern"),
    ):
        with pytest.raises(ValueError, match=message):
            PruneSettings.model_validate(settings)
    assert PruneSettings(pattern="16:64").sparsity == 0.75
    # What the first release's runs are told by, but for the method (run/stages.py).
    assert PruneSettings().model_dump(mode="json") == {
        "method": "alps",
        "sparsity": 0.5,
        "calibration_samples": 128,
        "damping": 0.01,
        "block_size": 128,
        "seed": 0,
    }
