"""Errors of candidates, and sensitivities to them."""

from typing import cast

import numpy as np
import pytest
import torch
from rich.console import Console
from torch import Tensor

from cutwork.compress.candidates import CANDIDATES, DENSE, parse
from cutwork.compress.errors import PROBE, linear_errors
from cutwork.compress.sensitivity import _divergences, _pruned, fit, sensitivities
from cutwork.prune.alps import alps
from cutwork.prune.calibrate import calibration_batches
from cutwork.prune.input_statistics import SumOfProducts
from cutwork.prune.sparsegpt import sparsegpt
from cutwork.quantize.qat import round_activations
from cutwork.torch_models.blocks import block_linears
from cutwork.torch_models.data import Examples, collate
from tests.torch_models.tiny import FAMILIES, llama, random_examples

SILENT = Console(quiet=True)


def batches_of(count: int, family: str = "llama") -> list[dict[str, Tensor]]:
    return calibration_batches(cast(Examples, random_examples(count, family=family)))


@pytest.fixture(scope="module")
def errors() -> dict[str, dict[str, float]]:
    found = linear_errors(llama(), batches_of(24), SILENT, prune=sparsegpt)
    return {name: linear.errors for name, linear in found.items()}


def test_every_linear_has_an_error_for_every_candidate_that_fits_it(errors: dict[str, dict[str, float]]) -> None:
    assert set(errors) == set(block_linears(llama()))
    for name, own in errors.items():
        rows, columns = llama().get_submodule(name).weight.shape
        assert set(own) == {c.label for c in CANDIDATES if c.fits(rows, columns)}


def test_more_zeros_and_fewer_bits_cost_more(errors: dict[str, dict[str, float]]) -> None:
    for own in errors.values():
        assert own["dense bf16"] == 0
        rising = [own[label] for label in ("50 bf16", "60 bf16", "70 bf16", "80 bf16")]
        assert rising == sorted(rising) and rising[0] > 0
        assert 0 < own["dense w8a8"] < own["dense w4a16"] < own["80 w4a16"]
        assert own["8:16 bf16"] < own["4:16 bf16"] < own["4:16 w4a16"]


def test_what_a_better_pruner_leaves_costs_less(errors: dict[str, dict[str, float]]) -> None:
    found = linear_errors(llama(), batches_of(24), SILENT, prune=alps)
    ratios = [linear.errors["4:16 bf16"] / errors[name]["4:16 bf16"] for name, linear in found.items()]
    assert np.median(ratios) < 0.95
    assert all(linear.errors["dense w8a8"] == errors[name]["dense w8a8"] for name, linear in found.items())


def test_what_was_made_with_other_samples_costs_more(errors: dict[str, dict[str, float]]) -> None:
    held_out = calibration_batches(cast(Examples, random_examples(24, seed=1)))
    found = linear_errors(llama(), batches_of(24), SILENT, held_out=held_out)
    ratios = [linear.errors["dense w4a16"] / errors[name]["dense w4a16"] for name, linear in found.items()]
    assert min(ratios) > 1.02


def test_rounded_activations_cost_what_they_do() -> None:
    torch.manual_seed(0)
    x, weight = torch.randn(40_000, 48) * torch.rand(40_000, 1) ** 4, torch.randn(32, 48)
    x[::20, 3] *= 100  # tokens with a massive input lose all others
    total = SumOfProducts(48, x.device, rounding=True)
    total.add(x)
    statistics = total.mean(len(x))
    assert statistics.rounding is not None
    [rounded] = round_activations(torch.nn.Identity(), (x,))
    actual = ((rounded - x) @ weight.T).square().sum(1).mean()
    assert (weight.square() @ statistics.rounding).sum().item() == pytest.approx(
        actual.item(), rel=0.15
    )  # but for chance


def test_the_model_stays_as_it_is_and_what_is_cut_off_does_not_matter() -> None:
    model = llama()
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    batches = batches_of(8)
    found = linear_errors(model, batches, SILENT, prune=sparsegpt)
    sensitivities(model, found, [collate([example]) for example in random_examples(2)], SILENT)
    assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())


@pytest.mark.parametrize("family", ["gpt2", "mpt"])
def test_other_families(family: str) -> None:
    model = FAMILIES[family]()
    found = linear_errors(model, batches_of(8, family), SILENT, prune=sparsegpt)
    per_error, per_rounding, head = sensitivities(
        model, found, [collate([e]) for e in random_examples(2, family=family)], SILENT
    )
    assert set(per_error) == set(found) == set(block_linears(model))
    assert min(per_error.values()) > 0 and min(per_rounding.values()) > 0 and 0 < head["i8"] < head["i4"]


def test_predicted_divergence_ranks_what_pruning_does() -> None:
    """Each block alone, at several rates: predicted against measured."""
    model = llama(seed=1)
    with torch.no_grad():
        for linear in block_linears(model).values():
            linear.weight.mul_(4)  # so that the blocks say something
    examples = random_examples(24)
    found = linear_errors(model, batches_of(24), SILENT, prune=sparsegpt)
    probes = [collate([example]) for example in examples[:12]]
    per_error, _, _ = sensitivities(model, found, probes, SILENT)
    damages, predicted = {}, {}
    for name, linear in found.items():
        damages[name] = _pruned(model, {name: linear.squares})
        predicted[name] = per_error[name] * linear.probe
    measured = _divergences(model, probes, damages, SILENT)
    ranks = [np.argsort(np.argsort([values[name] for name in found])).astype(float) for values in (predicted, measured)]
    assert np.corrcoef(np.stack(ranks))[0, 1] > 0.8


def test_sensitivities_are_found_again() -> None:
    random = np.random.default_rng(0)
    blocks, kinds = random.lognormal(size=6), random.lognormal(size=4)
    kinds /= kinds.mean()
    errors = random.uniform(0.5, 1, (6, 4))
    true = np.outer(blocks, kinds) * errors
    by_block, by_kind = fit(errors, dict(enumerate(true.sum(1))), true.sum(0))
    assert np.outer(by_block, by_kind) == pytest.approx(np.outer(blocks, kinds), rel=1e-3)
    between, _ = fit(np.ones((3, 1)), {0: 1.0, 2: 4.0}, np.array([7.0]))
    assert between == pytest.approx([1, 2, 4])


def test_labels_are_read_back() -> None:
    assert [parse(candidate.label) for candidate in CANDIDATES] == list(CANDIDATES)
    assert parse("dense bf16") == DENSE
    assert PROBE.sparsity < min(c.sparsity for c in CANDIDATES if c.sparsity)
