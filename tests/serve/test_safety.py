"""What clients may not do, and what happens when they leave."""

import json
import logging
import re
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from ..tiny_checkpoint import write_tiny_checkpoint
from .conftest import events, idle, metric, only, serving, slow, until

LONG = {"prompt": "the", "max_tokens": 400, "ignore_eos": True, "temperature": 0}


@pytest.mark.parametrize(
    "fields",
    [
        {"max_tokens": 401},
        {"max_tokens": -2},
        {"max_tokens": 0},
        {"n": 4},
        {"n": 0},
        {"temperature": -1},
        {"temperature": 1e400},
        {"temperature": "NaN"},
        {"top_p": -0.1},
        {"top_k": -2},
        {"logit_bias": {"300": 1}},
        {"stop_token_ids": [300]},
        {"stop_token_ids": [1 << 40], "min_tokens": 1},
        {"logit_bias": {"1": 1000}},
        {"logit_bias": {"x": 1}},
        {"stop": ["a", "b", "c"]},
        {"stop": ["123456789"]},
        {"seed": 1 << 70},
        {"prompt": []},
        {"prompt": [[]]},
        {"prompt": ""},
        {"prompt": [300]},
        {"prompt": [-1]},
        {"prompt": "x" * 600},
        {"prompt": None},
        {"prompt": ["a"] * 65},
        {"suffix": "x"},
        {"best_of": 3},
        {"logprobs": 21},
        {"echo": True, "stream": True},
        {"stream_options": 3},
    ],
    ids=str,
)
def test_fields_out_of_range_are_refused(small, fields):
    body = json.dumps({"prompt": "the", **fields}).replace("Infinity", "1e400")
    response = small.post("/v1/completions", content=body, headers={"Content-Type": "application/json"})
    assert response.status_code == 400
    error = response.json()["error"]
    assert error["type"] == "invalid_request_error" and error["message"]


@pytest.mark.parametrize(
    ("body", "status"),
    [(b"{", 400), (b"[" * 3000, 400), (b"\xff\xfe", 400), (b"null", 400), (b"x" * 5000, 413), (b"", 400)],
)
def test_malformed_bodies(small, body, status):
    response = small.post("/v1/completions", content=body, headers={"Content-Type": "application/json"})
    assert response.status_code == status and "message" in response.json()["error"]


def test_a_body_without_length_is_counted(small):
    response = small.post("/v1/completions", content=(b"x" * 1000 for _ in range(10)))
    assert response.status_code == 413


def test_unknown_models_and_routes(client):
    for response in (
        client.post("/v1/completions", json={"model": "other", "prompt": "x"}),
        client.get("/v1/models/other"),
        client.get("/nothing"),
        client.get("/static/../app.py"),
        client.get("/static/%2e%2e/app.py"),
    ):
        assert response.status_code == 404 and response.json()["error"]["message"]
    assert client.get("/v1/models").json()["data"][0]["id"] == "tiny"
    assert client.get("/v1/completions").status_code == 405


def test_a_full_queue_is_429_and_says_when_to_come_back(small):
    answers = []

    def ask():
        answers.append(small.post("/v1/completions", json=LONG))

    threads = [threading.Thread(target=ask) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    codes = [answer.status_code for answer in answers]
    assert set(codes) == {200, 429}
    refused = next(answer for answer in answers if answer.status_code == 429)
    assert 1 <= int(refused.headers["retry-after"]) <= 60
    assert metric(small, "request_rejected_total") == codes.count(429)
    until(lambda: idle(small))


def test_beside_a_full_batch_no_more_wait_than_the_queue_holds(small, monkeypatch):
    slow(small, 0.01)
    with ThreadPoolExecutor(3) as others:
        short = {**LONG, "max_tokens": 60}
        answers = [others.submit(small.post, "/v1/completions", json=short) for _ in range(3)]
        until(lambda: metric(small, "num_requests_running") == 1 and metric(small, "num_requests_waiting") == 2)
        assert small.post("/v1/completions", json=LONG).status_code == 429
        with monkeypatch.context() as patched:  # nothing is done for what is refused
            patched.setattr(only(small).tokens, "encode", None)
            patched.setattr(only(small).tokens, "render", None)
            assert small.post("/v1/completions", json=LONG).status_code == 429
            chat = {"messages": [{"role": "user", "content": "a"}]}
            assert small.post("/v1/chat/completions", json=chat).status_code == 429
    assert {answer.result().status_code for answer in answers} == {200}


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("phase", ["running", "queued", "prefill"])
def test_a_client_that_leaves_frees_everything(small, phase, stream):
    slow(small, 0.02)
    hogs = []
    if phase == "queued":
        hogs = [threading.Thread(target=small.post, args=("/v1/completions",), kwargs={"json": LONG})]
        hogs[0].start()
        until(lambda: metric(small, "num_requests_running") == 1)
    body = {**LONG, "n": 2 if hogs else 3, "stream": stream}
    if phase == "prefill":
        small.model.session.scheduler.max_tokens = 4
        body |= {"prompt": list(range(3, 103)), "max_tokens": 4}
    with (
        pytest.raises(httpx.ReadTimeout),
        httpx.Client(base_url=small.base_url, timeout=0.3) as leaver,
        leaver.stream("POST", "/v1/completions", json=body) as response,
    ):
        for _ in response.iter_lines():
            if phase == "running":
                raise httpx.ReadTimeout("enough has been read")
    until(lambda: metric(small, "request_cancelled_total") >= 1)
    assert phase != "prefill" or metric(small, "generation_tokens_total") == 0
    for hog in hogs:
        hog.join()
    until(lambda: idle(small))


def test_a_deadline_ends_requests(load):
    from cutwork.serve.limits import Limits

    with serving(load(), limits=Limits(deadline=0.05)) as client:
        slow(client, 0.03)
        assert client.post("/v1/completions", json=LONG).status_code == 504
        with client.stream("POST", "/v1/completions", json={**LONG, "stream": True}) as response:
            assert events(response)[-1]["error"]["code"] == "timeout"
        chat = {"messages": [{"role": "user", "content": "the"}], "max_tokens": 300, "stream": True}
        with client.stream("POST", "/v1/messages", json=chat) as response:
            last = [line for line in response.iter_lines() if line.startswith("data: ")][-1]
            assert json.loads(last.removeprefix("data: "))["error"]["type"] == "timeout_error"  # as Anthropic has it
        until(lambda: idle(client))
        assert metric(client, "request_timeout_total") == 3


class Panic(BaseException):
    """As of libraries in Rust."""


@pytest.mark.parametrize("kind", [RuntimeError, Panic])
def test_a_failing_step_is_500_for_those_in_it_and_the_server_lives(client, caplog, kind):
    model = client.model
    step = model.session.step

    def fail():
        model.session.step = step
        raise kind("secret detail /path/to/it")

    model.session.step = fail
    with caplog.at_level(logging.ERROR):
        response = client.post("/v1/completions", json=LONG)
    assert response.status_code == 500 and "secret" not in response.text
    assert "secret detail" in caplog.text
    assert client.post("/v1/completions", json={**LONG, "max_tokens": 3}).status_code == 200
    until(lambda: idle(client))
    assert client.get("/health/ready").status_code == 200


def test_an_engine_that_keeps_failing_is_not_ready(client):
    def fail():
        raise RuntimeError("broken")

    client.model.session.step = fail
    for _ in range(3):
        assert client.post("/v1/completions", json=LONG).status_code == 500
    assert client.get("/health/ready").status_code == 503
    assert client.get("/health/live").status_code == 200


def test_a_model_may_be_called_as_on_the_hub(load):
    with serving({"owner/name": load()}) as client:
        [listed] = client.get("/v1/models").json()["data"]
        assert client.get(f"/v1/models/{listed['id']}").json()["id"] == "owner/name"
        assert client.get("/v1/models/owner%2Fname").json()["id"] == "owner/name"


def test_a_body_that_is_no_object_is_told_how_to_be_one(client):
    for answer in (client.post("/v1/completions", content=b'{"prompt": "a"}'), client.post("/v1/completions")):
        assert answer.status_code == 400 and "send a JSON object" in answer.json()["error"]["message"]


def test_health_answers_while_a_step_takes_long(client):
    slow(client, 3)
    thread = threading.Thread(target=client.post, args=("/v1/completions",), kwargs={"json": {**LONG, "max_tokens": 1}})
    thread.start()
    time.sleep(0.5)
    assert client.get("/health/ready").status_code == 200
    assert thread.is_alive()
    thread.join()


def test_keys(load):
    with serving(load(), keys=["one", "two"]) as client:
        assert client.get("/v1/models").status_code == 401
        assert client.get("/metrics", headers={"Authorization": "Bearer on"}).status_code == 401
        assert client.get("/v1/models", headers={"Authorization": "Basic one"}).status_code == 401
        assert client.get("/v1/models", headers={"Authorization": "Bearer two"}).status_code == 200
        assert client.get("/health/live").status_code == 200


def test_the_log_has_ids_and_no_prompts(client, caplog):
    def lines():
        return [record.msg for record in caplog.records if record.name == "cutwork.access"]

    with caplog.at_level(logging.INFO, logger="cutwork.access"):
        response = client.post("/v1/completions", json={"prompt": "a secret"}, headers={"X-Request-Id": "abc-1"})
        client.get("/v1/models", headers={"X-Request-Id": "bad id\x7f"[:6]})
        until(lambda: len(lines()) == 2)  # written once answers have left
    assert response.headers["x-request-id"] == "abc-1"
    first, second = lines()
    assert first["request_id"] == "abc-1" and first["status"] == 200 and first["path"] == "/v1/completions"
    assert second["request_id"] != "bad id"
    assert "secret" not in caplog.text


def test_draining_lets_streams_go_on_and_then_ends_them(load):
    with serving(load()) as client:
        slow(client, 0.05)
        with client.stream("POST", "/v1/completions", json={**LONG, "stream": True}) as response:
            lines = response.iter_lines()
            next(lines)
            client.app.state.models.drain(3)  # seconds: a busy machine takes many of the steps' 0.05 each
            assert client.get("/health/ready").status_code == 503
            assert client.post("/v1/completions", json=LONG).status_code == 503
            rest = [line for line in lines if line]
        assert len(rest) > 5 and json.loads(rest[-2].removeprefix("data: "))["error"]["code"] == "shutting_down"
        assert rest[-1] == "data: [DONE]"


def test_a_slow_reader_keeps_nobody_waiting(client):
    body = {**LONG, "stream": True, "logprobs": 5, "n": 3}
    with client.stream("POST", "/v1/completions", json=body) as response:
        lines = response.iter_lines()
        next(lines)  # and then nothing, while more arrives than the socket's buffers hold
        until(lambda: metric(client, "request_success_total", finished_reason="length") == 3)
        assert client.post("/v1/completions", json={"prompt": "a", "max_tokens": 2}).status_code == 200
        until(lambda: idle(client))
        rest = [line for line in lines if line]
    assert rest[-1] == "data: [DONE]" and len(rest) >= 3 * 100


def test_sigterm_lets_a_stream_end_and_frees_the_port(tmp_path):
    write_tiny_checkpoint(tmp_path / "tiny", seed=0)
    command = [
        sys.executable,
        "-c",
        "from cutwork.cli import main; main()",
        "serve",
        str(tmp_path / "tiny"),
        "--port",
        "0",
    ]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server:
        try:
            url = re.search(r"http://\S+", server.stderr.readline())[0]
            reading = threading.Thread(target=server.stderr.read)
            reading.start()
            until(lambda: answers(url))
            body = {**LONG, "stream": True}
            with httpx.stream("POST", f"{url}/v1/completions", json=body, timeout=60) as response:
                lines = response.iter_lines()
                next(lines)
                server.send_signal(signal.SIGTERM)
                rest = [line for line in lines if line]
            assert rest[-1] == "data: [DONE]" and '"length"' in rest[-2]
            assert server.wait(30) == -signal.SIGTERM  # as a server should that was asked to end, after all was said
            with pytest.raises(httpx.ConnectError):
                httpx.get(url)
        finally:
            server.kill()
            reading.join()


def answers(url):
    try:
        return httpx.get(f"{url}/health/ready").status_code == 200
    except httpx.TransportError:
        return False
