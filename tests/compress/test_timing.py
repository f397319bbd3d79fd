"""Speeds of choices before anything is made of them."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from cutwork.compress.candidates import Candidate
from cutwork.compress.menu import HEAD, Choice
from cutwork.compress.milliseconds import SEQUENCES, Purpose
from cutwork.compress.timing import Timing, prompt_tokens
from cutwork.compress.workshop import Workshop
from cutwork.engine.model import Model
from cutwork.measure.compare import Measurements
from cutwork.pack.pack import pack
from cutwork.pack.reader import PackedModel
from cutwork.recipe import CompareSettings
from cutwork.torch_models.blocks import block_linears
from tests.torch_models.tiny import llama

BRIEF = CompareSettings(prompt_tokens=5, decode_tokens=3, repeats=2, threads=1)
QUIET = Console(quiet=True)


@pytest.fixture(scope="module")
def chosen(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Choice]:
    """A dense model, packed, and a choice: int4 down projections, the other linears half zeros in int8."""
    directory, model = tmp_path_factory.mktemp("model"), llama(num_hidden_layers=2)
    model.save_pretrained(directory / "dense")
    pack(directory / "dense", directory / "packed", "bf16")
    labels = {name: "dense w4a16" if "down_proj" in name else "50 w8a8" for name in block_linears(model)}
    return directory / "packed", Choice({**labels, HEAD: "dense w8a8"}, 1.0, 1.0, 0.1, 0.4, 2.0)


@pytest.mark.parametrize("purpose", ["decode", "prefill", "batch16"])
def test_random_numbers_are_stored_as_chosen_and_timed_beside_the_dense_model(
    purpose: Purpose, chosen: tuple[Path, Choice], monkeypatch: pytest.MonkeyPatch
) -> None:
    dense, choice = chosen
    loaded: list[tuple[PackedModel, Model]] = []
    load = Timing.load

    def recorded(timing: Timing, packed: PackedModel) -> Model:
        loaded.append((packed, load(timing, packed)))
        return loaded[-1][1]

    monkeypatch.setattr(Timing, "load", recorded)
    found = Timing(dense, purpose, BRIEF, QUIET).of_random_numbers(choice, 32)
    assert len(loaded) == 2 and all(model.max_batch == SEQUENCES[purpose] for _, model in loaded)
    weights = loaded[1][0].weights
    for name, label in choice.labels.items():
        weight = weights["model.embed_tokens.weight" if name == HEAD else f"{name}.weight"]
        assert weight.dtype == ("i4" if "w4a16" in label else "i8"), name
        assert weight.sparsity == pytest.approx(0.5 if label == "50 w8a8" else 0, abs=0.15), name
    for name in ("dense", "compressed"):
        assert len(found[name]["decode_runs"]) == len(found[name]["prefill_runs"]) == BRIEF.repeats
    if purpose == "decode":  # reordered, so small weights take more
        assert found["nbytes"]["dense"] > found["nbytes"]["compressed"]
    rate = f"{'prefill' if purpose == 'prefill' else 'decode'}_tokens_per_second"
    assert found["speedup"] == pytest.approx(found["compressed"][rate] / found["dense"][rate])
    assert found["milliseconds"] == found["compressed"]["first_token_ms" if purpose == "prefill" else "step_ms_p50"]


def test_candidates_that_fit_no_pattern_stay_dense(chosen: tuple[Path, Choice]) -> None:
    dense, choice = chosen
    every = {name: Candidate().label for name in choice.labels}
    found = Timing(dense, "decode", BRIEF, QUIET).of_random_numbers(Choice(every, 1.0, 1.0, 0.0, 0.0, 1.0), 32)
    assert found["nbytes"]["dense"] == found["nbytes"]["compressed"]


@pytest.mark.parametrize(
    ("purpose", "context", "tokens"), [("decode", 2048, 256), ("prefill", 2048, 512), ("prefill", 128, 63)]
)
def test_a_prompt_that_is_to_be_fast_is_timed_as_long_as_it_was_priced(purpose: Any, context: int, tokens: int) -> None:
    assert prompt_tokens({"model_type": "gpt2", "n_positions": context}, purpose, CompareSettings()) == tokens


@dataclass
class Changed:
    """What a timing depends on, one of them another than usual."""

    choice: dict[str, str] = field(default_factory=dict)
    shop: dict[str, Any] = field(default_factory=dict)
    compare: dict[str, Any] = field(default_factory=dict)


@pytest.mark.parametrize(
    ("changed", "timings"),
    [
        (Changed(), 1),
        (Changed(choice={HEAD: "dense"}), 2),
        (Changed(shop={"purpose": "batch16"}), 2),
        (Changed(shop={"machine": {"threads": 2}}), 2),
        (Changed(shop={"_engine": "another"}), 2),
        (Changed(shop={"_group_size": 64}), 2),
        (Changed(compare={"repeats": 3}), 2),
    ],
)
def test_a_choice_is_timed_once_for_all_that_its_speed_depends_on(
    changed: Changed, timings: int, chosen: tuple[Path, Choice], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dense, choice = chosen
    timed: list[Choice] = []

    def of_random_numbers(_: Timing, choice: Choice, group_size: int) -> dict[str, Any]:
        timed.append(choice)
        return {"speedup": 1.0 + len(timed), "milliseconds": 5.0}

    monkeypatch.setattr(Timing, "of_random_numbers", of_random_numbers)
    shop, other = _shop(dense, tmp_path, Changed()), _shop(dense, tmp_path, changed)
    first = shop.timed(choice)
    assert (first.speedup, first.milliseconds, first.labels) == (2.0, 5.0, choice.labels)
    assert shop.timed(replace(choice, speedup=9.0, kl=9.0)).speedup == 2.0  # which are prices, and change no model
    other.timed(replace(choice, labels={**choice.labels, **changed.choice}))
    assert len(timed) == timings


@pytest.mark.parametrize(
    ("changed", "loads"),
    [
        (Changed(), 1),
        (Changed(shop={"purpose": "batch16"}), 2),
        (Changed(shop={"machine": {"threads": 2}}), 2),
        (Changed(shop={"_engine": "another"}), 2),
    ],
)
def test_bytes_are_counted_once_for_all_that_layouts_depend_on(
    changed: Changed, loads: int, chosen: tuple[Path, Choice], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dense, loaded, load = chosen[0], list[PackedModel](), Timing.load

    def recorded(timing: Timing, packed: PackedModel) -> Model:
        loaded.append(packed)
        return load(timing, packed)

    monkeypatch.setattr(Timing, "load", recorded)
    shop, other = _shop(dense, tmp_path, Changed()), _shop(dense, tmp_path, changed)
    assert shop.nbytes(shop.dense) == shop.nbytes(shop.dense) > 0 < other.nbytes(shop.dense)
    assert len(loaded) == loads


def _shop(dense: Path, output: Path, changed: Changed) -> Workshop:
    """A workshop with nothing but what timings need."""
    shop = Workshop.__new__(Workshop)
    usual = {
        "base": SimpleNamespace(compare=BRIEF.model_copy(update=changed.compare)),
        "dense": SimpleNamespace(key="dense", output=dense),
        "kept": Measurements(output),
        "purpose": "decode",
        "console": QUIET,
        "machine": {"threads": 1},
        "_engine": "this",
        "_group_size": 32,
    }
    for name, value in {**usual, **changed.shop}.items():
        setattr(shop, name, value)
    return shop
