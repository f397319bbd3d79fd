"""Every recipe of the paper, run on a tiny model of its family: smaller model, data and steps, the same structure."""

import json
import wave
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from transformers import AutoTokenizer, MptConfig, MptForCausalLM, WhisperConfig, WhisperFeatureExtractor
from transformers import WhisperForConditionalGeneration as Whisper

from cutwork.recipe import Recipe, TuneSettings, load_recipe
from cutwork.run.run import run
from cutwork.torch_models.load import load_model
from cutwork.tune.masks import sparsity
from tests.tiny_checkpoint import write_tiny_checkpoint
from tests.torch_models.tiny import t5, whisper

RECIPES = sorted((Path(__file__).parents[1] / "recipes").glob("*.yaml"))
OWN = ("smollm2-", "whisper-tiny.en-", "whisper-base-")  # not rows of the paper
PAPER = [path for path in RECIPES if not path.stem.startswith(OWN)]
# Epochs and learning rate of the sparse fine-tuning on GSM8K.
PUBLISHED = {
    "40": (2, 3e-5), "50": (2, 3e-5), "60": (2, 1e-4), "70": (4, 8e-5), "80": (4, 1e-4),
    "2of4": (4, 1e-4), "16of32": (4, 1e-4), "16of64": (4, 1e-4),
}  # fmt: skip
COMPARED = {"max_new_tokens": 8, "num_beams": 2, "prompt_tokens": 8, "decode_tokens": 2, "repeats": 1, "threads": 1}
ROWS = [{"question": f"What is {i} and 2?", "answer": f"{i} + 2 = {i + 2}\n#### {i + 2}"} for i in range(8)]


def test_there_is_a_recipe_for_every_row() -> None:
    gsm8k = {f"{model}-gsm8k-{row}" for model in ("mpt-7b", "llama2-7b") for row in PUBLISHED}
    assert {path.stem for path in PAPER} == gsm8k | {"t5-small-wmt14", "whisper-small-hindi"}


@pytest.mark.parametrize("path", PAPER, ids=lambda path: path.stem)
def test_settings_are_the_published_ones(path: Path) -> None:
    recipe = load_recipe(path)
    tune, losses = recipe.tune, recipe.tune.losses
    assert tune.schedule == "linear" and losses.squarehead == 1 and losses.kl == 0
    if "gsm8k" in path.stem:
        row = path.stem.rsplit("-", 1)[1]
        assert (tune.epochs, tune.learning_rate) == PUBLISHED[row]
        assert (tune.batch_size, tune.warmup_steps, tune.weight_decay, losses.ce) == (32, 20, 0, 1)
        wanted = 1 - eval(row.replace("of", "/")) if "of" in row else int(row) / 100
        assert recipe.prune.sparsity == pytest.approx(wanted)
        assert recipe.quantize and recipe.quantize.smoothing == 0.5
        assert ("*.down_proj" in recipe.quantize.ignore) == path.stem.startswith("llama")
        return
    assert recipe.prune.levels == (0.5, 0.67, 0.75, 0.8, 0.83, 0.86, 0.88, 0.9)
    published = {"t5-small-wmt14": (3, 2e-3, 128, 1e-4, 1.0), "whisper-small-hindi": (6, 2e-4, 32, 0.0, 0.5)}
    assert (tune.epochs, tune.learning_rate, tune.batch_size, tune.weight_decay, losses.ce) == published[path.stem]


class Processor:
    """Letters for Whisper; a second of sound at most."""

    feature_extractor = WhisperFeatureExtractor(feature_size=8, chunk_length=1)

    class _Tokenizer:
        eos_token_id = 2

        def set_prefix_tokens(self, language: str, task: str) -> None:
            assert (language, task) == ("hi", "transcribe")

        def __call__(self, text: str) -> dict[str, list[int]]:
            return {"input_ids": [1, *(3 + ord(letter) % 50 for letter in text), 2]}

    tokenizer = _Tokenizer()


def stand_in(family: str, directory: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tiny model of the family whose inputs are multiples of 64, with a tokenizer of letters."""
    write_tiny_checkpoint(directory)
    letters = len(AutoTokenizer.from_pretrained(directory))
    torch.manual_seed(0)
    if family == "mpt":
        MptForCausalLM(
            MptConfig(vocab_size=letters, d_model=64, n_layers=2, n_heads=4, max_seq_len=128, expansion_ratio=2)
        ).save_pretrained(directory)
    elif family == "t5":
        model = t5()
        model.resize_token_embeddings(letters)
        model.save_pretrained(directory)
    elif family == "whisper":
        Whisper(WhisperConfig(**{**whisper().config.to_dict(), "max_source_positions": 50})).save_pretrained(directory)
        for module in ("tune.tune", "prune.prune"):
            monkeypatch.setattr(f"cutwork.{module}.load_tokenizer", lambda _: Processor())
    return directory


def data(task: str, directory: Path) -> dict[str, Any]:
    """A few samples of a task, where its option `directory` points."""
    directory.mkdir()
    for split in ("train", "test"):
        match task:
            case "gsm8k":
                (directory / f"{split}.jsonl").write_text("\n".join(map(json.dumps, ROWS)))
            case "wmt14-en-de":
                for side in ("en", "de"):
                    (directory / f"{split}.{side}").write_text("\n".join(f"{side} {i}" for i in range(8)))
            case "common_voice":
                pytest.importorskip("soundfile")
                with wave.open(str(directory / "a.wav"), "wb") as file:
                    file.setparams((1, 2, 16000, 0, "NONE", ""))
                    file.writeframes((np.sin(np.arange(8000) * 0.1) * 2000).astype("<i2").tobytes())
                (directory / f"{split}.tsv").write_text("path\tsentence\n" + "a.wav\tek do teen\n" * 8)
    return {"directory": str(directory)}


def shrunk(recipe: Recipe, model: Path, options: dict[str, Any]) -> Recipe:
    def few(tune: TuneSettings | None) -> TuneSettings | None:
        few_steps = {"max_steps": 2, "batch_size": 4, "micro_batch_size": 2, "dtype": "float32"}
        return tune.model_copy(update=few_steps) if tune else None

    prune: dict[str, Any] = {"calibration_samples": 4}
    if recipe.prune.levels:
        prune["levels"] = recipe.prune.levels[::7]
    task = {"train_samples": 8, "test_samples": 2, "max_length": 120}
    return recipe.model_copy(
        update={
            "model": str(model),
            "task": recipe.task.model_copy(update={**task, "options": {**recipe.task.options, **options}}),
            "teacher": few(recipe.teacher),
            "tune": few(recipe.tune),
            "prune": recipe.prune.model_copy(update=prune),
            "compare": recipe.compare.model_copy(update=COMPARED),
            "quantize": recipe.quantize and recipe.quantize.model_copy(update={"calibration_samples": 4}),
        }
    )


# Of recipes that differ in the share of zeros alone, 50% stands for the others.
RUN = [path for path in PAPER if not path.stem.endswith(("-40", "-60", "-70", "-80"))]


@pytest.mark.parametrize("path", RUN, ids=lambda path: path.stem)
def test_it_runs_on_a_stand_in(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = load_recipe(path)
    family = next(name for name in ("mpt", "llama", "t5", "whisper") if path.stem.startswith(name))
    model = stand_in(family, tmp_path / "model", monkeypatch)
    small = shrunk(recipe, model, data(recipe.task.name, tmp_path / "data"))
    # One recipe a model goes on to int8 (the same for all), and the translation to the end.
    until = "quantize" if path.stem.endswith("-2of4") else "compare" if family == "t5" else "tune"
    run(small, output=tmp_path / "out", until=until, console=Console(quiet=True))
    last = f"sparse-{len(small.prune.levels)}" if small.prune.levels else "sparse"
    wanted = small.prune.levels[-1] if small.prune.levels else small.prune.sparsity
    for name, zeros in sparsity(load_model(tmp_path / "out" / last, torch.float32)).items():
        assert zeros == pytest.approx(wanted, abs=0.01), name
    assert (tmp_path / "out" / "sparse-quantized").exists() == (until == "quantize")
    if until == "compare":
        rows = json.loads((tmp_path / "out" / "results.json").read_text())["variants"]
        assert all(0 <= row["bleu"] <= 100 and row["decode_tokens_per_second"] > 0 for row in rows)
