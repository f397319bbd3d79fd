"""Every recipe of the paper, run on a tiny model of its family: smaller model, data and steps, the same structure."""

import json
import re
import wave
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from transformers import AutoTokenizer, MptConfig, MptForCausalLM, WhisperConfig, WhisperFeatureExtractor
from transformers import WhisperForConditionalGeneration as Whisper

from cutwork.recipe import Recipe, TuneSettings
from cutwork.recipe_file import load_recipe
from cutwork.run.run import run
from cutwork.torch_models.load import load_model
from cutwork.tune.masks import sparsity
from tests.tiny_checkpoint import write_tiny_checkpoint
from tests.torch_models.tiny import t5, whisper

RECIPES = sorted((Path(__file__).parents[1] / "recipes").glob("*.yaml"))
OWN = ("demo", "smollm2-", "whisper-tiny.en-", "whisper-base-")  # not rows of the paper
PAPER = [path for path in RECIPES if not path.stem.startswith(OWN)]
# Epochs and learning rate of the sparse fine-tuning on GSM8K.
PUBLISHED = {
    "40%": (2, 3e-5), "50%": (2, 3e-5), "60%": (2, 1e-4), "70%": (4, 8e-5), "80%": (4, 1e-4),
    "2:4": (4, 1e-4), "16:32": (4, 1e-4), "16:64": (4, 1e-4),
}  # fmt: skip
# github.com/IST-DASLab/TACO4NLP, scripts/run_train.sh and run_gradual_pruning_squarehead_kd.sh of each task: steps,
# learning rate, batch, weight decay and warm-up of the teacher, and but for the steps those of a level.
PUBLISHED_BY_CODE = {
    "t5-small-wmt14": ((100_000, 2e-3, 128, 1e-4, 1000), (2e-3, 128, 1e-4, 300)),
    "whisper-small-hindi": ((5000, 1e-5, 32, 1e-4, 100), (2e-4, 32, 1e-4, 50)),
}
COMPARED = {"max_new_tokens": 8, "num_beams": 2, "prompt_tokens": 8, "decode_tokens": 2, "repeats": 1, "threads": 1}
QUESTIONS = [{"question": f"What is {i} and 2?", "answer": f"{i} + 2 = {i + 2}\n#### {i + 2}"} for i in range(8)]


def rows(path: Path) -> list[tuple[str, list[str]]]:
    """The rows of the paper that a recipe is for: itself and, with the options that its comment gives, others."""
    if "gsm8k" not in path.stem:
        return [("levels", [])]
    others = re.findall(r"^#   (\S+) +((?:--set \S+ ?)+)$", path.read_text(), re.MULTILINE)
    return [("50%", []), *((name, options.replace("--set ", "").split()) for name, options in others)]


ROWS = [(path, row, changes) for path in PAPER for row, changes in rows(path)]
every_row = pytest.mark.parametrize(
    ("path", "row", "changes"), ROWS, ids=[f"{path.stem}-{row}" for path, row, _ in ROWS]
)


def test_there_is_a_recipe_for_every_row() -> None:
    assert {path.stem for path in PAPER} == {"mpt-7b-gsm8k", "llama2-7b-gsm8k", "t5-small-wmt14", "whisper-small-hindi"}
    for path in PAPER:
        assert {row for row, _ in rows(path)} == ({*PUBLISHED} if "gsm8k" in path.stem else {"levels"})


@every_row
def test_settings_are_the_published_ones(path: Path, row: str, changes: list[str]) -> None:
    recipe = load_recipe(path, changes)
    tune, losses = recipe.tune, recipe.tune.losses
    assert recipe.prune.method == "sparsegpt"
    assert tune.schedule == "linear" and losses.squarehead == 1 and losses.kl == 0
    if "gsm8k" in path.stem:
        assert (tune.epochs, tune.learning_rate) == PUBLISHED[row]
        assert (tune.batch_size, tune.warmup_steps, tune.weight_decay, losses.ce) == (32, 20, 0, 1)
        assert (tune.max_grad_norm == 0) == path.stem.startswith("mpt")
        n, m = map(int, row.split(":")) if ":" in row else (100 - int(row[:-1]), 100)
        assert recipe.prune.sparsity == pytest.approx(1 - n / m)
        assert recipe.prune.pattern == (row if ":" in row else "unstructured")
        assert recipe.quantize and recipe.quantize.smoothing == 0.5
        assert ("*.down_proj" in recipe.quantize.ignore) == path.stem.startswith("llama")
        return
    assert recipe.prune.levels == (0.5, 0.67, 0.75, 0.8, 0.83, 0.86, 0.88, 0.9)
    assert recipe.prune.calibration_samples == 512
    assert recipe.teacher and tune.max_grad_norm == recipe.teacher.max_grad_norm == 0
    assert (tune.epochs, losses.ce) == ((6, 0.5) if path.stem.startswith("whisper") else (3, 1.0))
    teacher, level = PUBLISHED_BY_CODE[path.stem]
    assert (recipe.teacher.max_steps, *_optimisation(recipe.teacher)) == teacher
    assert _optimisation(tune) == level


def _optimisation(tune: TuneSettings) -> tuple[float, ...]:
    return tune.learning_rate, tune.batch_size, tune.weight_decay, tune.warmup_steps


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
                (directory / f"{split}.jsonl").write_text("\n".join(map(json.dumps, QUESTIONS)))
            case "wmt14-en-de":
                for side in ("en", "de"):
                    (directory / f"{split}.{side}").write_text("\n".join(f"{side} {i}" for i in range(8)))
            case "common_voice":
                pytest.importorskip("soundfile")
                with wave.open(str(directory / "a.wav"), "wb") as file:
                    file.setparams((1, 2, 16000, 0, "NONE", ""))
                    file.writeframes((np.sin(np.arange(8000) * 0.1) * 2000).astype("<i2").tobytes())
                (directory / f"{split}.tsv").write_text("path\tsentence\n" + f"a.wav\tek do {split}\n" * 8)
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


# Of rows that differ in the share of zeros alone, 50% stands for the others.
RUN = [(path, row, changes) for path, row, changes in ROWS if row not in ("40%", "60%", "70%", "80%")]


@pytest.mark.parametrize(("path", "row", "changes"), RUN, ids=[f"{path.stem}-{row}" for path, row, _ in RUN])
def test_it_runs_on_a_stand_in(
    path: Path, row: str, changes: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = load_recipe(path, changes)
    family = next(name for name in ("mpt", "llama", "t5", "whisper") if path.stem.startswith(name))
    model = stand_in(family, tmp_path / "model", monkeypatch)
    small = shrunk(recipe, model, data(recipe.task.name, tmp_path / "data"))
    # One recipe a model goes on to int8 (the same for all), and the translation to the end.
    until = "quantize" if row == "2:4" else "compare" if family == "t5" else "tune"
    run(small, output=tmp_path / "out", until=until, console=Console(quiet=True))
    last = f"sparse-{len(small.prune.levels)}" if small.prune.levels else "sparse"
    wanted = small.prune.levels[-1] if small.prune.levels else small.prune.sparsity
    for name, zeros in sparsity(load_model(tmp_path / "out" / last, torch.float32)).items():
        assert zeros == pytest.approx(wanted, abs=0.01), name
    assert (tmp_path / "out" / "sparse-quantized").exists() == (until == "quantize")
    if until == "compare":
        rows = json.loads((tmp_path / "out" / "results.json").read_text())["variants"]
        assert all(0 <= row["bleu"] <= 100 and row["decode_tokens_per_second"] > 0 for row in rows)
