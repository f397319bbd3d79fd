"""Embeddings that are stored only as what is tied to them, as those who save tied tensors once do."""

import json
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch

from cutwork.engine.model import Model
from cutwork.errors import CutworkError
from cutwork.pack.pack import pack
from cutwork.pack.restore import restore
from tests.architectures import test_t5
from tests.engine import bart_tiny, tiny
from tests.engine.tiny import relative, transformers
from tests.text_to_text import ANSWER, INPUTS, load, torch_logits

# What has to be there, what it is called instead, and what the file notes of that.
_SHARED, _DECODER = "model.shared.weight", "model.decoder.embed_tokens.weight"
KEPT = {
    "bart": (_SHARED, _DECODER, {_SHARED: _DECODER}),
    "marian": (_SHARED, _DECODER, {}),
    "m2m-100": (_SHARED, "model.encoder.embed_tokens.weight", {}),
    "mbart": (_SHARED, "lm_head.weight", {_SHARED: "lm_head.weight"}),
    "v1.0": ("shared.weight", "lm_head.weight", {}),
    "v1.1": ("shared.weight", "decoder.embed_tokens.weight", {}),
}


def renamed(directory: Path, old: str, new: str, noted: dict[str, str]) -> Path:
    """A saved model of which a tensor is stored by another name."""
    tensors = safetensors.torch.load_file(directory / "model.safetensors")
    tensors[new] = tensors.pop(old)
    safetensors.torch.save_file(tensors, directory / "model.safetensors", {"format": "pt", **noted})
    return directory


@pytest.mark.parametrize("variant", KEPT)
def test_text_to_text(variant: str, tmp_path: Path) -> None:
    hf: Any = (test_t5 if variant.startswith("v1") else bart_tiny).make(variant)
    hf.save_pretrained(tmp_path / "saved")
    renamed(tmp_path / "saved", *KEPT[variant])
    tiny.byte_level_tokenizer().save_pretrained(tmp_path / "saved")
    expected = torch_logits(hf, INPUTS[3], ANSWER)
    pack(tmp_path / "saved", tmp_path / "packed")
    restore(tmp_path / "packed", tmp_path / "restored")
    for made in ("saved", "packed", "restored"):
        with load(tmp_path / made) as model:
            assert relative(model.logits(ANSWER, model.encode_input(INPUTS[3])), expected) < 1e-4
    back = transformers.AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "restored").eval()
    assert relative(torch_logits(back, INPUTS[3], ANSWER), expected) < 1e-4


@pytest.mark.parametrize("variant", ["llama-mha-tied", "gpt2"])
def test_what_save_model_keeps_of_a_decoder(variant: str, tmp_path: Path) -> None:
    hf = tiny.make(variant)
    hf.save_pretrained(tmp_path)
    safetensors.torch.save_model(hf, str(tmp_path / "model.safetensors"))
    with safetensors.safe_open(tmp_path / "model.safetensors", "np") as file:
        names = list(file.keys())
    assert "lm_head.weight" in names and not any("wte" in name or "embed_tokens" in name for name in names)
    tokens = list(range(3, 40))
    with Model.load(tmp_path, threads=1) as model:
        assert relative(model.logits(tokens), tiny.torch_logits(hf, tiny.np.array(tokens))) < 1e-4


def test_a_head_that_is_not_tied_is_no_embedding(tmp_path: Path) -> None:
    hf = test_t5.make("v1.1")
    hf.save_pretrained(tmp_path)
    tensors = safetensors.torch.load_file(tmp_path / "model.safetensors")
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "tie_word_embeddings": False}))
    del tensors["shared.weight"]
    noted = {"shared.weight": "lm_head.weight"}
    safetensors.torch.save_file(tensors, tmp_path / "model.safetensors", {"format": "pt", **noted})
    with pytest.raises(CutworkError, match=r"'shared\.weight' is missing"):
        Model.load(tmp_path, threads=1)


def test_embeddings_that_differ_are_not_one(tmp_path: Path) -> None:
    bart_tiny.make("bart").save_pretrained(tmp_path)
    renamed(tmp_path, _SHARED, _DECODER, {})
    tensors = safetensors.torch.load_file(tmp_path / "model.safetensors")
    tensors["model.encoder.embed_tokens.weight"] = tensors[_DECODER] + 1
    safetensors.torch.save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(CutworkError, match=r"'model\.shared\.weight' is missing"):
        Model.load(tmp_path, threads=1)
