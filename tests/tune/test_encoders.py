"""Encoders, classifiers and cross-encoders through pruning, fine-tuning, quantisation and packing to the engine."""

import random
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from safetensors.torch import load_file

from cutwork.errors import CutworkError
from cutwork.pack.pack import pack
from cutwork.prune.prune import prune
from cutwork.quantize.quantize import quantize
from cutwork.recipe import Losses, PruneSettings, QuantizeSettings, TuneSettings
from cutwork.store.json_file import read_json
from cutwork.tasks.task import Sample
from cutwork.tune.tune import tune
from tests.architectures.test_encoders import make
from tests.engine import test_classification as classification
from tests.engine.test_embedding import load, pooling, write
from tests.engine.tiny import torch, transformers

WORDS = [
    "the",
    "cloth",
    "is",
    "cut",
    "away",
    "and",
    "what",
    "left",
    "of",
    "it",
    "reinforced",
    "with",
    "linen",
    "thread",
]
QUIET = Console(quiet=True)
SQUAREHEAD = Losses(ce=0, kl=0, squarehead=1)


def texts(count: int) -> list[str]:
    draw = random.Random(0)
    return [" ".join(draw.choices(WORDS, k=draw.randint(3, 20))) for _ in range(count)]


SAMPLES = [Sample("", text) for text in texts(64)]


def dense(variant: str, directory: Path) -> Path:
    return write(make(variant, vocab_size=300), directory, {"Pooling": pooling("mean"), "Normalize": {}})


@pytest.mark.parametrize("variant", ["bert", "distilbert", "roberta", "mpnet", "modernbert"])
def test_the_whole_path(variant, tmp_path):
    """Most of the weights go, SquareHead brings the hidden states nearer again, and int8 keeps zeros and vectors."""
    model = dense(variant, tmp_path / "dense")
    settings = PruneSettings(sparsity=0.75, method="sparsegpt", calibration_samples=32)
    report = prune(model, tmp_path / "pruned", settings, SAMPLES, console=QUIET)
    assert report["sparsity"] == pytest.approx(0.75, abs=0.01)
    training = TuneSettings(
        max_steps=60, learning_rate=2e-3, batch_size=16, warmup_steps=2, losses=SQUAREHEAD, dtype="float32"
    )
    tuned = tune(tmp_path / "pruned", tmp_path / "sparse", training, SAMPLES, teacher_dir=model, console=QUIET)
    assert min(tuned["sparsity"].values()) >= 0.75
    quantize(tmp_path / "sparse", tmp_path / "int8", QuantizeSettings(), SAMPLES, console=QUIET)
    pack(tmp_path / "int8", tmp_path / "packed")
    vectors = {}
    for name in ("dense", "pruned", "sparse", "int8", "packed"):
        with load(tmp_path / name) as loaded:
            vectors[name] = loaded.embed(texts(40), normalize=False)
            assert loaded.sparsity >= (0 if name == "dense" else 0.74)
    far = {name: float(np.square(found - vectors["dense"]).mean()) for name, found in vectors.items()}
    assert far["sparse"] < 0.8 * far["pruned"], far
    assert np.square(vectors["packed"] - vectors["sparse"]).mean() < 0.3 * far["sparse"], far
    assert (vectors["int8"] == vectors["packed"]).all()


@pytest.mark.parametrize("variant", ["bert", "roberta"])
def test_an_encoder_saved_from_a_masked_language_model_has_no_pooler_and_gets_none(variant, tmp_path):
    encoder = make(variant, vocab_size=300)
    masked = transformers.AutoModelForMaskedLM.from_config(encoder.config)
    masked.base_model.load_state_dict(encoder.state_dict(), strict=False)
    model = write(masked, tmp_path / "dense", {"Pooling": pooling("mean")})
    prune(model, tmp_path / "pruned", PruneSettings(method="wanda", calibration_samples=8), SAMPLES, console=QUIET)
    training = TuneSettings(max_steps=1, losses=SQUAREHEAD, dtype="float32")
    tune(tmp_path / "pruned", tmp_path / "sparse", training, SAMPLES, teacher_dir=model, console=QUIET)
    quantize(tmp_path / "sparse", tmp_path / "int8", QuantizeSettings(method="rtn"), console=QUIET)
    for made in ("dense", "pruned", "sparse", "int8"):
        assert not any("pooler" in name for name in load_file(tmp_path / made / "model.safetensors"))
    with load(tmp_path / "sparse") as sparse, load(tmp_path / "int8") as rounded:
        a, b = (model.embed(texts(4), normalize=False) for model in (sparse, rounded))
    assert np.abs(b - a).max() < 0.1 * np.abs(a).max()


@pytest.mark.parametrize("labels", [1, 3])
def test_a_head_stays_what_it_was(labels, tmp_path):
    """Of a cross-encoder, calibrated with pairs, and of a classifier; whatever is done to the blocks."""
    model = classification.save(
        classification.make("bert", "text", labels=labels, type_vocab_size=2), tmp_path / "dense"
    )
    pairs = [Sample(a, b) for a, b in zip(texts(40), reversed(texts(40)), strict=True)]
    prune(model, tmp_path / "pruned", PruneSettings(pattern="4:8"), pairs, console=QUIET)
    training = TuneSettings(max_steps=30, learning_rate=2e-3, batch_size=16, losses=SQUAREHEAD, dtype="float32")
    tune(tmp_path / "pruned", tmp_path / "sparse", training, pairs, teacher_dir=model, console=QUIET)
    quantize(tmp_path / "sparse", tmp_path / "int8", QuantizeSettings(method="rtn"), console=QUIET)
    pack(tmp_path / "int8", tmp_path / "packed")
    found, heads = {}, []
    for name in ("dense", "sparse", "packed"):
        with classification.load(tmp_path / name) as loaded:
            assert loaded.classifier
            inputs = loaded.classifier.read([(pair.prompt, pair.answer) for pair in pairs])
            found[name] = np.concatenate(loaded.classifier.logits(inputs))
            heads.append(loaded.classifier.head)
    for head in heads[1:]:
        assert head.labels == heads[0].labels
        assert all((a.weight == b.weight).all() for a, b in zip(head.layers, heads[0].layers, strict=True))
    assert found["packed"].shape == (40, labels)
    assert np.abs(found["sparse"] - found["dense"]).mean() < 0.2 * np.abs(found["dense"]).mean()
    assert np.abs(found["packed"] - found["sparse"]).mean() < 0.1 * np.abs(found["dense"]).mean()


def test_a_classifier_without_a_padding_token_is_trained_in_batches(tmp_path):
    model = classification.save(classification.make("qwen3", "text", pad_token_id=None), tmp_path / "dense")
    training = TuneSettings(max_steps=2, batch_size=4, losses=SQUAREHEAD, dtype="float32")
    tune(model, tmp_path / "tuned", training, SAMPLES[:8], teacher_dir=model, console=QUIET)
    assert read_json(tmp_path / "tuned" / "config.json").get("pad_token_id") is None


def test_a_quantised_encoder_loads_in_transformers(tmp_path):
    pytest.importorskip("compressed_tensors")
    model = dense("bert", tmp_path / "dense")
    quantize(model, tmp_path / "int8", QuantizeSettings(method="rtn"), console=QUIET)
    theirs = transformers.AutoModel.from_pretrained(tmp_path / "int8").eval()
    with load(tmp_path / "int8") as loaded:
        ids = loaded.encode(texts(1)[0])
        with torch.no_grad():
            expected = theirs(torch.tensor([ids])).last_hidden_state[0].mean(0).float().numpy()
        found = loaded.embed([ids], normalize=False)[0]
    assert np.abs(found - expected).max() < 0.05 * np.abs(expected).max()


@pytest.mark.parametrize(
    ("losses", "validation", "reason"),
    [
        (Losses(), (), "learns from its teacher's hidden states only"),
        (Losses(ce=0, kl=1), (), "learns from its teacher's hidden states only"),
        (SQUAREHEAD, SAMPLES[:4], "nothing to validate"),
    ],
)
def test_what_an_encoder_does_not_learn_is_said_before_anything_is_done(losses, validation, reason, tmp_path):
    model = dense("bert", tmp_path / "dense")
    settings = TuneSettings(max_steps=1, losses=losses)
    with pytest.raises(CutworkError, match=reason):
        tune(model, tmp_path / "out", settings, SAMPLES, teacher_dir=model, validation=validation, console=QUIET)
    assert sorted(path.name for path in tmp_path.iterdir() if not path.name.startswith(".")) == ["dense"]


def test_a_model_that_cannot_compute_again_is_refused_before_anything_is_done(tmp_path):
    model = dense("mpnet", tmp_path / "dense")
    settings = TuneSettings(max_steps=1, losses=SQUAREHEAD, gradient_checkpointing=True)
    with pytest.raises(CutworkError, match=r"mpnet cannot .* leave out gradient_checkpointing"):
        tune(model, tmp_path / "out", settings, SAMPLES, teacher_dir=model, dry_run=True, console=QUIET)


def test_conversations_are_no_texts(tmp_path):
    model = dense("bert", tmp_path / "dense")
    turns = ({"role": "user", "content": "a"}, {"role": "assistant", "content": "b"})
    with pytest.raises(CutworkError, match="not conversations"):
        prune(model, tmp_path / "out", PruneSettings(), [Sample("a", "b", turns=turns)], console=QUIET)
