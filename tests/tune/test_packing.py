"""Samples packed into one row: the same losses and weights as with padding, whatever terms are trained for."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import TrainingArguments

from cutwork.errors import CutworkError
from cutwork.recipe import Losses, TuneSettings
from cutwork.tasks.rendering import IGNORED
from cutwork.torch_models.packing import check_packing, collate_packed
from cutwork.tune.student_and_teacher import store_as
from cutwork.tune.trainer import SparseTrainer
from cutwork.tune.tune import tune
from tests.tiny_checkpoint import write_tiny_checkpoint
from tests.torch_models.tiny import FAMILIES, cut, llama, random_examples, sums


def trained(tmp_path: Path, losses: Losses, packing: bool) -> tuple[list[dict[str, Any]], dict[str, torch.Tensor], int]:
    """What was logged, the weights, and the tokens that were computed."""
    trainer = SparseTrainer(
        model=cut(llama()),
        args=TrainingArguments(
            output_dir=str(tmp_path),
            max_steps=3,
            learning_rate=1e-2,
            per_device_train_batch_size=4,
            gradient_accumulation_steps=2,
            logging_steps=1,
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
            use_cpu=True,
            remove_unused_columns=False,
        ),
        train_dataset=random_examples(16),
        losses=losses,
        teacher=llama(seed=1) if losses.needs_teacher else None,
        bfloat16=False,
        keep_zeros=True,
        packing=packing,
    )
    trainer.train()
    assert trainer.masks
    trainer.masks.verify()
    return trainer.state.log_history, dict(trainer.model.state_dict()), trainer.tokens


@pytest.mark.parametrize("losses", [Losses(), Losses(ce=1.0, kl=0.5, squarehead=2.0, temperature=1.5)])
def test_it_trains_the_same(losses: Losses, tmp_path: Path) -> None:
    padded_logs, padded, computed = trained(tmp_path / "padded", losses, packing=False)
    packed_logs, packed, fewer = trained(tmp_path / "packed", losses, packing=True)
    for one, other in zip(padded_logs[:3], packed_logs[:3], strict=True):
        for term in ("loss", "ce", "kl", "squarehead", "grad_norm"):
            assert one.get(term, 0.0) == pytest.approx(other.get(term, 0.0), rel=1e-4)
    for name, weight in padded.items():
        assert torch.allclose(weight, packed[name], atol=2e-4), name
    assert fewer < computed  # no padding


def test_a_row_holds_samples_that_begin_anew() -> None:
    examples = [{"input_ids": [5, 6, 7], "labels": [5, 6, 7]}, {"input_ids": [8, 9], "labels": [IGNORED, 9]}]
    batch = {key: value.tolist() for key, value in collate_packed(examples).items()}
    assert batch == {
        "input_ids": [[5, 6, 7, 8, 9]],
        "labels": [[IGNORED, 6, 7, IGNORED, 9]],
        "attention_mask": [[1, 1, 1, 1, 1]],
        "position_ids": [[0, 1, 2, 0, 1]],
    }


def test_models_that_cannot_are_refused() -> None:
    for family in ("llama", "gpt2"):
        check_packing(FAMILIES[family]())
    small = FAMILIES["llama"]()
    store_as(small, "bfloat16")
    check_packing(small)
    with pytest.raises(CutworkError, match="lets samples in one row see each other; leave out packing"):
        check_packing(FAMILIES["mpt"]())
    with pytest.raises(CutworkError, match="packing is for models without an encoder"):
        check_packing(FAMILIES["t5"]())


def test_the_stage_packs_and_validates(tmp_path: Path) -> None:
    model = write_tiny_checkpoint(tmp_path / "model")
    settings = TuneSettings(max_steps=2, batch_size=4, micro_batch_size=4, dtype="float32")
    found = {}
    for packing in (False, True):
        chosen = settings.model_copy(update={"packing": packing})
        output = tmp_path / f"packing-{packing}"
        report = tune(model, output, chosen, sums(12), validation=sums(4, seed=1), max_length=256)
        found[packing] = report["validation"]["loss"], report["final"]["loss"]
    assert found[True] == pytest.approx(found[False], rel=1e-4)
    assert "packing" not in TuneSettings().model_dump()  # runs begun before go on
