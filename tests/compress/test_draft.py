"""`--draft auto` on a tiny model: made once, by the model's hash, and the text stays the model's own."""

import json
import shutil
from pathlib import Path

import pytest
import typer
from rich.console import Console
from transformers import AutoTokenizer
from typer.testing import CliRunner

from cutwork.cli.generate import generate
from cutwork.compress import draft
from cutwork.compress.draft import draft_of, own_text
from cutwork.errors import CutworkError
from cutwork.pack.pack import pack
from cutwork.pack.reader import read_packed
from cutwork.quantize.quantize import quantize
from cutwork.recipe import QuantizeSettings
from tests.tiny_checkpoint import write_tiny_checkpoint

SILENT = Console(quiet=True)

app = typer.Typer()
app.command()(generate)


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CUTWORK_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(draft, "TEXTS", 6)
    monkeypatch.setattr(draft, "_TOKENS", 24)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_tiny_checkpoint(tmp_path / "dense")


def call(*arguments: object) -> list[dict[str, object]]:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    found: list[dict[str, object]] = json.loads(result.stdout)
    return found


def test_the_text_stays_the_models_own(model: Path, tmp_path: Path) -> None:
    common = [model, "Once upon", "A time", "-n", 24, "--json", "--threads", 1]
    alone, drafted = call(*common), call(*common, "--draft", "auto")
    assert [each["tokens"] for each in drafted] == [each["tokens"] for each in alone]
    assert all(isinstance(each["acceptance"], float) for each in drafted)
    [made] = (tmp_path / "home" / "drafts").glob("[!.]*")
    before = made.stat().st_mtime_ns
    assert draft_of(model, threads=1, console=SILENT) == made and made.stat().st_mtime_ns == before
    weights = read_packed(made).weights
    blocks = [weight for name, weight in weights.items() if ".layers." in name and len(weight.shape) == 2]
    assert all(weight.dtype == "i4" for weight in blocks)


def test_another_model_gets_another_draft_and_a_packed_one_the_like(model: Path, tmp_path: Path) -> None:
    other = write_tiny_checkpoint(tmp_path / "other", seed=1)
    pack(model, tmp_path / "packed")
    made = {draft_of(each, threads=1, console=SILENT) for each in (model, other, tmp_path / "packed")}
    assert len(made) == 3
    drafts, one = tmp_path / "home" / "drafts", next(iter(made))
    assert {path.name for path in drafts.iterdir() if path.is_dir()} == {path.name for path in made}
    shutil.rmtree(one)
    (drafts / f".{one.name}-left").mkdir()  # by a process that was killed
    assert {draft_of(each, threads=1, console=SILENT) for each in (model, other, tmp_path / "packed")} == made
    assert {path.name for path in drafts.iterdir() if path.is_dir()} == {path.name for path in made}


def test_a_model_writes_conversations_or_plain_text(model: Path) -> None:
    talks = own_text(model, 6, threads=1, console=SILENT)
    assert 0 < len(talks) <= 6 and all(sample.prompt and sample.answer for sample in talks)
    tokenizer = AutoTokenizer.from_pretrained(model)
    tokenizer.chat_template = None
    tokenizer.save_pretrained(model)
    (model / "chat_template.jinja").unlink(missing_ok=True)
    texts = own_text(model, 6, threads=1, console=SILENT)
    assert texts and not any(sample.prompt for sample in texts)


def test_a_model_of_few_positions_writes_as_far_as_they_go(model: Path) -> None:
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 256}))
    assert own_text(model, 2, threads=1, console=SILENT)


def test_what_a_template_says_first_may_be_long(model: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(model)
    template = tokenizer.chat_template
    tokenizer.chat_template = "{{ '" + "You are careful. " * 35 + "' }}" + template
    tokenizer.save_pretrained(model)
    assert len(tokenizer.apply_chat_template([{"role": "user", "content": ""}], tokenize=True)["input_ids"]) > 512
    talks = own_text(model, 6, threads=1, console=SILENT)
    assert talks and all(sample.prompt and sample.answer for sample in talks)


def test_what_is_quantised_already_is_refused_before_it_writes(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(draft, "own_text")
    quantize(model, tmp_path / "int8", QuantizeSettings(method="rtn"), console=SILENT)
    pack(tmp_path / "int8", tmp_path / "packed")
    for quantized in (tmp_path / "int8", tmp_path / "packed"):
        with pytest.raises(CutworkError, match=r"no draft can be made of .*give the plain checkpoint"):
            draft_of(quantized, threads=1, console=SILENT)
    assert not list((tmp_path / "home" / "drafts").glob("[!.]*"))
