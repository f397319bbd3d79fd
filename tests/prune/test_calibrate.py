"""The walk through the blocks: what linears see, padding left out, changes seen by the blocks behind."""

import errno
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from torch import nn

from cutwork.errors import CutworkError
from cutwork.prune.activations import Activations
from cutwork.prune.calibrate import calibration_batches, calibration_examples, survey, walk
from cutwork.prune.input_statistics import Hessian, InputWatch, MeanSquares, SumOfProducts
from cutwork.tasks.task import Sample
from cutwork.torch_models.blocks import block_linears, out_in
from cutwork.torch_models.data import Examples, collate
from cutwork.torch_models.model_inputs import DecoderOnlyInputs, inputs_of
from tests.torch_models.tiny import FAMILIES, gpt2, llama, opt, random_examples, sums

QUIET = Console(quiet=True)


@pytest.fixture(autouse=True)
def float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cutwork.prune.calibrate.wants_bfloat16", lambda *_: False)


@torch.no_grad()
def seen(model: Any, examples: list[Any]) -> dict[str, torch.Tensor]:
    """E[x xᵀ] of every linear by plain forward passes without padding."""
    inputs: dict[str, list[torch.Tensor]] = {name: [] for name in block_linears(model)}
    handles = [
        linear.register_forward_pre_hook(lambda _, args, name=name: inputs[name].append(args[0].flatten(0, -2)))
        for name, linear in block_linears(model).items()
    ]
    for example in examples:
        model(input_ids=torch.tensor([example["input_ids"]]))
    for handle in handles:
        handle.remove()
    stacked = {name: torch.cat(parts) for name, parts in inputs.items()}
    return {name: x.T @ x / len(x) for name, x in stacked.items()}


@pytest.mark.parametrize("model", [llama(), opt(), gpt2()], ids=["llama", "opt", "gpt2"])
def test_statistics_are_those_of_plain_forward_passes(model: nn.Module) -> None:
    model.eval()
    examples = random_examples(9)
    expected = seen(model, examples)
    found: dict[str, Hessian] = {}
    batches = [collate(examples[:4]), collate(examples[4:])]
    walk(model, batches, lambda group, s: found.update(dict.fromkeys(group, s)), QUIET, "")
    assert list(found) == list(block_linears(model))
    for name, statistics in found.items():
        assert statistics.tokens == sum(len(example["input_ids"]) for example in examples)
        assert torch.allclose(statistics.matrix, expected[name], rtol=1e-3, atol=1e-5), name


@pytest.mark.parametrize("changes", [False, True])
def test_what_is_held_out_judges_and_teaches_nothing(changes: bool) -> None:
    model = llama().eval()
    shown, held_out = random_examples(5), random_examples(4, seed=1)
    found: dict[str, Hessian] = {}
    walk(
        model, [collate(shown)], lambda group, s: found.update(dict.fromkeys(group, s)), QUIET, "",
        held_out=[collate(held_out[:2]), collate(held_out[2:])], changes=changes,
    )  # fmt: skip
    assert list(found) == list(block_linears(model))
    for name, statistics in found.items():
        assert torch.allclose(statistics.matrix, seen(model, shown)[name], rtol=1e-3, atol=1e-5), name
        inputs = statistics.held_out
        assert inputs is not None and len(inputs) == sum(len(example["input_ids"]) for example in held_out)
        assert torch.allclose(inputs.T @ inputs / len(inputs), seen(model, held_out)[name], rtol=1e-3, atol=1e-5), name


def test_linears_with_one_input_share_one_hessian() -> None:
    groups: list[set[str]] = []
    walk(llama(), [collate(random_examples(3))], lambda group, _: groups.append(set(group)), QUIET, "")
    short = [{name.rsplit(".", 1)[1] for name in group} for group in groups[:4]]
    assert short == [{"q_proj", "k_proj", "v_proj"}, {"o_proj"}, {"gate_proj", "up_proj"}, {"down_proj"}]


@pytest.mark.parametrize("bfloat16", [False, True])
def test_blocks_behind_see_what_was_changed(bfloat16: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cutwork.prune.calibrate.wants_bfloat16", lambda *_: bfloat16)
    model = llama().eval()
    examples = random_examples(4)
    second: list[torch.Tensor] = []

    def visit(group: dict[str, nn.Module], statistics: Hessian) -> None:
        for name, linear in group.items():
            if ".0." in name:
                out_in(linear).mul_(3.0)
            elif name.endswith("layers.1.self_attn.q_proj"):
                second.append(statistics.matrix.clone())

    walk(model, [collate(examples)], visit, QUIET, "")
    expected = seen(model, examples)["model.layers.1.self_attn.q_proj"]
    assert second[0].dtype == torch.float32
    assert torch.linalg.matrix_norm(second[0] - expected) < (0.02 if bfloat16 else 1e-5) * torch.linalg.matrix_norm(
        expected
    )


def test_the_model_is_left_as_it_was() -> None:
    model = llama()
    walk(model, [collate(random_examples(2))], lambda *_: None, QUIET, "")
    assert "forward" not in vars(model.model.layers[0])
    assert not any(linear._forward_pre_hooks for linear in block_linears(model).values())


class Letters:
    chat_template = None
    eos_token_id = 0

    def __call__(self, text: str, **_: Any) -> dict[str, list[int]]:
        return {"input_ids": [ord(c) % 60 for c in text]}


def test_samples_are_drawn_by_the_seed_and_batched_by_length() -> None:
    batches = calibration_batches(calibration_examples(Letters(), sums(200), 50, 99, seed=1))
    assert sum(len(batch["input_ids"]) for batch in batches) == 50
    assert all(batch["input_ids"].numel() <= 2048 for batch in batches)
    again = calibration_batches(calibration_examples(Letters(), sums(200), 50, 99, seed=1))
    other = calibration_batches(calibration_examples(Letters(), sums(200), 50, 99, seed=2))
    assert torch.equal(batches[0]["input_ids"], again[0]["input_ids"])
    assert batches[0]["input_ids"].shape != other[0]["input_ids"].shape or not torch.equal(
        batches[0]["input_ids"], other[0]["input_ids"]
    )
    with pytest.raises(CutworkError, match="needs samples"):
        calibration_batches(calibration_examples(Letters(), [], 50, 99, seed=1))


def test_others_are_drawn_in_the_place_of_samples_that_are_left_out() -> None:
    short, long = sums(200), [Sample("?", "7" * 100)] * 1800
    samples = [sample for few in zip(*[iter(long)] * 9, short, strict=True) for sample in few]
    found = calibration_examples(Letters(), samples, 50, 99, seed=1)
    assert found.counts() == {"samples": 50, "dropped": found.given - 50, "cut": 0}
    assert found.changed().startswith(f"{found.given - 50} of {found.given} samples have more than")
    assert len(calibration_examples(Letters(), samples, 500, 99, seed=1)) == 200
    # What is drawn at first stays, and nothing is added where all of it fits.
    drawn = [samples[i] for i in random.Random(1).sample(range(len(samples)), 50)]
    kept = Examples(Letters(), drawn, 99, DecoderOnlyInputs())
    assert 0 < len(kept) < 50 and list(found)[: len(kept)] == list(kept)
    drawn = [short[i] for i in random.Random(1).sample(range(len(short)), 50)]
    whole = Examples(Letters(), drawn, 99, DecoderOnlyInputs())
    assert list(calibration_examples(Letters(), short, 50, 99, seed=1)) == list(whole)


def test_long_answers_to_short_prompts_are_batched_by_their_length() -> None:
    data = [{"input_ids": [1] * 5, "labels": [1] * 512} for _ in range(40)]
    batches = calibration_batches([*data, {"input_ids": [1] * 600, "labels": [1]}])
    assert all(batch[key].numel() <= 2048 for batch in batches for key in ("input_ids", "labels"))
    assert [len(batch["labels"]) for batch in batches] == [4] * 10 + [1]


@pytest.mark.parametrize("family", ["t5", "whisper"])
def test_an_encoder_and_its_decoder_are_walked_one_after_the_other(family: str) -> None:
    model = FAMILIES[family]().eval()
    examples = random_examples(5, family=family)
    called = inputs_of(model.config)
    inputs: dict[str, list[torch.Tensor]] = {name: [] for name in block_linears(model)}
    handles = [
        linear.register_forward_pre_hook(lambda _, args, name=name: inputs[name].append(args[0].flatten(0, -2)))
        for name, linear in block_linears(model).items()
    ]
    with torch.no_grad():
        for example in examples:
            model(**called.keywords(collate([example])))
    for handle in handles:
        handle.remove()
    found: dict[str, Hessian] = {}
    batches = [collate(examples[:3]), collate(examples[3:])]
    walk(model, batches, lambda group, s: found.update(dict.fromkeys(group, s)), QUIET, "")
    assert set(found) == set(inputs)
    order = [name.split(".")[1] for name in found]
    assert order == sorted(order, reverse=True)  # encoder, then decoder
    for name, parts in inputs.items():
        x = torch.cat(parts)
        assert found[name].tokens == len(x), name
        assert torch.allclose(found[name].matrix, x.T @ x / len(x), rtol=1e-3, atol=1e-5), name


@pytest.mark.parametrize("family", ["t5", "whisper"])
def test_a_decoder_sees_what_was_changed_in_its_encoder(family: str) -> None:
    model = FAMILIES[family]().eval()
    examples = random_examples(3, family=family)
    found: dict[str, torch.Tensor] = {}

    def visit(group: dict[str, nn.Module], statistics: Hessian) -> None:
        for name, linear in group.items():
            out_in(linear).mul_(0.5)
            found[name] = statistics.matrix.clone()

    walk(model, [collate(examples)], visit, QUIET, "")
    again: dict[str, torch.Tensor] = {}
    walk(
        model,
        [collate(examples)],
        lambda group, s: again.update({name: s.matrix.clone() for name in group}),
        QUIET,
        "",
    )
    same = [name for name in found if torch.allclose(found[name], again[name], rtol=1e-4, atol=1e-6)]
    first_cross = next(name for name in found if ("EncDecAttention.k" in name or "encoder_attn.k" in name))
    assert first_cross in same


@pytest.mark.parametrize("family", FAMILIES)
def test_activations_in_files_change_nothing(family: str, tmp_path: Path) -> None:
    results = []
    for budget in (0, 1 << 30):
        model = FAMILIES[family]().eval()
        activations = Activations(budget, tmp_path)
        seen: list[torch.Tensor] = []

        def visit(group: dict[str, nn.Module], statistics: Hessian, seen: list[torch.Tensor] = seen) -> None:
            seen.append(statistics.matrix.clone())
            for linear in group.values():
                out_in(linear).mul_(0.9)

        batches = [collate(random_examples(3, seed, family)) for seed in range(3)]
        walk(model, batches, visit, QUIET, "", activations=activations)
        assert (activations.spilled > 0) == (budget == 0)
        assert list(tmp_path.iterdir()) == []
        results.append(seen)
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_squares_are_the_hessians_diagonal() -> None:
    model, batches = llama(), [collate(random_examples(3))]
    whole: dict[str, Hessian] = {}
    squares: dict[str, MeanSquares] = {}
    walk(model, batches, lambda group, s: whole.update(dict.fromkeys(group, s)), QUIET, "")
    survey(model, batches, lambda group, s: squares.update(dict.fromkeys(group, s)), QUIET, "")
    assert list(whole) == list(squares) == list(block_linears(model))
    for name, statistics in whole.items():
        assert squares[name].squares.shape == (len(statistics.matrix),)
        assert torch.allclose(squares[name].squares, statistics.squares, rtol=1e-4)


def test_a_full_disk_is_one_sentence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.posix_fallocate", full)
    with pytest.raises(CutworkError, match=r"activations of .* do not fit .*no space left"):
        Activations(0, tmp_path).hold(torch.ones(1000))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("size", [5, 512, 513, 1111])
def test_large_hessians_are_summed_by_halves(size: int) -> None:
    linear = nn.Linear(size, 3)
    inputs = [torch.randn(2, 40, size, generator=torch.Generator().manual_seed(i)) for i in range(3)]
    with InputWatch({linear: "linear"}, SumOfProducts) as watch:
        for x in inputs:
            watch.expect(None, None, ())
            linear(x)
    [(group, statistics)] = watch.groups()
    x = torch.cat(inputs).flatten(0, 1)
    assert group == [linear]
    assert statistics.tokens == len(x)
    assert torch.allclose(statistics.matrix, x.T @ x / len(x), rtol=1e-3, atol=1e-5)
