"""What `compress` measures of candidates on this machine."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cutwork.architectures import architecture_of
from cutwork.compress import milliseconds
from cutwork.compress.candidates import CANDIDATES, DENSE, Candidate
from cutwork.compress.milliseconds import Purpose, Steps
from cutwork.engine import explain
from cutwork.engine.backend import native
from cutwork.engine.explain import OpTime, StepProfile
from cutwork.engine.model import Model
from cutwork.engine.step import Part, run_step
from cutwork.pack.pack import pack
from cutwork.quantize.quantize import quantize
from cutwork.recipe import QuantizeSettings
from cutwork.torch_models.blocks import block_linears
from tests.torch_models.tiny import FAMILIES, llama

BITS = [replace(DENSE, scheme=scheme) for scheme in (None, "w8a8", "w4a16")]
SPARSE = [Candidate("unstructured", 0.5, "w8a8"), Candidate("4:16", 0.75, "w4a16")]


def measured(model: Path, *candidates: Candidate, purpose: Purpose = "decode") -> Steps:
    return Steps.measured(model, purpose, 1, candidates=candidates)


@pytest.mark.parametrize("family", [name for name in FAMILIES if name not in ("t5", "whisper")])
def test_every_linear_of_the_blocks_has_a_price_for_each_candidate(family: str, tmp_path: Path) -> None:
    model = FAMILIES[family]()
    model.save_pretrained(tmp_path)
    steps = measured(tmp_path, *BITS, *SPARSE)
    plan_name = architecture_of(model.config.to_dict()).plan_name
    assert {plan_name(f"{name}.weight") for name in block_linears(model)} == set(steps.linears)
    for prices in (*steps.linears.values(), steps.head):
        dense, *quantized = (prices[each.label] for each in BITS)
        embedding = quantized[0].nbytes if prices is steps.head and model.config.tie_word_embeddings else 0
        assert dense.nbytes > quantized[0].nbytes > quantized[1].nbytes - embedding
        assert all(price.milliseconds > 0 for price in prices.values())
    assert steps.other.milliseconds > 0 and set(steps.head) == {each.label for each in BITS}
    again = Steps.of_json(json.loads(json.dumps(steps.as_json())))
    assert (again.linears, again.head, again.other) == (steps.linears, steps.head, steps.other)


@pytest.mark.parametrize(("seconds", "steps"), [(0.001, 64), (0.01, 25), (1.0, 4)])
def test_a_price_is_of_more_steps_than_the_first_after_a_prompt(
    seconds: float, steps: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    llama().save_pretrained(tmp_path)
    asked: list[int] = []

    def profile(model: Model, *, tokens: int, context: int, repeats: int, **_: int) -> StepProfile:
        asked.append(repeats)
        return StepProfile(tokens, context, (OpTime("Linear", (), seconds),))

    monkeypatch.setattr(milliseconds, "profile_step", profile)
    monkeypatch.setattr(milliseconds, "_LEAST_SECONDS", 0.0)
    with Model.load(tmp_path, threads=1) as model:
        assert milliseconds.usual_step(model, "decode").seconds == seconds
    assert asked == [4, steps]


@pytest.mark.parametrize("tied", [True, False])
def test_int4_costs_what_is_packed_of_a_trained_model(tmp_path: Path, tied: bool) -> None:
    model = llama(num_hidden_layers=1, tie_word_embeddings=tied)
    model.save_pretrained(tmp_path / "dense")
    steps = measured(tmp_path / "dense", *BITS)
    settings = QuantizeSettings(scheme="w4a16", method="rtn", head="w4a16")
    quantize(tmp_path / "dense", tmp_path / "quantized", settings)
    pack(tmp_path / "quantized", tmp_path / "packed", "bf16", embedding="i8")
    with Model.load(tmp_path / "packed", threads=1) as loaded:
        stored = {name: weight.nbytes for name, weight in loaded.weights.items()}
        together = loaded.memory_bytes["weights"]
    for name, prices in steps.linears.items():
        assert prices["dense w4a16"].nbytes == stored[name], name
    prices = [each["dense w4a16"] for each in (*steps.linears.values(), steps.head)]
    assert steps.other.nbytes + sum(price.nbytes for price in prices) == sum(stored.values()) <= together


def test_candidates_that_do_not_fit_have_no_price(tmp_path: Path) -> None:
    llama(hidden_size=36, head_dim=8).save_pretrained(tmp_path)
    adaptive = next(each for each in CANDIDATES if each.pattern == "adaptive")
    steps = measured(tmp_path, DENSE, adaptive)
    assert any(adaptive.label not in prices for prices in steps.linears.values())


@pytest.mark.parametrize("purpose", ["prefill", "batch16"])
@pytest.mark.skipif(native().isa() not in ("amx", "avx512"), reason="no kernel for reordered weights")
def test_where_much_comes_at_once_weights_are_as_the_server_reorders_them(purpose: Purpose, tmp_path: Path) -> None:
    llama(hidden_size=512, intermediate_size=1024, num_hidden_layers=1).save_pretrained(tmp_path)
    one, many = (measured(tmp_path, *SPARSE[:1], purpose=each).linears for each in ("decode", purpose))
    assert many
    for name, prices in many.items():
        price, alone = prices[SPARSE[0].label], one[name][SPARSE[0].label]
        assert price.nbytes > 2 * alone.nbytes and price.milliseconds > 0


def test_a_batch_is_sixteen_sequences_with_a_token_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    llama(num_hidden_layers=1, max_position_embeddings=512).save_pretrained(tmp_path)
    steps: list[tuple[list[Part], np.ndarray]] = []

    def recorded(executor: Any, parts: list[Part], tables: np.ndarray, **options: Any) -> np.ndarray:
        steps.append((parts, tables))
        return run_step(executor, parts, tables, **options)

    monkeypatch.setattr(explain, "run_step", recorded)
    measured(tmp_path, DENSE, purpose="batch16")
    parts, tables = steps[-1]
    assert [(len(part.entries), part.start, part.sequence, part.logits) for part in parts] == [
        (1, 256, sequence, 1) for sequence in range(16)
    ]
    assert len(set(tables.ravel().tolist())) == tables.size  # no two of them attend to the same memory


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_what_stays_counts_in_bfloat16(dtype: torch.dtype, tmp_path: Path) -> None:
    model = llama(num_hidden_layers=1, tie_word_embeddings=False)
    for name, each in (("other", dtype), ("bfloat16", torch.bfloat16)):
        model.to(each).save_pretrained(tmp_path / name)
    other, expected = (measured(tmp_path / name, DENSE).other.nbytes for name in ("other", "bfloat16"))
    assert other == expected
