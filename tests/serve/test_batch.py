"""A batch is answered like requests are, and goes on where it stopped."""

import json

import pytest

from cutwork.errors import CutworkError
from cutwork.serve.batch import read_requests, run_batch
from cutwork.serve.limits import Limits


def write(path, count):
    bodies = [{"prompt": f"number {i}", "max_tokens": 5, "temperature": 0} for i in range(count)]
    bodies[3]["max_tokens"] = -1
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
    assert result["resumed"] == 7 and result["answered"] + result["failed"] == 13
    assert answers(resumed) == answers(whole) and not partial.exists()


@pytest.mark.parametrize(
    "line",
    [
        "{",
        "3",
        '{"custom_id": "a", "url": "/v1/models", "body": {}}',
        '{"custom_id": 1, "url": "/v1/completions", "body": {}}',
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
