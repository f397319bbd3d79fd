"""/v1/responses and /v1/messages, asked by OpenAI's and Anthropic's own clients."""

import json

import pytest

from .conftest import serving

openai = pytest.importorskip("openai")
anthropic = pytest.importorskip("anthropic")

THINKS = "{{ tools }}<tool_call>{% for m in messages %}{{ m.role }} {{ m.content }}\n{% endfor %}<think>"
CALL = '<tool_call>{"name": "weather", "arguments": {"city": "Oslo"}}</tool_call>'
ANSWER = f"\nHm.\n</think>\n\nI look.\n{CALL}{CALL}"
PARAMETERS = {"type": "object", "properties": {"city": {"type": "string"}}}


def openai_client(client, **options):
    return openai.OpenAI(base_url=f"{client.base_url}/v1", max_retries=0, **{"api_key": "none", **options})


def anthropic_client(client, **options):
    return anthropic.Anthropic(base_url=str(client.base_url), max_retries=0, **{"api_key": "none", **options})


FUNCTION = {"type": "function", "name": "weather", "parameters": PARAMETERS, "strict": False}
CUSTOM = {"name": "weather", "description": "Tells it.", "input_schema": PARAMETERS}
USER = [{"role": "user", "content": "Is it raining?"}]


def test_responses_whole_and_streamed(recorded):
    ask = {"model": "tiny", "input": "Is it raining?", "instructions": "Be brief.", "tools": [FUNCTION]}
    with recorded(THINKS, ANSWER) as client, openai_client(client) as own:
        whole = own.responses.create(**ask, max_output_tokens=300, metadata={"of": "mine"})
        assert whole.metadata == {"of": "mine"}
        assert whole.output_text == "I look." and whole.status == "completed"
        assert [item.type for item in whole.output] == ["reasoning", "message", "function_call", "function_call"]
        assert whole.output[0].content[0].text == "Hm."
        assert (whole.output[2].name, json.loads(whole.output[2].arguments)) == ("weather", {"city": "Oslo"})
        assert whole.usage.output_tokens_details.reasoning_tokens > 0
        assert whole.usage.input_tokens + whole.usage.output_tokens == whole.usage.total_tokens
        with own.responses.stream(**ask, max_output_tokens=300) as stream:
            events = list(stream)
            final = stream.get_final_response()
        assert final.output_text == whole.output_text
        assert [item.type for item in final.output] == [item.type for item in whole.output]
        said = "".join(event.delta for event in events if event.type == "response.output_text.delta")
        thought = "".join(event.delta for event in events if event.type == "response.reasoning_text.delta")
        assert (thought, said) == ("Hm.", "I look.")
        assert [event.sequence_number for event in events if hasattr(event, "sequence_number")]


def test_a_response_goes_on_with_what_tools_returned(recorded):
    with recorded(THINKS, ANSWER) as client, openai_client(client) as own:
        first = own.responses.create(model="tiny", input="Is it raining?", tools=[FUNCTION])
        results = [
            {"type": "function_call_output", "call_id": item.call_id, "output": "rain"}
            for item in first.output
            if item.type == "function_call"
        ]
        before = [item.model_dump(exclude_none=True) for item in first.output]
        again = own.responses.create(model="tiny", input=[*USER, *before, *results], tools=[FUNCTION])
        assert again.output_text == "I look." and again.usage.input_tokens > first.usage.input_tokens


def test_what_responses_cannot_have(client):
    with openai_client(client) as own:
        cut = own.responses.create(
            model="tiny", input="Hi", max_output_tokens=3, temperature=0, extra_body={"ignore_eos": True}
        )
        assert cut.output[-1].status == "incomplete"
        assert cut.status == "incomplete" and cut.incomplete_details.reason == "max_output_tokens"
        form = {"format": {"type": "json_schema", "name": "x", "schema": {"type": "boolean"}}}
        assert json.loads(own.responses.create(model="tiny", input="Hi", text=form).output_text) in (True, False)
        for asked, param in (
            ({"previous_response_id": "resp_1"}, "previous_response_id"),
            ({"background": True}, "background"),
            ({"conversation": "conv_1"}, "conversation"),
            ({"tools": [{"type": "web_search"}]}, "tools.0.type"),
            ({"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}]}, None),
            ({"temperature": 9}, "temperature"),
        ):
            with pytest.raises(openai.BadRequestError) as error:
                own.responses.create(**{"model": "tiny", "input": "Hi", **asked})
            assert param is None or error.value.param == param
        with pytest.raises(openai.NotFoundError):
            own.responses.create(model="other", input="Hi")
        warned = own.responses.with_raw_response.create(
            model="tiny", input="Hi", text={"verbosity": "low"}, reasoning={"effort": "low", "summary": "auto"}
        )
        assert "text.verbosity" in warned.headers["x-cutwork-warning"]
        assert "does not think" in warned.headers["x-cutwork-warning"]


def test_messages_whole_and_streamed(recorded):
    ask = {"model": "tiny", "messages": USER, "max_tokens": 300, "tools": [CUSTOM], "system": "Be brief."}
    thinking = {"type": "enabled", "budget_tokens": 1024}
    with recorded(THINKS, ANSWER) as client, anthropic_client(client) as own:
        whole = own.messages.create(**ask, thinking=thinking)
        assert [block.type for block in whole.content] == ["thinking", "text", "tool_use", "tool_use"]
        assert whole.content[0].thinking == "Hm." and whole.content[1].text == "I look."
        assert whole.content[2].input == {"city": "Oslo"} and whole.content[2].name == "weather"
        assert whole.stop_reason == "tool_use"
        with own.messages.stream(**ask, thinking=thinking) as stream:
            said = "".join(stream.text_stream)
            final = stream.get_final_message()
        assert said == "I look." and final.stop_reason == "tool_use"
        strip = {"id", "usage"}
        assert [b.model_dump(exclude=strip) for b in final.content] == [
            b.model_dump(exclude=strip) for b in whole.content
        ]
        assert final.usage.output_tokens == whole.usage.output_tokens
        one = own.messages.create(**ask, tool_choice={"type": "auto", "disable_parallel_tool_use": True})
        assert [block.type for block in one.content].count("tool_use") == 1


def test_messages_go_on_with_what_tools_returned(recorded):
    with recorded(THINKS, ANSWER) as client, anthropic_client(client) as own:
        ask = {"model": "tiny", "max_tokens": 300, "tools": [CUSTOM], "thinking": {"type": "adaptive"}}
        first = own.messages.create(**ask, messages=USER)
        results = [
            {"type": "tool_result", "tool_use_id": block.id, "content": [{"type": "text", "text": "rain"}]}
            for block in first.content
            if block.type == "tool_use"
        ]
        said = [*USER, {"role": "assistant", "content": first.content}, {"role": "user", "content": results}]
        again = own.messages.create(**ask, messages=said)
        assert again.content[1].text == "I look."
        counted = own.messages.count_tokens(model="tiny", messages=said, tools=[CUSTOM], thinking={"type": "adaptive"})
        total = again.usage.input_tokens + again.usage.cache_read_input_tokens
        assert counted.input_tokens == total > first.usage.input_tokens


def test_without_thinking_the_thought_is_closed(recorded):
    with recorded(THINKS, "</think>Hi there.") as client, anthropic_client(client) as own:
        ask = {"model": "tiny", "messages": USER, "max_tokens": 300}
        on = own.messages.count_tokens(model="tiny", messages=USER, thinking={"type": "adaptive"}).input_tokens
        off = own.messages.create(**ask).usage
        assert off.input_tokens + off.cache_read_input_tokens > on
        stopped = own.messages.create(**ask, thinking={"type": "adaptive"}, stop_sequences=[" there"])
        assert (stopped.stop_reason, stopped.stop_sequence) == ("stop_sequence", " there")
        assert stopped.content[0].text == "Hi"


def test_what_messages_cannot_have(client):
    with anthropic_client(client) as own:
        ask = {"model": "tiny", "messages": USER, "max_tokens": 3}
        own.messages.create(**ask, metadata={"user_id": "x"}, system=[{"type": "text", "text": "a"}])
        asked = {"extra_body": {"context_management": {"edits": []}}}
        assert (
            "context_management" in own.messages.with_raw_response.create(**ask, **asked).headers["x-cutwork-warning"]
        )
        image = {"type": "image", "source": {"type": "url", "url": "x"}}
        for asked in (
            {"thinking": {"type": "enabled", "budget_tokens": 1024}},
            {"extra_body": {"temperature": 2}},
            {"tools": [{"type": "web_search_20250305", "name": "web_search"}]},
            {"messages": [{"role": "user", "content": [image]}]},
            {"tool_choice": {"type": "any"}},
            {"messages": []},
        ):
            with pytest.raises(anthropic.BadRequestError) as error:
                own.messages.create(**{**ask, **asked})
            assert error.value.body["type"] == "error" and error.value.body["error"]["message"]
        with pytest.raises(anthropic.NotFoundError):
            own.messages.create(**{**ask, "model": "other"})


def test_keys_by_either_header(load):
    with serving(load(), keys=["secret"]) as client:
        ask = {"model": "tiny", "messages": USER, "max_tokens": 3}
        with anthropic_client(client, api_key="secret") as own:
            assert own.messages.create(**ask).type == "message"
        both = {"X-Api-Key": "secret", "Authorization": "Bearer wrong"}
        assert client.post("/v1/messages", json=ask, headers=both).status_code == 200, "either will do"
        with anthropic_client(client) as own, pytest.raises(anthropic.AuthenticationError):
            own.messages.create(**ask)
        with openai_client(client, api_key="secret") as own:
            assert own.responses.create(model="tiny", input="Hi", max_output_tokens=3).object == "response"
