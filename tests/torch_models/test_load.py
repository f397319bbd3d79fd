"""What training reads of a model directory: safetensors as packing does, and never code or pickles."""

import io
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import BertConfig, BertModel

from cutwork.errors import CutworkError
from cutwork.tasks.task import Sample
from cutwork.torch_models.data import examples
from cutwork.torch_models.load import load_config, load_model, load_tokenizer, stop_at
from tests.tasks.letters import CHATML, letters
from tests.tiny_checkpoint import write_tiny_checkpoint

from .tiny import FAMILIES, llama, t5


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


def save_without(model: torch.nn.Module, names: tuple[str, ...], directory: Path) -> Path:
    """A model's checkpoint whose file lacks some tensors."""
    model.save_pretrained(directory)  # type: ignore[operator]
    stored = load_file(directory / "model.safetensors")
    kept = {name: tensor for name, tensor in stored.items() if name not in names}
    assert len(kept) == len(stored) - len(names)
    save_file(kept, directory / "model.safetensors", {"format": "pt"})
    return directory


UP = tuple(f"model.layers.{i}.mlp.up_proj.weight" for i in range(3))


@pytest.mark.parametrize(
    ("names", "options", "reason"),
    [
        (UP[:1], {}, r"has no weight 'model\.layers\.0\.mlp\.up_proj\.weight'; save or"),
        (UP, {}, r"has no weight 'model\.layers\.0\.mlp\.up_proj\.weight' and 2 others"),
        (("model.embed_tokens.weight",), {}, r"has no weight 'model\.embed_tokens\.weight'"),
        (("lm_head.weight",), {"tie_word_embeddings": False}, "has no output head .*set tie_word_embeddings to true"),
    ],
    ids=["a linear", "several", "what a head is tied to", "a head"],
)
def test_a_weight_that_is_not_stored_is_not_made_up(
    names: tuple[str, ...], options: dict[str, bool], reason: str, tmp_path: Path
) -> None:
    with pytest.raises(CutworkError, match=reason):
        load_model(save_without(llama(**options), names, tmp_path), torch.float32)


@pytest.mark.parametrize("family", FAMILIES)
def test_what_save_pretrained_leaves_out_is_not_missed(family: str, tmp_path: Path) -> None:
    """Heads and embeddings that are tied, buffers, computed positions."""
    model = FAMILIES[family]()
    model.save_pretrained(tmp_path)
    loaded = load_model(tmp_path, torch.float32).state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in model.state_dict().items())


def test_a_tied_matrix_may_be_stored_by_either_name(tmp_path: Path) -> None:
    model = t5()
    model.save_pretrained(tmp_path)
    stored = load_file(tmp_path / "model.safetensors")
    renamed = {"encoder.embed_tokens.weight": stored.pop("shared.weight"), **stored}
    save_file(renamed, tmp_path / "model.safetensors", {"format": "pt"})
    assert torch.equal(load_model(tmp_path, torch.float32).shared.weight, model.shared.weight)


def test_half_a_pooler_is_missed(tmp_path: Path) -> None:
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 4}
    model = BertModel(BertConfig(vocab_size=61, **sizes))
    with pytest.raises(CutworkError, match=r"has no weight 'pooler\.dense\.bias'"):
        load_model(save_without(model, ("pooler.dense.bias",), tmp_path), torch.float32)
