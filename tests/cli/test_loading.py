"""The options to load a model are the same for every command, and reach `Model.load`."""

import sys
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from cutwork.cli import app
from cutwork.cli.loading import _options, named_model
from cutwork.engine.load_options import _DEFAULTS
from cutwork.engine.model import Model
from cutwork.errors import CutworkError

COMMANDS = {
    "generate": ["Once"],
    "chat": [],
    "translate": ["Hello"],
    "transcribe": ["a.wav"],
    "serve": ["--port", "0"],
    "eval": ["--text", "text.txt"],
    "bench": [],
    "explain": [],
    "batch": ["in.jsonl", "out.jsonl"],
}
GIVEN = ["--threads", "2", "--reorder-weights", "--no-huge-pages", "--cache-dtype", "i8", "--cache-mb", "3"]
MADE = {"threads": 2, "reorder_weights": True, "huge_pages": False, "cache_dtype": "i8", "cache_bytes": 3 << 20}
WITHOUT_CONTEXT = ("bench",)  # which sets it by what it measures
ONE_AT_A_TIME = ("generate", "chat", "bench", "explain")
WITH_DRAFT = ("generate", "chat", "serve", "eval", "batch")


class Loaded(Exception):
    pass


@pytest.fixture
def loaded(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.txt").write_text("text")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text('{"model_type": "llama"}')
    (tmp_path / "in.jsonl").write_text('{"custom_id": "1", "url": "/v1/completions", "body": {"prompt": "a"}}\n')
    calls = []

    def load(path, **options):
        calls.append((path, options))
        raise Loaded

    monkeypatch.setattr(Model, "load", load)
    monkeypatch.setattr("cutwork.engine.weights.costs.have_measured", lambda: True)
    return calls


@pytest.fixture
def drafted(monkeypatch):
    """The models that drafts are made of; what makes them would import torch."""
    models = []

    def draft_of(model, *, threads):
        models.append(model)
        return f"draft of {model}"

    monkeypatch.setitem(sys.modules, "cutwork.compress.draft", SimpleNamespace(draft_of=draft_of))
    return models


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_hands_them_to_the_model(command, loaded):
    pytest.importorskip("fastapi")
    given, made = list(GIVEN), dict(MADE)
    if command not in WITHOUT_CONTEXT:
        given += ["--context", "77"]
        made["max_context"] = 77
    if command in WITH_DRAFT:
        given += ["--draft", "small", "--draft-tokens", "3"]
        made |= {"draft": "small", "draft_tokens": 3}
    result = CliRunner().invoke(app, [command, "model", *COMMANDS[command], *given])
    assert isinstance(result.exception, Loaded), result.output
    [(path, options)] = loaded
    assert path == "model" and options | made == options


@pytest.mark.parametrize("command", WITH_DRAFT)
def test_a_draft_of_the_model_itself_is_made_where_the_model_is_loaded(command, loaded, drafted):
    pytest.importorskip("fastapi")
    CliRunner().invoke(app, [command, "model", *COMMANDS[command], "--draft", "auto"])
    [(_, options)] = loaded
    assert options["draft"] == "draft of model" and drafted == ["model"]


@pytest.mark.parametrize(
    "refused",
    [
        ["generate", "model", "--file", "missing"],
        ["generate", "model", "Once", "--file", "text.txt"],
        ["generate", "model", "Once", "--length-penalty", "2"],
        ["eval", "model", "--text", "text.txt", "--samples", "3"],
        ["batch", "model", "missing", "out.jsonl"],
    ],
)
def test_no_draft_is_made_for_what_is_refused(refused, loaded, drafted):
    pytest.importorskip("fastapi")
    result = CliRunner().invoke(app, [*refused, "--draft", "auto"])
    assert isinstance(result.exception, CutworkError) and not drafted and not loaded


def test_what_nobody_asked_for_is_as_the_library_has_it():
    given = _options()
    assert {name: value for name, value in given.items() if name != "reorder_weights"}.items() <= _DEFAULTS.items()


@pytest.mark.parametrize("command", COMMANDS)
def test_where_much_comes_at_once_the_loader_says_whether_weights_are_reordered(command, loaded):
    pytest.importorskip("fastapi")
    CliRunner().invoke(app, [command, "model", *COMMANDS[command]])
    [(_, options)] = loaded
    assert options["reorder_weights"] is (False if command in ONE_AT_A_TIME else None)


@pytest.mark.parametrize("command", COMMANDS)
def test_their_names_and_help_are_the_same_everywhere(command):
    help_text = " ".join(CliRunner().invoke(app, [command, "--help"], env={"COLUMNS": "300"}).output.split())
    for phrase in ("every CPU this process may use", "i8 halves bf16's memory", "a quarter of the free memory"):
        assert phrase in help_text
    assert ("Longest context in tokens" in help_text) == (command not in WITHOUT_CONTEXT)
    assert ("A quicker model that guesses" in help_text) == (command in WITH_DRAFT)


@pytest.mark.parametrize(
    ("given", "name", "model"),
    [
        ("out/packed", "packed", "out/packed"),
        ("gpt=out/packed", "gpt", "out/packed"),
        ("owner/gpt=out/packed", "owner/gpt", "out/packed"),
        ("out/lr=3", "lr=3", "out/lr=3"),
        ("out/small.Q4_0.gguf", "small.Q4_0", "out/small.Q4_0.gguf"),
        ("owner/name", "owner/name", "owner/name"),
        ("gpt=owner/name", "gpt", "owner/name"),
    ],
)
def test_a_model_answers_under_its_directorys_name_or_another(given, name, model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for directory in ("out/packed", "out/lr=3"):
        (tmp_path / directory).mkdir(parents=True)
    (tmp_path / "out" / "small.Q4_0.gguf").touch()
    assert named_model(given) == (name, model)
