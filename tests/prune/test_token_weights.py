"""What answers owe to tokens: gradients against the Fisher information, and Hessians in which tokens are weighed."""

import json
from pathlib import Path

import pytest
import torch
from rich.console import Console
from torch import Tensor

from cutwork.errors import CutworkError
from cutwork.prune.answer_gradients import answer_gradients, likelihood
from cutwork.prune.calibrate import walk
from cutwork.prune.input_statistics import Hessian
from cutwork.prune.prune import prune
from cutwork.prune.token_weights import token_weights
from cutwork.quantize.quantize import quantize
from cutwork.recipe import PruneSettings, QuantizeSettings
from cutwork.torch_models.blocks import block_linears
from cutwork.torch_models.data import collate
from tests.tiny_checkpoint import write_tiny_checkpoint
from tests.torch_models.tiny import gpt2, llama, random_examples, sums, t5, weights

QUIET = Console(quiet=True)


def test_gradients_have_the_fisher_information_of_what_the_model_would_say() -> None:
    random = torch.Generator().manual_seed(0)
    certain, torn = torch.tensor([7.0, 0.0, 1.0, -1.0]), torch.tensor([0.5, 0.0, 1.0, -1.0])
    draws = 20_000
    logits = torch.stack([certain, torn]).repeat(draws, 1).requires_grad_()
    likelihood(logits, random).backward()
    assert logits.grad is not None
    found = logits.grad.view(draws, 8)
    fisher = torch.zeros(8, 8)
    for i, each in enumerate((certain, torn)):
        p = each.softmax(0)
        fisher[4 * i : 4 * i + 4, 4 * i : 4 * i + 4] = p.diag() - torch.outer(p, p)
    scale = fisher.diagonal().sqrt()
    assert torch.allclose(found.T @ found / draws / scale / scale[:, None], fisher / scale / scale[:, None], atol=0.05)


def test_tokens_that_no_answer_sees_weigh_nothing() -> None:
    model, examples = llama(), random_examples(5)
    found = token_weights(model, [collate(examples[:3]), collate(examples[3:])], QUIET)
    lengths = [len(example["input_ids"]) for example in examples]
    assert set(found) == set(block_linears(model))
    for name, own in found.items():
        assert own.mean() == pytest.approx(1, rel=1e-4) and len(own) == sum(lengths)
        for part in own.split(lengths):
            assert part[-1] == 0  # the end of the answer is said, and nothing after it
            assert part.max() > 0, name
    attention, mlp = "model.layers.0.self_attn", "model.layers.0.mlp"
    assert torch.equal(found[f"{attention}.q_proj"], found[f"{attention}.v_proj"])
    assert torch.equal(found[f"{mlp}.gate_proj"], found[f"{mlp}.up_proj"])
    assert not torch.equal(found[f"{mlp}.up_proj"], found[f"{mlp}.down_proj"])
    last = found["model.layers.2.mlp.down_proj"].split(lengths)  # prompts matter to what attends to them only
    assert all((part > 0).sum() == sum(x >= 0 for x in e["labels"]) for part, e in zip(last, examples, strict=True))


def test_weights_are_the_mean_lengths_of_the_gradients_of_linears_that_share_an_input() -> None:
    model, batches = llama(), [collate([example]) for example in random_examples(4)]
    lengths: dict[str, list[Tensor]] = {}

    def learn(name: str, x: Tensor, towards: Tensor, gradients: Tensor) -> None:
        assert x.shape == towards.shape and len(x) == len(gradients)
        lengths.setdefault(name, []).append(gradients.norm(dim=1))

    answers, leaders = answer_gradients(model, batches, learn, QUIET, "")
    assert answers == sum(int((batch["labels"] >= 0).sum()) for batch in batches)
    mlp = "model.layers.1.mlp"
    assert leaders[f"{mlp}.up_proj"] == f"{mlp}.gate_proj"
    both = [torch.cat(lengths[f"{mlp}.{name}"]) for name in ("gate_proj", "up_proj")]
    expected = sum(each / each.mean() for each in both) / 2
    assert torch.allclose(token_weights(model, batches, QUIET)[f"{mlp}.up_proj"], expected, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("model", [llama(), gpt2()], ids=["llama", "gpt2"])
def test_hessians_are_weighted_means(model: torch.nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cutwork.prune.calibrate.wants_bfloat16", lambda *_: False)
    examples = random_examples(6)
    batches = [collate(examples[:4]), collate(examples[4:])]
    told = token_weights(model, batches, QUIET)
    inputs: dict[str, list[Tensor]] = {}

    def learn(name: str, x: Tensor, *_: Tensor) -> None:
        inputs.setdefault(name, []).append(x)

    answer_gradients(model, batches, learn, QUIET, "")
    found: dict[str, Hessian] = {}
    walk(model, batches, lambda g, s: found.update(dict.fromkeys(g, s)), QUIET, "", weights=told, changes=False)
    for name, statistics in found.items():
        x = torch.cat(inputs[name])
        assert torch.allclose(statistics.matrix, (x.T * told[name]) @ x / len(x), rtol=1e-3, atol=1e-4), name
        assert statistics.tokens == len(x)


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_checkpoint(tmp_path_factory.mktemp("models") / "dense")


def test_pruning_and_gptq_weigh_tokens(dense: Path, tmp_path: Path) -> None:
    few = {"calibration_samples": 12}
    for kind in ("equal", "answers"):
        settings = PruneSettings(sparsity=0.6, method="sparsegpt", token_weights=kind, **few)
        report = prune(dense, tmp_path / kind, settings, sums(12), console=QUIET)
        assert report["sparsity"] == pytest.approx(0.6, abs=1e-3)
        ints = QuantizeSettings(token_weights=kind, **few)
        quantize(tmp_path / "equal", tmp_path / f"{kind}-int8", ints, sums(12), console=QUIET)
    for suffix in ("", "-int8"):
        [a, b] = (weights(tmp_path / f"{kind}{suffix}") for kind in ("equal", "answers"))
        changed = {name for name in a if not torch.equal(a[name], b[name])}
        assert changed and all("proj" in name for name in changed), suffix
    stored = json.loads((tmp_path / "answers" / "prune-report.json").read_text())
    assert stored["settings"]["token_weights"] == "answers"


def test_what_has_no_answers_or_no_hessian_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CutworkError, match="decoder-only language model, not t5; leave out token_weights"):
        token_weights(t5(), [], QUIET)
    with pytest.raises(ValueError, match="method magnitude looks at no tokens"):
        PruneSettings(method="magnitude", token_weights="answers")
    with pytest.raises(ValueError, match="method rtn has no Hessian"):
        QuantizeSettings(method="rtn", token_weights="answers")
