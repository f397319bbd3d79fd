"""The language model inside of one that also sees goes through every stage as if it had come alone."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from cutwork.engine.model import Model
from cutwork.errors import CutworkError
from cutwork.prune.prune import prune
from cutwork.recipe import Losses, PruneSettings, TuneSettings
from cutwork.store.directory import read_config
from cutwork.tasks.task import Sample
from cutwork.torch_models.load import load_model
from cutwork.tune.tune import tune
from tests.architectures.gemma3 import GEMMA
from tests.architectures.ministral3 import YARN
from tests.engine.tiny import SMALL, relative
from tests.tiny_checkpoint import write_tiny_checkpoint

VISION = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
TOKENS = np.random.default_rng(0).integers(3, 101, 50)
SAMPLES = [Sample("ab", "cd"), Sample("ef", "gh")] * 4


def wrapper(kind: str) -> Any:
    tied = {"tie_word_embeddings": kind == "gemma3"}
    if kind == "gemma3":
        settings = transformers.Gemma3Config(
            text_config={**SMALL, "vocab_size": 261, **GEMMA, "model_type": "gemma3_text"},
            vision_config={**VISION, "image_size": 28, "patch_size": 14, "model_type": "siglip_vision_model"},
            mm_tokens_per_image=4,
            image_token_index=100,
            **tied,
        )
        model_class = transformers.Gemma3ForConditionalGeneration
    else:
        text = {**SMALL, "vocab_size": 261, "head_dim": 16, "rope_parameters": YARN, "model_type": "ministral3"}
        settings = transformers.Mistral3Config(
            text_config=text,
            vision_config={**VISION, "image_size": 28, "patch_size": 14, "head_dim": 8, "model_type": "pixtral"},
            image_token_index=100,
            **tied,
        )
        model_class = transformers.Mistral3ForConditionalGeneration
    settings._attn_implementation = "eager"
    torch.manual_seed(0)
    model = model_class(settings).float().eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter.uniform_(0.5, 1.5)
            elif parameter.ndim == 2:
                parameter.normal_(0.0, parameter.shape[1] ** -0.5)
    return model


@pytest.fixture(scope="module", params=["gemma3", "ministral3"])
def saved(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, np.ndarray]:
    """A wrapper's directory with a tokenizer, and transformers' logits."""
    directory = tmp_path_factory.mktemp(request.param)
    write_tiny_checkpoint(directory)  # for its tokenizer
    (directory / "model.safetensors").unlink()
    model = wrapper(request.param)
    model.save_pretrained(directory)
    with torch.no_grad():
        return directory, model(torch.tensor(TOKENS[None])).logits[0].numpy()


def logits(directory: Path) -> np.ndarray:
    with Model.load(directory, threads=1) as model:
        return model.logits(TOKENS.tolist())


def test_the_engine_reads_it(saved: tuple[Path, np.ndarray], tmp_path: Path) -> None:
    directory, expected = saved
    assert relative(logits(directory), expected) < 1e-4
    # As transformers named the tensors before 4.52.
    tensors = load_file(directory / "model.safetensors")
    older = {
        "lm_head.weight": "language_model.lm_head.weight",
        **{name: name.replace("model.language_model.", "language_model.model.") for name in tensors},
    }
    for file in directory.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    renamed = {older.get(name, name): tensor for name, tensor in tensors.items()}
    save_file(renamed, tmp_path / "model.safetensors", metadata={"format": "pt"})
    assert any(name.startswith("language_model.model.") for name in renamed)
    assert relative(logits(tmp_path), expected) < 1e-4


def test_what_is_made_of_it_is_the_text_part_alone(saved: tuple[Path, np.ndarray], tmp_path: Path) -> None:
    directory, expected = saved
    prune(directory, tmp_path / "pruned", PruneSettings(method="magnitude", sparsity=0.5))
    settings = TuneSettings(
        max_steps=1, batch_size=4, micro_batch_size=4, learning_rate=1e-9, losses=Losses(squarehead=1.0)
    )
    report = tune(tmp_path / "pruned", tmp_path / "sparse", settings, SAMPLES, teacher_dir=directory)
    assert all(zeros >= 0.5 for zeros in report["sparsity"].values())
    for made in ("pruned", "sparse"):
        config = json.loads((tmp_path / made / "config.json").read_text())
        assert config["model_type"] in ("gemma3_text", "ministral3") and "vision_config" not in config
        assert not any("vision" in name for name in load_file(tmp_path / made / "model.safetensors"))
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "pruned", attn_implementation="eager")
    with torch.no_grad():
        alone = model(torch.tensor(TOKENS[None])).logits[0].numpy()
    found = logits(tmp_path / "pruned")
    assert relative(found, alone) < 1e-4 < relative(found, expected)
    assert relative(logits(tmp_path / "sparse"), found) < 1e-3


def test_one_that_attends_both_ways_is_refused(tmp_path: Path) -> None:
    settings = transformers.PaliGemmaConfig(
        text_config={**SMALL, "head_dim": 8, "vocab_size": 101, "model_type": "gemma2"},
        vision_config={**VISION, "image_size": 28, "patch_size": 14, "model_type": "siglip_vision_model"},
        image_token_index=100,
        projection_dim=48,
    )
    transformers.PaliGemmaForConditionalGeneration(settings).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["text_config"].pop("use_bidirectional_attention", None)  # as in Google's
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(CutworkError, match="language model of a 'paligemma'"):
        Model.load(tmp_path, threads=1)


def test_where_no_head_is_stored_the_wrapper_ties_it(saved: tuple[Path, np.ndarray], tmp_path: Path) -> None:
    directory, expected = saved
    for file in directory.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    config = json.loads((tmp_path / "config.json").read_text())
    stored = any("lm_head" in name for name in load_file(tmp_path / "model.safetensors"))
    config["tie_word_embeddings"], config["text_config"]["tie_word_embeddings"] = True, False
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert read_config(tmp_path)["tie_word_embeddings"] is not stored
    assert relative(logits(tmp_path), expected) < 1e-4
    model: Any = load_model(tmp_path, torch.float32, "eager")
    assert (model.lm_head.weight is model.model.embed_tokens.weight) is not stored
    with torch.no_grad():
        assert relative(model(torch.tensor(TOKENS[None])).logits[0].numpy(), expected) < 1e-4
