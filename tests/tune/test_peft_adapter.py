"""An adapter of PEFT in its base model is what PEFT runs; a sparse base keeps its zeros."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer
from typer.testing import CliRunner

pytest.importorskip("peft")
import peft

from cutwork.cli import app
from cutwork.errors import CutworkError
from cutwork.store.directory import kind_of
from cutwork.torch_models.load import load_model
from cutwork.tune.masks import sparsity
from cutwork.tune.peft_adapter import merge_adapter
from tests.tiny_checkpoint import write_tiny_checkpoint
from tests.torch_models.tiny import cut, weights

QUIET = Console(quiet=True)
IDS = torch.arange(3, 40)[None]


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_checkpoint(tmp_path_factory.mktemp("models") / "dense")


def adapter(base: Path, directory: Path, **options: Any) -> torch.Tensor:
    """An adapter of some weights, saved; returns what PEFT's model makes of it, logits [1, T, V]."""
    torch.manual_seed(1)
    config = peft.LoraConfig(r=4, lora_alpha=16, **{"target_modules": ["q_proj", "down_proj"], **options})
    model = peft.get_peft_model(AutoModelForCausalLM.from_pretrained(base), config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name or "lora_embedding_A" in name:  # which begin with zeros
                parameter.normal_(std=0.1)
        model.save_pretrained(directory)
        return model(input_ids=IDS).logits


@pytest.mark.parametrize("options", [{}, {"use_rslora": True, "modules_to_save": ["norm"]}, {"use_dora": True}])
def test_the_merged_model_is_the_adapted_one(dense: Path, tmp_path: Path, options: dict[str, Any]) -> None:
    expected = adapter(dense, tmp_path / "lora", **options)
    report = merge_adapter(tmp_path / "lora", tmp_path / "out", console=QUIET)
    assert report == {"base": str(dense), "zeros": 0, "filled": 0}
    assert kind_of(tmp_path / "out") == "checkpoint"
    assert weights(tmp_path / "out").keys() == weights(dense).keys()
    with torch.no_grad():
        found = AutoModelForCausalLM.from_pretrained(tmp_path / "out")(input_ids=IDS).logits
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert AutoTokenizer.from_pretrained(tmp_path / "out").chat_template


def test_a_sparse_base_keeps_its_zeros(dense: Path, tmp_path: Path) -> None:
    shutil.copytree(dense, tmp_path / "sparse")
    torch.manual_seed(0)
    cut(load_model(dense, torch.float32), 0.6).to(torch.bfloat16).save_pretrained(tmp_path / "sparse")
    adapter(tmp_path / "sparse", tmp_path / "lora")
    arguments = ["merge", str(tmp_path / "lora"), str(tmp_path / "out")]
    outcome = CliRunner().invoke(app, [*arguments, "--json"])
    assert outcome.exit_code == 0, outcome.output
    report = json.loads(outcome.stdout)
    assert report["zeros"] > report["filled"] > 1000
    before, after = (sparsity(load_model(tmp_path / name, "auto")) for name in ("sparse", "out"))
    assert after == pytest.approx(before, abs=1e-3) and all(after[name] >= before[name] for name in before)
    assert load_model(tmp_path / "out", "auto").dtype == torch.bfloat16
    changed = weights(tmp_path / "out")["model.layers.0.self_attn.q_proj.weight"]
    assert not torch.equal(changed, weights(tmp_path / "sparse")["model.layers.0.self_attn.q_proj.weight"])
    outcome = CliRunner().invoke(app, [*arguments, "--overwrite", "--no-keep-zeros"])
    assert sparsity(load_model(tmp_path / "out", "auto"))["model.layers.0.self_attn.q_proj"] < 0.1
    assert f", {report['zeros'] - report['filled']} zeros in its blocks" in outcome.output


@pytest.mark.parametrize("changed", [["lm_head"], ["embed_tokens"], ["lm_head", "embed_tokens"]])
def test_a_tied_head_is_changed_without_the_embedding(changed: list[str], dense: Path, tmp_path: Path) -> None:
    expected = adapter(dense, tmp_path / "lora", target_modules=["q_proj", *changed])
    merge_adapter(tmp_path / "lora", tmp_path / "out", console=QUIET)
    with torch.no_grad():
        found = AutoModelForCausalLM.from_pretrained(tmp_path / "out")(input_ids=IDS).logits
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_one_trained_on_a_model_that_also_sees_fits_its_language_model(dense: Path, tmp_path: Path) -> None:
    expected = adapter(dense, tmp_path / "lora")
    file = tmp_path / "lora" / "adapter_model.safetensors"
    stored = load_file(file)

    def renamed(prefix: str) -> None:
        save_file({name.replace("model.model.", f"model.{prefix}.", 1): w for name, w in stored.items()}, file)

    for prefix in ("model.language_model", "language_model.model"):
        renamed(prefix)
        merge_adapter(tmp_path / "lora", tmp_path / "out", overwrite=True, console=QUIET)
        with torch.no_grad():
            found = AutoModelForCausalLM.from_pretrained(tmp_path / "out")(input_ids=IDS).logits
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    renamed("model.vision_tower")
    with pytest.raises(CutworkError, match=r"does not fit .*: 8 of its weights have no place there, as .*vision_tower"):
        merge_adapter(tmp_path / "lora", tmp_path / "none", console=QUIET)
    assert not (tmp_path / "none").exists()


def test_a_tokenizer_beside_the_adapter_takes_the_place_of_the_bases(dense: Path, tmp_path: Path) -> None:
    base = shutil.copytree(dense, tmp_path / "base")
    (base / "merges.txt").write_text("of the base")
    (base / "LICENSE").write_text("of the base")
    adapter(base, tmp_path / "lora")
    tokenizer = AutoTokenizer.from_pretrained(base)
    tokenizer.chat_template = "of the adapter"
    tokenizer.save_pretrained(tmp_path / "lora")
    merge_adapter(tmp_path / "lora", tmp_path / "out", console=QUIET)
    assert AutoTokenizer.from_pretrained(tmp_path / "out").chat_template == "of the adapter"
    assert (tmp_path / "out" / "LICENSE").exists() and not (tmp_path / "out" / "merges.txt").exists()


def test_what_cannot_be_merged_is_one_sentence(dense: Path, tmp_path: Path) -> None:
    adapter(dense, tmp_path / "lora")
    with pytest.raises(CutworkError, match=f"cutwork merge {tmp_path / 'lora'} OUT"):
        kind_of(tmp_path / "lora")
    with pytest.raises(CutworkError, match="holds no adapter"):
        merge_adapter(dense, tmp_path / "out", console=QUIET)
    other = write_tiny_checkpoint(tmp_path / "other")
    config = json.loads((other / "config.json").read_text())
    AutoModelForCausalLM.from_config(
        AutoModelForCausalLM.from_pretrained(other).config.__class__(**{**config, "hidden_size": 32})
    ).save_pretrained(other)
    with pytest.raises(CutworkError, match="does not fit"):
        merge_adapter(tmp_path / "lora", tmp_path / "out", other, console=QUIET)
    shutil.copytree(tmp_path / "lora", tmp_path / "damaged")
    (tmp_path / "damaged" / "adapter_model.safetensors").write_bytes(b"half of it")
    with pytest.raises(CutworkError, match=r"damaged/adapter_model\.safetensors"):
        merge_adapter(tmp_path / "damaged", tmp_path / "out", console=QUIET)
    shutil.copytree(tmp_path / "lora", tmp_path / "incomplete")
    stored = load_file(tmp_path / "incomplete" / "adapter_model.safetensors")
    del stored[next(name for name in stored if "lora_A" in name)]
    save_file(stored, tmp_path / "incomplete" / "adapter_model.safetensors")
    with pytest.raises(CutworkError, match=r"does not fit .*: it lacks 1 of the weights that belong there"):
        merge_adapter(tmp_path / "incomplete", tmp_path / "out", console=QUIET)
    (tmp_path / "lora" / "adapter_model.safetensors").rename(tmp_path / "lora" / "adapter_model.bin")
    with pytest.raises(CutworkError, match=r"no adapter_model\.safetensors"):
        merge_adapter(tmp_path / "lora", tmp_path / "out", console=QUIET)
    assert not (tmp_path / "out").exists()
