"""Commands as a user meets them: what they print when all is well, and the one sentence when it is not."""

import io
import json
import os
import shutil
import subprocess
import sys
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from cutwork import _native
from cutwork.cli import main
from cutwork.cli.eval import _of_recipe
from cutwork.errors import CutworkError
from cutwork.pack.pack import pack
from cutwork.recipe import TaskSettings
from tests.engine.tiny import byte_level_tokenizer
from tests.pack.models import LINEARS, llama_checkpoint
from tests.tiny_checkpoint import write_tiny_checkpoint


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_checkpoint(tmp_path_factory.mktemp("cli") / "checkpoint")


@pytest.fixture(scope="module")
def packed(checkpoint: Path) -> Path:
    pack(checkpoint, checkpoint.parent / "packed")
    return checkpoint.parent / "packed"


@pytest.fixture
def cutwork(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Any:
    """Run the command line in this process: (exit status, standard output, standard error)."""

    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["cutwork", *map(str, arguments)])
        with pytest.raises(SystemExit) as exit_:
            main()
        out, err = capfd.readouterr()
        return int(exit_.value.code or 0), out, err

    return call


def test_generate_is_the_same_from_every_kind_of_directory(cutwork: Any, checkpoint: Path, packed: Path) -> None:
    status, text, _ = cutwork("generate", checkpoint, "abc", "-n", 12)
    assert status == 0 and text.endswith("\n")
    assert cutwork("generate", packed, "abc", "-n", 12) == (0, text, "")


def test_generate_json_and_files(cutwork: Any, packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("one\n"))  # as echo writes it
    [piped], [given] = (json.loads(cutwork("generate", packed, *p, "-n", 5, "--json")[1]) for p in ([], ["one"]))
    assert piped["prompt_tokens"] == 3 and piped["tokens"] == given["tokens"]
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("one\n\ntwo\n")
    status, out, _ = cutwork("generate", packed, "--file", prompts, "-n", 5, "--json")
    results = json.loads(out)
    assert status == 0 and [result["prompt_tokens"] for result in results] == [3, 3]
    assert all(len(result["tokens"]) <= 5 and result["finish_reason"] in ("length", "stop") for result in results)


def test_generate_searches_draws_and_drafts(cutwork: Any, packed: Path) -> None:
    beams = ["--num-beams", 3, "--num-return-sequences", 2, "--no-repeat-ngram-size", 2, "--early-stopping", "never"]
    status, out, _ = cutwork("generate", packed, "abc", "-n", 6, *beams, "--json")
    best = json.loads(out)[0]
    assert status == 0 and best["score"] >= best["alternatives"][0]["score"] and len(best["alternatives"]) == 1
    status, out, _ = cutwork("generate", packed, "abc [/INST]", "-n", 6, *beams)
    assert status == 0 and out.count("score ") == 2 and "abc [/INST]" in out
    status, out, _ = cutwork(
        "generate", packed, "abc", "-n", 6, "--num-return-sequences", 3, "--temperature", 1, "--json"
    )
    assert status == 0 and len(json.loads(out)[0]["alternatives"]) == 2
    status, out, _ = cutwork("generate", packed, "abc", "-n", 12, "--draft", packed, "--draft-tokens", 2, "--json")
    drafted = json.loads(out)[0]
    assert status == 0 and drafted["acceptance"] == 1.0 and drafted["guessed_tokens"] > 0
    status, out, _ = cutwork("generate", packed, "abc", "-n", 12, "--json")
    assert json.loads(out)[0]["tokens"] == drafted["tokens"]


def test_bench_and_explain_and_eval(cutwork: Any, checkpoint: Path, packed: Path, tmp_path: Path) -> None:
    status, out, _ = cutwork("bench", packed, "--against", checkpoint, "-p", 16, "-n", 4, "-r", 2, "-t", 1, "--json")
    measured = json.loads(out)
    assert status == 0 and len(measured["models"]) == 2 and measured["machine"]["threads"] == 1
    assert all(row["decode_tokens_per_second"] > 0 for row in measured["models"].values())
    status, out, _ = cutwork("bench", packed, "-p", 16, "-n", 4, "-r", 1, "-t", 1)
    assert status == 0 and "decode tok/s" in out

    status, out, _ = cutwork("explain", packed, "-r", 2, "--json")
    explained = json.loads(out)
    assert status == 0 and explained["bytes_per_step"] == sum(row["bytes"] for row in explained["weights"])
    dense = [row["note"] for row in explained["weights"] if all("dense" in text for text in row["encodings"])]
    assert dense and set(dense) == {"stored dense, too few zeros to profit"}
    status, out, _ = cutwork("explain", packed, "-r", 2, "--all")
    assert status == 0 and "self_attn.{q_proj,k_proj,v_proj}" in out and "GB/s" in out
    status, out, _ = cutwork("explain", packed, "-r", 1, "--after", 40, "--json")
    assert status == 0 and json.loads(out)["context"] == 40

    text = tmp_path / "text.txt"
    text.write_text("some words that nobody will remember " * 20)
    status, out, _ = cutwork("eval", packed, "--text", text, "--json")
    assert status == 0 and 1 < json.loads(out)["perplexity"] < 1000
    samples = tmp_path / "samples.jsonl"
    samples.write_text('{"prompt": "1+1?", "answer": "#### 2"}\n')
    status, out, _ = cutwork("eval", packed, "--task", samples, "--samples", 1, "--max-new-tokens", 4, "--json")
    assert status == 0 and json.loads(out)["samples"] == 1


def test_zeros_that_would_cost_time_are_said_to_be_written_out(
    cutwork: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    byte_level_tokenizer().save_pretrained(llama_checkpoint(tmp_path / "model", "I4", "unstructured"))
    pack(tmp_path / "model", tmp_path / "packed")
    slow = {f"{kernel} i4": (0.0, 0.0, 100.0, 0.0, 0.0) for kernel in ("gemv bitmask", "gemm bitmask", "slots slots")}
    fast = {f"{kernel} dense i4": (0.0, 0.0, 1.0, 0.0, 0.0) for kernel in ("gemv", "gemm")}
    costs = _native.Costs(slow | fast, (1e12, 1e12))
    monkeypatch.setattr("cutwork.engine.model.load_costs", lambda: costs)
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    said = f"written out dense when loaded: with {costs.isa} kernels these zeros would cost time"
    status, out, _ = cutwork("explain", tmp_path / "packed", "-r", 1, "--json")
    notes = {row["note"] for row in json.loads(out)["weights"] if "dense i4" in row["encodings"]}
    assert status == 0 and notes == {said}
    sentence = f"{tmp_path / 'packed'}: {len(LINEARS)} weights are {said}\n"
    for command in (("generate", "abc", "-n", 2), ("chat",), ("bench", "-p", 4, "-n", 2, "-r", 1)):
        status, out, err = cutwork(command[0], tmp_path / "packed", *command[1:])
        assert (status, err) == (0, sentence) and said not in out
        if command[0] != "chat":
            assert cutwork(command[0], tmp_path / "packed", *command[1:], "--json")[2] == ""


def test_what_explain_measures_and_keeps_is_said(
    cutwork: Any, packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CUTWORK_COSTS")
    monkeypatch.setenv("CUTWORK_HOME", str(tmp_path))
    monkeypatch.setattr("cutwork.engine.weights.costs.measure_costs", lambda: None)
    status, out, err = cutwork("explain", packed, "-r", 1, "--json")
    assert status == 0 and json.loads(out)["weights"]
    assert err.startswith("measuring this machine's kernels, some seconds; kept in ") and str(tmp_path) in err
    assert "keeps what they cost" in " ".join(cutwork("explain", "--help")[1].split())
    assert cutwork("explain", tmp_path / "gone")[2].startswith("error: no model directory")  # before it is measured


@pytest.mark.parametrize(
    "command",
    ["run", "report", "tune", "prune", "quantize", "pack", "generate", "chat", "eval", "pull", "push", "list", "rm"],
)
def test_help_has_an_example(cutwork: Any, command: str) -> None:
    status, out, _ = cutwork(command, "--help")
    assert status == 0 and f"Example: cutwork {command}" in " ".join(out.split())


def test_paragraphs_of_help_are_as_wide_as_the_terminal(cutwork: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "400")
    _, out, _ = cutwork("tune", "--help")
    [line] = [line for line in out.splitlines() if "After an interruption" in line]
    assert line.rstrip().endswith("(--fsdp).")


def test_bad_input_is_one_sentence(cutwork: Any, checkpoint: Path, packed: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("name: x\nmodel: m\noutput: o\ntask: {name: gsm8k}\nprune: {sparsity: 1.5}\n")
    misspelt = tmp_path / "misspelt.yaml"
    misspelt.write_text("name: x\nmodel: m\noutput: o\ntask: {name: gsm8k}\nprune: {sparcity: 0.5}\n")
    unknown = tmp_path / "unknown"
    unknown.mkdir()
    for file in checkpoint.iterdir():
        (unknown / file.name).write_bytes(file.read_bytes())
    config = json.loads((unknown / "config.json").read_text())
    (unknown / "config.json").write_text(json.dumps(config | {"model_type": "martian"}))
    truncated = tmp_path / "truncated"
    truncated.mkdir()
    for file in packed.iterdir():
        (truncated / file.name).write_bytes(file.read_bytes())
    weights = truncated / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])

    right = tmp_path / "right.yaml"
    right.write_text("name: x\nmodel: m\noutput: o\ntask: {name: gsm8k}\nprune: {sparsity: 0.5}\n")
    dated = tmp_path / "dated.yaml"
    dated.write_text("name: 2026-13-45\n")
    rows = {"half.jsonl": '{"prompt": "\\ud800", "answer": "a"}', "deep.jsonl": "[" * 5000}
    for name, content in rows.items():
        (tmp_path / name).write_text(content + "\n")
    batched = tmp_path / "batched.jsonl"
    batched.write_text("{}\n")
    tune = ["tune", checkpoint, tmp_path / "o", "--task", tmp_path / "half.jsonl"]
    for arguments, problem in [
        (["generate", packed, "a\udcff"], "UTF-8"),
        (["generate", "x" * 300, "a"], "name too long"),
        (["generate", "~nobodyatall/x", "a"], "without ~"),
        (["eval", packed, "--task", tmp_path / "half.jsonl"], "row 1 holds half a character"),
        (["eval", packed, "--task", tmp_path / "deep.jsonl"], "line 1 is not JSON"),
        (["eval", packed, "--lm-eval", ","], "names no task"),
        (["eval", packed, "--task", "gsm8k", "--lm-eval", "hellaswg"], "lm-eval has no task 'hellaswg'"),
        (["eval", packed, "--task", "gsm8k", "--limit", 5], "--limit is for --lm-eval alone"),
        (["eval", packed, "--text", recipe, "--samples", 5], "--samples is for --task or --recipe alone"),
        (["eval", packed, "--task", "gsm8k", "--seed", -1], "--seed"),
        (["eval", packed, "--text", recipe, "--seed", 5], "--seed is for --task or --recipe alone"),
        (
            ["compress", checkpoint, tmp_path / "o", "--task", batched, "--speedup", 2, "--sure"],
            "--sure is for --within",
        ),
        (["quantize", checkpoint, tmp_path / "o", "--task", "gsm8k", "--method", "qat", "--lr", 0], "--lr: input"),
        (["eval", packed, "--task", "gsm_symbolic", "--samples", 1001], "what comes after 1000 is what tune trains on"),
        (["eval", packed, "--task", "gsm8k", "--window", 64], "--window is for --text alone"),
        (["batch", packed, batched, batched, "--overwrite"], "is what is read"),
        (["batch", packed, batched, tmp_path, "--overwrite"], "is a directory"),
        ([*tune, "--seed", -1], "--seed"),
        ([*tune, "--epochs", "inf"], "--epochs"),
        (["run", dated], "not valid YAML"),
        (["push", tmp_path, "a/b/c"], "OWNER/NAME"),
        (["serve", packed, "--tls-key", recipe, "--tls-cert", recipe], "--tls-key and --tls-cert"),
        (["compress", checkpoint, tmp_path / "o", "--recipe", right, "--within", 1, "--seed", 3], "--seed"),
        (["generate", tmp_path / "missing", "x"], "missing"),
        (["generate", unknown, "x"], "martian"),
        (["generate", truncated, "x"], "model.safetensors"),
        (["generate", packed, "x" * 2000], "context"),
        (["generate", packed, ""], "empty"),
        (["generate", packed, "x", "--context", 100000], "1024"),
        (["generate", packed, "x", "--num-beams", 3, "--temperature", 1.0], "temperature"),
        (["generate", packed, "x", "--num-return-sequences", 3], "num_return_sequences"),
        (["generate", packed, "x", "--draft", tmp_path / "missing"], "missing"),
        (["eval", packed], "--task"),
        (["eval", packed, "--task", "gsm9k"], "gsm9k"),
        (["bench", packed, "-p", 1020, "-n", 64], "1024"),
        (["bench", packed, "--against", packed], "given twice"),
        (["run", recipe], "prune.sparsity"),
        (["run", misspelt], "did you mean 'sparsity'?"),
        (["run", tmp_path / "none.yaml"], "no recipe"),
        (["pack", unknown / "config.json", tmp_path / "out"], "config.json"),
        (["prune", checkpoint, tmp_path / "out", "--sparsity", "1.5", "--task", "gsm8k"], "sparsity"),
    ]:
        before = sorted(tmp_path.iterdir())
        status, out, err = cutwork(*arguments)
        assert status == 1, (arguments, out, err)
        assert out == "" and err.startswith("error: ") and err.count("\n") == 1, (arguments, out, err)
        assert problem in err and "Traceback" not in err, (arguments, err)
        assert sorted(tmp_path.iterdir()) == before, arguments


def test_chat_answers_each_line(cutwork: Any, packed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = iter(["hello\n", "/reset\n", "again\n", "/help\n", "/exit\n"])
    monkeypatch.setattr("sys.stdin.isatty", lambda: False, raising=False)
    monkeypatch.setattr("sys.stdin.readline", lambda: next(lines), raising=False)
    status, out, err = cutwork("chat", packed, "-n", 4, "--temperature", 0)
    assert status == 0 and err == "" and out.count("\n") >= 3
    assert "forgotten" in out and out.endswith("there are /reset, /thoughts and /exit\n"), "it is no question"


@pytest.mark.parametrize(
    ("said", "arguments", "drawn"),
    [
        ({}, [], {"temperature": 0.7, "top_p": 0.9}),
        ({"temperature": 0.6, "top_k": 20}, [], {"temperature": 0.6, "top_k": 20}),
        ({"top_p": 0.8}, ["--top-p", 1, "--seed", 3], {"temperature": 1.0, "top_p": 1.0, "seed": 3}),
        ({"do_sample": False, "temperature": 0.6}, ["--temperature", 0], {"temperature": 0.0, "top_p": 0.9}),
        (
            {"temperature": 0.6},
            ["--top-k", 5, "--min-p", 0.1, "--repetition-penalty", 1.2],
            {"temperature": 0.6, "top_k": 5, "min_p": 0.1, "repetition_penalty": 1.2},
        ),
    ],
)
def test_chat_draws_as_the_model_says_unless_told_otherwise(
    cutwork: Any,
    packed: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    said: dict[str, Any],
    arguments: list[Any],
    drawn: dict[str, Any],
) -> None:
    asked: list[dict[str, Any]] = []

    def answered(_: Any, __: Any, *, think: Any, thinking_budget: Any, **options: Any) -> Any:
        asked.append(options)
        yield from ()

    shutil.copytree(packed, tmp_path / "model")
    (tmp_path / "model" / "generation_config.json").write_text(json.dumps(said))
    lines = iter(["hello\n", ""])
    monkeypatch.setattr("cutwork.engine.chat.answer_parts.answer_parts", answered)
    monkeypatch.setattr("sys.stdin.isatty", lambda: False, raising=False)
    monkeypatch.setattr("sys.stdin.readline", lambda: next(lines), raising=False)
    status, _, _ = cutwork("chat", tmp_path / "model", "-n", 4, *arguments)
    assert (status, asked) == (0, [{"max_new_tokens": 4, **drawn}])


def test_what_cannot_be_answered_from_a_pipe_is_an_error(
    cutwork: Any, packed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: Any, **__: Any) -> Any:
        raise CutworkError("no room")
        yield

    lines = iter(["hello\n", ""])
    monkeypatch.setattr("cutwork.engine.chat.answer_parts.answer_parts", refused)
    monkeypatch.setattr("sys.stdin.isatty", lambda: False, raising=False)
    monkeypatch.setattr("sys.stdin.readline", lambda: next(lines), raising=False)
    status, out, err = cutwork("chat", packed)
    assert status == 1 and err == "error: no room\n" and "no room" not in out


def test_a_model_without_a_chat_template_is_asked_as_it_was_trained(
    cutwork: Any, checkpoint: Path, packed: Path, tmp_path: Path
) -> None:
    shutil.copytree(checkpoint, tmp_path / "base")
    (tmp_path / "base" / "chat_template.jinja").unlink()
    status, out, _ = cutwork("generate", tmp_path / "base", "abc", "-n", 8, "--chat-template")
    assert (status, out) == cutwork("generate", checkpoint, "Question: abc\nAnswer:", "-n", 8)[:2]
    status, out, _ = cutwork("generate", packed, "abc", "-n", 8, "--chat-template")
    assert (status, out) == cutwork("generate", packed, "<user>abc<bot>", "-n", 8)[:2]


def test_a_recipe_is_not_tested_with_what_it_trains_on(tmp_path: Path) -> None:
    data, console = tmp_path / "rows.jsonl", Console(file=io.StringIO())
    data.write_text("".join(json.dumps({"prompt": f"{i}?", "answer": "a"}) + "\n" for i in range(9)))
    settings = TaskSettings(name=str(data), train_samples=3, test_samples=2, options={"train": str(data)})
    settings = settings.model_copy(update={"validation_samples": 1})
    for samples, asked in ((1, "0"), (None, "01"), (7, "016"), (20, "01678")):
        test = _of_recipe(settings, samples, None, console).test
        assert "".join(sample.prompt[0] for sample in test) == asked
    assert "4 of 7 questions are left out" in " ".join(console.file.getvalue().split())


@pytest.mark.parametrize("command", ["generate", "chat"])
def test_input_in_another_encoding_is_one_sentence(packed: Path, command: str) -> None:
    arguments = [sys.executable, "-c", "from cutwork.cli import main; main()", command, str(packed)]
    environment = {**os.environ, "PYTHONIOENCODING": "utf-8:strict"}
    done = subprocess.run(
        arguments, input="é".encode("latin-1"), capture_output=True, check=False, env=environment, timeout=300
    )
    assert done.returncode == 1 and b"not UTF-8" in done.stderr and b"Traceback" not in done.stderr


def test_a_byte_order_mark_is_no_part_of_a_prompt(cutwork: Any, packed: Path, tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("abc\n", encoding="utf-8-sig")
    status, out, _ = cutwork("generate", packed, "--file", tmp_path / "prompts.txt", "-n", 2, "--json")
    assert status == 0 and json.loads(out)[0]["prompt_tokens"] == 3
    pytest.importorskip("httpx")
    from cutwork.serve.batch import read_requests

    request = {"custom_id": "1", "url": "/v1/completions", "body": {}}
    (tmp_path / "requests.jsonl").write_text(json.dumps(request), encoding="utf-8-sig")
    assert set(read_requests(tmp_path / "requests.jsonl")) == {"1"}


def test_long_names_are_listed_whole(cutwork: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    name = "somebody/" + "a-model-with-a-long-name-" * 3
    model = SimpleNamespace(name=name, revision="0" * 40, size=1, used=datetime(2024, 5, 6))
    monkeypatch.setattr("cutwork.store.hub.downloaded", lambda: [model])
    status, out, _ = cutwork("list")
    assert status == 0 and name in out


def test_a_question_that_was_stopped_is_forgotten(cutwork: Any, packed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = iter(["first\n", "second\n", "/exit\n"])
    seen: list[list[dict[str, str]]] = []

    def stopped_once(_: Any, messages: list[dict[str, str]], **options: Any) -> Any:
        seen.append(list(messages))
        if len(seen) == 1:
            raise KeyboardInterrupt
        yield from ()

    monkeypatch.setattr("cutwork.engine.chat.answer_parts.answer_parts", stopped_once)
    monkeypatch.setattr("sys.stdin.isatty", lambda: False, raising=False)
    monkeypatch.setattr("sys.stdin.readline", lambda: next(lines), raising=False)
    status, _, _ = cutwork("chat", packed)
    assert status == 0
    assert seen == [[{"role": "user", "content": "first"}], [{"role": "user", "content": "second"}]]


def test_a_missing_extra_is_named(checkpoint: Path, tmp_path: Path) -> None:
    # In a process of its own: taking torch away from this one would break the tests that follow.
    without_torch = "import sys; sys.modules['torch'] = None; from cutwork.cli import main; main()"
    arguments = ["prune", str(checkpoint), str(tmp_path / "out"), "--method", "magnitude"]
    done = subprocess.run(
        [sys.executable, "-c", without_torch, *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1 and 'run: pip install "accelerate' in done.stderr and "Traceback" not in done.stderr


def test_an_error_is_all_that_is_said(tmp_path: Path) -> None:
    """Whatever packages are installed beside torch, which say things of their own when they are imported."""
    command = [sys.executable, "-c", "from cutwork.cli import main; main()", "tune", str(tmp_path / "no"), "out"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 1 and done.stderr.startswith("error: no model directory") and done.stdout == ""


def test_an_instruction_set_that_is_not_known_is_no_fault_of_the_model(packed: Path) -> None:
    environment = {**os.environ, "CUTWORK_ISA": "foo"}
    command = [sys.executable, "-c", "from cutwork.cli import main; main()", "generate", str(packed), "x"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, timeout=300)
    assert done.returncode == 1 and "no instruction set 'foo'" in done.stderr
    assert "damaged" not in done.stderr and "Traceback" not in done.stderr


def test_what_a_terminal_cannot_show_is_escaped(packed: Path) -> None:
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    says = "import sys; from cutwork.cli import app, main; app.command('say')(lambda: print('\u4f60')); main()"
    done = subprocess.run([sys.executable, "-c", says, "say"], capture_output=True, check=False, env=environment)
    assert (done.returncode, done.stdout.strip()) == (0, rb"\u4f60")


@pytest.mark.skipif(os.name == "nt", reason="a shell of POSIX closes streams")
@pytest.mark.parametrize(("closed", "status"), [("<&-", 1), (">&-", 0)])
def test_streams_may_be_closed(packed: Path, closed: str, status: int) -> None:
    prompt = "" if "<" in closed else "x"
    cutwork = f'"{sys.executable}" -c "from cutwork.cli import main; main()"'
    line = f'{cutwork} generate "{packed}" {prompt} -n 2 {closed}'
    done = subprocess.run(["sh", "-c", line], stderr=subprocess.PIPE, text=True, check=False, timeout=300)
    assert done.returncode == status and "Traceback" not in done.stderr
