"""Recorded ways to think and call, of each family: told apart the same however the answer is cut."""

import json
import time
from itertools import pairwise
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cutwork.engine.chat.formats import format_of
from cutwork.engine.chat.reader import AnswerReader, Part

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": name,
            "parameters": {
                "type": "object",
                "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
            },
        },
    }
    for name in ("weather", "time.now")
]
# What chat templates hold by which they are recognised.
QWEN3 = "enable_thinking <think></think> <tool_call>"
MISTRAL = "[TOOL_CALLS]"
MISTRAL_V11 = "[TOOL_CALLS] [ARGS] [THINK][/THINK]"
LLAMA = 'Respond in the format {"name": function name, "parameters": dictionary of argument name and its value}.'
GRANITE = "available_tools <|tool_call|> <think></think>"
GRANITE_33 = "between <think></think> and write your response between <response></response> for each user query"
CODER = "<tool_call> <function= <think></think>"
GEMMA4 = "<|tool_call>call: <|channel>thought <channel|>"
FUNCTION_GEMMA = "<start_function_call>"
LFM2 = "<|tool_call_start|>"
OLMO3 = "within <function_calls></function_calls> XML tags <functions>"
PHI4 = "<|tool|>"

WEATHER = ("weather", {"city": "Oslo", "days": 2})
NOW = ("time.now", {})
TWO_LINES = ("weather", {"city": "a)\nb(", "days": None})
JSON = '{"name": "weather", "arguments": {"city": "Oslo", "days": 2}}'
LLAMA_JSON = JSON.replace("arguments", "parameters")
NOW_JSON = '{"name": "time.now", "arguments": {}}'

# (chat template, end of the prompt, answer, thought, said, calls)
RECORDED = [
    (QWEN3, "assistant\n", "<think>\nHm, 2 + 2.\n</think>\n\nIt is 4.", "Hm, 2 + 2.", "It is 4.", []),
    (QWEN3, "assistant\n<think>\n", "Hm.\n</think>\n\nIt is 4.", "Hm.", "It is 4.", []),
    (QWEN3, "assistant\n<think>\n\n</think>\n\n", "It is 4. ", "", "It is 4. ", []),
    (QWEN3, "assistant\n", "<think>\nHm", "Hm", "", []),
    (QWEN3, "assistant\n<think>\n\n</think>\n\n", "It is `<think>` first.", "", "It is `<think>` first.", []),
    (QWEN3, "assistant\n", "<think>\nok\n</think>\n\n<b> or <think> </think>.", "ok", "<b> or <think> </think>.", []),
    (
        QWEN3,
        "assistant\n",
        f"<think>\nCall.\n</think>\n\n<tool_call>\n{JSON}\n</tool_call>\n<tool_call>\n{NOW_JSON}\n</tool_call>",
        "Call.",
        "",
        [WEATHER, NOW],
    ),
    (QWEN3, "", f"Well. <tool_call>{JSON}</tool_call> Done.", "", "Well.Done.", [WEATHER]),
    (QWEN3, "", f"<tool_call>{JSON}", "", "", [WEATHER]),
    (QWEN3, "", "a  <tool_call>{not json}</tool_call> b", "", "a  <tool_call>{not json}</tool_call> b", []),
    (QWEN3, "", "<tool_call>[1]</tool_call><tool_call></tool_call>", "", None, []),
    (QWEN3, "", '<tool_call>{"name": "a", "arguments": {"x": NaN}}</tool_call>', "", None, []),
    (QWEN3, "", "x < y <tool <thin", "", "x < y <tool <thin", []),
    (GRANITE_33, "", "<think>2 + 2.</think>\n<response>It is 4.\n</response>", "2 + 2.", "It is 4.", []),
    (GRANITE_33, "", "<think>2 + 2.</think> <response> It is", "2 + 2.", "It is", []),
    (GRANITE_33, "", "It is 4 < 5.", "", "It is 4 < 5.", []),
    (GRANITE, "", "A <response>4</response>", "", "A <response>4</response>", []),
    (MISTRAL, "", f"[TOOL_CALLS][{JSON}, {NOW_JSON}]", "", "", [WEATHER, NOW]),
    (MISTRAL, "", f'[TOOL_CALLS] [{JSON[:-1]}, "id": "VvvODy9mT"}}]', "", "", [WEATHER]),
    (
        MISTRAL_V11,
        "",
        '[THINK]Hm.[/THINK]I look.[TOOL_CALLS]weather[ARGS]{"city": "Oslo", "days": 2}'
        "[TOOL_CALLS]time.now[CALL_ID]abcdefghi[ARGS]{}",
        "Hm.",
        "I look.",
        [WEATHER, NOW],
    ),
    (LLAMA, "", LLAMA_JSON, "", "", [WEATHER]),
    (LLAMA, "", f"<|python_tag|>{LLAMA_JSON}; {NOW_JSON}", "", "", [WEATHER, NOW]),
    (LLAMA, "", f"{LLAMA_JSON}\n{NOW_JSON}", "", "", [WEATHER, NOW]),
    (LLAMA, "", '{"name": "Ann", "age": 3}', "", '{"name": "Ann", "age": 3}', []),
    (LLAMA, "", f"I would say {LLAMA_JSON}", "", f"I would say {LLAMA_JSON}", []),
    (GRANITE, "", f"<|tool_call|>[{JSON}, {NOW_JSON}]", "", "", [WEATHER, NOW]),
    (GRANITE, "", "<think>Hm.</think>Yes.", "Hm.", "Yes.", []),
    (
        CODER,
        "",
        "I look.\n<tool_call>\n<function=weather>\n<parameter=city>\nOslo\n</parameter>\n"
        "<parameter=days>\n2\n</parameter>\n</function>\n</tool_call>\n<tool_call>\n<function=time.now>\n</function>\n</tool_call>",
        "",
        "I look.",
        [WEATHER, NOW],
    ),
    (
        GEMMA4,
        "",
        '<|channel>thought\nHm.<channel|><|tool_call>call:weather{city:<|"|>Oslo<|"|>,days:2}<tool_call|>'
        "<|tool_call>call:time.now{}<tool_call|>",
        "Hm.",
        "",
        [WEATHER, NOW],
    ),
    (
        FUNCTION_GEMMA,
        "",
        "<start_function_call>call:weather{city:<escape>Oslo<escape>,days:2}<end_function_call>",
        "",
        "",
        [WEATHER],
    ),
    (
        LFM2,
        "",
        '<|tool_call_start|>[weather(city="Oslo", days=2), time.now()]<|tool_call_end|>Ok',
        "",
        "Ok",
        [WEATHER, NOW],
    ),
    (
        OLMO3,
        "",
        'Let me see.\n<function_calls>weather(city="Oslo", days=2)\ntime.now()</function_calls>',
        "",
        "Let me see.",
        [WEATHER, NOW],
    ),
    (OLMO3, "", '<function_calls>\nweather(city="a)\\nb(", days=null)\n</function_calls>', "", "", [TWO_LINES]),
    (OLMO3, "", "<function_calls>weather(Oslo)</function_calls>", "", None, []),
    (OLMO3, "", "<function_calls>weather(city='f(x) or g(y)', days=2) time.now()</function_calls>", "", None, []),
    (PHI4, "", f"<|tool_call|>[{JSON}]<|/tool_call|>", "", "", [WEATHER]),
    ("plain", "", "<think>as it is</think>", "", "<think>as it is</think>", []),
]
OWN = {  # as models bring it along
    "start_anchor": "<|turn|>",
    "fields": {
        "thinking": {"open": "<t>", "close": "</t>"},
        "tool_calls": {"open": "<c>", "close": "</c>", "content": "json", "repeats": True},
        "content": {},
    },
}


def tokenizer(template, **more):
    return SimpleNamespace(chat_template=template, **more)


def read(form, prompt, answer, cuts, **options):
    """What the parts add up to: thought, said, calls."""
    reader = AnswerReader(form, prompt, TOOLS, **options)
    places = [0, *sorted(cuts), len(answer)]
    parts = []
    for start, end in pairwise(places):
        parts += reader.feed(answer[start:end])
    parts += reader.finish()
    texts = {kind: "".join(p.text for p in parts if p.kind == kind) for kind in ("reasoning", "content")}
    return texts["reasoning"], texts["content"], [(p.name, p.text) for p in parts if p.kind == "call"]


@pytest.mark.parametrize(("template", "prompt", "answer", "thought", "said", "calls"), RECORDED)
def test_each_family_is_told_apart(template, prompt, answer, thought, said, calls):
    found = read(format_of(tokenizer(template)), prompt, answer, [])
    assert found[0] == thought
    assert found[1] == (answer if said is None else said)
    assert [(name, json.loads(arguments)) for name, arguments in found[2]] == calls


@given(st.data())
def test_cuts_change_nothing(data):
    template, prompt, answer, *_ = data.draw(st.sampled_from(RECORDED))
    form = format_of(tokenizer(template))
    cuts = data.draw(st.lists(st.integers(0, len(answer))))
    assert read(form, prompt, answer, cuts) == read(form, prompt, answer, [])


MARKS = [
    "<think>",
    "</think>",
    "<tool_call>",
    "</tool_call>",
    "\n",
    " ",
    "a",
    "[TOOL_CALLS]",
    "[ARGS]",
    "f",
    "{}",
    JSON,
]
MARKS += ["<function_calls>", "</function_calls>", "f()"]
MARKS += ["<function=f>", "</function>", "<parameter=x>", "</parameter>", LLAMA_JSON, ";", "[", "]", "<|python_tag|>"]
FORMS = [QWEN3, CODER, MISTRAL, MISTRAL_V11, LLAMA, GRANITE, LFM2, OLMO3, GEMMA4]


@given(st.sampled_from(FORMS), st.lists(st.sampled_from(MARKS), max_size=12).map("".join), st.data())
def test_cuts_change_nothing_in_what_nobody_recorded(template, answer, data):
    form = format_of(tokenizer(template))
    cuts = data.draw(st.lists(st.integers(0, len(answer))))
    assert read(form, "", answer, cuts) == read(form, "", answer, [])


def test_a_models_own_response_template_comes_first():
    form = format_of(tokenizer("<think></think>", response_template=OWN))
    assert form.thought == ("<t>", "</t>")
    answer = f"Hm.</t> Yes. <c>{JSON}</c><c>no</c>"
    assert read(form, "<|turn|><t>", answer, [3, 20]) == ("Hm.", "Yes.<c>no</c>", [("weather", json.dumps(WEATHER[1]))])


def test_thoughts_can_be_left_as_they_are_written():
    form = format_of(tokenizer(QWEN3))
    answer = "<think>Hm.</think>Yes."
    assert read(form, "", answer, [4], thoughts=False) == ("", answer, [])
    reader = AnswerReader(form, "", None)
    assert reader.feed(f"<tool_call>{JSON}</tool_call>") == [Part("content", f"<tool_call>{JSON}</tool_call>")]


def test_special_tokens_that_are_marks_are_kept():
    form = format_of(tokenizer(MISTRAL_V11))
    assert form.kept("[TOOL_CALLS]") and form.kept("[ARGS]") and form.kept("[THINK]") and not form.kept("[INST]")


@pytest.mark.parametrize(
    "text", ["a" + "\n" * 20_000 + "b", "a}" + " " * 20_000, "{" * 20_000, "}" + "\n" * 20_000 + "{"]
)
def test_runs_of_spaces_take_no_longer_than_others(text: str) -> None:
    began = time.monotonic()
    reader = AnswerReader(format_of(tokenizer(LLAMA)), "assistant\n", TOOLS)
    parts = [*reader.feed(text), *reader.finish()]
    assert "".join(part.text for part in parts if part.kind == "content").strip() == text.strip()
    assert time.monotonic() - began < 20  # hours, where each place looks at all before it


@pytest.mark.parametrize(
    ("template", "text", "token"),
    [
        (LLAMA, "", " "),
        (LLAMA, "{", " "),
        (LLAMA, '{"type" :', " "),
        (LLAMA, "<|python_tag|>", "\n"),
        (LLAMA, f"{LLAMA_JSON};{{", " "),
        (CODER, "<tool_call>", "\n"),
        (CODER, "<tool_call><function=", "f"),
        (CODER, "<tool_call><function=f></function>", "\n"),
        (MISTRAL_V11, "[TOOL_CALLS]", "f"),
        (MISTRAL_V11, "[TOOL_CALLS]f[CALL_ID]", "f"),
        (GEMMA4, "<|tool_call>call:", "f"),
        (FUNCTION_GEMMA, "<start_function_call>call:", "f"),
    ],
)
def test_the_next_token_of_a_long_run_takes_no_longer_than_of_a_short_one(template, text, token):
    """As a request may begin the answer with such a run."""
    begun = text + 300_000 * token
    reader = AnswerReader(format_of(tokenizer(template)), begun, TOOLS, begun=begun)
    began = time.monotonic()
    for _ in range(1000):
        reader.feed(token)
    assert time.monotonic() - began < 2  # where all of the run is looked at again: 5 to 150 seconds


def test_half_characters_of_a_call_are_no_text() -> None:
    form = format_of(tokenizer(QWEN3))
    answer = '<tool_call>{"name": "f\\\\ud83d", "arguments": "\\\\ud83d"}</tool_call>'.replace("\\\\", "\\")
    reader = AnswerReader(form, "", TOOLS)
    for part in [*reader.feed(answer), *reader.finish()]:
        assert (part.text + (part.name or "")).encode()
