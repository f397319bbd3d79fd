"""From a row to a sample: columns that were named, or the usual layouts, told by the names of their columns.

prompt and answer, or completion,     one question and its answer
question and answer, source and target,
prompt and response, input and output
messages (and tools)                  a conversation as OpenAI's API has it
conversations (and system, tools)     ShareGPT's
instruction, input, output (system)   Alpaca's
text                                  plain text
"""

import json
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from math import isnan
from typing import Any

from cutwork.errors import CutworkError
from cutwork.tasks.task import Sample

Row = Mapping[str, Any]
Reader = Callable[[Row, str], Sample]  # a row and where it is from, for an error

_FIELD = re.compile(r"\{(\w+)\}")
_PAIRS = (("prompt", "answer"), ("prompt", "completion"), ("question", "answer"), ("source", "target"))
_MORE = (("prompt", "response"), ("input", "output"))  # where there is none of the names above beside them
_ADVICE = "; --task-option prompt=COLUMN --task-option answer=COLUMN names others, as a recipe's task.options does"
_SHAREGPT = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "model": "assistant",
    "chatgpt": "assistant",
    "bing": "assistant",
    "bard": "assistant",
    "system": "system",
    "tool": "tool",
    "observation": "tool",
    "function_response": "tool",
    "function_call": "assistant",
}


def reader_of(columns: Collection[str], prompt: str | None, answer: str | None, messages: str | None) -> Reader:
    """How rows with these columns are read: as the names say that were given (or None), else by the columns.

    A row with an empty text where there must be one becomes an empty sample. The reader raises CutworkError, naming the
    place, for a row that is not like that.
    """
    if messages is not None:
        return partial(_messages, column=messages)
    named = prompt is not None or answer is not None
    if not named and not {*_PAIRS[0]} <= {*columns}:
        if "messages" in columns:
            return partial(_messages, column="messages")
        if "conversations" in columns:
            return partial(_messages, column="conversations")
        if {"instruction", "output"} <= {*columns}:
            return _instruction
        prompt, answer = next((pair for pair in _PAIRS if {*pair} <= {*columns}), (None, None))
        if prompt is None and "text" in columns:
            return lambda row, where: Sample("", _filled("text", row, where))
        if prompt is None:
            known = {name for pair in (*_PAIRS, *_MORE) for name in pair} & {*columns}
            prompt, answer = next((pair for pair in _MORE if {*pair} == known), (None, None))
    # Whoever names columns says what is to be read.
    advice = "" if prompt and answer else _ADVICE
    return partial(_pair, prompt=prompt or "prompt", answer=answer or "answer", with_system=not named, advice=advice)


def _pair(row: Row, where: str, prompt: str, answer: str, with_system: bool, advice: str) -> Sample:
    question, reply = (_filled(name, row, where, advice) for name in (prompt, answer))
    return _asked(_system(row) if with_system else [], question, reply)


def _asked(before: list[dict[str, Any]], question: str, answer: str) -> Sample:
    if not question or not answer:
        return Sample("", "")
    said = {"role": "user", "content": question}, {"role": "assistant", "content": answer}
    return _sample([*before, *said], [])


def _filled(template: str, row: Row, where: str, advice: str = "") -> str:
    """A column's text, or a template with the columns it names put in; nothing if one of them holds nothing."""
    names = _FIELD.findall(template) or [template]
    for name in names:
        if name not in row or not (_is_nothing(row[name]) or isinstance(row[name], str | int | float)):
            raise CutworkError(
                f"{where}: expected a text '{name}'; there are {', '.join(map(str, row)) or 'no columns'}{advice}"
            )
    if any(_is_nothing(row[name]) for name in names):
        return ""
    if names == [template]:
        return str(row[template])
    return _FIELD.sub(lambda match: str(row[match[1]]), template)


def _is_nothing(value: Any) -> bool:
    """Whether a field is empty, as tables have it: no text, null, or what is no number (NaN)."""
    return value is None or value == "" or (isinstance(value, float) and isnan(value))


def _instruction(row: Row, where: str) -> Sample:
    parts = [_filled(name, row, where) for name in ("instruction", "input") if name in row]
    return _asked(_system(row), "\n\n".join(filter(None, parts)), _filled("output", row, where))


def _messages(row: Row, where: str, column: str) -> Sample:
    turns = _from_json(row.get(column), f"{where}: '{column}'")
    if not isinstance(turns, Sequence) or isinstance(turns, str) or not all(isinstance(t, Mapping) for t in turns):
        raise CutworkError(f"{where}: '{column}' must be a list of messages")
    read = [_turn(turn, f"{where}: message {i} of '{column}'") for i, turn in enumerate(turns, 1)]
    while read and (read[-1]["role"] != "assistant" or read[-1].get("weight") == 0):
        read.pop()  # nothing that is learned comes after it
    if not read:
        raise CutworkError(f"{where}: '{column}' holds no assistant's turn to learn")
    tools = _from_json(row.get("tools") or [], f"{where}: 'tools'")
    if not isinstance(tools, Sequence) or not all(isinstance(tool, Mapping) for tool in tools):
        raise CutworkError(f"{where}: 'tools' must be a list of the JSON schemas of functions")
    if read[0]["role"] not in ("system", "developer"):
        read = [*_system(row), *read]
    return _sample(read, [_without_nothing(tool) for tool in tools])


def _system(row: Row) -> list[dict[str, Any]]:
    text = row.get("system")
    return [{"role": "system", "content": text}] if isinstance(text, str) and text else []


def _turn(given: Row, where: str) -> dict[str, Any]:
    """A message as chat templates take it, whatever else it says kept."""
    turn = _without_nothing(given)
    if "from" in turn and "role" not in turn:
        role, text = turn.pop("from"), turn.pop("value", None)
        if not isinstance(role, str) or role not in _SHAREGPT:
            raise CutworkError(f"{where} is from '{role}'; known are {', '.join(_SHAREGPT)}")
        turn = {"role": _SHAREGPT[role], "content": text, **turn}
        if role == "function_call":
            calls = _from_json(text, where)
            calls = calls if isinstance(calls, list) else [calls]
            turn |= {"content": "", "tool_calls": [{"type": "function", "function": call} for call in calls]}
    content = turn.get("content", "")
    if isinstance(content, list) and all(isinstance(p, Mapping) and isinstance(p.get("text"), str) for p in content):
        content = "".join(part["text"] for part in content)
    if not isinstance(turn.get("role"), str) or not isinstance(content, str):
        raise CutworkError(f'{where} must be like {{"role": "user", "content": "text"}}')
    calls = turn.get("tool_calls")
    if calls:
        turn["tool_calls"] = [_call(call, where) for call in calls]
    elif turn["role"] == "assistant" and not content and not turn.get("reasoning_content"):
        raise CutworkError(f"{where} says nothing")
    return {**turn, "content": content}


def _call(call: Any, where: str) -> dict[str, Any]:
    """A tool call with its arguments as an object, which templates write themselves."""
    function = call.get("function", call) if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise CutworkError(f'{where}: a tool call must be like {{"function": {{"name": …, "arguments": {{…}}}}}}')
    arguments = _from_json(function.get("arguments") or {}, f"{where}: the arguments of {function['name']}")
    return {"type": "function", **call, "function": {"name": function["name"], "arguments": arguments}}


def _from_json(value: Any, what: str) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except ValueError as error:
        raise CutworkError(f"{what} is not JSON: {error}") from None


def _without_nothing(value: Any) -> Any:
    """A value without keys that hold nothing, which tables of unlike objects are filled up with."""
    if isinstance(value, Mapping):
        return {key: _without_nothing(part) for key, part in value.items() if part is not None}
    return [_without_nothing(part) for part in value] if isinstance(value, list) else value


def _sample(turns: list[dict[str, Any]], tools: list[dict[str, Any]]) -> Sample:
    """A question and its answer if that is all, else the conversation."""
    *before, last = turns
    answer = last["content"] or json.dumps(last.get("tool_calls", ""), default=str)
    plain = all(turn.keys() == {"role", "content"} for turn in turns)
    if [turn["role"] for turn in turns] == ["user", "assistant"] and plain and not tools:
        return Sample(before[0]["content"], answer)
    called = (json.dumps(turn.get("tool_calls", ""), default=str) for turn in before)
    said = "\n".join(f"{turn['role']}: {turn['content'] or call}" for turn, call in zip(before, called, strict=True))
    return Sample(said, answer, turns=tuple(turns), tools=tuple(tools))
