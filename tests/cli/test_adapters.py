"""`--adapter` of the commands: what an adapter says beside its base is what it says merged into it."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from cutwork.cli import app
from cutwork.errors import CutworkError
from tests.tiny_checkpoint import write_tiny_checkpoint

pytest.importorskip("peft")

from transformers import AutoModelForCausalLM

from tests.engine.test_adapters import adapted


@pytest.fixture(scope="module")
def directories(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """A model and an adapter of it."""
    path = tmp_path_factory.mktemp("adapters")
    base = write_tiny_checkpoint(path / "base")
    model = AutoModelForCausalLM.from_pretrained(base)
    adapted(model, path / "adapter", r=4, lora_alpha=32, target_modules=["q_proj", "down_proj"])
    return str(base), str(path / "adapter")


def run(*arguments: str, lines: str = "") -> Any:
    return CliRunner().invoke(app, list(arguments), input=lines)


def test_an_adapter_answers_as_it_does_merged(directories: tuple[str, str], tmp_path: Path) -> None:
    base, adapter = directories
    assert run("merge", adapter, str(tmp_path / "merged"), "--base", base).exit_code == 0
    plain = run("generate", base, "abc", "-n", "12").stdout
    beside = run("generate", base, "abc", "-n", "12", "--adapter", adapter).stdout
    merged = run("generate", str(tmp_path / "merged"), "abc", "-n", "12").stdout
    assert beside == merged != plain


def test_chat_takes_an_adapter(directories: tuple[str, str]) -> None:
    base, adapter = directories
    given = ["chat", base, "-n", "12", "--temperature", "0"]
    answers = [run(*given, *more, lines="hello\n/exit\n") for more in ([], ["--adapter", adapter])]
    assert [answer.exit_code for answer in answers] == [0, 0]
    assert answers[0].stdout != answers[1].stdout


def test_eval_measures_the_adapter(directories: tuple[str, str], tmp_path: Path) -> None:
    base, adapter = directories
    text, tasks = tmp_path / "text.txt", tmp_path / "tasks.jsonl"
    text.write_text("the quick brown fox jumps over the lazy dog " * 4)
    tasks.write_text('{"prompt": "a", "answer": "b"}\n')
    assert run("merge", adapter, str(tmp_path / "merged"), "--base", base).exit_code == 0
    asked = ["--text", str(text), "--task", str(tasks), "--max-new-tokens", "4", "--json"]
    found = [
        json.loads(run("eval", model, *asked, *more).stdout)["perplexity"]
        for model, more in ((base, []), (base, ["--adapter", adapter]), (str(tmp_path / "merged"), []))
    ]
    assert found[1] == pytest.approx(found[2], rel=1e-4)
    assert found[1] != pytest.approx(found[0], rel=1e-2)


def test_a_batch_asks_adapters_by_their_names(directories: tuple[str, str], tmp_path: Path) -> None:
    base, adapter = directories
    source, output = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    names = ["base", "own", "other"]
    body = {"prompt": "abc", "max_tokens": 12, "temperature": 0}
    source.write_text(
        "".join(
            json.dumps({"custom_id": name, "url": "/v1/completions", "body": body | {"model": name}}) + "\n"
            for name in names
        )
    )
    assert run("batch", base, str(source), str(output), "--adapter", f"own={adapter}").exit_code == 0
    answers = {line["custom_id"]: line["response"] for line in map(json.loads, output.read_text().splitlines())}
    said = {name: answers[name]["body"]["choices"][0]["text"] for name in names[:2]}
    assert said["base"] == run("generate", base, "abc", "-n", "12").stdout.removesuffix("\n")
    assert said["own"] == run("generate", base, "abc", "-n", "12", "--adapter", adapter).stdout.removesuffix("\n")
    assert said["base"] != said["own"] and answers["other"]["status_code"] == 404


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["generate", "BASE", "abc", "--adapter", "BASE"], "holds no adapter of PEFT"),
        (["eval", "BASE", "--task", "gsm_symbolic", "--adapter", "missing"], "holds no adapter of PEFT"),
        (["generate", "BASE", "abc", "--adapter", "missing"], "holds no adapter of PEFT"),
        (["serve", "BASE", "--port", "0", "--adapter", "missing"], "takes NAME=DIR"),
        (["serve", "BASE", "--port", "0", "--adapter", "a=ADAPTER", "--adapter", "a=ADAPTER"], "each name once"),
        (["serve", "BASE", "b=BASE", "--port", "0", "--adapter", "a=ADAPTER"], "belongs to one model"),
        (["serve", "base=BASE", "--port", "0", "--adapter", "base=ADAPTER"], "two models or adapters are called base"),
        (["serve", "BASE", "--port", "0", "--adapter", "a=missing"], "holds no adapter of PEFT"),
    ],
)
def test_what_is_wrong_is_one_sentence(arguments: list[str], problem: str, directories: tuple[str, str]) -> None:
    pytest.importorskip("fastapi")
    base, adapter = directories
    result = run(*(each.replace("BASE", base).replace("ADAPTER", adapter) for each in arguments))
    assert isinstance(result.exception, CutworkError) and problem in str(result.exception)
