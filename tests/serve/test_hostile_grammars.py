"""Schemas and grammars that are made to do harm: each is tried apart, and nobody else waits for it."""

import gc
import threading
import time

import pytest

from cutwork.serve.grammar import Grammars, Matcher

from .conftest import only, serving

SHORT = {"prompt": "the", "max_tokens": 3}
USER = [{"role": "user", "content": "a"}]


def post(client, path, text):
    return client.post(path, content=text, headers={"Content-Type": "application/json"})


def test_a_schema_is_compiled_once(client):
    grammars = only(client).grammars
    form = {"type": "json_schema", "json_schema": {"schema": {"type": "object", "properties": {"a": {}}}}}
    for _ in range(2):
        body = {"prompt": ["a", "b"], "n": 2, "max_tokens": 3, "response_format": form}
        assert len(client.post("/v1/completions", json=body).json()["choices"]) == 4
    assert len(grammars._compiled) == 1


def chain(length):
    """A schema of as many definitions, each of which asks for the next."""
    definitions = {f"a{i}": {"items": {"$ref": f"#/$defs/a{i + 1}"}} for i in range(length)}
    return {"$ref": "#/$defs/a0", "$defs": {**definitions, f"a{length}": {}}}


@pytest.mark.parametrize(
    "fields",
    [
        {"guided_json": chain(1400)},  # once ended the process
        {"guided_json": {"type": "string", "allOf": [{"pattern": str(i)} for i in range(400)]}},  # once took hours
        {"guided_json": {"type": "string", "pattern": "a?" * 15_000}},  # once took gigabytes
        {"guided_regex": "a?" * 30_000},
        {"grammar": "start: T\nT: " + " & ".join(f"/.*{i}.*/" for i in range(380))},
        {"grammar": "start: T0\n" + "".join(f"T{i}: T{i + 1}\n" for i in range(4000)) + 'T4000: "a"'},
        {"grammar": "start: T0\n" + "".join(f"T{i}: T{i + 1} T{i + 1}\n" for i in range(2500)) + 'T2500: "a"'},
        {"grammar": "root ::= " + "(" * 20_000 + '"a"' + ")" * 20_000},
        {"grammar": "\n" * 60_000 + 'root ::= "a"'},  # once took half a minute, in which no thread went on
        {"tools": [{"function": {"name": "f", "parameters": chain(1400)}}], "tool_choice": "required"},
    ],
    ids=lambda value: str(value)[:60],
)
def test_a_grammar_that_nobody_can_follow_ends_with_its_trial(client, fields):
    began = time.monotonic()
    body = {"messages": USER, "max_tokens": 5, **fields}
    asked = threading.Thread(target=lambda: answers.append(client.post("/v1/chat/completions", json=body)))
    answers, waited = [], [0.0]
    asked.start()
    while asked.is_alive():
        now = time.monotonic()
        assert client.get("/health/live").status_code == 200
        waited.append(time.monotonic() - now)
        asked.join(0.05)
    assert [answer.status_code for answer in answers] == [400]
    assert time.monotonic() - began < 15 and max(waited) < 2
    assert client.post("/v1/completions", json=SHORT).status_code == 200


def test_a_grammar_is_what_its_trial_has_made_of_it(client):
    spaced = "\n" * 500 + 'root ::= word\n\nword ::= "no" | "yes"'
    for grammar in ('root ::= "yes" | "no"', 'start: "yes" | "no"', spaced):
        body = {"messages": USER, "max_tokens": 5, "grammar": grammar}
        answer = client.post("/v1/chat/completions", json=body).json()
        assert answer["choices"][0]["message"]["content"] in ("yes", "no")


@pytest.mark.parametrize(
    "fields",
    [
        {"guided_regex": "(((a{100}){100}){100})"},
        {"guided_regex": "((((a{1000}){1000}){1000}){1000})"},
        {"guided_regex": "((((a|b){0,1000}){0,1000}){0,1000}){0,1000}"},
        {"guided_regex": "(.*a.{1000}){1,50}"},
        {"guided_regex": "|".join(f".*w{i}.*" for i in range(3000))},
        {"guided_json": {"type": "string", "pattern": "^a{1000000}$"}},
        {"grammar": 'start: a+\na: a a | "a" | a a a | ""'},  # which may be read in ever more ways
        {"grammar": 'start: ("a"? "b"? "c"?){1000}'},
        {"grammar": "start: a0\n" + "".join(f"a{i}: a{i + 1}? a{i + 1}?\n" for i in range(2500)) + 'a2500: "a"'},
    ],
    ids=lambda value: str(value)[:60],
)
def test_the_steps_of_a_grammar_are_short(client, fields):
    took, work = [], Matcher.allowed

    def allowed(matcher):
        gc.disable()  # what all tests of a process have left behind takes a second to look through
        began = time.thread_time()
        try:
            return work(matcher)
        finally:
            took.append(time.thread_time() - began)
            gc.enable()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Matcher, "allowed", allowed)
        body = {"messages": USER, "max_tokens": 300, "temperature": 1, "seed": 1, **fields}
        assert client.post("/v1/chat/completions", json=body).status_code in (200, 400)
    assert max(took, default=0) < 1 and sum(took) < 4
    assert client.post("/v1/completions", json=SHORT).status_code == 200


def test_the_schemas_of_one_client_do_not_keep_all_of_another_waiting(load, monkeypatch):
    gate, compiled = threading.Event(), []
    matcher = Grammars._matcher

    def slowly(self, grammar, field):
        gate.wait(10)
        compiled.append("another's" if "another" in grammar else "one's")
        return matcher(self, grammar, field)

    monkeypatch.setattr(Grammars, "_matcher", slowly)
    with serving(load(), keys=["one", "another"]) as client:

        def ask(key, name):
            form = {"type": "json_schema", "json_schema": {"schema": {"properties": {name: {}}}}}
            client.post("/v1/completions", json={**SHORT, "response_format": form}, headers={"X-Api-Key": key})

        asked = [threading.Thread(target=ask, args=("one", f"p{i}")) for i in range(8)]
        asked.append(threading.Thread(target=ask, args=("another", "another")))
        for thread in asked:
            thread.start()
            time.sleep(0.05)
        gate.set()
        for thread in asked:
            thread.join()
    assert len(compiled) == 9 and "another's" in compiled[:3]
