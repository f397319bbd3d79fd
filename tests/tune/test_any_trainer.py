"""`keep_zeros` in trainers that are not ours: no zero is lost, and what is trained still learns."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    DataCollatorForLanguageModeling,
    PreTrainedTokenizerFast,
    Trainer,
    TrainingArguments,
)

from cutwork.errors import CutworkError
from cutwork.tune import keep_zeros
from cutwork.tune.masks import LostZerosError, sparsity
from tests.tasks.letters import CHATML
from tests.tiny_checkpoint import write_tiny_checkpoint
from tests.torch_models.tiny import cut, llama, sums

STEPS = 12
# Weight decay and momentum move weights that have no gradient.
COMMON: dict[str, Any] = {
    "max_steps": STEPS,
    "per_device_train_batch_size": 4,
    "gradient_accumulation_steps": 2,
    "learning_rate": 3e-3,
    "weight_decay": 0.1,
    "logging_steps": 1,
    "save_strategy": "no",
    "report_to": [],
    "disable_tqdm": True,
    "use_cpu": True,
    "seed": 0,
}


@pytest.fixture(scope="module")
def sparse(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = write_tiny_checkpoint(tmp_path_factory.mktemp("models") / "sparse")
    torch.manual_seed(0)
    cut(AutoModelForCausalLM.from_pretrained(directory), 0.6).save_pretrained(directory)
    return directory


@pytest.fixture(scope="module")
def tokenizer(sparse: Path) -> PreTrainedTokenizerFast:
    found = AutoTokenizer.from_pretrained(sparse)
    found.chat_template = CHATML
    return found


def plain(model: nn.Module | Callable[[], nn.Module], output: Path, tokenizer: Any, **options: Any) -> Trainer:
    texts = [{"input_ids": tokenizer(f"{s.prompt} {s.answer}")["input_ids"]} for s in sums(40)]
    return Trainer(
        **{"model" if isinstance(model, nn.Module) else "model_init": model},
        args=TrainingArguments(**{**COMMON, "output_dir": str(output), **options}),
        train_dataset=Dataset.from_list(texts),
        data_collator=DataCollatorForLanguageModeling(tokenizer, mlm=False),
    )


def lost(before: dict[str, torch.Tensor], model: nn.Module) -> int:
    """Weights that were zero and are none any more."""
    return sum(
        int(((weight == 0) & (model.get_parameter(name) != 0)).sum())
        for name, weight in before.items()
        if "proj" in name
    )


def losses(trainer: Trainer) -> list[float]:
    return [line["loss"] for line in trainer.state.log_history if "loss" in line]


def learns(trainer: Trainer) -> None:
    """Train, lose no zero, and end with a lower loss than at the start."""
    before = {name: weight.detach().clone() for name, weight in trainer.model.named_parameters()}
    keep_zeros(trainer)
    trainer.train()
    assert lost(before, trainer.model) == 0
    assert all(0.5 < zeros < 0.7 for zeros in sparsity(trainer.model).values())
    found = losses(trainer)
    assert len(found) == STEPS
    assert sum(found[-3:]) < 0.95 * sum(found[:3])


@pytest.mark.parametrize("optimizer", ["adamw_torch", "adafactor"])
def test_a_plain_trainer(sparse: Path, tokenizer: Any, tmp_path: Path, optimizer: str) -> None:
    learns(plain(AutoModelForCausalLM.from_pretrained(sparse), tmp_path, tokenizer, optim=optimizer))


def test_without_it_zeros_are_lost(sparse: Path, tokenizer: Any, tmp_path: Path) -> None:
    trainer = plain(AutoModelForCausalLM.from_pretrained(sparse), tmp_path, tokenizer)
    before = {name: weight.detach().clone() for name, weight in trainer.model.named_parameters()}
    trainer.train()
    assert lost(before, trainer.model) > 10_000


def test_the_norm_that_is_clipped_is_that_of_what_is_trained(sparse: Path, tokenizer: Any, tmp_path: Path) -> None:
    norms = []
    for keep in (True, False):
        trainer = plain(AutoModelForCausalLM.from_pretrained(sparse), tmp_path, tokenizer, max_steps=1)
        if keep:
            keep_zeros(trainer)
        trainer.train()
        norms.append(trainer.state.log_history[0]["grad_norm"])
    assert norms[0] < 0.95 * norms[1]


def test_a_resumed_run_ends_as_the_uninterrupted_one(sparse: Path, tokenizer: Any, tmp_path: Path) -> None:
    ends = []
    options = {"save_strategy": "steps", "save_steps": STEPS // 2}
    for resume in (False, True):
        model = AutoModelForCausalLM.from_pretrained(sparse)
        trainer = plain(model, tmp_path, tokenizer, **options)
        keep_zeros(trainer)
        trainer.train(resume_from_checkpoint=str(tmp_path / f"checkpoint-{STEPS // 2}") if resume else None)
        ends.append(model.state_dict())
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])


def test_a_model_made_when_training_begins_is_masked_too(sparse: Path, tokenizer: Any, tmp_path: Path) -> None:
    trainer = plain(lambda: AutoModelForCausalLM.from_pretrained(sparse), tmp_path, tokenizer, max_steps=2)
    keep_zeros(trainer)
    first, zeros = trainer.model, sparsity(trainer.model)
    trainer.train()
    assert trainer.model is not first
    assert sparsity(trainer.model) == zeros


def test_a_weight_that_comes_back_is_an_error(sparse: Path, tokenizer: Any, tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(sparse)
    trainer = plain(model, tmp_path, tokenizer, max_steps=1)
    keep_zeros(trainer)
    with torch.no_grad():
        model.model.layers[0].self_attn.q_proj.weight.fill_(1)
    with pytest.raises(LostZerosError, match="q_proj are no longer zero"):
        trainer.train()


def test_what_cannot_be_kept_is_refused(sparse: Path, tokenizer: Any, tmp_path: Path) -> None:
    with pytest.raises(CutworkError, match="no zeros to keep"):
        keep_zeros(plain(llama(), tmp_path, tokenizer))
    trainer = plain(AutoModelForCausalLM.from_pretrained(sparse), tmp_path, tokenizer)
    trainer.model.peft_config = {}
    with pytest.raises(CutworkError, match="adapters of PEFT"):
        keep_zeros(trainer)


def sft(trl: Any, model: Any, output: Path, tokenizer: Any) -> Trainer:
    turns = [
        {"messages": [{"role": "user", "content": s.prompt}, {"role": "assistant", "content": s.answer}]}
        for s in sums(40)
    ]
    args = trl.SFTConfig(**COMMON, output_dir=str(output), max_length=96, assistant_only_loss=True, bf16=False)
    return trl.SFTTrainer(model, args=args, train_dataset=Dataset.from_list(turns), processing_class=tokenizer)


def dpo(trl: Any, model: Any, output: Path, tokenizer: Any) -> Trainer:
    pairs = [{"prompt": s.prompt, "chosen": s.answer, "rejected": "no"} for s in sums(40)]
    args = trl.DPOConfig(**COMMON, output_dir=str(output), max_length=96, bf16=False)
    return trl.DPOTrainer(model, args=args, train_dataset=Dataset.from_list(pairs), processing_class=tokenizer)


def kto(trl: Any, model: Any, output: Path, tokenizer: Any) -> Trainer:
    judged = [{"prompt": s.prompt, "completion": t, "label": t != "no"} for s in sums(20) for t in (s.answer, "no")]
    args = trl.KTOConfig(**COMMON, output_dir=str(output), max_length=96, bf16=False)
    return trl.KTOTrainer(model, args=args, train_dataset=Dataset.from_list(judged), processing_class=tokenizer)


@pytest.mark.parametrize("make", [sft, dpo, kto])
def test_trainers_of_trl(make: Callable[..., Trainer], sparse: Path, tokenizer: Any, tmp_path: Path) -> None:
    trl = pytest.importorskip("trl")
    learns(make(trl, AutoModelForCausalLM.from_pretrained(sparse), tmp_path, tokenizer))


def test_grpo_writes_its_own_data(sparse: Path, tokenizer: Any, tmp_path: Path) -> None:
    trl = pytest.importorskip("trl")
    args = trl.GRPOConfig(
        **{**COMMON, "max_steps": 2, "gradient_accumulation_steps": 1},
        output_dir=str(tmp_path),
        num_generations=4,
        max_completion_length=6,
        bf16=False,
    )
    model = AutoModelForCausalLM.from_pretrained(sparse)
    trainer = trl.GRPOTrainer(
        model,
        reward_funcs=lambda completions, **_: [float(len(set(text))) for text in completions],
        args=args,
        train_dataset=Dataset.from_list([{"prompt": s.prompt} for s in sums(8)]),
        processing_class=tokenizer,
    )
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    keep_zeros(trainer)
    trainer.train()
    assert lost(before, model) == 0
    assert any(not torch.equal(before[name], weight) for name, weight in model.named_parameters())
