"""A batch is answered like requests are, and goes on where it stopped."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cutwork.cli import app as commands
from cutwork.errors import CutworkError
from cutwork.serve import batch
from cutwork.serve.batch import LIMITS, check_models, read_requests, run_batch
from cutwork.serve.limits import Limits
from cutwork.store.journal import Journal

from ..tiny_checkpoint import write_tiny_checkpoint

ROOT = Path(__file__).parents[2]


def write(path, count):
    bodies = [{"prompt": f"number {i}", "max_tokens": 5, "temperature": 0} for i in range(count)]
    bodies[3]["max_tokens"] = -2
    lines = [{"custom_id": str(i), "method": "POST", "url": "/v1/completions", "body": b} for i, b in enumerate(bodies)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def answers(path):
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert len({line["custom_id"] for line in lines}) == len(lines)
    return {line["custom_id"]: line["response"]["body"].get("choices") for line in lines}


def test_all_are_answered_and_an_interrupted_batch_goes_on(load, tmp_path):
    source, whole, resumed = tmp_path / "in.jsonl", tmp_path / "whole.jsonl", tmp_path / "resumed.jsonl"
    write(source, 20)

    def run(output, progress):
        with load() as model:
            return run_batch({"tiny": model}, source, output, limits=Limits(), progress=progress)

    assert run(whole, lambda *_: None) == {"answered": 19, "failed": 1, "resumed": 0}

    def interrupt(done, total):
        assert total == 20
        if done == 7:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(resumed, interrupt)
    assert not resumed.exists()
    partial = tmp_path / ".resumed.jsonl.partial"
    partial.write_text(partial.read_text() + '{"custom_id": "1')  # cut off in the middle of a line
    result = run(resumed, lambda *_: None)
    assert result["failed"] == 1 and result["resumed"] in (6, 7) and sum(result.values()) == 20
    assert answers(resumed) == answers(whole) and not partial.exists()


def test_a_batch_that_was_refused_whole_fails_also_when_it_was_interrupted(tmp_path, monkeypatch):
    write_tiny_checkpoint(tmp_path / "tiny", seed=0)
    line = {"url": "/v1/completions", "body": {"prompt": "cat", "max_tokens": -2}}
    (tmp_path / "in.jsonl").write_text("".join(json.dumps({"custom_id": str(i), **line}) + "\n" for i in range(3)))
    command = ["batch", *(str(tmp_path / name) for name in ("tiny", "in.jsonl", "out.jsonl"))]
    add = Journal.add

    def interrupt(journal, *entries):
        add(journal, *entries)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Journal, "add", interrupt)
        CliRunner().invoke(commands, command)
    assert len((tmp_path / ".out.jsonl.partial").read_text().splitlines()) == 2  # a key, and an answer
    again = CliRunner().invoke(commands, command)
    assert again.exit_code == 1 and "0 answered, 3 refused" in again.stderr
    line = json.loads((tmp_path / "out.jsonl").read_text().splitlines()[0])
    assert line["error"] is None and line["response"]["status_code"] == 400 and line["response"]["body"]["error"]


def test_a_line_ends_at_a_line_feed_only(load, tmp_path):
    source, output = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    prompts = [f"a{mark}b" for mark in "\u2028\u2029\x85\x0b\x0c\x1c\x1d\x1e\r"]
    lines = [
        {"custom_id": prompt, "url": "/v1/completions", "body": {"prompt": prompt, "max_tokens": 2, "echo": True}}
        for prompt in prompts
    ]
    source.write_text("".join(json.dumps(line, ensure_ascii=False) + "\r\n" for line in lines), newline="")

    def interrupt(done, total):
        if done == 6:
            raise KeyboardInterrupt

    with load() as model:
        with pytest.raises(KeyboardInterrupt):
            run_batch({"tiny": model}, source, output, limits=Limits(), progress=interrupt)
        result = run_batch({"tiny": model}, source, output, limits=Limits(), progress=lambda *_: None)
    assert result == {"answered": 3, "failed": 0, "resumed": 6}
    answered = [json.loads(line) for line in output.read_bytes().removesuffix(b"\n").split(b"\n")]
    assert sorted(line["custom_id"] for line in answered) == sorted(prompts)
    assert all(line["response"]["body"]["choices"][0]["text"].startswith(line["custom_id"]) for line in answered)


def test_answers_to_other_requests_are_not_taken_over(load, tmp_path):
    """Though they have the same ids, as they have in every example of the format."""
    source, output = tmp_path / "in.jsonl", tmp_path / "out.jsonl"

    def interrupt(done, total):
        raise KeyboardInterrupt

    with load() as model:
        for prompt, progress in (("first", interrupt), ("second", lambda *_: None)):
            body = {"prompt": prompt, "max_tokens": 2, "echo": True}
            source.write_text(json.dumps({"custom_id": "request-1", "url": "/v1/completions", "body": body}) + "\n")
            try:
                result = run_batch({"tiny": model}, source, output, limits=Limits(), progress=progress)
            except KeyboardInterrupt:
                assert "first" in (tmp_path / ".out.jsonl.partial").read_text()
    assert result["resumed"] == 0 and next(iter(answers(output).values()))[0]["text"].startswith("second")


def test_all_of_openais_routes_are_answered(load, tmp_path):
    source, output = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    bodies = {
        "/v1/completions": {"prompt": "cat", "max_tokens": 2},
        "/v1/chat/completions": {"messages": [{"role": "user", "content": "cat"}], "max_tokens": 2},
        "/v1/responses": {"input": "cat", "max_output_tokens": 2},
    }
    source.write_text("".join(json.dumps({"custom_id": url, "url": url, "body": bodies[url]}) + "\n" for url in bodies))
    with load() as model:
        result = run_batch({"tiny": model}, source, output, limits=Limits(), progress=lambda *_: None)
    assert result == {"answered": 3, "failed": 0, "resumed": 0} and bodies.keys() <= {*batch.URLS}


@pytest.mark.parametrize("how", ["command", "ray"])
def test_no_request_is_refused_for_those_before_it(tmp_path, monkeypatch, how):
    write_tiny_checkpoint(tmp_path / "tiny", seed=0)
    made, make = [], batch.make_app
    monkeypatch.setattr(batch, "make_app", lambda models, limits: made.append(limits) or make(models, limits=limits))
    line = json.dumps({"custom_id": "a", "url": "/v1/completions", "body": {"prompt": "cat", "max_tokens": 2}})
    if how == "command":
        (tmp_path / "in.jsonl").write_text(line + "\n")
        arguments = [str(tmp_path / name) for name in ("tiny", "in.jsonl", "out.jsonl")]
        assert CliRunner().invoke(commands, ["batch", *arguments]).exit_code == 0
    else:
        pytest.importorskip("ray")
        monkeypatch.syspath_prepend(ROOT)
        from deploy.ray_batch import Answers

        [answer] = Answers(str(tmp_path / "tiny"), threads=1, max_batch=2)({"line": [line]})["answer"]
        assert json.loads(answer)["response"]["status_code"] == 200
    assert made == [LIMITS]
    for name in ("queue", "queue_tokens", "requests", "held_bytes", "deadline"):
        assert getattr(LIMITS, name) > 100 * getattr(Limits, name)


@pytest.mark.parametrize(
    "line",
    [
        "{",
        "3",
        '{"custom_id": "a", "url": "/v1/models", "body": {}}',
        '{"custom_id": 1, "url": "/v1/completions", "body": {}}',
        '{"custom_id": "\\ud800", "url": "/v1/completions", "body": {}}',
        '{"custom_id": "0", "url": "/v1/completions", "body": {}}',
        '{"custom_id": "a", "url": "/v1/completions", "body": {"stream": true}}',
    ],
)
def test_a_bad_line_is_named(tmp_path, line):
    path = tmp_path / "in.jsonl"
    write(path, 4)
    path.write_text(path.read_text() + line + "\n")
    with pytest.raises(CutworkError, match="line 5"):
        read_requests(path)


def asking(*models):
    return {str(i): {"url": "/v1/completions", "body": {"model": name}} for i, name in enumerate(models)}


def test_a_file_that_asks_for_other_models_alone_is_refused():
    said = "ask for the model 'gpt', but here is tiny, own: give the model as gpt=MODEL, or leave \"model\" out"
    with pytest.raises(CutworkError, match=said):
        check_models(asking("gpt", "gpt"), ("tiny", "own"))
    with pytest.raises(CutworkError, match="ask for the model 'gpt' and others, but here is tiny:"):
        check_models(asking("gpt", "other"), ("tiny",))


@pytest.mark.parametrize("models", [("gpt", "own"), ("gpt", None), ("gpt", 3), ("gpt", [])])
def test_where_one_request_may_be_answered_the_others_say_why_not(models):
    check_models(asking(*models), ("tiny", "own"))


def test_the_command_answers_under_the_name_that_the_requests_have(tmp_path):
    write_tiny_checkpoint(tmp_path / "tiny", seed=0)
    body = {"model": "gpt", "prompt": "cat", "max_tokens": 2}
    (tmp_path / "in.jsonl").write_text(json.dumps({"custom_id": "a", "url": "/v1/completions", "body": body}) + "\n")
    files = [str(tmp_path / name) for name in ("in.jsonl", "out.jsonl")]
    refused = CliRunner().invoke(commands, ["batch", str(tmp_path / "tiny"), *files])
    assert isinstance(refused.exception, CutworkError) and not (tmp_path / "out.jsonl").exists()
    assert CliRunner().invoke(commands, ["batch", f"gpt={tmp_path / 'tiny'}", *files]).exit_code == 0
    assert json.loads((tmp_path / "out.jsonl").read_text())["response"]["body"]["model"] == "gpt"
