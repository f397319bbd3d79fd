"""The trainer: the loss it minimises, the zeros it keeps, and that how a batch is split does not matter."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import TrainingArguments

from cutwork.errors import CutworkError
from cutwork.recipe import Losses
from cutwork.torch_models.data import StepSampler, collate
from cutwork.tune.masks import Masks
from cutwork.tune.trainer import SparseTrainer
from tests.torch_models.tiny import FAMILIES, cut, llama, opt, random_examples

ALL = Losses(ce=1.0, kl=0.5, squarehead=2.0, temperature=1.5)


def make(
    tmp_path: Path, model: Any, losses: Losses = ALL, *, count: int = 16, family: str = "llama", **options: Any
) -> SparseTrainer:
    teacher = FAMILIES[family](seed=1) if losses.needs_teacher else None
    own_optimizer = options.pop("own_optimizer", "")
    arguments = {
        "output_dir": str(tmp_path),
        "max_steps": 3,
        "learning_rate": 1e-2,
        "per_device_train_batch_size": 8,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": [],
        "disable_tqdm": True,
        "use_cpu": True,
        "remove_unused_columns": False,
        **options,
    }
    return SparseTrainer(
        model=model,
        args=TrainingArguments(**arguments),
        train_dataset=random_examples(count, family=family),
        losses=losses,
        teacher=teacher,
        bfloat16=False,
        keep_zeros=True,
        own_optimizer=own_optimizer,
    )


def reference_loss(student: Any, teacher: Any, examples: list[Any], losses: Losses) -> torch.Tensor:
    """The loss of one batch, sample by sample without padding, in the order of the paper's formulas."""
    ce = kl = torch.zeros(())
    labels = 0
    layers = student.config.num_hidden_layers
    distance, energy, elements = [torch.zeros(()) for _ in range(layers)], [torch.zeros(()) for _ in range(layers)], 0
    t = losses.temperature
    for example in examples:
        ids = torch.tensor([example["input_ids"]])
        ours = student(input_ids=ids, output_hidden_states=True)
        with torch.no_grad():
            theirs = teacher(input_ids=ids, output_hidden_states=True)
        for position in range(ids.shape[1] - 1):
            target = example["labels"][position + 1]
            if target == -100:
                continue
            labels += 1
            ce = ce - torch.log_softmax(ours.logits[0, position], -1)[target]
            p = torch.softmax(theirs.logits[0, position] / t, -1)
            q = torch.softmax(ours.logits[0, position] / t, -1)
            kl = kl + t * t * (p * (p.log() - q.log())).sum()
        elements += ids.numel() * student.config.hidden_size
        for i in range(layers):
            s, f = ours.hidden_states[i + 1], theirs.hidden_states[i + 1]
            distance[i] = distance[i] + (s - f).square().sum()
            energy[i] = energy[i] + f.square().sum()
    square = sum((d / elements) / (e / elements) for d, e in zip(distance, energy, strict=True))
    return losses.ce * ce / labels + losses.kl * kl / labels + losses.squarehead * square


@pytest.mark.parametrize("micro", [8, 1])
def test_loss_and_gradients_are_those_of_the_paper(tmp_path: Path, micro: int) -> None:
    model, teacher = llama(), llama(seed=1)
    trainer = make(
        tmp_path,
        model,
        count=8,
        max_steps=1,
        learning_rate=1.0,
        max_grad_norm=0,
        optim="sgd",
        lr_scheduler_type="constant",
        per_device_train_batch_size=micro,
        gradient_accumulation_steps=8 // micro,
    )
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    reference = llama()
    expected = reference_loss(reference, teacher, list(trainer.train_dataset), ALL)
    expected.backward()
    trainer.train()
    logged = trainer.state.log_history[0]
    assert logged["loss"] == pytest.approx(expected.item(), rel=1e-5)
    assert logged["ce"] + logged["kl"] + logged["squarehead"] == pytest.approx(expected.item(), rel=1e-5)
    for (name, parameter), other in zip(model.named_parameters(), reference.parameters(), strict=True):
        step = before[name] - parameter.detach()
        assert torch.allclose(step, other.grad, rtol=1e-3, atol=2e-6), name


@pytest.mark.parametrize("losses", [Losses(), ALL], ids=["ce", "all"])
@pytest.mark.parametrize("family", FAMILIES)
def test_one_batch_of_8_equals_8_accumulated(tmp_path: Path, family: str, losses: Losses) -> None:
    runs = []
    for micro in (8, 1):
        model = cut(FAMILIES[family]())
        trainer = make(
            tmp_path,
            model,
            losses,
            family=family,
            per_device_train_batch_size=micro,
            gradient_accumulation_steps=8 // micro,
            optim="sgd",
            max_grad_norm=0.5,
        )
        trainer.train()
        runs.append(([log for log in trainer.state.log_history if "loss" in log], model.state_dict()))
    (logs, weights), (other_logs, other_weights) = runs
    for log, other in zip(logs, other_logs, strict=True):
        assert log["loss"] == pytest.approx(other["loss"], rel=1e-5)
        assert log["grad_norm"] == pytest.approx(other["grad_norm"], rel=1e-4)
    for name in weights:
        assert torch.allclose(weights[name], other_weights[name], atol=1e-6), name


@pytest.mark.parametrize(
    "options",
    [
        {"optim": "adamw_torch", "weight_decay": 0.1},
        {"optim": "adamw_torch_fused", "weight_decay": 0.1},
        {"optim": "sgd", "optim_args": "momentum=0.9", "weight_decay": 0.1},
        {"optim": "adafactor"},
        {"optim": "rmsprop"},
        {"own_optimizer": "adam", "weight_decay": 0.1},
        {"own_optimizer": "muon", "weight_decay": 0.1},
    ],
    ids=lambda options: options.get("optim") or options["own_optimizer"],
)
def test_zeros_survive_optimisers_with_clipping(tmp_path: Path, options: dict[str, Any]) -> None:
    model = cut(llama(), 0.7)
    zeros = {name: parameter == 0 for name, parameter in model.named_parameters() if "layers." in name}
    start = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    trainer = make(tmp_path, model, max_steps=4, max_grad_norm=0.3, **options)
    trainer.train()
    trainer.masks.verify()
    for name, parameter in model.named_parameters():
        if name in zeros:
            assert (parameter[zeros[name]] == 0).all(), name
            if zeros[name].any():
                moved = parameter[~zeros[name]] != start[name][~zeros[name]]
                assert moved.float().mean() > 0.9, name


def test_zeros_survive_adam_with_l2(tmp_path: Path) -> None:
    model = cut(llama(), 0.7)
    zeros = {name: parameter == 0 for name, parameter in model.named_parameters() if "layers." in name}
    trainer = make(tmp_path, model, max_steps=4)
    trainer.optimizer = torch.optim.Adam(model.parameters(), lr=1e-2, weight_decay=0.1)
    trainer.train()
    assert all((parameter[zeros[name]] == 0).all() for name, parameter in model.named_parameters() if name in zeros)
    # The moments of pruned weights are clean, so nothing waits there to revive them.
    name, mask = next(iter(trainer.masks.live.items()))
    state = trainer.optimizer.state[model.get_parameter(f"{name}.weight")]
    assert not state["exp_avg"][~mask].any()


def test_muon_moves_matrices_by_orthogonal_updates_and_the_rest_by_adamw(tmp_path: Path) -> None:
    model = llama()
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    options = {"own_optimizer": "muon", "lr_scheduler_type": "constant", "learning_rate": 1e-2}
    make(tmp_path, model, Losses(), max_steps=1, **options).train()
    step = {name: before[name] - parameter.detach() for name, parameter in model.named_parameters()}
    matrix = step["model.layers.0.mlp.up_proj.weight"]
    singular = torch.linalg.svdvals(matrix) / (1e-2 * 0.2 * max(matrix.shape) ** 0.5)
    assert 0.6 < singular.min() <= singular.max() < 1.3
    assert step["model.norm.weight"].abs().max() == pytest.approx(1e-2, rel=1e-3)  # the first step of Adam


def test_an_optimiser_that_moves_weights_without_gradients_is_undone(tmp_path: Path) -> None:
    class Restless(torch.optim.SGD):
        def step(self, closure: Any = None) -> Any:
            super().step(closure)
            for group in self.param_groups:
                for parameter in group["params"]:
                    parameter.data += 1e-3

    model = cut(llama(), 0.7)
    trainer = make(tmp_path, model)
    trainer.optimizer_cls_and_kwargs = (Restless, {"lr": 1e-3})
    torch.optim.SGD([torch.zeros(1)])  # once there is one, torch calls Restless's hooks after SGD's step too
    masks = Masks(model)
    trainer.train()
    masks.verify()


def test_the_norm_that_is_clipped_is_that_of_live_weights(tmp_path: Path) -> None:
    model = cut(llama(), 0.8)
    trainer = make(tmp_path, model, max_steps=1, count=8)
    reference, masks = cut(llama(), 0.8), None
    reference.load_state_dict(model.state_dict())
    masks = Masks(reference)
    reference_loss(reference, llama(seed=1), list(trainer.train_dataset), ALL).backward()
    dense = torch.nn.utils.get_total_norm([p.grad for p in reference.parameters()]).item()
    masks.mask_gradients()
    live = torch.nn.utils.get_total_norm([p.grad for p in reference.parameters()]).item()
    trainer.train()
    assert trainer.state.log_history[0]["grad_norm"] == pytest.approx(live, rel=1e-4)
    assert live < 0.99 * dense


def test_keep_zeros_off_trains_everything(tmp_path: Path) -> None:
    model = cut(llama())
    trainer = make(tmp_path, model, Losses())
    trainer.keep_zeros = False
    trainer.train()
    assert all(parameter.count_nonzero() > 0.99 * parameter.numel() for parameter in model.parameters())


def test_a_learned_positions_family_trains_too(tmp_path: Path) -> None:
    model = cut(opt())
    trainer = make(tmp_path, model, Losses(), max_steps=8)
    trainer.train()
    losses = [log["loss"] for log in trainer.state.log_history if "loss" in log]
    assert losses[-1] < losses[0]
    trainer.masks.verify()


def test_padding_changes_nothing(tmp_path: Path) -> None:
    """A batch in which one long sample pads all others has the loss of the samples one by one (also in OPT)."""
    examples = [*random_examples(3), random_examples(1, seed=5)[0]]
    examples[0]["input_ids"] += [7] * 30
    examples[0]["labels"] += [-100] * 30
    for model in (llama(), opt()):
        trainer = make(tmp_path, model, Losses())
        together = trainer.get_batch_samples(iter([collate(examples)]), 1, torch.device("cpu"))
        apart = trainer.get_batch_samples(iter([collate([e]) for e in examples]), 4, torch.device("cpu"))
        losses = [
            sum(trainer.compute_loss(model.eval(), batch, num_items_in_batch=totals).item() for batch in batches)
            for batches, totals in (together, apart)
        ]
        assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_a_teacher_is_needed_for_its_losses(tmp_path: Path) -> None:
    with pytest.raises(CutworkError, match="give the dense model as --teacher"):
        SparseTrainer(
            model=llama(),
            args=TrainingArguments(output_dir=str(tmp_path), report_to=[], use_cpu=True),
            losses=Losses(kl=1.0),
            teacher=None,
            bfloat16=False,
            keep_zeros=True,
        )


def test_a_nan_stops_before_it_reaches_the_weights(tmp_path: Path) -> None:
    model = llama()
    trainer = make(tmp_path, model, Losses(), learning_rate=1e30, max_steps=20, lr_scheduler_type="constant")
    with pytest.raises(CutworkError, match=r"became (nan|inf|-inf) at step \d+, .*lower learning_rate \(now 1e\+30\)"):
        trainer.train()


def test_an_infinite_weight_is_of_the_step_that_is_saved(tmp_path: Path) -> None:
    trainer = make(tmp_path, llama(), Losses(), max_steps=2, save_strategy="steps", save_steps=1)
    after, weight = trainer._after_optimizer, next(trainer.model.parameters())

    def spoil() -> None:
        after()
        if trainer.state.global_step == 1:
            weight.data.fill_(math.inf)

    trainer._after_optimizer = spoil
    with pytest.raises(CutworkError, match=r"became inf at step 2, .*the last good checkpoint is .*checkpoint-1$"):
        trainer.train()


def test_steps_are_random_and_their_micro_batches_are_sorted() -> None:
    lengths = [(37 * i) % 101 for i in range(100)]
    sampler = StepSampler(lengths, 20, seed=3)
    first = list(sampler)
    assert sorted(first) == list(range(100))
    for start in range(0, 100, 20):
        step = [lengths[i] for i in first[start : start + 20]]
        assert step == sorted(step, reverse=True)
    sampler.set_epoch(1)
    assert list(sampler) != first
    again = StepSampler(lengths, 20, seed=3)
    again.set_epoch(1)
    assert list(again) == list(sampler)
