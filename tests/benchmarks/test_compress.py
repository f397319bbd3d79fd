"""What the benchmarks of `compress` work out from what they measured."""

import argparse
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console

from benchmarks.common.results import RECIPES
from benchmarks.compress import (
    advantage,
    choices,
    divergence,
    drafts,
    frontier,
    history,
    low_rank,
    prices,
    promises,
    token_weights,
)
from cutwork.compress import milliseconds
from cutwork.compress.candidates import parse
from cutwork.compress.corrections import with_weights
from cutwork.compress.menu import Menu, Offer
from cutwork.engine.model import Model
from cutwork.prune.input_statistics import SumOfProducts
from cutwork.prune.sparsegpt import sparsegpt
from cutwork.recipe_file import load_recipe
from cutwork.tasks.rendering import IGNORED
from cutwork.tasks.task import Sample
from cutwork.torch_models.blocks import block_linears
from cutwork.torch_models.data import collate
from tests.torch_models.tiny import llama, random_examples

RECIPE = load_recipe(RECIPES / "smollm2-gsm.yaml")


def test_tokens_per_step_count_what_is_accepted_and_one_more() -> None:
    always, never = [[True] * 12], [[False] * 12]
    assert drafts.tokens_per_step(always, 2) == 3
    assert drafts.tokens_per_step(never, 8) == 1
    assert drafts.tokens_per_step([[True, False, True, True, True, False]], 2) == pytest.approx(6 / 3)


def test_drafts_are_named_by_how_they_are_pruned() -> None:
    assert [drafts.settings_of(name).sparsity for name in drafts.DRAFTS] == [0, 0.5, 0.5, 0.5, 0.75, 0.75]
    assert drafts.settings_of("alps adaptive 0.625 trained").sparsity == 0.625


def test_rank_correlation_looks_at_the_order_only() -> None:
    assert choices.rank_correlation([1, 2, 3, 4], [1, 10, 100, 1e9]) == pytest.approx(1)
    assert choices.rank_correlation([1, 2, 3, 4], [4, 3, 2, 1]) == pytest.approx(-1)
    assert choices.rank_correlation([1, 2, 2, 3], [5, 7, 7, 9]) == pytest.approx(1)
    assert choices.rank_correlation([1, 2, 2, 3], [5, 7, 8, 9]) < 0.99


def test_divergence_is_of_answers_and_of_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(divergence, "render", lambda *_: ([4, 5, 6], [IGNORED, IGNORED, 6]))
    dense, other = np.zeros((3, 2), np.float32), np.zeros((3, 2), np.float32)
    other[1, 0], other[2, 0] = np.log(3), 50  # says the answer after the second token, and nothing after the third
    whole, damaged = (SimpleNamespace(tokenizer=None, logits=lambda _, each=each: each) for each in (dense, other))
    of_answers = -0.5 * np.log(0.75) - 0.5 * np.log(0.25) - np.log(2)
    found = divergence.divergence(whole, damaged, [Sample("", "")])  # type: ignore[arg-type]
    assert found.kl == pytest.approx(of_answers)
    assert found.kl_everywhere == pytest.approx((of_answers + 25 - np.log(2)) / 3)


def test_advantages_are_over_the_best_uniform_choices_at_their_kl() -> None:
    def row(kind: str, name: str, kl: float, ms: float) -> dict[str, object]:
        return {"kind": kind, "name": name, "kl": kl, "speedup": 8 / ms, "predicted": {}}

    ours = [row("zeros and bits", str(kl), kl, ms) for kl, ms in ((0.1, 4.0), (0.4, 2.0))]
    others = [row("uniform", "good", 0.2, 4.0), row("uniform", "worse in both", 0.3, 5.0), row("OWL", "far", 0.9, 1.0)]
    found = advantage.advantage([*ours, *others])
    assert found["uniform, good"] == pytest.approx(4 / 3) and found["uniform, worse in both"] > 5 / 3
    assert "OWL, far" not in found and advantage.best_alike([*ours, *others]) == {"uniform, good", "OWL, far"}
    others[0]["predicted"] = {"advantage": 1.25}
    shown = advantage.advantage_table({"rows": [*ours, *others]}).splitlines()[2:]
    assert shown[0] == "| **uniform, good** | 0.2 | 1.33 times as fast | 1.25 |"
    assert "| uniform, worse in both |" in shown[1] and shown[1].endswith("| – |")
    told = {"kl_rank_correlation": 0.85, "milliseconds_off_median": 0.02, "milliseconds_off_most": 0.04}
    told |= {"speedup_off_median": 0.03, "speedup_off_most": 0.06}
    told |= {"points_rank_correlation": 0.95, "points_rank_correlation_everywhere": 0.7}
    lines = choices.verdicts({"rows": [*ours, *others], **told}).splitlines()[2:]
    assert [line.split("|")[3].strip() for line in lines] == ["**missed**", "met", "met", "**missed**", "met", ""]
    assert "0.95 and 0.70" in lines[1]
    assert "median 2%, at most 4%" in lines[2] and "1.33 to 1.33 times, 1 choices" in lines[4]
    assert "by the predictions alone 1.25 to 1.25 times" in lines[5]
    told |= {"timed_speedup_off_median": 0.04, "timed_speedup_off_most": 0.09}
    (timed,) = (line for line in choices.verdicts({"rows": ours, **told}).splitlines() if "timed before" in line)
    assert timed.endswith("| median 4%, at most 9% | met |")


def test_intervals_are_of_the_same_samples_drawn_for_all() -> None:
    def row(kind: str, name: str, sums: list[float], ms: float) -> dict[str, object]:
        return {"kind": kind, "name": name, "kl": sum(sums) / 6, "kl_sums": sums, "speedup": 8 / ms, "predicted": {}}

    rows = [
        row("zeros and bits", "slow", [0.3, 0.003, 0.3], 4.0),
        row("zeros and bits", "fast", [1.2, 0.012, 1.2], 2.0),
        row("uniform", "one", [0.6, 0.006, 0.6], 4.0),
    ]
    advantage.with_intervals(rows, [2, 2, 2])
    low, high = rows[2]["kl_interval"]
    assert low == pytest.approx(0.003) and high == pytest.approx(0.3)  # all draws of the second sample, and none
    assert rows[2]["advantage_interval"] == pytest.approx((4 / 3, 4 / 3))  # in whatever samples
    assert "(1.33 to 1.33) times as fast" in advantage.advantage_table({"rows": rows})
    assert "advantage_interval" not in rows[0]


def test_how_much_faster_the_frontier_is_predicted_to_be() -> None:
    offers = [Offer("dense bf16", 4.0, 4.0, 0.0), Offer("50 w8a8", 2.0, 1.0, 0.1), Offer("dense w8a8", 3.0, 2.0, 0.1)]
    menu = Menu({"a": offers, "b": offers}, {"a": (4, 4), "b": (4, 4)}, 1.0, 0.0)
    assert advantage.advantage_predicted(menu, menu.uniform("dense w8a8")) == pytest.approx(7 / 5, rel=1e-3)
    assert advantage.advantage_predicted(menu, menu.uniform("50 w8a8")) == pytest.approx(1, rel=1e-3)


def test_weights_of_tokens_are_compared_seed_by_seed() -> None:
    kls = {"equal": (0.2, 0.4), "answers": (0.1, 0.3)}
    rows = [
        {"seed": seed, "candidate": "70 w8a8", "weights": kind, "kl": kl[seed], "kl_everywhere": 2 * kl[seed]}
        for kind, kl in kls.items()
        for seed in (0, 1)
    ]
    shown = token_weights.table({"rows": rows}).splitlines()[2:]
    assert shown == ["| 70 w8a8 | 0.3 | 0.2 | 0.50, 0.75 | 0.6 | 0.4 |"]


def test_a_model_gets_its_own_weights_back() -> None:
    model = llama()
    before = {name: linear.weight.detach().clone() for name, linear in block_linears(model).items()}
    with torch.no_grad():
        left = token_weights.made(
            model, [collate(random_examples(4))], parse("60 w4a16"), None, RECIPE, Console(quiet=True)
        )
        with with_weights(model, left)():
            assert all(torch.equal(linear.weight, left[name]) for name, linear in block_linears(model).items())
    for name, linear in block_linears(model).items():
        assert torch.equal(linear.weight, before[name]) and not torch.equal(left[name], before[name])
        assert (left[name] == 0).float().mean() > 0.55


def test_a_frontier_is_read_between_its_points() -> None:
    points = [{"speedup": 1.0, "kl": 0.0}, {"speedup": 2.0, "kl": 0.1}]
    assert frontier.between(points, 1.5) == pytest.approx(0.05)
    assert frontier.between(points, 2.5) is None
    both = [{"speedup": 1.5, "kl": 0.04, "zeros": 0.25, "by_kind": {"mlp.up_proj": {"8:16 w8a8": 2}, "head": {"x": 1}}}]
    told = frontier.frontier_table({"frontiers": {"zeros and bits": both, "bits alone": points, "zeros alone": []}})
    assert told.splitlines()[-1] == "| 1.50× | 25% | 0.04 | 0.05 | – | 8:16 w8a8 |"


def test_ways_to_predict_are_set_beneath_each_other() -> None:
    def row(kind: str, name: str, told: float, kl: float, speedup: float) -> dict[str, Any]:
        return {
            "kind": kind,
            "name": name,
            "predicted": {"kl": told},
            "kl": kl,
            "kl_everywhere": 9.0,
            "speedup": speedup,
        }

    frontier = [row("zeros and bits", "2.00x", 0.1, 0.1, 2.0), row("zeros and bits", "4.00x", 0.3, 0.4, 4.0)]
    result = {"rows": [*frontier, row("uniform", "dense w4a16", 0.2, 0.2, 2.0)], "kl_rank_correlation": 0.5}
    result["speedup_off_median"] = 0.04
    told = history.history_table(*[result] * len(history.PREDICTED)).splitlines()[2:]
    assert len(told) == len(history.PREDICTED)
    # At half of the way between the frontier's KLs its time is between its times, three quarters of the other's.
    assert told[-1].endswith("| 3 | 0.50 | 1.00 to 1.33, median 1.00 | – | 4% | 1.33 to 1.33 times |")
    assert " 30.00 to 90.00, median 45.00 " in told[0]


def test_prices_are_held_against_steps_and_speed_ups_against_the_dense_one() -> None:
    steps = [("uniform", 4.0, 4.0), ("uniform", 3.0, 3.3), ("by kind", 2.0, 2.1), ("by linear", 2.0, 1.8)]
    rows = [{"purpose": "decode", "threads": 1, "drawn": of, "predicted": p, "measured": m} for of, p, m in steps]
    lines = prices.table({"rows": rows}).splitlines()[2:]
    assert lines[0] == "| decode | 1 | uniform | 2 | 5.0% | 10.0% | 9.1% | 9.1% |"
    assert lines[1] == "| decode | 1 | by kind | 1 | 5.0% | 5.0% | 4.8% | 4.8% |"
    assert lines[3] == "| decode | 1 | all | 4 | 7.5% | 10.0% | 9.1% | 11.1% |"


def test_prices_are_held_against_text_that_is_generated(tmp_path: Path) -> None:
    llama(max_position_embeddings=1024).save_pretrained(tmp_path)
    options = argparse.Namespace(purpose="decode", model=tmp_path, models=2, threads=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(milliseconds, "_ROUNDS", (1, 1))
        patch.setattr(milliseconds, "_LEAST_SECONDS", 0.0)
        patch.setattr(prices, "_SECONDS", 0.0)
        rows = prices.measure(options, Console(quiet=True))
    assert [row["drawn"] for row in rows] == ["uniform"] * 3 + ["by kind", "by linear"]
    assert all(0.1 < row["measured"] / row["predicted"] < 10 for row in rows)
    with Model.load(tmp_path, threads=1) as model:
        assert prices.generated(model, "prefill") > 0


def test_tables_have_a_row_for_each_choice_and_promise() -> None:
    predicted = {"speedup": 2.0, "milliseconds": 3.0, "nbytes": 1e6, "kl": 0.1, "zeros": 0.5}
    lost = {"points": 1.0, "low": -1.0, "high": 3.0}
    rows = [{"kind": "uniform", "name": "50 w8a8", "predicted": predicted, "kl": 0.2, "lost_on_validation": lost}]
    rows[0] |= {"milliseconds": 3.3, "speedup": 1.9, "kl_everywhere": 0.3}
    line = "| uniform, 50 w8a8 | 50% | 2.00× / 1.90× | 3.00 / 3.30 | 0.1 | 0.2 | 0.3 | 1.0 (-1.0 to 3.0) | – |"
    assert line in choices.table({"rows": rows})
    rows[0]["timed"] = {"milliseconds": 3.2, "speedup": 1.95}
    assert "| 2.00× / 1.95× / 1.90× | 3.00 / 3.20 / 3.30 |" in choices.table({"rows": rows})
    told = [
        {"within": 1.0, "seed": 0, "refused": "none"},
        {
            "within": 2.0,
            "seed": 0,
            "validation": lost,
            "test": lost,
            "kept": True,
            "speedup": {"predicted": 2.4, "measured": 2.5},
            "tried": [
                {"speedup": 2.4, "zeros": 0.25, "trained": False, "kept": True, "loss": {"points": 1.5}},
                {"speedup": 2.4, "zeros": 0.25, "trained": True, "kept": True, "loss": lost},
            ],
        },
    ]
    assert promises.table({"rows": told}).splitlines()[2:] == [
        "| 1 | 0 | – | – | – | – | – | – | cannot |",
        "| 2 | 0 | 2.40× | 2.50× | 25% | yes | 1.0 (-1.0 to 3.0) | 1.0 (-1.0 to 3.0) | yes |",
    ]


def test_a_seed_changes_all_that_draws() -> None:
    recipe = load_recipe(RECIPES / "smollm2-gsm.yaml")
    other = promises.seeded(recipe, 1, recipe.output)
    assert (other.task.seed, other.prune.seed, other.tune.seed) == (1, 1, 1)


def test_a_correction_takes_the_largest_singular_values_of_what_was_lost() -> None:
    torch.manual_seed(0)
    x, weight = torch.randn(500, 96) * torch.linspace(0.1, 3, 96), torch.randn(80, 96)
    total = SumOfProducts(96, x.device)
    total.add(x)
    statistics = total.mean(len(x))
    statistics.held_out = x
    for label in ("4:16 bf16", "dense w4a16"):
        parts = low_rank.left(weight, label, statistics, sparsegpt, 32)
        assert parts == sorted(parts, reverse=True) and 0 < parts[-1] < parts[0] < 1
    plain = [Offer("dense bf16", 1.0, 200.0, 0.0), Offer("4:16 bf16", 0.3, 80.0, 0.2)]
    found = low_rank.offers_with(
        Menu({"w": plain}, {"w": (80, 96)}, 0.0, 0.0), {"w": {"4:16 bf16": [0.9, 0.8, 0.6, 0.3]}}
    )
    corrected = found["w"][2:]
    assert [offer.label for offer in corrected] == [f"4:16 bf16 + {rank}" for rank in low_rank.RANKS]
    assert [offer.kl for offer in corrected] == pytest.approx([0.18, 0.16, 0.12, 0.06])
    assert corrected[0].milliseconds == pytest.approx(0.3 + 8 * (80 + 96) / (80 * 96))
    [(kl, taken)] = low_rank.best(found, [0.7])
    assert kl == pytest.approx(0.16) and taken == {"4:16 bf16 + 16": 1}
