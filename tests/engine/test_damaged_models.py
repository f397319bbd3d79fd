"""A model directory with something wrong in it is one sentence, or runs without harm: never another exception."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cutwork.engine.model import Model
from cutwork.engine.weights import arrange
from cutwork.errors import CutworkError
from cutwork.pack.pack import pack
from cutwork.pack.restore import restore
from cutwork.store.safetensors import SafetensorsFile, SafetensorsWriter, Tensor, open_tensors

from ..pack.models import llama_checkpoint
from .speech import tiny as speech
from .tiny import byte_level_tokenizer, make, torch

VOCABULARY = 300


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoints of Llama, GPT-2 and Whisper, and the first one packed."""
    path = tmp_path_factory.mktemp("models")
    for variant in ("llama", "gpt2"):
        model = make(variant, vocab_size=VOCABULARY)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "proj" in name:
                    parameter[torch.rand_like(parameter) < 0.8] = 0
        model.save_pretrained(path / variant)
        byte_level_tokenizer().save_pretrained(path / variant)
    speech.save(path / "whisper", 4)
    pack(path / "llama", path / "packed")
    return path


@pytest.fixture
def copied(models: Path, tmp_path: Path) -> Callable[[str], Path]:
    return lambda name: Path(shutil.copytree(models / name, tmp_path / name))


def change(path: Path, name: str = "config.json", **fields: Any) -> Path:
    content = json.loads((path / name).read_text()) if (path / name).exists() else {}
    (path / name).write_text(json.dumps({**content, **fields}))
    return path


def rewrite(path: Path, name: str, tensor: Tensor) -> Path:
    tensors = {key: Tensor(old.dtype, np.array(old.array)) for key, old in open_tensors(path).items()} | {name: tensor}
    with SafetensorsWriter(path, len(tensors), alignment=1) as writer:
        for key, value in tensors.items():
            writer.add(key, value.dtype, value.array)
    return path


QUANTIZATION = {"quant_method": "compressed-tensors"}


@pytest.mark.parametrize(
    "config",
    [
        {"rms_norm_eps": 1e300},
        {"quantization_config": {**QUANTIZATION, "config_groups": [1]}},
        {"quantization_config": {**QUANTIZATION, "format": ["dense"]}},
        {"quantization_config": {**QUANTIZATION, "sparsity_config": 3}},
        {"layer_types": [["full_attention"]] * 4, "sliding_window": 4},
        {"rope_scaling": [1], "rope_parameters": {"rope_type": ["yarn"]}},
        {"model_type": "llama\ud800", "eos_token_id": "x"},
    ],
)
def test_a_config_that_no_check_foresaw(config: dict[str, Any], copied: Callable[[str], Path], tmp_path: Path) -> None:
    damaged = change(copied("llama"), **config)
    for use in (lambda: Model.load(damaged, threads=1).close(), lambda: pack(damaged, tmp_path / "out")):
        try:
            use()
        except CutworkError as error:
            assert "\n" not in str(error)


def test_half_a_character_in_a_config(copied: Callable[[str], Path], tmp_path: Path) -> None:
    with pytest.raises(CutworkError, match="damaged"):
        pack(change(copied("llama"), comment="\ud800"), tmp_path / "out")
    packed = copied("packed")
    manifest = json.loads((packed / "cutwork.json").read_text())
    with pytest.raises(CutworkError, match="damaged"):
        restore(change(packed, "cutwork.json", config={**manifest["config"], "comment": "\ud800"}), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_config_that_is_no_file(copied: Callable[[str], Path]) -> None:
    for make_it in (Path.mkdir, lambda file: file.symlink_to(file.name)):
        damaged = copied("llama")
        (damaged / "config.json").unlink()
        make_it(damaged / "config.json")
        with pytest.raises(CutworkError):
            Model.load(damaged, threads=1)
        shutil.rmtree(damaged)


@pytest.mark.parametrize("token", [VOCABULARY, 1 << 40, -1, True])
def test_tokens_beyond_the_vocabulary_end_nothing(token: int, copied: Callable[[str], Path]) -> None:
    damaged = change(copied("llama"), "generation_config.json", eos_token_id=[token, 5])
    with Model.load(damaged, threads=1) as model:
        assert 5 in model.stop_tokens and token not in model.stop_tokens - {1}
        assert len(model.generate([3], max_new_tokens=4, min_new_tokens=4, temperature=1.0, seed=1).tokens) == 4


@pytest.mark.parametrize(
    "settings",
    [
        {"no_timestamps_token_id": 1 << 20},
        {"decoder_start_token_id": -5},
        {"suppress_tokens": [1, 1 << 40]},
        {"begin_suppress_tokens": ["x"]},
        {"alignment_heads": [1.5]},
        {"lang_to_id": {"<|en|>": "{{ 1/0 }}"}},
        {"task_to_id": {"transcribe": 1 << 40}},
    ],
)
def test_whispers_tokens_are_in_its_vocabulary(settings: dict[str, Any], copied: Callable[[str], Path]) -> None:
    damaged = change(copied("whisper"), "generation_config.json", **settings)
    with pytest.raises(CutworkError), Model.load(damaged, threads=1) as model:
        model.transcribe(speech.sound(1.0))


def test_a_context_ends_where_the_positions_do(copied: Callable[[str], Path]) -> None:
    path = copied("gpt2")
    rows = 16  # whatever the config says, and where it says nothing
    table = np.array(open_tensors(path)["transformer.wpe.weight"].array[:rows])
    config = json.loads((rewrite(path, "transformer.wpe.weight", Tensor("F32", table)) / "config.json").read_text())
    (path / "config.json").write_text(json.dumps({**config, "n_positions": rows, "max_position_embeddings": 4096}))
    with Model.load(path, threads=1) as model:
        assert model.max_context == rows
        assert len(model.generate([3] * (rows - 2), max_new_tokens=9, ignore_eos=True).tokens) == 2


@pytest.mark.parametrize("shape", [(1 << 40, 0), (0, 64), (0,)])
def test_empty_weights_are_refused_before_anything_is_allocated(
    shape: tuple[int, ...], copied: Callable[[str], Path], tmp_path: Path
) -> None:
    damaged = rewrite(copied("llama"), "model.layers.0.mlp.up_proj.weight", Tensor("F32", np.empty(shape, np.float32)))
    for use in (lambda: Model.load(damaged, threads=1), lambda: pack(damaged, tmp_path / "out")):
        with pytest.raises(CutworkError, match="is empty"):
            use()


@pytest.mark.parametrize("name", ["packed", "llama"])
def test_what_is_done_to_a_file_is_nothing_to_the_model_in_memory(name: str, copied: Callable[[str], Path]) -> None:
    path = copied(name)
    with Model.load(path, threads=1) as model:
        before = model.generate([3, 4, 5], max_new_tokens=4).tokens
        with (path / "model.safetensors").open("r+b") as file:
            file.write(b"\xff" * 4096)
            file.truncate(4096)
        assert model.generate([3, 4, 5], max_new_tokens=4).tokens == before


def test_a_tokenizer_that_panics_is_one_sentence(copied: Callable[[str], Path]) -> None:
    path = copied("llama")
    tokenizer = json.loads((path / "tokenizer.json").read_text())
    tokenizer["model"]["continuing_subword_prefix"] = "longer than any token"
    (path / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(CutworkError, match="cannot be read"):
        Model.load(path, threads=1)


@pytest.mark.parametrize("layout", ["slots", "dense"])
def test_nor_is_it_to_weights_that_were_laid_out_anew(layout: str, tmp_path: Path, monkeypatch: Any) -> None:
    """Their scales are the stored ones, and so is all of a weight that stays as it is in the end."""
    pack(llama_checkpoint(tmp_path / "source", "I8", "unstructured"), tmp_path / "packed")

    def fastest(_: Any, weight: Any) -> str | None:
        return layout if weight.encoding == "bitmask" else None

    monkeypatch.setattr(arrange.Arrangement, "_fastest", fastest)
    with Model.load(tmp_path / "packed", threads=1) as model:
        before = model.logits([3, 4, 5])
        with (tmp_path / "packed" / "model.safetensors").open("r+b") as file:
            file.truncate(4096)
        np.testing.assert_array_equal(model.logits([3, 4, 5]), before)


def test_offsets_written_over_in_place_change_nothing(copied: Callable[[str], Path]) -> None:
    """Kernels add them to addresses; they were checked when the model was loaded."""
    packed = copied("packed")
    with Model.load(packed, threads=1, huge_pages=False) as model:
        before = model.generate([3, 4, 5], max_new_tokens=4).tokens
        file = SafetensorsFile(packed / "model.safetensors", writable=True)
        names = [name for name in file if name.endswith(".offsets")]
        assert names
        for name in names:
            file[name].array[...] = 0x7F7F7FFFFFFF
        assert model.generate([3, 4, 5], max_new_tokens=4).tokens == before
