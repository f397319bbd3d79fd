"""Requests that are made to do harm: each is refused with a sentence, and nobody else notices."""

import asyncio
import itertools
import json
import logging
import threading
import time
from contextlib import suppress

import numpy as np
import pytest

from cutwork.engine.chat.template import render_chat
from cutwork.errors import CutworkError
from cutwork.serve.grammar import Matcher
from cutwork.serve.http.errors import ApiError
from cutwork.serve.http.json_body import read_json
from cutwork.serve.http.middleware import asking
from cutwork.serve.limits import Limits
from cutwork.serve.log import JsonFormatter
from cutwork.serve.routes.chat_request import Message, template_message
from cutwork.serve.time_limit import TimeIsOver, within
from cutwork.serve.tokens import Tokens

from .conftest import events, idle, only, serving, until

HALF = "\\ud800"
MANY_KEYS = "{" + '"a" : 1,' * 70_000 + '"a": 1}'
BACKSLASHED_KEYS = "{" + ",".join(rf'"{i}\\": 1' for i in range(70_000)) + "}"  # whose last quotes look escaped
SHORT = {"prompt": "the", "max_tokens": 3}
LONG = {"prompt": "the", "max_tokens": 200, "ignore_eos": True}
USER = [{"role": "user", "content": "a"}]


def post(client, path, text):
    return client.post(path, content=text, headers={"Content-Type": "application/json"})


def tool(parameters):
    return {"messages": USER, "max_tokens": 2, "tools": [{"function": {"name": "f", "parameters": parameters}}]}


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/completions", {"prompt": "HALF"}),
        ("/v1/completions", {"prompt": ["a", "HALF"]}),
        ("/v1/completions", {"prompt": "a", "stop": ["HALF"]}),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "HALF"}]}),
        ("/v1/chat/completions", tool({"description": "HALF"})),
        ("/v1/chat/completions", tool({"HALF": 1})),
        ("/v1/chat/completions", tool({"const": "HALF"}) | {"tool_choice": "required"}),
        ("/tokenize", {"prompt": "HALF"}),
        ("/translate", {"text": "HALF"}),
    ],
    ids=str,
)
def test_half_characters_are_refused(client, path, body):
    response = post(client, path, json.dumps(body).replace("HALF", HALF))
    assert response.status_code == 400 and response.headers["x-request-id"]
    whole = post(client, path, json.dumps(body).replace("HALF", "\\ud83d\\ude00"))
    assert whole.status_code in (200, 400) and "surrogates" not in whole.text


def test_an_error_that_repeats_half_characters_is_told(client):
    def fail():
        raise ApiError(400, "no \ud800 here", param="\ud800")

    client.app.add_api_route("/half", fail)
    response = client.get("/half")
    assert response.status_code == 400 and response.json()["error"]["message"] == "no ? here"


@pytest.mark.parametrize(
    "text",
    [
        '"\\ud800"',
        b'"\xed\xa0\x80"',
        '{"\\uDC00": 1}',
        "[" * 65 + "]" * 65,
        "[" * 100000,
        '{"maximum": 1e999}',
        "[-Infinity]",
        "[NaN]",
        pytest.param(MANY_KEYS, id="keys"),
        pytest.param(BACKSLASHED_KEYS, id="backslashed keys"),
    ],
)
def test_what_is_no_json_here(text):
    with pytest.raises((ValueError, RecursionError)):
        read_json(text)


def test_what_is_json_here():
    assert read_json(json.dumps([MANY_KEYS])) == [MANY_KEYS]  # in a text
    assert read_json('["\\ud83d\\ude00", "\\\\ud800", "é"]') == ["😀", "\\ud800", "é"]


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("[" + "[]," * 2_000_000 + "[]]", "lists and objects"),
        ("[" + "{}," * 70_000 + "[]]", "lists and objects"),
        ("[" * 4 + "[1]," * 70_000 + '"' + '\\\\"' + "]" * 4, "lists and objects"),
        ("[[" + "1," * 1_200_000 + "1]]", "values"),
        ('["a\\\\",' + "1," * 1_200_000 + '"\\""]', "values"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_what_has_too_many_values_is_refused_before_it_is_parsed(monkeypatch, text, wrong):
    monkeypatch.setattr(json, "loads", None)
    with pytest.raises(ValueError, match=f"it has more than [0-9]+ {wrong}"):
        read_json(text)


def test_what_stands_in_texts_is_no_value():
    for text in ("[], {}, " * 300_000, '\\"\\[],' * 300_000, "\\"):
        assert read_json(json.dumps({"a": text, "b": [text]})) == {"a": text, "b": [text]}
    assert len(read_json("[" + "1," * (Limits.token_ids - 1) + "1]")) == Limits.token_ids


@pytest.mark.parametrize("levels", [30, 70, 500, 960, 5000])
@pytest.mark.parametrize("place", ["tools", "arguments", "arguments as text", "schema", "unknown"])
def test_nesting_is_bounded(client, place, levels):
    deep = '{"a":' * levels + "1" + "}" * levels
    call = '{"role":"assistant","content":"a","tool_calls":[{"function":{"name":"f","arguments":%s}}]}'
    path, body = {
        "tools": ("/v1/chat/completions", json.dumps(tool("DEEP")).replace('"DEEP"', deep)),
        "arguments": ("/v1/chat/completions", '{"messages":[%s],"max_tokens":1}' % (call % deep)),
        "arguments as text": ("/v1/chat/completions", '{"messages":[%s],"max_tokens":1}' % (call % json.dumps(deep))),
        "schema": (
            "/v1/completions",
            '{"prompt":"a","response_format":{"type":"json_schema","json_schema":{"schema":' + deep + "}}}",
        ),
        "unknown": ("/v1/completions", '{"prompt":"a","max_tokens":1,"zzz":' + deep + "}"),
    }[place]
    assert post(client, path, body).status_code in (200, 400)


def test_call_ids_that_are_missing_do_not_reach_the_template():
    message = Message(role="assistant", tool_calls=[{"function": {"name": "f", "arguments": '{"a": "\\ud800"}'}}])
    [call] = template_message(message)["tool_calls"]
    assert "id" not in call and call["function"]["arguments"] == '{"a": "\\ud800"}'  # text, as it is no JSON here


@pytest.mark.parametrize(
    "template", ["{{ 1 / 0 }}", "{{ none|length }}", "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}"]
)
def test_a_template_that_fails_is_told(load, template):
    model = load()
    model.tokenizer.chat_template = template
    with pytest.raises(CutworkError, match="refuses these messages"):
        render_chat(model.tokenizer, USER)
    with serving(model) as client:
        assert client.post("/v1/chat/completions", json={"messages": USER}).status_code == 400


def test_what_a_template_makes_of_it_is_not_too_long_either(load):
    model = load()
    model.tokenizer.chat_template = "{{ 'x' * 10_000_000 }}"
    with serving(model) as client:
        response = client.post("/v1/chat/completions", json={"messages": USER})
    assert response.status_code == 400 and "10000000 characters" in response.json()["error"]["message"]


def test_a_template_that_does_not_end_is_ended(load, monkeypatch):
    monkeypatch.setattr(Limits, "template_seconds", 0.3)
    model = load()
    loop = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"
    model.tokenizer.chat_template = f"{{% if messages|length > 1 %}}{loop}{{% endif %}}a"
    with serving(model) as client:
        for _ in range(3):
            response = client.post("/v1/chat/completions", json={"messages": USER * 2, "max_tokens": 1}, timeout=30)
            assert response.status_code == 400 and "template was not done" in response.json()["error"]["message"]
        assert client.post("/v1/chat/completions", json={"messages": USER, "max_tokens": 1}).status_code == 200
        assert client.post("/v1/completions", json=SHORT).status_code == 200


def test_a_time_limit_that_was_not_reached_leaves_no_trace():
    for _ in range(200):
        with suppress(TimeIsOver):  # the work takes about as long: it comes before, while and after that ends
            assert within(0.001, lambda: sum(range(20_000))) == 199_990_000
    time.sleep(0.01)
    with pytest.raises(TimeIsOver):
        within(0.01, lambda: [None for _ in itertools.count()])


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_time_limit_that_strikes_where_python_drops_exceptions_strikes_again(monkeypatch):
    monkeypatch.setattr("cutwork.serve.time_limit._APART", 0.05)

    class Freed:
        def __del__(self):
            end = time.monotonic() + 0.1
            while time.monotonic() < end:
                pass

    def work():
        Freed()
        while time.monotonic() < began + 20:
            pass

    began = time.monotonic()
    with pytest.raises(TimeIsOver):
        within(0.02, work)
    assert time.monotonic() < began + 10


def test_a_failure_has_an_id_and_a_line_in_the_log(client, caplog, monkeypatch):
    def fail(*_):
        raise RuntimeError("secret detail")

    monkeypatch.setattr(client.app.state.models, "find_text", fail)
    with caplog.at_level(logging.INFO, logger="cutwork.access"):
        response = client.post("/v1/completions", json=SHORT, headers={"X-Request-Id": "abc"})
        until(lambda: any(record.name == "cutwork.access" for record in caplog.records))  # which comes after the answer
    assert response.status_code == 500 and response.headers["x-request-id"] == "abc" and "secret" not in response.text
    [record] = [record for record in caplog.records if record.name == "cutwork.access"]
    line = json.loads(JsonFormatter().format(record))
    assert (line["status"], line["level"], line["request_id"]) == (500, "error", "abc") and "secret" in line["trace"]


@pytest.mark.parametrize("fields", [{"temperature": 1e-300, "top_p": 0.5}, {"temperature": 1e-300, "min_p": 0.5}])
def test_odd_temperatures_are_greedy(client, fields):
    greedy = client.post("/v1/completions", json={**SHORT, "temperature": 0}).json()["choices"][0]["text"]
    odd = client.post("/v1/completions", json={**SHORT, **fields})
    assert odd.status_code == 200 and odd.json()["choices"][0]["text"] == greedy
    assert client.post("/v1/completions", json={**SHORT, "repetition_penalty": 1e-300}).status_code == 400


@pytest.mark.parametrize(("error", "status"), [(RuntimeError, 500), (CutworkError, 400)])
def test_a_request_that_fails_in_a_step_fails_alone(client, monkeypatch, error, status):
    def fail(_):
        raise error("too complex")

    monkeypatch.setattr(Matcher, "allowed", fail)
    with client.stream("POST", "/v1/completions", json={**LONG, "stream": True}) as response:
        lines = response.iter_lines()
        next(lines)
        body = {**SHORT, "response_format": {"type": "json_object"}}
        for _ in range(3):
            assert client.post("/v1/completions", json=body).status_code == status
        assert not any('"error"' in line for line in lines)
    assert client.get("/health/ready").status_code == 200
    until(lambda: idle(client))


def test_a_model_that_gives_no_numbers_is_not_ready(client):
    scheduler = client.model.session.scheduler
    run = scheduler._run
    scheduler._run = lambda batch: run(batch) * np.float32(np.nan)
    for _ in range(3):
        response = client.post("/v1/completions", json=SHORT)
        assert response.status_code == 500 and "not finite" in response.json()["error"]["message"]
    assert client.get("/health/ready").status_code == 503
    scheduler._run = run


def test_what_fails_beside_the_steps_ends_the_requests_and_not_the_thread(client, monkeypatch):
    thread = only(client).thread
    monkeypatch.setattr(thread, "_start", lambda _: 1 / 0)
    assert client.post("/v1/completions", json=SHORT).status_code == 500
    monkeypatch.undo()
    assert client.post("/v1/completions", json=SHORT).status_code == 200


def test_a_thread_that_has_ended_is_not_alive(client, monkeypatch):
    thread = only(client).thread
    monkeypatch.setattr(thread, "_wait", lambda: False)
    client.post("/v1/completions", json=SHORT)
    until(lambda: not thread.alive)
    assert client.get("/health/live").status_code == 503
    assert client.post("/v1/completions", json=SHORT).status_code == 503


@pytest.mark.parametrize(
    ("path", "body", "word"),
    [
        ("/v1/chat/completions", {"messages": USER * (Limits.messages + 1)}, "messages"),
        ("/tokenize", {"messages": USER * (Limits.messages + 1)}, "messages"),
        ("/v1/chat/completions", tool({"description": "x" * 70_000}), "schema"),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "x" * 100_000}]}, "characters"),
        ("/v1/completions", {"prompt": "x" * 100_000}, "characters"),
        ("/tokenize", {"prompt": "x" * 100_000}, "characters"),
        ("/tokenize", {"prompt": "x" * (Limits.prompt_length + 1)}, f"reads {Limits.prompt_length}"),
        ("/detokenize", {"tokens": [3] * 1000}, "512"),
        ("/v1/completions", {"prompt": [None] * 1_000_000}, "prompt"),
        ("/v1/completions", {"prompt": "a", "logit_bias": {str(i): 1 for i in range(2000)}}, "logit_bias"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_what_is_too_large_is_refused_before_work_is_done(client, path, body, word):
    began = time.monotonic()
    response = client.post(path, json=body)
    assert response.status_code == 400 and word in response.json()["error"]["message"]
    assert len(response.content) < 1000 and time.monotonic() - began < 5


LENGTHY = "1," * 1_500_000


@pytest.mark.parametrize(
    "said",
    [
        {"reasoning_content": LENGTHY},
        {"reasoning": LENGTHY},
        {"name": LENGTHY},
        {"tool_calls": [{"function": {"name": "f", "arguments": f"[{LENGTHY}1]"}}]},
        {"tool_calls": [{"function": {"name": "f", "arguments": {"a": LENGTHY}}}]},
        {"tool_calls": [{"id": LENGTHY, "function": {"name": "f"}}]},
        {"tool_call_id": LENGTHY},
    ],
    ids=lambda value: str(value)[:60],
)
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/tokenize"])
def test_all_that_a_template_gets_counts_as_its_length(client, monkeypatch, path, said):
    monkeypatch.setattr("cutwork.serve.routes.chat_request.template_message", None)
    response = client.post(path, json={"messages": [*USER, {"role": "assistant", "content": "", **said}, *USER]})
    assert response.status_code == 400 and f"reads {Limits.prompt_length}" in response.json()["error"]["message"]


def test_long_arguments_are_read_where_long_texts_are(client, monkeypatch):
    threads = []

    def read(text):
        threads.append(threading.current_thread().name)
        return read_json(text)

    monkeypatch.setattr("cutwork.serve.routes.chat_request.read_json", read)
    for count, where in ((10, "text"), (50_000, "long text")):
        call = {"function": {"name": "f", "arguments": f"[{'1,' * count}1]"}}
        messages = [*USER, {"role": "assistant", "content": "", "tool_calls": [call]}, *USER]
        body = {"messages": messages, "max_tokens": 1}
        assert client.post("/v1/chat/completions", json=body).status_code == 200
        assert threads.pop().startswith(where) and not threads


def test_the_long_texts_of_one_client_do_not_keep_all_of_another_waiting(client):
    tokens, gate, order = only(client).tokens, threading.Event(), []

    async def ask(who, what):
        asking.set(who)
        await tokens.run(1 << 20, lambda: (gate.wait(10), order.append(what)))

    async def ask_all():
        asked = [asyncio.create_task(ask(name[0], name)) for name in ("a1", "a2", "a3", "a4", "b1")]
        await asyncio.sleep(0.1)
        gate.set()
        await asyncio.gather(*asked)

    asyncio.run(ask_all())
    assert order == ["a1", "b1", "a2", "a3", "a4"]


def test_long_texts_do_not_keep_short_ones_waiting(client):
    tokens, gate = only(client).tokens, threading.Event()
    blocked = tokens._long.submit(gate.wait)
    assert client.post("/v1/completions", json=SHORT).status_code == 200
    gate.set()
    blocked.result()


def test_a_deadline_counts_while_a_text_is_encoded(load, monkeypatch):
    monkeypatch.setattr(Tokens, "_encode", lambda *_: time.sleep(0.5))
    with serving(load(), limits=Limits(deadline=0.1)) as client:
        assert client.post("/v1/completions", json=SHORT).status_code == 504


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"logprobs": 4, "max_tokens": 9}, 45),
        ({"logprobs": 4, "max_tokens": 11}, 55),
        ({"logprobs": 4, "max_tokens": 3, "n": 4}, 60),
        ({"logprobs": 0, "max_tokens": 10, "prompt": ["a", "b", "c", "d", "e", "f"]}, 60),
        ({"logprobs": 4, "max_tokens": 0, "echo": True, "prompt": [3] * 10}, 50),
        ({"logprobs": 4, "max_tokens": 1, "echo": True, "prompt": [3] * 10}, 55),
        ({"max_tokens": 100, "echo": True, "prompt": [3] * 100}, 0),
    ],
    ids=str,
)
def test_the_log_probabilities_of_an_answer_have_a_limit(load, fields, told):
    with serving(load(), limits=Limits(logprobs=50)) as client:
        response = client.post("/v1/completions", json=SHORT | fields)
        assert response.status_code == (400 if told > 50 else 200), response.text
        if told > 50:
            assert f"at most 50 in one answer, not {told}" in response.json()["error"]["message"]


@pytest.mark.parametrize("more", [0, 1])
def test_what_an_answer_repeats_has_a_limit_and_does_not_keep_short_texts_waiting(load, monkeypatch, more):
    sizes, decoded, run, text = [], [], Tokens.run, Tokens.text
    monkeypatch.setattr(Tokens, "run", lambda self, size, *given: (sizes.append(size), run(self, size, *given))[1])
    monkeypatch.setattr(Tokens, "text", lambda self, ids: (decoded.append(ids), text(self, ids))[1])
    with serving(load(), limits=Limits(echo_tokens=64 * 16 * 100 - more)) as client:
        body = {"prompt": [[5] * 100] * 64, "n": 16, "max_tokens": 0, "echo": True}
        response = client.post("/v1/completions", json=body)
    if more:
        assert response.status_code == 400 and not decoded
        assert "repeats at most 102399 tokens of prompts, not 102400" in response.text
    else:
        assert len(response.json()["choices"]) == 64 * 16 and len(decoded) == 64 and sizes[-1] >= 102400


def test_an_answer_that_waits_to_be_written_ends_at_its_deadline(load, monkeypatch):
    monkeypatch.setattr("cutwork.serve.http.stream.GRACE", 0.1)
    with serving(load(), limits=Limits(deadline=1)) as client:
        gate = threading.Event()
        only(client).tokens._long.submit(gate.wait)
        body = {"prompt": [[5] * 100] * 64, "max_tokens": 0, "echo": True}
        assert client.post("/v1/completions", json=body, timeout=20).status_code == 504
        gate.set()


def test_a_chat_that_names_no_length_ends_where_its_log_probabilities_do(load):
    with serving(load(), limits=Limits(logprobs=50)) as client:
        body = {"messages": USER, "logprobs": True, "top_logprobs": 4, "ignore_eos": True}
        choice = client.post("/v1/chat/completions", json=body).json()["choices"][0]
        assert len(choice["logprobs"]["content"]) == 10 and choice["finish_reason"] == "length"
        assert client.post("/v1/chat/completions", json=body | {"max_tokens": 11}).status_code == 400


def test_log_probabilities_are_written_as_before(client):
    body = {**SHORT, "temperature": 0, "logprobs": 2, "echo": True}
    answer = client.post("/v1/completions", json=body).json()["choices"][0]["logprobs"]
    assert len(answer["tokens"]) == len(answer["token_logprobs"]) == len(answer["text_offset"])
    with client.stream("POST", "/v1/completions", json={**body, "echo": False, "stream": True}) as response:
        streamed = [event["choices"][0]["logprobs"]["tokens"][0] for event in events(response)]
    assert answer["tokens"][-3:] == streamed
