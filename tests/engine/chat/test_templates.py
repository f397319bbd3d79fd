"""Real chat templates: what each writes of a call is read back as that call. CUTWORK_TEST_TEMPLATES names a folder of
them (llama.cpp's models/templates)."""

import json
import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from cutwork.engine.chat.formats import CALLS, format_of
from cutwork.engine.chat.reader import AnswerReader
from cutwork.engine.chat.template import ChatTemplate, render_chat
from cutwork.errors import CutworkError

from ..tiny import byte_level_tokenizer

FOLDER = os.environ.get("CUTWORK_TEST_TEMPLATES")
USER = {"role": "user", "content": "Is it raining in Oslo?"}
CALL = {
    "id": "abcdefghi",
    "type": "function",
    "function": {"name": "weather", "arguments": {"city": "Oslo", "days": 2}},
}
ASKED = {"role": "assistant", "content": "", "tool_calls": [CALL]}
PROPERTIES = {"city": {"type": "string"}, "days": {"type": "integer"}}
TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Tells it.",
        "parameters": {"type": "object", "properties": PROPERTIES, "required": ["city"]},
    },
}
FAMILIES = [
    "Qwen-Qwen3-0.6B",
    "Qwen-Qwen2.5-7B-Instruct",
    "Qwen3-Coder",
    "Qwen3.5-4B",
    "Qwen-QwQ-32B",
    "NousResearch-Hermes-3-Llama-3.1-8B-tool_use",
    "meta-llama-Llama-3.1-8B-Instruct",
    "meta-llama-Llama-3.2-3B-Instruct",
    "mistralai-Mistral-Nemo-Instruct-2407",
    "Mistral-Small-3.2-24B-Instruct-2506",
    "unsloth-mistral-Devstral-Small-2507",
    "mistralai-Ministral-3-14B-Reasoning-2512",
    "ibm-granite-granite-4.0",
    "google-gemma-4-31B-it",
]


def real(name):
    if not FOLDER:
        pytest.skip("CUTWORK_TEST_TEMPLATES names no folder of chat templates")
    tokenizer = byte_level_tokenizer()
    tokenizer.chat_template = (Path(FOLDER) / f"{name}.jinja").read_text(encoding="utf-8")
    return tokenizer


@pytest.mark.parametrize("name", FAMILIES)
def test_what_a_template_writes_of_a_call_is_read_back(name):
    tokenizer = real(name)
    prompt = render_chat(tokenizer, [USER], [TOOL])
    calls = [CALL] if "Llama-3" in name and "Hermes" not in name else [CALL, CALL | {"id": "ihgfedcba"}]
    whole = tokenizer.apply_chat_template(
        [USER, ASKED | {"tool_calls": calls}], tools=[TOOL], tokenize=False, add_generation_prompt=False
    )
    form = format_of(tokenizer)
    shared = os.path.commonprefix([prompt, whole])  # noqa: RUF071  # of texts
    if shared != prompt:  # some write marks of a thought only where one is to come
        prompt = shared[: shared.rindex("\n") + 1]
    answer = whole[len(prompt) :]
    assert USER["content"] in prompt and answer
    for end in ("<|im_end|>", "<|eot_id|>", "</s>", "<|end_of_text|>", "<turn|>", "<|tool_response>"):
        answer = answer.partition(end)[0]
    reader = AnswerReader(form, prompt, [TOOL])
    parts = [part for character in answer for part in reader.feed(character)] + reader.finish()
    found = [(part.name, json.loads(part.text)) for part in parts if part.kind == "call"]
    assert found == [("weather", {"city": "Oslo", "days": 2})] * len(calls)
    assert not [part for part in parts if part.kind == "content"]


@pytest.mark.parametrize(
    ("name", "switch", "thought"),
    [
        ("Qwen-Qwen3-0.6B", "enable_thinking", "</think>"),
        ("Qwen3.5-4B", "enable_thinking", "</think>"),
        ("google-gemma-4-31B-it", "enable_thinking", "<channel|>"),
        ("ibm-granite-granite-3.3-2B-Instruct", "thinking", "</think>"),
        ("mistralai-Ministral-3-14B-Reasoning-2512", None, "[/THINK]"),
        ("deepseek-ai-DeepSeek-R1-Distill-Llama-8B", None, "</think>"),
        ("Qwen-Qwen2.5-7B-Instruct", None, None),
        ("meta-llama-Llama-3.2-3B-Instruct", None, None),
    ],
)
def test_switches_and_marks_of_thoughts_are_found(name, switch, thought):
    template = ChatTemplate(real(name))
    assert template.switch == switch
    assert template.form.thought == thought if thought is None else template.form.thought[1] == thought


def test_the_order_of_formats_lets_each_be_reached():
    for place, form in enumerate(CALLS):
        written = SimpleNamespace(chat_template=" ".join(form.signs))
        assert format_of(written).calls is form, place


def test_settings_are_known_before_they_are_used():
    template = ChatTemplate(byte_level_tokenizer())
    template._tokenizer.chat_template = "{% if enable_thinking %}x{% endif %}{{ messages }}{{ bos_token }}{{ date }}"
    assert template.settings == {"enable_thinking", "date"} and template.switch == "enable_thinking"
    template.check({"enable_thinking": True, "date": "today"})
    for name in ("messages", "bos_token", "chat_template", "tokenize", "other"):
        with pytest.raises(CutworkError, match=r"has no setting .*; it looks up: date, enable_thinking"):
            template.check({name: 1})


def test_tools_go_by_the_name_that_the_template_looks_up():
    tokenizer = byte_level_tokenizer()
    for template, said in (("{{ tools[0].function.name }}", "weather"), ("{{ xml_tools[0].type }}", "function")):
        tokenizer.chat_template = template
        assert render_chat(tokenizer, [USER], [TOOL]) == said
    tokenizer.chat_template = "the word tools {{ messages }}"
    with pytest.raises(CutworkError, match="knows no tools"):
        render_chat(tokenizer, [USER], [TOOL])


def test_of_several_templates_each_has_its_own_tools_and_settings():
    tokenizer = byte_level_tokenizer()
    tokenizer.chat_template = {
        "default": "{% if enable_thinking %}thinks{% else %}plain{% endif %}{{ messages[0].content }}",
        "tool_use": "{{ tools[0].function.name }} {{ date }}",
    }
    template = ChatTemplate(tokenizer)
    assert template.settings == {"enable_thinking", "date"} and template.switch == "enable_thinking"
    assert render_chat(tokenizer, [USER], [TOOL], {"date": "today"}) == "weather today"
    assert render_chat(tokenizer, [USER], [], {"enable_thinking": True}) == f"thinks{USER['content']}"
    tokenizer.chat_template = {"default": "{{ messages[0].content }}", "rag": "{{ tools }}"}
    with pytest.raises(CutworkError, match="knows no tools"):
        render_chat(tokenizer, [USER], [TOOL])
    tokenizer.chat_template = {"rag": "{{ tools }}"}
    with pytest.raises(CutworkError, match="refuses these messages: This model has multiple chat templates"):
        render_chat(tokenizer, [USER])


def test_ids_have_the_length_that_a_template_demands():
    tokenizer = byte_level_tokenizer()
    tokenizer.chat_template = (
        "[TOOL_CALLS]{% for m in messages %}{{ m.tool_call_id }}{% for c in m.tool_calls or [] %}{{ c.id }}"
        "{% endfor %} {% endfor %}"
    )
    asked = ASKED | {"tool_calls": [CALL | {"id": "toolu_0123456789"}]}
    written = render_chat(tokenizer, [asked, {"role": "tool", "content": "", "tool_call_id": "toolu_0123456789"}])
    first, second = written.removeprefix("[TOOL_CALLS]").split()
    assert first == second and len(first) == 9 and first.isalnum()


@pytest.mark.parametrize("messages", ["Hello!", ["Hello!"], USER, [{"role": "user", "content": None}]])
def test_what_is_no_list_of_messages_is_one_sentence(messages: object) -> None:
    tokenizer = byte_level_tokenizer()
    tokenizer.chat_template = "{% for m in messages %}{{ m.content }}{% endfor %}"
    with pytest.raises(CutworkError, match="each message must be like"):
        render_chat(tokenizer, messages)
