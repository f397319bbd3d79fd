"""/v1/chat/completions: templates, JSON answers, tool calls."""

import json
import re

import pytest
from tokenizers.processors import TemplateProcessing

from cutwork.engine.model import Model

from .. import text_to_text
from ..architectures.test_t5 import make as make_t5
from ..engine.tiny import byte_level_tokenizer, packed
from .conftest import TOOLS, events, serving

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


def test_every_route_reads_the_tokens_that_the_template_wrote(load):
    model = load()
    model.tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    messages = [{"role": "user", "content": "Hi"}]
    theirs = model.tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    given, add = [], model.session.add
    model.session.add = lambda prompt, *more, **options: given.append(list(prompt)) or add(prompt, *more, **options)
    with serving(model) as client:
        chat = {"messages": messages, "max_tokens": 2}
        for path, body in {
            "/v1/chat/completions": chat,
            "/v1/messages": chat,
            "/v1/responses": {"input": messages, "max_output_tokens": 2},
        }.items():
            for stream in (False, True):
                assert client.post(path, json=body | {"stream": stream}).status_code == 200, path
        assert given == [theirs] * 6
        tokens = client.post("/tokenize", json={"messages": messages}).json()["tokens"]
        assert tokens == theirs
        more = client.post("/tokenize", json={"messages": messages, "add_special_tokens": True}).json()["tokens"]
        assert more == [1, *theirs, 2]
        counted = client.post("/v1/messages/count_tokens", json={"messages": messages}).json()["input_tokens"]
        assert counted == len(theirs)


def test_what_an_encoder_reads_takes_no_room_from_the_answer(tmp_path):
    text_to_text.save(make_t5("v1.1"), tmp_path)
    tokenizer = byte_level_tokenizer()
    tokenizer.chat_template = TOOLS
    tokenizer.save_pretrained(tmp_path)
    with serving(text_to_text.load(tmp_path, max_input=64, max_context=16)) as client:
        body = {"messages": [{"role": "user", "content": "a b c d e f g h i"}], "ignore_eos": True}
        usage = client.post("/v1/chat/completions", json=body).json()["usage"]
        assert usage["prompt_tokens"] > 16 and usage["completion_tokens"] == 15


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
    assert len(answer["choices"]) == 3
    for choice in answer["choices"]:
        value = json.loads(choice["message"]["content"])
        assert set(value) == {"name", "age"} and 0 <= value["age"] <= 99 and len(value["name"]) <= 5
        assert choice["finish_reason"] == "stop"


def test_a_finished_form_ends_an_answer_before_its_least_tokens(client):
    form = {"type": "json_schema", "json_schema": {"schema": {"enum": ["a"]}}}
    answer = ask(client, response_format=form, min_tokens=20, max_tokens=30)
    assert answer.status_code == 200 and json.loads(answer.json()["choices"][0]["message"]["content"]) == "a"


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


SUM = """root ::= num (" + " num){1,3}
num ::= [1-9] [0-9]{0,2}
"""
FORMS = [
    ("choice", ["red\n", "blue", "é😀"], r"red\n|blue|é😀"),
    ("regex", r"[0-9]{3}-(a|b/){2}", r"[0-9]{3}-(a|b/){2}"),
    ("json", SCHEMA, r"\{.*\}"),
    ("json", json.dumps(SCHEMA), r"\{.*\}"),
    ("grammar", SUM, r"[1-9]\d{0,2}( \+ [1-9]\d{0,2}){1,3}"),
    ("grammar", 'start: WORD " " WORD\nWORD: /[a-f]{2,4}/', r"[a-f]{2,4} [a-f]{2,4}"),
]


@pytest.mark.parametrize(("kind", "what", "pattern"), FORMS, ids=str)
def test_an_answer_has_the_form_that_is_asked_for_by_whatever_name(client, kind, what, pattern):
    asked = [{"structured_outputs": {kind: what}}, {f"guided_{kind}": what}]
    if kind == "grammar":
        asked += [{"grammar": what}, {"response_format": {"type": "grammar", "grammar": what}}]
    elif isinstance(what, dict):
        asked += [{"response_format": {"type": "json_object", "schema": what}}]
    answers = []
    for form in asked:
        choices = ask(client, **form, temperature=1, seed=3, n=3, max_tokens=100).json()["choices"]
        answers.append([choice["message"]["content"] for choice in choices])
        assert {choice["finish_reason"] for choice in choices} == {"stop"}
    assert all(re.fullmatch(pattern, text, re.ASCII) for text in answers[0]), answers[0]
    assert all(answer == answers[0] for answer in answers)
    body = {"prompt": "a", "structured_outputs": {kind: what}, "max_tokens": 100, "temperature": 1, "seed": 3}
    whole = client.post("/v1/completions", json=body).json()["choices"][0]["text"]
    with client.stream("POST", "/v1/completions", json=body | {"stream": True}) as response:
        assert "".join(event["choices"][0]["text"] for event in events(response)) == whole
    assert re.fullmatch(pattern, whole, re.ASCII)


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


@pytest.mark.parametrize(
    ("fields", "param", "message"),
    [
        ({"guided_regex": "("}, "guided_regex", "the regex is not supported"),
        ({"guided_regex": r"(a)\1"}, "guided_regex", "backreferences are not supported"),
        ({"structured_outputs": {"regex": r"[^\s\S]"}}, "structured_outputs.regex", "no answer can begin as it says"),
        ({"guided_regex": "a" * 70_000}, "guided_regex", "more than 65536 bytes"),
        ({"guided_choice": []}, "guided_choice", "at least 1 item"),
        ({"guided_choice": ["a" * 70_000]}, "guided_choice", "more than 65536 bytes"),
        ({"guided_json": "{"}, "guided_json", "Expecting"),
        ({"guided_json": "x" * 70_000}, "guided_json", "at most 65536 characters"),
        ({"grammar": "root ::= more"}, "grammar", "Rule 'more' not found"),
        ({"grammar": 'start: "a" <[9999]>'}, "grammar", "Token range end too large"),
        ({"grammar": "start: <|nobody knows it|>"}, "grammar", "the grammar is not supported"),
        ({"grammar": "root ::= " + "(" * 5000}, "grammar", "the grammar is invalid"),
        ({"response_format": {"type": "grammar"}}, "response_format", "grammar is missing"),
        ({"guided_regex": "a", "guided_choice": ["a"]}, "guided_choice", "exclude each other"),
        ({"guided_regex": "a", "tools": [WEATHER], "tool_choice": "required"}, "tool_choice", "exclude each other"),
        ({"structured_outputs": {"structural_tag": "{}"}}, "structured_outputs.structural_tag", "not supported here"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_forms_that_cannot_be_had_are_refused(client, fields, param, message):
    response = ask(client, **fields)
    error = response.json()["error"]
    assert response.status_code == 400 and error["param"] == param and message in error["message"], error
    assert len(error["message"]) < 500


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "weather"}}])
@pytest.mark.parametrize("n", [1, 2])
def test_a_call_can_be_required(client, choice, n):
    tools = [WEATHER] if choice == "required" else [WEATHER, TIME]
    answer = ask(client, tools=tools, tool_choice=choice, max_tokens=200, n=n, temperature=1, seed=1).json()
    assert len(answer["choices"]) == n
    for one in answer["choices"]:
        assert one["finish_reason"] == "tool_calls" and one["message"]["content"] is None
        (call,) = one["message"]["tool_calls"]
        assert call["function"]["name"] == "weather"
        arguments = json.loads(call["function"]["arguments"])
        assert set(arguments) == {"city", "days"} and arguments["city"] in ("Rome", "Oslo")
        assert 1 <= arguments["days"] <= 9


def test_a_call_can_be_required_where_its_tags_are_tokens_that_are_not_called_special(recorded):
    template = "{{ tools }}<tool_call>{% for m in messages %}{{ m.content }}{% endfor %}"  # Qwen's tags and tokens
    with recorded(template, added=["<tool_call>", "</tool_call>"]) as client:
        answer = ask(client, tools=[WEATHER], tool_choice="required", max_tokens=200, temperature=1, seed=1).json()
        (call,) = answer["choices"][0]["message"]["tool_calls"]
        assert json.loads(call["function"]["arguments"])["city"] in ("Rome", "Oslo")


def nested(name, **parameters):
    return {"type": "function", "function": {"name": name, "parameters": {"type": "object", **parameters}}}


def test_parameters_may_refer_to_definitions_and_to_themselves(client):
    city = {"$defs": {"City": {"enum": ["Rome", "Oslo"]}}, "required": ["city"], "additionalProperties": False}
    tool = nested("go", properties={"city": {"$ref": "#/$defs/City"}}, **city)
    answer = ask(client, tools=[tool], tool_choice="required", max_tokens=100, temperature=1, seed=2).json()
    (call,) = answer["choices"][0]["message"]["tool_calls"]
    assert json.loads(call["function"]["arguments"])["city"] in ("Rome", "Oslo")
    node = {"v": {"enum": [1, 2]}, "next": {"anyOf": [{"$ref": "#"}, {"type": "null"}]}}
    chain = nested("chain", properties=node, required=["v", "next"], additionalProperties=False)
    answer = ask(client, tools=[chain], tool_choice="required", max_tokens=400, temperature=1, seed=3).json()
    for call in answer["choices"][0]["message"].get("tool_calls") or ():
        link = json.loads(call["function"]["arguments"])
        while link:
            assert set(link) == {"v", "next"}
            link = link["next"]


def test_a_model_that_must_answer_in_json_may_call_instead(recorded):
    form = {"type": "json_schema", "json_schema": {"schema": SCHEMA}}
    call = '<tool_call>\n{"name":"weather","arguments":{"city":"Rome","days":3}}\n</tool_call>'
    template = (
        "{% for t in tools or [] %}<tool_call>{{ t.function.name }}</tool_call>{% endfor %}"
        "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}assistant: "
    )
    for said, called in ((call, True), ('{"name":"Ann","age":7}', False)):
        with recorded(template, said) as client:
            choice = ask(client, tools=[WEATHER], response_format=form, max_tokens=200).json()["choices"][0]
            assert (choice["finish_reason"] == "tool_calls") is called
            assert called or json.loads(choice["message"]["content"]) == {"name": "Ann", "age": 7}


def test_only_json_is_an_alternative_to_a_call(recorded):
    template = "{{ tools }}<tool_call>{% for m in messages %}{{ m.content }}{% endfor %}"
    with recorded(template, "a") as client:
        refused = ask(client, tools=[WEATHER], guided_regex="a")
        assert refused.status_code == 400 and "tool_choice is none" in refused.json()["error"]["message"]
        assert ask(client, tools=[WEATHER], tool_choice="none", guided_regex="a").status_code == 200


def test_null_is_a_field_that_is_left_out(client):
    nothing = dict.fromkeys(("temperature", "top_p", "n", "stream", "presence_penalty", "logprobs", "top_logprobs"))
    assert (
        ask(client, **nothing, seed=1, max_tokens=4).json()["choices"]
        == ask(client, temperature=1, seed=1, max_tokens=4).json()["choices"]
    )
    assert client.post("/v1/completions", json={"prompt": None}).status_code == 400


def test_what_other_servers_call_off_is_off(client):
    plain = ask(client, temperature=0, max_tokens=4).json()["choices"]
    said = {"modalities": ["text"], "best_of": 1, "use_beam_search": False, "continue_final_message": False}
    said |= {"add_generation_prompt": True, "top_k": -1, "stream_options": {"continuous_usage_stats": False}}
    messages = [{"role": "user", "content": "Hello", "id": "m1"}]
    answers = [
        client.post("/v1/chat/completions", json={"messages": messages, "temperature": 0, "max_tokens": 4, **more})
        for more in ({}, said)
    ]
    assert answers[0].json()["choices"] == answers[1].json()["choices"], answers[1].text
    assert ask(client, top_p=0, seed=1, max_tokens=4).json()["choices"] == plain
    assert ask(client, max_tokens=-1, temperature=0).status_code == 200
    for wrong in ({"modalities": ["audio"]}, {"best_of": 2}, {"top_k": -2}, {"max_tokens": -2}):
        assert ask(client, **wrong).status_code == 400
    assert "verbosity" in ask(client, verbosity="low", max_tokens=1).headers["X-Cutwork-Warning"]


@pytest.mark.parametrize(
    ("message", "place", "what"),
    [
        ({"role": "user"}, "messages.0", "content is missing; only an assistant's"),
        ({"role": "user", "content": [{"type": "image_url", "image_url": {}}]}, "messages.0.content.0.type", "'text'"),
        ({"role": "user", "content": 3}, "messages.0.content", "should be a valid"),
        ({"content": "Hello"}, "messages.0.role", "required"),
    ],
)
def test_errors_name_the_place_in_what_was_sent(client, message, place, what):
    error = client.post("/v1/chat/completions", json={"messages": [message]}).json()["error"]
    assert error["param"] == place and what in error["message"]


def test_what_is_no_json_is_said_to_be_none(client):
    response = client.post("/v1/completions", content='{"prompt": x', headers={"Content-Type": "application/json"})
    error = response.json()["error"]
    assert (response.status_code, error["param"]) == (400, None)
    assert error["message"].startswith("the body is no JSON: ") and "(character 11)" in error["message"]


def test_health_is_told_by_every_name_and_method(client):
    for path in ("/health", "/health/live", "/health/ready"):
        assert client.get(path).status_code == client.head(path).status_code == 200


def test_minus_one_is_no_seed(client):
    said = {
        ask(client, seed=-1, temperature=2, max_tokens=12).json()["choices"][0]["message"]["content"] for _ in range(4)
    }
    assert len(said) > 1


def test_sampling_is_the_models_own_where_nobody_says_otherwise(llama, tmp_path):
    tokenizer = byte_level_tokenizer()
    tokenizer.chat_template = "{% for m in messages %}{{ m.content }}{% endfor %}"
    tokenizer.save_pretrained(tmp_path)
    said = {"eos_token_id": [2], "temperature": 0.01, "top_k": 1, "top_p": 7, "repetition_penalty": "much"}
    (tmp_path / "generation_config.json").write_text(json.dumps(said))
    model = Model(packed(llama, tmp_path), threads=1, max_batch=4, cache_bytes=1 << 22)
    assert model.usual_sampling == {"temperature": 0.01, "top_k": 1}
    with serving(model) as client:
        best = ask(client, temperature=0, max_tokens=9).json()["choices"]
        assert ask(client, temperature=None, max_tokens=9).json()["choices"] == best
        drawn = {
            ask(client, max_tokens=9, temperature=2, top_k=0, seed=i).json()["choices"][0]["message"]["content"]
            for i in range(4)
        }
        assert len(drawn) > 1
        told = client.post("/v1/responses", json={"input": "Hi", "max_output_tokens": 4}).json()
        assert told["temperature"] == 0.01


def test_a_models_own_penalty_holds_unless_a_request_says_otherwise(llama, tmp_path):
    byte_level_tokenizer().save_pretrained(tmp_path)
    (tmp_path / "generation_config.json").write_text('{"repetition_penalty": 1.8, "do_sample": false}')
    model = Model(packed(llama, tmp_path), threads=1, max_batch=4, cache_bytes=1 << 22)
    with serving(model) as client:

        def texts(**fields):
            body = {"temperature": 0, "max_tokens": 20, **fields}
            completion = client.post("/v1/completions", json={"prompt": [5, 6, 7], **body}).json()
            return completion["choices"][0]["text"], ask(client, **body).json()["choices"][0]["message"]["content"]

        assert texts() == texts(repetition_penalty=None) == texts(repetition_penalty=1.8)
        assert texts()[0] != texts(repetition_penalty=1)[0] and texts()[1] != texts(repetition_penalty=1)[1]


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
