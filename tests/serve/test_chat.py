"""/v1/chat/completions: templates, JSON answers, tool calls."""

import json

import pytest

from .conftest import events

MESSAGES = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": [{"type": "text", "text": "Hi"}]}]


def ask(client, **fields):
    body = {"model": "tiny", "messages": MESSAGES, "temperature": 0, "max_tokens": 20, **fields}
    return client.post("/v1/chat/completions", json=body)


def test_the_template_writes_the_prompt(client):
    chat = ask(client).json()
    plain = client.post(
        "/v1/completions",
        json={"prompt": "system: Be brief.\nuser: Hi\nassistant: ", "temperature": 0, "max_tokens": 20},
    ).json()
    assert chat["choices"][0]["message"] == {"role": "assistant", "content": plain["choices"][0]["text"]}
    assert chat["usage"]["prompt_tokens"] == plain["usage"]["prompt_tokens"]


def test_a_stream_adds_up_and_tells_logprobs(client):
    whole = ask(client, logprobs=True, top_logprobs=3).json()["choices"][0]
    body = {"messages": MESSAGES, "temperature": 0, "max_tokens": 20, "stream": True, "logprobs": True}
    with client.stream("POST", "/v1/chat/completions", json=body) as response:
        parts = [event["choices"][0] for event in events(response)]
    assert parts[0]["delta"]["role"] == "assistant"
    assert "".join(part["delta"].get("content", "") for part in parts) == whole["message"]["content"]
    streamed = [entry["token"] for part in parts if part["logprobs"] for entry in part["logprobs"]["content"]]
    assert streamed == [entry["token"] for entry in whole["logprobs"]["content"]]
    assert all(len(entry["top_logprobs"]) == 3 for entry in whole["logprobs"]["content"])
    assert parts[-1]["finish_reason"] == whole["finish_reason"]


SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 5}, "age": {"type": "integer", "minimum": 0, "maximum": 99}},
    "required": ["name", "age"],
    "additionalProperties": False,
}


@pytest.mark.parametrize("temperature", [0, 1.5])
def test_json_schema_is_followed(client, temperature):
    form = {"type": "json_schema", "json_schema": {"name": "person", "schema": SCHEMA, "strict": True}}
    answer = ask(client, response_format=form, max_tokens=100, n=3, temperature=temperature, seed=1).json()
    for choice in answer["choices"]:
        value = json.loads(choice["message"]["content"])
        assert set(value) == {"name", "age"} and 0 <= value["age"] <= 99 and len(value["name"]) <= 5
        assert choice["finish_reason"] == "stop"


def test_json_object_begins_an_object(client):
    answer = ask(client, response_format={"type": "json_object"}, max_tokens=8).json()
    assert answer["choices"][0]["message"]["content"].startswith("{")


@pytest.mark.parametrize(
    "schema",
    [{"type": "no such type"}, {"$ref": "#/nowhere"}, {"properties": {"x": 3}}, {"pattern": "(", "type": "string"}],
)
def test_a_bad_schema_is_refused(client, schema):
    response = ask(client, response_format={"type": "json_schema", "json_schema": {"schema": schema}})
    assert response.status_code == 400 and response.json()["error"]["param"] == "response_format"


def test_a_deep_schema_is_refused(client):
    schema = {"type": "string"}
    for _ in range(40):
        schema = {"type": "array", "items": schema}
    response = ask(client, response_format={"type": "json_schema", "json_schema": {"schema": schema}})
    assert response.status_code == 400 and "too large" in response.json()["error"]["message"]


def test_tools_reach_the_template(client):
    tools = [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}]
    with_tools, without = ask(client, tools=tools).json(), ask(client).json()
    assert with_tools["usage"]["prompt_tokens"] > without["usage"]["prompt_tokens"]
    none = ask(client, tools=tools, tool_choice="none").json()
    assert none["usage"]["prompt_tokens"] == without["usage"]["prompt_tokens"]


WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {
            "type": "object",
            "properties": {"city": {"enum": ["Rome", "Oslo"]}, "days": {"type": "integer", "minimum": 1, "maximum": 9}},
            "required": ["city", "days"],
            "additionalProperties": False,
        },
    },
}
BROKEN = {"type": "function", "function": {"name": "f", "parameters": {"type": 3}}}
TIME = {"type": "function", "function": {"name": "time", "parameters": {"type": "object", "maxProperties": 0}}}


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "weather"}}])
@pytest.mark.parametrize("n", [1, 2])
def test_a_call_can_be_required(client, choice, n):
    tools = [WEATHER] if choice == "required" else [WEATHER, TIME]
    answer = ask(client, tools=tools, tool_choice=choice, max_tokens=200, n=n, temperature=1, seed=1).json()
    for one in answer["choices"]:
        assert one["finish_reason"] == "tool_calls" and one["message"]["content"] is None
        (call,) = one["message"]["tool_calls"]
        assert call["function"]["name"] == "weather"
        arguments = json.loads(call["function"]["arguments"])
        assert set(arguments) == {"city", "days"} and arguments["city"] in ("Rome", "Oslo")
        assert 1 <= arguments["days"] <= 9


@pytest.mark.parametrize(
    "body",
    [
        {"tool_choice": "required"},
        {"tools": [TIME], "tool_choice": {"type": "function", "function": {"name": "weather"}}},
        {"tools": [TIME], "tool_choice": "required", "response_format": {"type": "json_object"}},
        {
            "tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": 3}}}],
            "tool_choice": "required",
        },
    ],
)
def test_a_call_that_cannot_be_required_is_refused(client, body):
    assert ask(client, **body).status_code == 400
