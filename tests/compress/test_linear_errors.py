"""What candidates cost, by errors and influences, against what they do cost."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, cast

import numpy as np
import pytest
import torch
from rich.console import Console
from torch import Tensor, nn

from cutwork.compress.candidates import CANDIDATES, DENSE, parse
from cutwork.compress.corrections import PRUNED, ROUNDED, _of, corrected, made, with_weights
from cutwork.compress.linear_errors import Cost, LinearErrors, _Judge, linear_errors
from cutwork.compress.sensitivity import Damage, divergences, influences, of_rounded_head
from cutwork.prune.alps import alps
from cutwork.prune.calibrate import calibration_batches, walk
from cutwork.prune.input_statistics import Hessian
from cutwork.prune.pruners import Prune
from cutwork.prune.sparsegpt import sparsegpt
from cutwork.quantize.qat import round_activations
from cutwork.quantize.rtn import rtn
from cutwork.store.block_names import place
from cutwork.torch_models.blocks import block_linears, out_in
from cutwork.torch_models.data import Examples, collate
from tests.torch_models.tiny import FAMILIES, llama, random_examples

SILENT = Console(quiet=True)


def batches_of(count: int, family: str = "llama") -> list[dict[str, Tensor]]:
    return calibration_batches(cast(Examples, random_examples(count, family=family)))


def judging(count: int, family: str = "llama") -> list[dict[str, Tensor]]:
    return [collate([example]) for example in random_examples(count, seed=1, family=family)]


def errors_of(model: Any, prune: Prune = sparsegpt, family: str = "llama") -> dict[str, LinearErrors]:
    others = judging(24, family)
    told = influences(model, others, SILENT)
    return linear_errors(model, batches_of(24, family), others, told, SILENT, prune=prune)


def kl_of(found: dict[str, LinearErrors]) -> dict[str, dict[str, float]]:
    as_predicted = Cost(1, 1, 1)
    return {
        name: {label: cost.times(as_predicted) for label, cost in linear.costs.items()}
        for name, linear in found.items()
    }


@pytest.fixture(scope="module")
def errors() -> dict[str, dict[str, float]]:
    return kl_of(errors_of(llama()))


def test_every_linear_has_an_error_for_every_candidate_that_fits_it(errors: dict[str, dict[str, float]]) -> None:
    assert set(errors) == set(block_linears(llama()))
    for name, own in errors.items():
        rows, columns = llama().get_submodule(name).weight.shape
        assert set(own) == {c.label for c in CANDIDATES if c.fits(rows, columns)}


def test_more_zeros_and_fewer_bits_cost_more(errors: dict[str, dict[str, float]]) -> None:
    assert all(own["dense bf16"] == 0 < own["50 bf16"] and own["dense w8a8"] > 0 for own in errors.values())
    cost = {label: sum(own[label] for own in errors.values()) for label in next(iter(errors.values()))}
    rising = [cost[label] for label in ("50 bf16", "60 bf16", "70 bf16", "80 bf16")]
    assert rising == sorted(rising)
    assert cost["dense w8a8"] < cost["dense w4a16"] < cost["80 w4a16"]
    assert cost["8:16 bf16"] < cost["4:16 bf16"] < cost["4:16 w4a16"]


def test_what_a_better_pruner_leaves_costs_less(errors: dict[str, dict[str, float]]) -> None:
    found = kl_of(errors_of(llama(), alps))
    ratios = [kl["4:16 bf16"] / errors[name]["4:16 bf16"] for name, kl in found.items()]
    assert np.median(ratios) < 0.95
    assert all(kl["dense w8a8"] == errors[name]["dense w8a8"] for name, kl in found.items())


def test_the_model_stays_as_it_is() -> None:
    model = llama()
    model.get_input_embeddings().weight.requires_grad_(False)
    before = {name: (weight.clone(), weight.requires_grad) for name, weight in model.named_parameters()}
    corrected(model, errors_of(model), batches_of(4), judging(2), SILENT, prune=sparsegpt)
    head_of(model, judging(2))
    for name, weight in model.named_parameters():
        assert torch.equal(weight, before[name][0]) and weight.requires_grad == before[name][1] and weight.grad is None


@pytest.mark.parametrize("family", ["gpt2", "mpt"])
def test_other_families(family: str) -> None:
    model = FAMILIES[family]()
    found = corrected(
        model, errors_of(model, family=family), batches_of(4, family), judging(2, family), SILENT, prune=sparsegpt
    )
    assert set(found) == set(block_linears(model))
    assert all(kl["60 bf16"] > 0 for kl in found.values())
    head = head_of(model, judging(2, family), family)
    assert 0 < head["w8a8"] < head["w4a16"]


def head_of(model: Any, batches: Any, family: str = "llama") -> dict[Any, float]:
    return of_rounded_head(model, batches_of(64, family), batches, SILENT, group_size=32, damping=0.01)


def test_a_head_by_gptq_costs_less_than_a_rounded_one(monkeypatch: pytest.MonkeyPatch) -> None:
    model = llama()
    ours = head_of(model, judging(24))
    monkeypatch.setattr("cutwork.compress.sensitivity.gptq", lambda weight, _, grid: rtn(weight, grid))
    rounded = head_of(model, judging(24))
    assert ours["w8a8"] == rounded["w8a8"] and ours["w4a16"] < rounded["w4a16"]


def loud_model() -> Any:
    model = llama(seed=1)
    with torch.no_grad():
        for linear in block_linears(model).values():
            linear.weight.mul_(4)  # so that the blocks say something
    return model


def changed(linear: nn.Module, change: Tensor) -> Damage:
    @contextmanager
    def damage() -> Iterator[None]:
        weight = out_in(linear)
        weight += change
        try:
            yield
        finally:
            weight -= change

    return damage


def with_rounded_inputs(linear: nn.Module) -> Damage:
    @contextmanager
    def damage() -> Iterator[None]:
        hook = linear.register_forward_pre_hook(round_activations)
        try:
            yield
        finally:
            hook.remove()

    return damage


def agree(predicted: dict[str, float], measured: dict[str, float], most: float) -> None:
    """What costs something does so as predicted, on the whole and up to a factor; the least are lost in float32."""
    told = {name: kl for name, kl in measured.items() if kl > 0.02 * max(measured.values())}
    ratios = np.array([kl / predicted[name] for name, kl in told.items()])
    assert len(ratios) > len(measured) / 3
    assert most**-0.5 < np.median(ratios) < most**0.5
    assert 1 / most < ratios.min() and ratios.max() < most


def test_changes_of_weights_cost_what_is_predicted() -> None:
    model, others = loud_model(), judging(200)
    told, random = influences(model, others, SILENT), torch.Generator().manual_seed(0)
    damages, predicted = {}, {}

    def visit(group: dict[str, nn.Module], statistics: Hessian) -> None:
        for name, linear in group.items():
            weight = out_in(linear)
            change = 0.02 * weight.std() * torch.randn(weight.shape, generator=random)
            damages[name] = changed(linear, change)
            judge = _Judge(weight, statistics, told[name])
            predicted[name] = judge.cost(judge.some + change[: len(judge.some)])

    walk(model, batches_of(4), visit, SILENT, "", changes=False, held_out=others)
    agree(predicted, divergences(model, others, damages, SILENT), 6)  # a text's tokens are alike, so errors add up


def test_rounded_inputs_cost_what_is_predicted() -> None:
    model, others = loud_model(), judging(200)
    predicted = {name: each.rounded_inputs for name, each in influences(model, others, SILENT).items()}
    damages = {name: with_rounded_inputs(linear) for name, linear in block_linears(model).items()}
    agree(predicted, divergences(model, others, damages, SILENT), 2)


def test_models_that_are_made_whole_cost_what_is_predicted_after_corrections() -> None:
    model, others, batches = loud_model(), judging(24), batches_of(24)
    found = linear_errors(model, batches, others, influences(model, others, SILENT), SILENT)
    for linear in found.values():
        linear.costs["dense w8a8"] = replace(linear.costs["dense w8a8"], rounded=0.0)  # only its inputs are
    kl = corrected(model, found, batches, others, SILENT, prune=sparsegpt)
    whole = {name: out_in(linear).clone() for name, linear in block_linears(model).items()}
    how: Any = {"prune": sparsegpt, "group_size": 128, "damping": 0.01, "weights": None}
    for label in (*PRUNED, ROUNDED):
        left = made(model, batches, parse(label), SILENT, **how)
        assert all(not torch.equal(left[name], weight) for name, weight in whole.items())
        if label in PRUNED:
            share = [(weight == 0).float().mean().item() for weight in left.values()]
            assert share == pytest.approx([parse(label).sparsity] * len(left))
        [measured] = divergences(model, others, {label: with_weights(model, left)}, SILENT).values()
        without = "dense w8a8" if label == ROUNDED else DENSE.label
        assert sum(own[label] - own[without] for own in kl.values()) == pytest.approx(measured, rel=1e-3), label


def test_each_block_is_made_with_what_those_before_it_give() -> None:
    model, batches = loud_model(), batches_of(24)
    alone: dict[str, Tensor] = {}

    def visit(group: dict[str, nn.Module], statistics: Hessian) -> None:
        for name, linear in group.items():
            alone[name] = sparsegpt(out_in(linear), statistics, parse("4:16 bf16").as_pattern())[0]

    walk(model, batches, visit, SILENT, "", changes=False)
    how: Any = {"prune": sparsegpt, "group_size": 128, "damping": 0.01, "weights": None}
    left = made(model, batches, parse("4:16 bf16"), SILENT, **how)
    assert all(torch.allclose(left[name], alone[name]) == (place(name)[0] == 0) for name in alone)


def test_what_pruning_costs_is_corrected_by_the_share_of_zeros() -> None:
    times = {"50 bf16": 1.0, "4:16 bf16": 4.0, ROUNDED: 3.0}
    labels = ("50 w8a8", "adaptive-62.5 w8a8", "4:16 bf16", "80 w4a16")
    assert [_of(label, times).pruned for label in labels] == pytest.approx([1, 2, 4, 4])
    assert _of("60 w4a16", times).pruned == pytest.approx(4**0.4)
    assert (_of("60 w4a16", times).rounded, _of("60 w4a16", times).inputs) == (3.0, 1.0)
    without = {part: by for part, by in times.items() if part != "4:16 bf16"}  # it fits no such linear
    assert _of("80 bf16", without).pruned == 1


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_samples_of_unequal_length_diverge_alike_in_one_batch(family: str) -> None:
    model = FAMILIES[family]()
    data = [
        {key: values[: len(values) - cut] for key, values in example.items()}
        for cut, example in enumerate(random_examples(6, seed=1, family=family))
    ]
    alone, together = [collate([example]) for example in data], calibration_batches(cast(Examples, data), 1000)
    assert len(together) == 1 and together[0]["attention_mask"].min() == 0
    head = (head_of(model, batches, family)["w4a16"] for batches in (alone, together))
    assert next(head) == pytest.approx(next(head), rel=1e-2)


def test_labels_are_read_back() -> None:
    assert [parse(candidate.label) for candidate in CANDIDATES] == list(CANDIDATES)
    assert parse("dense bf16") == DENSE
