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
from cutwork.tasks.task import Sample, said, told

Row = Mapping[str, Any]
Reader = Callable[[Row, str], Sample]  # a row and where it is from, for an error

_FIELD = re.compile(r"""\{([^{}":\n]+)\}""")  # not the braces of JSON, which a prompt may show
_PAIRS = (("prompt", "answer"), ("prompt", "completion"), ("question", "answer"), ("source", "target"))
_MORE = (("prompt", "response"), ("input", "output"))  # where there is none of the names above beside them
_CONTEXTS, _CHOICES = ("context", "passage"), ("choices", "options")  # what a question cannot be answered without
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


def reader_of(
    columns: Collection[str], prompt: str | None, answer: str | None, messages: str | None
) -> tuple[Reader, tuple[str, ...]]:
    """How rows with these columns are read, and which columns are left aside though nobody said so.

    As the names say that were given (or None), else by the columns. A row with an empty text where there must be one
    becomes an empty sample. The reader raises CutworkError, naming the place, for a row that is not like that; so does
    this for columns beside a question without which it cannot be answered.
    """
    if messages is not None:
        return partial(_messages, column=messages), ()
    if prompt is not None or answer is not None:  # which says what is to be read
        advice = "" if prompt and answer else _ADVICE
        return _pair_of(prompt or "prompt", answer or "answer", with_system=False, advice=advice), ()
    reader, read = _by_columns(columns)
    left = tuple(column for column in columns if column not in read)
    if read[0] == "question":
        _check_answerable(left)
    return reader, left


def columns_read(columns: Collection[str]) -> tuple[str, ...]:
    """Which columns of a usual layout are read, the question's and the answer's first if it has them."""
    return _by_columns(columns)[1]


def _check_answerable(left: Sequence[str]) -> None:
    """Raise CutworkError for columns left aside without which a question cannot be answered."""
    without = "prompt=question to do without, as a recipe's task.options does"
    for column in left:
        if column in _CONTEXTS:
            raise CutworkError(
                f"the question has its {column} beside it, which would be left aside; say --task-option "
                f"$'prompt={{{column}}}\\n\\n{{question}}', or {without}"
            )
        if column in _CHOICES:
            raise CutworkError(
                f"the question has its {column} beside it, which would be left aside; write a column that holds both "
                f"and name it with --task-option prompt=COLUMN, or say {without}"
            )


def _by_columns(columns: Collection[str]) -> tuple[Reader, tuple[str, ...]]:
    """The reader of a usual layout and the columns it reads, the question's and the answer's first if it has them."""
    if not {*_PAIRS[0]} <= {*columns}:
        if "messages" in columns:
            return partial(_messages, column="messages"), ("messages", "tools", "system")
        if "conversations" in columns:
            return partial(_messages, column="conversations"), ("conversations", "tools", "system")
        if {"instruction", "output"} <= {*columns}:
            return _instruction, ("instruction", "output", "input", "system")
    pair = next((pair for pair in _PAIRS if {*pair} <= {*columns}), None)
    if pair is None and "text" in columns:
        return lambda row, where: Sample("", _filled("text", row, where)), ("text",)
    if pair is None:
        known = {name for pair in (*_PAIRS, *_MORE) for name in pair} & {*columns}
        pair = next((pair for pair in _MORE if {*pair} == known), None)
    read = pair or _PAIRS[0]
    return _pair_of(*read, with_system=True, advice="" if pair else _ADVICE), (*read, "system")


def _pair_of(prompt: str, answer: str, with_system: bool, advice: str) -> Reader:
    return partial(_pair, prompt=prompt, answer=answer, with_system=with_system, advice=advice)


def _pair(row: Row, where: str, prompt: str, answer: str, with_system: bool, advice: str) -> Sample:
    question, reply = (_filled(name, row, where, advice) for name in (prompt, answer))
    return _asked(_system(row) if with_system else [], question, reply)


def _asked(before: list[dict[str, Any]], question: str, answer: str) -> Sample:
    if not question or not answer:
        return Sample("", "")
    turns = {"role": "user", "content": question}, {"role": "assistant", "content": answer}
    return _sample([*before, *turns], [])


def _filled(template: str, row: Row, where: str, advice: str = "") -> str:
    """A column's text, or a template with the columns it names put in; nothing if one of them holds nothing.

    `translation.en` is what the column `translation` holds under `en`.
    """
    names = _FIELD.findall(template) or [template]
    values = {name: _value(row, name) for name in names}
    for name, value in values.items():
        if not (_is_nothing(value) or isinstance(value, str | int | float)):
            raise CutworkError(
                f"{where}: expected a text '{name}'; there are {', '.join(map(str, row)) or 'no columns'}{advice}"
            )
    if any(map(_is_nothing, values.values())):
        return ""
    return str(values[template]) if template in values else _FIELD.sub(lambda match: str(values[match[1]]), template)


def _value(row: Row, name: str) -> Any:
    """What a row holds under a name; the row itself, which is no text, if it has none such."""
    if name in row:
        return row[name]
    column, dot, inner = name.partition(".")
    within = row.get(column)
    return _value(within, inner) if dot and isinstance(within, Mapping) and within else row


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
        return Sample("", "")
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
        role, text = turn.pop("from"), turn.pop("value", "" if "value" in given else None)
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
        if not isinstance(calls, list):
            raise CutworkError(f"{where}: 'tool_calls' must be a list of calls")
        turn["tool_calls"] = [_call(call, where) for call in calls]
    elif turn["role"] == "assistant" and not content and not turn.get("reasoning_content"):
        turn["weight"] = 0  # nothing is to be learned of it
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
    answer = said(last)
    plain = all(turn.keys() == {"role", "content"} for turn in turns)
    if [turn["role"] for turn in turns] == ["user", "assistant"] and plain and not tools:
        question = before[0]["content"]
        return Sample(question, answer) if question else Sample("", "")  # plain text is what has no question
    return Sample(told(before), answer, turns=tuple(turns), tools=tuple(tools))
