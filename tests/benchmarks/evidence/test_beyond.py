import numpy as np
import pytest
import torch

from benchmarks.evidence import beyond, feature_loss, mask_search
from cutwork.prune.pattern import KeepNOfM
from cutwork.torch_models.blocks import block_linears
from tests.benchmarks.evidence.made import right, scores
from tests.torch_models.tiny import llama


def test_weights_come_to_have_a_pattern_while_they_learn() -> None:
    torch.manual_seed(0)
    model, pattern, steps = llama().train(), KeepNOfM(4, 16), 40
    search = mask_search.MaskSearch(pattern, steps, most=0.5)
    search.preparation().apply(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0)
    tokens = torch.randint(2, 60, (4, 12))
    losses = []
    for _ in range(steps):
        loss = model(input_ids=tokens, labels=tokens).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
        model.eval()
        model(input_ids=tokens)  # of no step
        model.train()
    assert losses[-1] < losses[0]
    for name, linear in block_linears(model).items():
        weight = linear.get_parameter("weight").detach()
        kept = pattern.keep(weight.abs(), torch.ones_like(weight, dtype=torch.bool))
        rest = float((weight * ~kept).square().sum() / weight.square().sum())
        assert rest < 0.05, name
    other = mask_search.MaskSearch(pattern, steps, most=0.4)
    assert other.preparation().key != search.preparation().key


def test_methods_beyond_squarehead_have_its_time_and_are_held_against_it() -> None:
    for variant, phases in beyond.Beyond.variants.items():
        time = sum(phase.steps * feature_loss.SLOWER for phase in phases)
        answering = beyond.ANSWERING if variant in (beyond.GIVEN, beyond.ON_POLICY) else 0
        assert time + answering == pytest.approx(feature_loss.STEPS, abs=2)
    plain, ours = right(0.7, 2, 300), right(0.9, 1, 300, seed=1)[0]

    def row(variant: str, answers: np.ndarray, seed: int) -> dict[str, object]:
        return {"variant": variant, "seed": seed, "split": "validation", **scores(answers)}

    rows = [row(feature_loss.NOT_CLIPPED, answers, seed) for seed, answers in enumerate(plain)]
    rows.append(row(beyond.SEARCHED, ours, 1))
    first, second = beyond.table({"rows": rows}).splitlines()[2:]
    assert first.endswith("|  |  |") and second.endswith("| ahead |")
    assert f"| {100 * (ours.mean() - plain[1].mean()):+.1f} [" in second
    assert [beyond.verdict(found) for found in ((2, -1, 5), (-4, -6, -2))] == ["not told", "behind"]
