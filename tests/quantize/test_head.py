"""The output head in few bits: what the engine reads, what GPTQ saves of it, and models that have none to give."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console
from torch import nn
from transformers import AutoModelForCausalLM

from cutwork import Model
from cutwork.errors import CutworkError
from cutwork.pack.pack import pack
from cutwork.pack.reader import read_packed
from cutwork.prune.calibrate import calibration_batches, calibration_examples
from cutwork.quantize.gptq import gptq
from cutwork.quantize.grid import Grid
from cutwork.quantize.head import head_statistics, output_head, untie
from cutwork.quantize.quantize import quantize
from cutwork.recipe import QAT, QuantizeSettings
from cutwork.tasks.task import Sample
from cutwork.torch_models.blocks import block_linears
from cutwork.torch_models.load import load_model, load_tokenizer
from cutwork.torch_models.model_inputs import inputs_of
from tests.engine import bart_tiny, tiny
from tests.prune.test_second_order import correlated
from tests.quantize.test_quantize import stored
from tests.tiny_checkpoint import write_tiny_checkpoint
from tests.torch_models.tiny import cut, sums, weights

QUIET = Console(quiet=True)
IDS = list(b"12+3=15 #### 15" * 2)
METHODS = {
    "gptq": {"calibration_samples": 16},
    "rtn": {"method": "rtn"},
    "qat": {
        "method": "qat",
        "calibration_samples": 16,
        "qat": QAT.model_copy(update={"max_steps": 3, "batch_size": 8}),
    },
}


def settings(**said: object) -> QuantizeSettings:
    return QuantizeSettings.model_validate(said)


@pytest.fixture(scope="module", params=[True, False], ids=["tied", "apart"])
def sparse(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = write_tiny_checkpoint(tmp_path_factory.mktemp("models") / "sparse", tied=request.param)
    torch.manual_seed(0)
    cut(load_model(directory, torch.float32), 0.6).save_pretrained(directory)
    return directory


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("scheme", "head"), [("w4a16", "w4a16"), ("w8a8", "w4a16"), ("w4a16", "w8a8")])
def test_the_engine_and_transformers_read_the_same_head(
    sparse: Path, tmp_path: Path, scheme: str, head: str, method: str
) -> None:
    pytest.importorskip("compressed_tensors")
    quantize(sparse, tmp_path / "q", settings(scheme=scheme, head=head, **METHODS[method]), sums(20), console=QUIET)
    pack(tmp_path / "q", tmp_path / "packed", embedding="i8")
    found = read_packed(tmp_path / "packed").weights
    assert {
        name: weight.dtype for name, weight in found.items() if name in ("model.embed_tokens.weight", "lm_head.weight")
    } == {
        "model.embed_tokens.weight": "i8",
        "lm_head.weight": "i4" if head == "w4a16" else "i8",
    }
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "q", dtype=torch.float32)
    with torch.no_grad():
        expected = model(torch.tensor([IDS])).logits[0].numpy()
    values = stored(tmp_path / "q", "lm_head.weight")
    assert values is not None and torch.equal(model.lm_head.weight, values)
    for path in (tmp_path / "q", tmp_path / "packed"):
        with Model.load(path, threads=1, cache_dtype="f32", cache_bytes=1 << 22) as engine:
            assert np.linalg.norm(engine.logits(IDS) - expected) / np.linalg.norm(expected) < 0.03
    report = json.loads((tmp_path / "q" / "quantize-report.json").read_text())
    [row] = [row for row in report["layers"] if row["name"] == "lm_head"]
    assert row["bits"] == (4 if head == "w4a16" else 8)
    if method != "rtn":
        assert row["output_error"] < row["output_error_of_rounding"]
    before, after = weights(sparse), weights(tmp_path / "q")
    if method != "qat":  # which trains the embedding
        assert torch.equal(after["model.embed_tokens.weight"], before["model.embed_tokens.weight"])


@pytest.mark.parametrize("variant", tiny.VARIANTS)
def test_every_architecture_has_its_head_rounded_and_nothing_else(variant: str, tmp_path: Path) -> None:
    """Against transformers with the values that the codes stand for, which are a tenth of the logits from the whole."""
    model = tiny.make(variant)
    model.save_pretrained(tmp_path / "dense")
    _, *others = block_linears(model)
    one = settings(method="rtn", head="w4a16", overrides=dict.fromkeys(others, "skip"))
    try:
        quantize(tmp_path / "dense", tmp_path / "q", one, console=QUIET)
    except CutworkError as error:
        pytest.skip(str(error))
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D":
            values = stored(tmp_path / "q", f"{name}.weight")
            if module is model.get_output_embeddings():
                values = stored(tmp_path / "q", "embed_out.weight") if values is None else values  # GPT-NeoX's in files
                assert values is not None
            if values is not None:
                values = values if isinstance(module, nn.Linear) else values.T
                module.weight = nn.Parameter(values, requires_grad=False)
    ids = np.arange(5, 35)
    expected = tiny.torch_logits(model, ids)
    with Model.load(tmp_path / "q", threads=1, cache_dtype="f32", cache_bytes=1 << 22) as engine:
        difference = np.linalg.norm(engine.logits([*map(int, ids)]) - expected) / np.linalg.norm(expected)
    assert difference < 0.04


@pytest.mark.parametrize("repeats", [1, 20], ids=["few others", "many others"])
def test_statistics_are_mostly_of_the_tokens_whose_next_is_learned(sparse: Path, repeats: int) -> None:
    model = load_model(sparse, torch.float32)
    tokenizer, inputs = load_tokenizer(sparse), inputs_of(model.config)
    samples = [Sample(row.prompt * repeats, row.answer) for row in sums(6)]
    batches = calibration_batches(calibration_examples(tokenizer, samples, 6, 1 << 9, 0, inputs, "drop"))
    statistics = head_statistics(model, batches, 0.01)
    answers, others = [], []
    with torch.no_grad():
        for batch in batches:
            hidden = model.model(**inputs.keywords(batch)).last_hidden_state
            learned = torch.zeros_like(batch["labels"], dtype=torch.bool)
            learned[:, :-1] = batch["labels"][:, 1:] >= 0
            answers.append(hidden[learned])
            others.append(hidden[batch["attention_mask"].bool() & ~learned])
    columns, rows, rest = hidden.shape[-1], torch.cat(answers), torch.cat(others)
    assert len(rows) > 20 and (len(rest) > columns) == (repeats > 1)
    weight = min(1, columns / len(rest))
    expected = (rows.square().sum(0) + weight * rest.square().sum(0)) / (len(rows) + weight * len(rest))
    torch.testing.assert_close(statistics.squares, expected, rtol=0.01, atol=1e-6)


def test_a_head_in_parts_is_a_head_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    weight = torch.randn(50, 64, generator=torch.Generator().manual_seed(0))
    statistics = correlated(64)
    whole = gptq(weight, statistics, Grid(4, 32))
    monkeypatch.setattr("cutwork.quantize.gptq._ROWS", 16)
    parts = gptq(weight, statistics, Grid(4, 32))
    torch.testing.assert_close(whole.scales, parts.scales)
    assert (whole.codes == parts.codes).float().mean() > 0.999  # of products in another order


def test_untying_changes_no_logit_and_is_written(sparse: Path) -> None:
    model = load_model(sparse, torch.float32)
    with torch.no_grad():
        before = model(torch.tensor([IDS])).logits
        untie(model)
        assert torch.equal(model(torch.tensor([IDS])).logits, before)
    name, head = output_head(model)
    assert name == "lm_head" and head.weight is not model.get_input_embeddings().weight
    assert model.config.tie_word_embeddings is False


def test_models_that_continue_no_text_are_refused(tmp_path: Path) -> None:
    bart_tiny.make(next(iter(bart_tiny.VARIANTS))).save_pretrained(tmp_path / "bart")
    with pytest.raises(CutworkError, match=r"head: Bart\w+ has none that can be quantised"):
        quantize(tmp_path / "bart", tmp_path / "q", settings(method="rtn", head="w8a8"), console=QUIET)
    assert [path.name for path in tmp_path.iterdir()] == ["bart"]
