"""How families of models write thoughts and tool calls, as transformers' response templates
(https://huggingface.co/docs/transformers/chat_response_parsing), and which of them a chat template speaks of."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from cutwork.errors import CutworkError

THOUGHT_FIELDS = ("reasoning_content", "reasoning", "thinking")  # what response templates call a thought
CONTENT = "content"
ANSWER = "answer"  # of content that has marks of its own

Field = dict[str, Any]


@dataclass(frozen=True)
class ForcedCall:
    """How a call that must be made is written: `opening`, the call in JSON, `closing`.

    arguments: the key of its arguments. named: the opening holds the name in place of `{name}`, and the JSON is the
    arguments alone.
    """

    opening: str
    closing: str = ""
    arguments: str = "arguments"
    named: bool = False


@dataclass(frozen=True)
class CallFormat:
    """How calls are written. signs: texts that a chat template of this kind holds, all of them. fields: of a response
    template. forced: None where the calls are not JSON. id_length: of a call's id, if the template demands one. marked:
    whether a mark comes before a call; else only those of known functions are calls. lines: whether calls in Python
    stand one a line, instead of in a list."""

    signs: tuple[str, ...]
    fields: dict[str, Field]
    forced: ForcedCall | None = None
    id_length: int | None = None
    marked: bool = True
    lines: bool = False


def _calls(**field: Any) -> dict[str, Field]:
    return {"tool_calls": {"content": "json", "repeats": True, **field}}


NAMED = {"function": {"name": "{name}", "arguments": "{content}"}}
HERMES = CallFormat(  # Qwen 2.5 and 3, QwQ, SmolLM3, Granite 4 write so too, and most fine-tunes of others
    ("<tool_call>",), _calls(open="<tool_call>", close="</tool_call>"), ForcedCall("<tool_call>\n", "\n</tool_call>")
)
# The first whose signs a chat template holds is its own. Runs of spaces and letters have an end in what opens or closes
# a call: of a mark that has begun, all is looked at anew with each token.
CALLS = [
    CallFormat(  # Gemma 4
        ("<|tool_call>",),
        _calls(
            open_pattern=r"<\|tool_call>call:(?P<name>[\w.-]{1,256})(?=\{)",
            close="<tool_call|>",
            content_args={"unquoted_keys": True, "string_delims": [['<|"|>', '<|"|>']]},
            transform=NAMED,
        ),
    ),
    CallFormat(  # FunctionGemma
        ("<start_function_call>",),
        _calls(
            open_pattern=r"<start_function_call>call:(?P<name>[\w.-]{1,256})(?=\{)",
            close="<end_function_call>",
            content_args={"unquoted_keys": True, "string_delims": [["<escape>", "<escape>"]]},
            transform=NAMED,
        ),
    ),
    CallFormat(  # LFM2
        ("<|tool_call_start|>",),
        _calls(open="<|tool_call_start|>", close="<|tool_call_end|>", content="python-call-list"),
    ),
    CallFormat(  # OLMo 3
        ("<function_calls>",),
        _calls(open="<function_calls>", close="</function_calls>", content="python-call-list"),
        lines=True,
    ),
    CallFormat(  # Mistral since v11: Small 3.2, Devstral, Magistral, Ministral 3
        ("[TOOL_CALLS]", "[ARGS]"),
        _calls(
            open_pattern=r"\[TOOL_CALLS\](?P<name>[^\[\s{]{1,256})(?:\[CALL_ID\]\w{1,256})?\[ARGS\]",
            close_pattern=r"(?=\[TOOL_CALLS\])",
            transform=NAMED,
        ),
        ForcedCall("[TOOL_CALLS]{name}[ARGS]", named=True),
        id_length=9,
    ),
    CallFormat(  # Mistral v3 to v7: 7B v0.3, Nemo, Small
        ("[TOOL_CALLS]",), _calls(open="[TOOL_CALLS]"), ForcedCall("[TOOL_CALLS][", "]"), id_length=9
    ),
    CallFormat(  # Granite 3
        ("<|tool_call|>",),
        _calls(open=["<|tool_call|>", "<tool_call>"], close=["<|/tool_call|>", "</tool_call>"]),
        ForcedCall("<|tool_call|>[", "]"),
    ),
    CallFormat(  # Phi-4-mini
        ("<|tool|>",),
        _calls(open="<|tool_call|>", close="<|/tool_call|>"),
        ForcedCall("<|tool_call|>[", "]<|/tool_call|>"),
    ),
    CallFormat(  # Qwen3-Coder, Qwen 3.5
        ("<tool_call>", "<function="),
        _calls(
            open_pattern=r"<tool_call>\s{0,16}<function=(?P<name>[^>\n]{1,256})>",
            close_pattern=r"</function>\s{0,16}</tool_call>",
            content="xml-inline",
            content_args={
                "tag_pattern": r"<parameter=(?P<key>[^>\n]+)>\n?(?P<value>(?:(?!<parameter=).)*?)\n?</parameter>"
            },
            transform=NAMED,
        ),
    ),
    HERMES,
    CallFormat(  # Llama 3, which marks no beginning: the answer is a call, or several with ; or a line between
        ('{"name": function name, "parameters"',),
        _calls(
            # What is looked at behind a brace has an end, or long runs of spaces would take the square of their length.
            open_pattern=r"(?:\A\s{0,16}(?:<\|python_tag\|>\s{0,16})?|<\|python_tag\|>\s{0,16}|"
            r"(?=\{)(?<=\}\s{0,16}[;,\n]\s{0,16}))"
            r'(?=\{\s{0,16}"(?:type"\s{0,16}:\s{0,16}"function"\s{0,16},\s{0,16}")?name"\s{0,16}:)',
            close_pattern=r"(?=[;,\n])(?<=\}\s{0,16})[;,\n]\s{0,16}"
            r'(?=\{\s{0,16}"(?:type"\s{0,16}:\s{0,16}"function"\s{0,16},\s{0,16}")?name"\s{0,16}:)',
        ),
        ForcedCall("", arguments="parameters"),
        marked=False,
    ),
]

THOUGHTS = [("[THINK]", "[/THINK]"), ("<|channel>thought\n", "<channel|>"), ("<think>", "</think>")]
ANSWER_MARKS = ("<response>", "</response>")  # Granite 3.3, after a thought


@dataclass(frozen=True)
class AnswerFormat:
    """What may stand in a model's answers besides what it says.

    fields: of a response template, by what they hold; `content` takes the rest. thought: the marks around a thought,
    None if the model is not known to think. answer: the marks around what it says then, if there are any. calls: how it
    calls tools, if it is one of `CALLS`. template: the model's own response template, whole, if it brings one.
    """

    thought: tuple[str, str] | None = None
    answer: tuple[str, str] | None = None
    calls: CallFormat | None = None
    template: Mapping[str, Any] | None = None

    def response_template(self, *, thoughts: bool, calls: bool) -> dict[str, Any] | None:
        """What tells the answer's parts apart; None if there is nothing to tell."""
        if self.template is not None:
            left_out = {} if thoughts else dict.fromkeys(THOUGHT_FIELDS)
            fields = {name: field for name, field in self.template["fields"].items() if name not in left_out}
            if not calls:
                fields = {name: field for name, field in fields.items() if name in (CONTENT, *THOUGHT_FIELDS)}
            rest: dict[str, Field] = (
                {} if any("open" not in f and "open_pattern" not in f for f in fields.values()) else {CONTENT: {}}
            )
            return {**self.template, "fields": {**rest, **fields}}
        fields = {}
        if thoughts and self.thought:
            fields["reasoning_content"] = {"open": self.thought[0], "close": self.thought[1]}
            if self.answer:
                fields[ANSWER] = {"open": self.answer[0], "close": self.answer[1]}
        if calls and self.calls:
            fields |= self.calls.fields
        return {"start_anchor_pattern": r"\A", "fields": {**fields, CONTENT: {}}} if fields else None

    @cached_property
    def marks(self) -> str:
        """All texts that could be marks, one after the other, for `kept`."""
        template = self.response_template(thoughts=True, calls=True)
        return "\n".join(_strings(template or {}))

    def kept(self, special: str) -> bool:
        """Whether this special token is, or is a part of, one of the marks."""
        return special in self.marks or re.escape(special) in self.marks

    def thinks(self, prompt: str, begun: str = "") -> bool:
        """Whether the prompt, which holds what is `begun` of the answer, ends within a thought."""
        if self.thought is None:
            return False
        opening, closing = (mark.strip() for mark in self.thought)
        return prompt.rstrip().endswith(opening) or begun.rfind(opening) > begun.rfind(closing)


def format_of(tokenizer: Any) -> AnswerFormat:
    """The format of a tokenizer's model: its own response template, else what its chat template shows.

    Raises CutworkError for a response template that cannot be read.
    """
    own = getattr(tokenizer, "response_template", None)
    written = str(getattr(tokenizer, "chat_template", None) or "")
    calls = next((known for known in CALLS if all(sign in written for sign in known.signs)), None)
    if own is None:
        if calls is None and "tools" in written:
            calls = HERMES
        return AnswerFormat(
            next((marks for marks in THOUGHTS if any(mark.strip() in written for mark in marks)), None),
            ANSWER_MARKS if all(mark in written for mark in ANSWER_MARKS) else None,
            calls,
        )
    from transformers.utils.chat_parsing.response_templates import load_response_template

    try:
        load_response_template(own)
    except Exception as error:
        raise CutworkError(f"the model's response_template cannot be read: {error}") from None
    return AnswerFormat(_marks(own), None, calls, own)


def _marks(template: Mapping[str, Any]) -> tuple[str, str] | None:
    """The marks around a thought, if the template names one of each."""
    for name in THOUGHT_FIELDS:
        field = template["fields"].get(name, {})
        opens, closes = ([mark] if isinstance(mark, str) else mark for mark in (field.get("open"), field.get("close")))
        if opens and closes:
            return opens[0], closes[0]
    return None


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping | list):
        for item in value.values() if isinstance(value, Mapping) else value:
            yield from _strings(item)
