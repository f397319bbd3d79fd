"""What training reads of a model directory: safetensors as packing does, and never code or pickles."""

import io
import json
from pathlib import Path

import pytest
import torch

from cutwork.errors import CutworkError
from cutwork.tasks.task import Sample
from cutwork.torch_models.data import examples
from cutwork.torch_models.load import load_config, load_model, load_tokenizer, stop_at
from tests.tasks.letters import CHATML, letters
from tests.tiny_checkpoint import write_tiny_checkpoint

from .tiny import llama


def test_a_model_stops_where_its_conversations_taught_it_to(tmp_path: Path) -> None:
    tokenizer = letters(CHATML)
    turns = tuple({"role": role, "content": text} for role, text in (("user", "1?"), ("assistant", "One.")))
    [end] = examples(tokenizer, [Sample("", "", turns=turns)], 99).ends()
    assert tokenizer.decode([end]) == "<|im_end|>"
    assert examples(tokenizer, [Sample("1?", "One.")], 99).ends() == {tokenizer.eos_token_id}
    llama().save_pretrained(tmp_path)
    own = json.loads((tmp_path / "config.json").read_text())["eos_token_id"]
    stop_at(tmp_path, frozenset({end}))
    file = tmp_path / "generation_config.json"
    assert json.loads(file.read_text())["eos_token_id"] == [own, end]
    before = file.read_text()
    stop_at(tmp_path, frozenset({own, end}))
    assert file.read_text() == before


@pytest.fixture
def _willing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A user, or a pipe, that answers every question with yes."""
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n" * 100))


@pytest.mark.usefixtures("_willing")
@pytest.mark.parametrize("read", [load_config, load_tokenizer, lambda path: load_model(path, torch.float32)])
def test_code_that_comes_with_a_model_is_never_run(tmp_path: Path, read: object) -> None:
    llama().save_pretrained(tmp_path)
    mark = tmp_path / "executed"
    code = f"open({str(mark)!r}, 'w')\nfrom transformers import PretrainedConfig\n"
    (tmp_path / "own.py").write_text(f"{code}class C(PretrainedConfig): model_type = 'own'\n")
    config = json.loads((tmp_path / "config.json").read_text())
    names = ("AutoConfig", "AutoTokenizer", "AutoModelForCausalLM")
    config |= {"model_type": "own", "auto_map": {name: "own.C" for name in names}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(CutworkError, match="cannot load"):
        read(tmp_path)  # type: ignore[operator]
    assert not mark.exists()


def test_damaged_files_are_one_sentence(tmp_path: Path) -> None:
    write_tiny_checkpoint(tmp_path / "model")
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    (tmp_path / "model" / "config.json").write_text(json.dumps({**config, "hidden_size": "x"}))
    with pytest.raises(CutworkError, match="cannot load"):
        load_config(tmp_path / "model")
    (tmp_path / "model" / "config.json").write_text(json.dumps(config))
    for damaged in ("{", '{"version": "1.0", "model": {"type": "none"}}'):
        (tmp_path / "model" / "tokenizer.json").write_text(damaged)
        with pytest.raises(CutworkError, match="cannot load the tokenizer"):
            load_tokenizer(tmp_path / "model")


def test_pickled_weights_beside_others_are_not_read(tmp_path: Path) -> None:
    model = llama()
    model.save_pretrained(tmp_path)
    torch.save(
        {name: torch.zeros_like(value) for name, value in model.state_dict().items()}, tmp_path / "pytorch_model.bin"
    )
    weight = load_model(tmp_path, torch.float32).model.layers[0].mlp.up_proj.weight
    assert torch.equal(weight, model.model.layers[0].mlp.up_proj.weight)
    (tmp_path / "model.safetensors").rename(tmp_path / "other.safetensors")
    with pytest.raises(CutworkError, match="cannot load"):
        load_model(tmp_path, torch.float32)
