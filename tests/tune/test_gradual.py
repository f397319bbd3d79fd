"""Zeros that grow while a model is trained."""

import json
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from rich.console import Console
from transformers import LlamaConfig, LlamaForCausalLM

from cutwork.errors import CutworkError
from cutwork.recipe import Gradual, Losses, Pruner, TuneSettings
from cutwork.torch_models.blocks import block_linears, out_in
from cutwork.torch_models.data import collate
from cutwork.tune.gradual import Schedule, _due, cubic, prune_further, schedule_of
from cutwork.tune.masks import Masks
from cutwork.tune.tune import tune
from tests.tiny_checkpoint import write_tiny_checkpoint
from tests.torch_models.tiny import FAMILIES, mixture, random_examples, sums, weights

QUIET = Console(quiet=True)
STEPS = TuneSettings(max_steps=12, batch_size=4, micro_batch_size=2, warmup_steps=0, learning_rate=2e-3, save_every=5)


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_checkpoint(tmp_path_factory.mktemp("models") / "dense")


def log(directory: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (directory / "tune-log.jsonl").read_text().splitlines()]


def test_the_schedule_is_cubic() -> None:
    settings = Gradual(sparsity=0.8, begin=0.1, end=0.6, every=10)
    rates = [cubic(step, 100, 0.2, settings) for step in range(10, 61, 10)]
    assert rates == sorted(rates)
    assert rates[-1] == pytest.approx(0.8)
    assert rates[0] == pytest.approx(0.8 - 0.6 * (5 / 6) ** 3)
    assert cubic(99, 100, 0.2, settings) == 0.8


@pytest.mark.parametrize(("begin", "end", "every"), [(0.0, 1.0, 20), (0.0, 1.0, 100), (0.9, 1.0, 20), (1.0, 1.0, 3)])
def test_a_schedule_to_the_end_prunes_all_it_should(begin: float, end: float, every: int) -> None:
    settings = Gradual(sparsity=0.75, begin=begin, end=end, every=every)
    for steps in (1, 30, 200):
        due = [step for step in range(steps) if _due(step, steps, settings)]
        assert cubic(due[-1], steps, 0.0, settings) == 0.75


def test_a_schedule_that_ends_before_it_begins_is_refused() -> None:
    with pytest.raises(ValueError, match=r"begin \(0.8\) comes after end \(0.7\)"):
        Gradual(sparsity=0.75, begin=0.8)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("method", get_args(Pruner))
def test_each_level_holds_the_zeros_of_the_one_before(family: str, method: str) -> None:
    model = FAMILIES[family]()
    batches = [collate(random_examples(4, family=family))]
    settings = Gradual.model_validate({"sparsity": 0.8, "method": method})
    masks = Masks(model)
    for sparsity in (0.3, 0.5, 0.8):
        before = {name: live.clone() for name, live in masks.live.items()}
        masks = prune_further(model, masks, batches, sparsity, settings)
        assert set(masks.live) == set(block_linears(model))
        assert masks.sparsity == pytest.approx(sparsity, abs=1e-3)
        masks.verify()
        for name, live in before.items():
            assert not (masks.live[name] & ~live).any()
        for linear in block_linears(model).values():  # as training would
            out_in(linear).add_(0.01)
        masks.mask_weights()
    assert model.training


@pytest.mark.parametrize("method", ["magnitude", "sparsegpt"])
def test_a_gradual_run_ends_at_its_sparsity_and_resumes_bit_for_bit(
    method: str, dense: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = {} if method == "magnitude" else {"calibration_samples": 4}
    gradual = Gradual.model_validate({"sparsity": 0.7, "method": method, "every": 3, **looks})
    settings = STEPS.model_copy(update={"gradual": gradual})
    report = tune(dense, tmp_path / "whole", settings, sums(40), console=QUIET)
    assert list(report["sparsity"].values()) == pytest.approx([0.7] * len(report["sparsity"]), abs=1e-3)
    rates = [entry["sparsity"] for entry in log(tmp_path / "whole")]
    assert rates == sorted(rates)
    assert 0 < rates[0] < rates[3] < rates[-1]
    assert rates[-1] == pytest.approx(0.7, abs=1e-3)

    real, calls = Schedule.before_step, []

    def interrupted(self: Schedule, *args: Any) -> Masks:
        calls.append(args[2])
        if len(calls) == 8:
            raise KeyboardInterrupt
        return real(self, *args)

    monkeypatch.setattr(Schedule, "before_step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        tune(dense, tmp_path / "cut", settings, sums(40), console=QUIET)
    tune(dense, tmp_path / "cut", settings, sums(40), console=QUIET)
    assert calls[8] == 5
    expected = weights(tmp_path / "whole")
    assert all(torch.equal(weight, expected[name]) for name, weight in weights(tmp_path / "cut").items())


def test_settings_that_cannot_be_are_one_sentence(dense: Path, tmp_path: Path) -> None:
    growing = STEPS.model_copy(update={"gradual": Gradual(sparsity=0.5)})
    with pytest.raises(CutworkError, match="as mixtures of experts do"):
        schedule_of(growing, mixture(), None, sums(9), 64, "drop", False)
    blocks = STEPS.model_copy(update={"gradual": Gradual(sparsity=0.5, method="magnitude", pattern="1x4")})
    odd = LlamaForCausalLM(LlamaConfig(vocab_size=50, hidden_size=32, intermediate_size=54, num_hidden_layers=1,
                                       num_attention_heads=4))  # fmt: skip
    with pytest.raises(CutworkError, match=r"pattern 1x4 does not fit model\.layers\.0\.mlp\.down_proj of 32×54"):
        schedule_of(blocks, odd, None, (), 64, "drop", False)
    assert "gradual" not in TuneSettings(losses=Losses()).model_dump(mode="json")
