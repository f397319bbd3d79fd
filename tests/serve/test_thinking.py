"""Thoughts and tool calls through the server: a tiny model is made to write recorded answers."""

import json

import pytest

from ..engine.tiny import byte_level_tokenizer
from .conftest import events

THINKS = (
    "{% for t in tools or [] %}tool <tool_call> {{ t.function.name }}\n{% endfor %}"
    "{% for m in messages %}{{ m.role }}: {{ m.reasoning_content }}{{ m.content }}\n{% endfor %}assistant: "
    "{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n{% endif %}{{ language }}"
)
ALWAYS = "{% for m in messages %}{{ m.content }}\n{% endfor %}assistant: <think>\n"
MISTRAL = "{{ tools }}{% for m in messages %}{{ m.content }}{% endfor %}[TOOL_CALLS][ARGS]"
SPECIAL = ["[TOOL_CALLS]", "[ARGS]", "[INST]"]
TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "strict": True,
        "parameters": {
            "type": "object",
            "properties": {"city": {"enum": ["Rome", "Oslo"]}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}
CALL = '{"name": "weather", "arguments": {"city": "Oslo"}}'


def tokens_of(text):
    return len(byte_level_tokenizer().encode(text))


USER = [{"role": "user", "content": "Hi"}]


def ask(client, **fields):
    body = {"messages": USER, "temperature": 0, "max_tokens": 200, **fields}
    return client.post("/v1/chat/completions", json=body)


def both(client, **fields):
    """The message, and what the deltas of the same answer add up to."""
    whole = ask(client, **fields).json()["choices"][0]
    body = {"messages": USER, "temperature": 0, "max_tokens": 200, "stream": True, **fields}
    added = {"role": "assistant", "content": ""}
    reason = None
    with client.stream("POST", "/v1/chat/completions", json=body) as response:
        for event in events(response):
            delta, reason = event["choices"][0]["delta"], event["choices"][0]["finish_reason"]
            for key in ("content", "reasoning_content", "reasoning"):
                if delta.get(key):
                    added[key] = added.get(key, "") + delta[key]
            for call in delta.get("tool_calls", ()):
                calls = added.setdefault("tool_calls", [])
                assert call["index"] == len(calls)
                calls.append({key: value for key, value in call.items() if key != "index"})
    assert reason == whole["finish_reason"]
    message = whole["message"]
    for call in [*added.get("tool_calls", ()), *message.get("tool_calls", ())]:
        assert call.pop("id")
    assert added | {"content": added["content"] or None} == message | {"content": message["content"] or None}
    return message, reason


def test_thoughts_and_calls_are_told_whole_and_streamed(recorded):
    answer = f"<think>\nHm.\n</think>\n\nI look.\n<tool_call>\n{CALL}\n</tool_call>\n<tool_call>{CALL}</tool_call>"
    call = {"type": "function", "function": {"name": "weather", "arguments": '{"city": "Oslo"}'}}
    with recorded(THINKS, answer) as client:
        message, reason = both(client, tools=[TOOL])
        assert message == {
            "role": "assistant",
            "content": "I look.",
            "reasoning_content": "Hm.",
            "reasoning": "Hm.",
            "tool_calls": [call, call],
        }
        assert reason == "tool_calls"
        assert both(client, tools=[TOOL], parallel_tool_calls=False)[0]["tool_calls"] == [call]
        assert "reasoning" not in both(client, include_reasoning=False)[0]
        raw = both(client, reasoning_format="none")[0]
        assert raw == {"role": "assistant", "content": answer}, "without tools nothing is a call"
        usage = ask(client).json()["usage"]
        assert usage["completion_tokens_details"]["reasoning_tokens"] == tokens_of("\nHm.\n</think>") + 1


@pytest.mark.parametrize("thought", ["<think>\nHm.\n</think>\n\n", "\n <think>Hm</think>", ""])
def test_log_probabilities_are_those_of_what_is_told(recorded, thought):
    def tokens(logprobs):
        return "".join(entry["token"] for entry in logprobs["content"])

    with recorded(THINKS, f"{thought}I <b>look</b>.") as client:
        for told in (True, False):
            fields = {"logprobs": True, "top_logprobs": 1, "include_reasoning": told}
            whole = ask(client, **fields).json()["choices"][0]
            assert whole["message"]["content"] == "I <b>look</b>."
            body = {"messages": USER, "temperature": 0, "max_tokens": 200, "stream": True, **fields}
            with client.stream("POST", "/v1/chat/completions", json=body) as response:
                found = [event["choices"][0]["logprobs"] for event in events(response)]
            found = "".join(tokens(logprobs) for logprobs in found if logprobs)
            assert found == tokens(whole["logprobs"])
            assert found.lstrip().startswith(f"{thought.lstrip() if told else ''}I <b>look</b>.")


def test_special_tokens_that_are_marks_are_read_and_others_are_not_shown(recorded):
    answer = '[INST]Well.[TOOL_CALLS]weather[ARGS]{"city": "Oslo"}'
    with recorded(MISTRAL, answer, SPECIAL) as client:
        message, reason = both(client, tools=[TOOL])
        assert reason == "tool_calls" and message["content"] == "Well."
        calls = ask(client, tools=[TOOL]).json()["choices"][0]["message"]["tool_calls"]
        assert len(calls[0]["id"]) == 9 and calls[0]["id"].isalnum()


@pytest.mark.parametrize(("template", "special"), [(MISTRAL, SPECIAL), (MISTRAL, ()), (THINKS, ())])
def test_a_call_can_be_required_in_each_format(recorded, template, special):
    with recorded(template, special=special) as client:
        chosen = ask(client, tools=[TOOL], tool_choice="required", temperature=1, seed=1, enable_thinking=False)
        if template is MISTRAL:
            assert chosen.status_code == 200, chosen.text
        [call] = chosen.json()["choices"][0]["message"]["tool_calls"]
        assert json.loads(call["function"]["arguments"])["city"] in ("Rome", "Oslo")


def test_a_call_that_is_not_json_cannot_be_required(recorded):
    with recorded("{{ tools }}<tool_call><function=") as client:
        assert "cannot be required" in ask(client, tools=[TOOL], tool_choice="required").json()["error"]["message"]


def test_thinking_is_turned_off_by_the_template_or_by_closing_the_thought(recorded):
    def prompt_tokens(client, **fields):
        return ask(client, max_tokens=1, **fields).json()["usage"]["prompt_tokens"]

    with recorded(THINKS) as client:
        off = tokens_of("<think>\n\n</think>\n\n")
        usual = prompt_tokens(client)
        for fields in (
            {"enable_thinking": False},
            {"reasoning_effort": "none"},
            {"thinking_budget": 0},
            {"chat_template_kwargs": {"enable_thinking": False}},
        ):
            assert prompt_tokens(client, **fields) == usual + off
        assert prompt_tokens(client, enable_thinking=True) == usual
        assert prompt_tokens(client, chat_template_kwargs={"language": "en"}) == usual + 2
    with recorded(ALWAYS) as client:
        assert prompt_tokens(client, enable_thinking=False) == prompt_tokens(client) + tokens_of("\n\n</think>\n\n")


def test_what_has_no_effect_is_told_or_refused(client):
    told = ask(client, thinking_budget=7)
    assert told.status_code == 200 and "thinking_budget has no effect" in told.headers["x-cutwork-warning"]
    refused = ask(client, top_logprobs=2)
    assert refused.status_code == 400 and "needs logprobs" in refused.json()["error"]["message"]


@pytest.mark.parametrize("budget", [{"thinking_budget": 7}, {"thinking_token_budget": 7}])
def test_a_budget_closes_the_thought(recorded, budget):
    with recorded(ALWAYS) as client:
        answer = ask(client, ignore_eos=True, max_tokens=60, **budget).json()
        assert answer["usage"]["completion_tokens_details"]["reasoning_tokens"] <= 7 + len("\n</think>")
        message, _ = both(client, ignore_eos=True, max_tokens=60, n=1, **budget)
        assert message["reasoning"] and message["content"]


def test_json_comes_after_the_thought(recorded):
    form = {"type": "json_schema", "json_schema": {"name": "x", "strict": True, "schema": {"type": "boolean"}}}
    with recorded(ALWAYS) as client:
        answer = ask(client, response_format=form, thinking_budget=5, n=2, temperature=1, seed=2).json()
        assert len(answer["choices"]) == 2
        for choice in answer["choices"]:
            assert json.loads(choice["message"]["content"]) in (True, False) and choice["message"]["reasoning"]


def test_what_a_model_cannot_do_is_refused_or_warned_of(client):
    effort = ask(client, reasoning_effort="high")
    assert effort.status_code == 200 and "does not think" in effort.headers["x-cutwork-warning"]
    assert ask(client, reasoning_effort="none", enable_thinking=False).status_code == 200
    assert ask(client, chat_template_kwargs={"enable_thinking": False}).status_code == 200
    for fields, said in (
        ({"enable_thinking": True}, "does not think"),
        ({"chat_template_kwargs": {"enable_thinking": True}}, "has no setting 'enable_thinking'"),
        ({"chat_template_kwargs": {"chat_template": "x"}}, "has no setting 'chat_template'"),
        ({"reasoning_effort": "none", "enable_thinking": True}, "contradicts"),
        ({"frobnicate": 1}, "frobnicate: is not supported here"),
        ({"messages": [{"role": "user", "content": "a", "audio": {"id": "x"}}]}, "audio: is not supported here"),
        ({"guided_whitespace_pattern": " "}, "guided_whitespace_pattern: is not supported"),
    ):
        refused = ask(client, **fields)
        assert refused.status_code == 400 and said in refused.json()["error"]["message"]
    for fields in (
        {"user": "me"},
        {"store": False},
        {"metadata": {"a": "b"}},
        {"frobnicate": None},
        {"modalities": []},
    ):
        assert ask(client, **fields).status_code == 200


def test_earlier_thoughts_reach_the_template(recorded):
    with recorded(THINKS) as client:

        def count(**thought):
            said = [*USER, {"role": "assistant", "content": "Yes.", **thought}, *USER]
            return ask(client, messages=said, max_tokens=1).json()["usage"]["prompt_tokens"]

        assert count(reasoning_content="Hm.") == count(reasoning="Hm.") == count() + 3
