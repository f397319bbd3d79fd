"""The usual layouts of rows, and what is wrong with a row that is not quite like that."""

import json
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from cutwork.errors import CutworkError
from cutwork.recipe import TaskSettings
from cutwork.tasks.load import load_task
from cutwork.tasks.table import read_samples
from cutwork.tasks.task import Sample

USER, ANSWER = {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}
SYSTEM = {"role": "system", "content": "Be kind."}
DAY = date(2024, 5, 6)
FUNCTION = {"name": "add", "arguments": {"a": 3}}


def read(path: Path, row: dict[str, Any]) -> Sample:
    path = path / "rows.jsonl"
    path.write_text(json.dumps(row))
    [sample] = read_samples(str(path))
    return sample


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "Hi", "answer": "Hello", "messages": []},
        {"prompt": "Hi", "completion": "Hello"},
        {"question": "Hi", "answer": "Hello"},
        {"source": "Hi", "target": "Hello"},
        {"prompt": "Hi", "response": "Hello", "id": 3},
        {"input": "Hi", "output": "Hello"},
        {"messages": [USER, ANSWER]},
        {"messages": json.dumps([USER, ANSWER, USER])},  # nobody answers the last one
        {
            "messages": [
                {**USER, "tool_calls": None},
                {"role": "assistant", "content": [{"type": "text", "text": "Hello"}]},
            ]
        },
        {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}], "system": ""},
        {"instruction": "Hi", "input": "", "output": "Hello"},
    ],
)
def test_a_question_and_its_answer(tmp_path: Path, row: dict[str, Any]) -> None:
    assert read(tmp_path, row) == Sample("Hi", "Hello")


@pytest.mark.parametrize(
    "row",
    [
        {"messages": [SYSTEM, USER, ANSWER]},
        {"messages": [USER, ANSWER], "system": "Be kind."},
        {
            "conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}],
            "system": "Be kind.",
        },
        {"instruction": "Hi", "output": "Hello", "system": "Be kind."},
        {"prompt": "Hi", "answer": "Hello", "system": "Be kind."},
        {"question": "Hi", "answer": "Hello", "system": "Be kind."},
    ],
)
def test_what_the_system_says_makes_it_a_conversation(tmp_path: Path, row: dict[str, Any]) -> None:
    sample = read(tmp_path, row)
    assert sample.turns == (SYSTEM, USER, ANSWER)
    assert (sample.prompt, sample.answer) == ("system: Be kind.\nuser: Hi", "Hello")


def test_instructions_have_their_input_below(tmp_path: Path) -> None:
    assert read(tmp_path, {"instruction": "Add.", "input": "3, 4", "output": "7"}).prompt == "Add.\n\n3, 4"


def test_calls_of_tools_in_both_layouts(tmp_path: Path) -> None:
    tools = [{"type": "function", "function": {"name": "add"}}]
    called = {"role": "assistant", "content": "", "tool_calls": [{"type": "function", "function": FUNCTION}]}
    as_text = {**called, "content": None, "tool_calls": [{"function": {**FUNCTION, "arguments": '{"a": 3}'}}]}
    result = {"role": "tool", "content": "7"}
    openai = read(tmp_path, {"messages": [USER, as_text, result, ANSWER], "tools": json.dumps(tools)})
    sharegpt = [("human", "Hi"), ("function_call", json.dumps(FUNCTION)), ("observation", "7"), ("gpt", "Hello")]
    other = read(tmp_path, {"conversations": [{"from": f, "value": v} for f, v in sharegpt], "tools": tools})
    assert openai.turns == other.turns == (USER, called, result, ANSWER)
    assert openai.tools == other.tools == tuple(tools)
    assert openai.texts() == other.texts() != Sample(openai.prompt, openai.answer).texts()


@pytest.mark.parametrize("nothing", ["", None])
def test_conversations_without_an_answer_are_left_out(tmp_path: Path, nothing: str | None) -> None:
    empty = {"role": "assistant", "content": nothing}
    sharegpt = [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": nothing}]
    whole = {"messages": [USER, ANSWER]}
    lacking = [{"messages": turns} for turns in ([USER], [USER, {**ANSWER, "weight": 0}], [USER, empty])]
    for rows in ([whole, *lacking], [{"conversations": sharegpt}, {"conversations": sharegpt[:1]}]):
        file = tmp_path / "rows.jsonl"
        file.write_text("\n".join(map(json.dumps, rows)))
        found = read_samples(str(file))
        assert [sample.is_empty for sample in found] == [row is not whole for row in rows]
    later = read(tmp_path, {"messages": [USER, empty, USER, ANSWER, USER, empty]})
    assert later.turns == (USER, {"role": "assistant", "content": "", "weight": 0}, USER, ANSWER)


def test_conversations_of_the_test_are_not_trained_on(tmp_path: Path) -> None:
    rows = [{"messages": [{**USER, "content": f"Hi {i}"}, ANSWER, USER, ANSWER]} for i in range(4)]
    for name, part in (("train", rows), ("test", rows[:2])):
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, part)))
    options = {"train": str(tmp_path / "train.jsonl")}
    task = load_task(TaskSettings(name=str(tmp_path / "test.jsonl"), options=options))
    assert [sample.turns[0]["content"] for sample in task.train] == ["Hi 2", "Hi 3"]
    named = load_task(TaskSettings(name=str(tmp_path / "test.jsonl"), options=options | {"messages": "messages"}))
    assert named == task


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"messages": "Hi"}, "row 1: 'messages' is not JSON"),
        ({"messages": 3}, "row 1: 'messages' must be a list of messages"),
        ({"conversations": [{"from": "human"}]}, "message 1 of 'conversations' must be like"),
        ({"messages": [{"role": "user", "content": [{"image": "a"}]}]}, 'message 1 of .* must be like {"role"'),
        ({"messages": [USER, {**ANSWER, "tool_calls": [{"function": "add"}]}]}, "a tool call must be like"),
        ({"messages": [USER, {**ANSWER, "tool_calls": 3}]}, "message 2 of 'messages': 'tool_calls' must be a list"),
        ({"conversations": [{"from": "me", "value": "Hi"}]}, "message 1 of 'conversations' is from 'me'; known are"),
        ({"conversations": [{"from": "function_call", "value": "add"}]}, "message 1 of 'conversations' is not JSON"),
        ({"messages": [USER, ANSWER], "tools": 3}, "'tools' must be a list"),
        ({"instruction": "Hi", "output": []}, "row 1: expected a text 'output'"),
        ({"messages": "[" * 100_000}, "row 1 is nested too deeply"),
        ({"messages": [USER, ANSWER], "tools": json.loads('[{"a":' * 400 + "1" + "}]" * 400)}, "nested too deeply"),
        ({"body": "Hi"}, "row 1: expected a text 'prompt'; there are body; --task-option prompt=COLUMN"),
        ({"prompt": "Hi", "reply": "Hello"}, r"there are prompt, reply; .* --task-option answer=COLUMN names others"),
        ({"prompt": "Hi", "input": "Hi", "output": "Hello"}, "expected a text 'answer'; there are prompt, input, out"),
    ],
)
def test_what_is_wrong_with_a_row_is_one_sentence(tmp_path: Path, row: dict[str, Any], message: str) -> None:
    with pytest.raises(CutworkError, match=message) as caught:
        read(tmp_path, row)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("nothing", ["", None, float("nan")])
def test_a_row_with_nothing_in_it_is_left_out(tmp_path: Path, nothing: object) -> None:
    for row in ({"prompt": "Hi", "answer": nothing}, {"prompt": nothing, "answer": "Hello"}, {"text": nothing}):
        assert read(tmp_path, row).is_empty
    assert read(tmp_path, {"instruction": "Hi", "output": nothing}).is_empty
    if not isinstance(nothing, float):  # which no message says
        assert read(tmp_path, {"messages": [{**USER, "content": nothing}, ANSWER]}).is_empty
    assert read(tmp_path, {"instruction": "Hi", "input": nothing, "output": "Hello"}) == Sample("Hi", "Hello")
    rows = [{"prompt": f"{i}?", "answer": nothing if i % 2 else "yes"} for i in range(8)]
    path = tmp_path / "some.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    task = load_task(TaskSettings(name=str(path), test_samples=2, validation_samples=4, options={"train": str(path)}))
    assert [sample.prompt for sample in task.test] == ["0?", "2?"]
    assert not any(sample.is_empty for sample in task.validation)


def test_columns_that_are_named_are_all_that_is_read(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"prompt": "Hi", "answer": "Hello", "system": "Be kind."}))
    assert read_samples(str(path), "{system} {prompt}", "answer") == [Sample("Be kind. Hi", "Hello")]


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ({"choices": ["Paris", "Rome"]}, "the question has its choices beside it, .* --task-option prompt=COLUMN"),
        ({"options": "A: Paris"}, "the question has its options beside it"),
        ({"context": "France."}, r"its context beside it, .* --task-option \$'prompt={context}\\n\\n{question}', or"),
        ({"passage": "France."}, r"{passage}\\n\\n{question}"),
    ],
)
def test_a_question_is_not_asked_without_what_answers_it(tmp_path: Path, extra: dict[str, Any], message: str) -> None:
    row = {"question": "Capital?", "answer": 1, **extra}
    with pytest.raises(CutworkError, match=message):
        read(tmp_path, row)
    path = tmp_path / "rows.jsonl"
    assert read_samples(str(path), prompt="question") == [Sample("Capital?", "1")]
    if "context" in extra:
        assert read_samples(str(path), prompt="{context}\n\n{question}") == [Sample("France.\n\nCapital?", "1")]


def test_columns_left_aside_are_told_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    read(tmp_path, {"text": "Fine.", "label": 1, "id": 7})
    read_samples(str(tmp_path / "rows.jsonl"))
    assert capsys.readouterr().err == f"{tmp_path / 'rows.jsonl'}: left aside are the columns label, id\n"
    read_samples(str(tmp_path / "rows.jsonl"), "id", "text")
    assert capsys.readouterr().err == ""


def test_names_of_columns_in_templates_are_any(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    row = {"en-us": "cat", "de": "Katze", "in French": "chat", "translation": {"en": "dog", "de": "Hund"}, "a.b": "c"}
    path.write_text(json.dumps(row))
    prompt = 'Translate {en-us} ({in French}), {translation.en}, {a.b} to {"German": 1}'
    assert read_samples(str(path), prompt, "translation.de") == [
        Sample('Translate cat (chat), dog, c to {"German": 1}', "Hund")
    ]
    for missing in ("{en-gb}", "{translation.fr}", "{de.en}", "{translation}"):
        with pytest.raises(CutworkError, match=f"row 1: expected a text '{missing[1:-1]}'; there are en-us, de, in Fr"):
            read_samples(str(path), f"Translate {missing}", "de")
    for source, target in (("en-us", "de"), ("translation.en", "translation.de")):
        options = {"test": str(path), "source": source, "target": target}
        task = load_task(TaskSettings(name="translation", options=options))
        assert task.test[0].answer in ("Katze", "Hund")


def test_what_was_text_before_there_were_more_pairs_is_text(tmp_path: Path) -> None:
    assert read(tmp_path, {"input": "Hi", "output": "Hello", "text": "Hi there"}) == Sample("", "Hi there")


def test_dates_are_told_as_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    call = {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "at", "arguments": {"day": DAY}}}]}
    rows = [{"messages": [{**USER, "sent": DAY}, call, {"role": "tool", "content": "7"}, call]}]
    monkeypatch.setattr("cutwork.tasks.table.hub", lambda *_: rows)
    [sample] = read_samples("someone/dates")
    assert all("2024-05-06" in text for text in sample.texts())


def test_plain_text_is_an_answer_to_nothing(tmp_path: Path) -> None:
    assert read(tmp_path, {"text": "Hi there", "id": 3}) == Sample("", "Hi there")


def test_a_line_ends_where_its_row_does(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    text = "one\u2028two\u0085three"  # what str.splitlines also takes for ends of lines
    file.write_text(json.dumps({"prompt": text, "answer": "yes"}, ensure_ascii=False) + "\n", encoding="utf-8")
    [sample] = read_samples(str(file))
    assert text in sample.prompt
