"""What one split asks, no other one learns: by all of its rows, in whatever order they are."""

import json
import random
import wave
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from cutwork.recipe import TaskSettings
from cutwork.tasks.apart import apart
from cutwork.tasks.columns import reader_of
from cutwork.tasks.load import load_task, with_validation_behind
from cutwork.tasks.task import Sample

ROLES = ("user", "assistant")


def conversation(*said: str, system: str = "", weights: tuple[int, ...] = ()) -> Sample:
    turns: list[dict[str, Any]] = [{"role": ROLES[i % 2], "content": text} for i, text in enumerate(said)]
    for turn, weight in zip(turns[1::2], weights, strict=False):
        turn["weight"] = weight
    read, _ = reader_of(["messages"], None, None, None)
    return read({"messages": turns, "system": system}, "row 1")


@pytest.mark.parametrize("shuffled", [False, True])
def test_many_solutions_of_a_problem_are_left_out_wherever_they_stand(tmp_path: Path, shuffled: bool) -> None:
    rows = [{"prompt": f"problem {p}", "answer": f"{s} of {p}"} for p in range(100) for s in range(16)]
    if shuffled:
        random.Random(0).shuffle(rows)
    test = [{"prompt": f"problem {p}", "answer": "reference"} for p in range(0, 100, 10)]
    for name, content in (("train", rows), ("test", test)):
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, content)))
    options = {name: str(tmp_path / f"{name}.jsonl") for name in ("train", "test")}
    task = load_task(TaskSettings(name="jsonl", train_samples=1600, test_samples=10, options=options))
    assert len(task.train) == 16 * 90 and not {s.prompt for s in task.train} & {s.prompt for s in task.test}
    settings = TaskSettings(name="jsonl", train_samples=1500, validation_samples=9, options=options, test_samples=10)
    task = load_task(settings)
    assert task.train and not {s.prompt for s in task.train} & {s.prompt for s in task.validation}


@pytest.mark.parametrize("name", ["gsm8k", "wmt14-en-de", "common_voice", "speech", "translation", "text", "jsonl"])
def test_no_task_trains_or_validates_with_what_its_test_asks(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = {"directory": str(tmp_path)}
    for split, count in (("train", 9), ("test", 2)):
        words = [f"word{i}" for i in range(count)]
        match name:
            case "gsm8k":
                rows = [{"question": word, "answer": "#### 1"} for word in words]
                (tmp_path / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows)))
            case "wmt14-en-de":
                for side in ("en", "de"):
                    (tmp_path / f"{split}.{side}").write_text("\n".join(words))
            case "common_voice" | "speech":
                pytest.importorskip("soundfile")
                (tmp_path / split).mkdir()
                with wave.open(str(tmp_path / split / "a.wav"), "wb") as file:
                    file.setparams((1, 2, 16000, 0, "NONE", ""))
                    file.writeframes(bytes(320))
                listing = tmp_path / (f"{split}/metadata.jsonl" if name == "speech" else f"{split}.jsonl")
                audio, text = ("file_name", "text") if name == "speech" else ("path", "sentence")
                path = "a.wav" if name == "speech" else f"{split}/a.wav"
                listing.write_text("\n".join(json.dumps({audio: path, text: word}) for word in words))
            case _:
                options = {each: str(tmp_path / f"{each}.jsonl") for each in ("train", "test")}
                rows = [{"source": word, "target": "a", "prompt": word, "answer": "a"} for word in words]
                content = "".join(f"{word} " for word in words) if name == "text" else "\n".join(map(json.dumps, rows))
                options |= {"characters": "6"} if name == "text" else {}
                (tmp_path / f"{split}.jsonl").write_text(content)
    task = load_task(TaskSettings(name=name, train_samples=7, validation_samples=2, test_samples=2, options=options))
    assert (len(task.train), len(task.validation), len(task.test)) == (5, 2, 2)
    assert not {s.asked() for s in task.test} & {s.asked() for s in (*task.train, *task.validation)}
    told = capsys.readouterr().err.count("2 rows ask what the test asks and are not trained on")
    assert told == (name != "text")  # whose pieces ask nothing


@pytest.mark.parametrize(("poems", "others", "back"), [(11, 90, 10), (10, 0, 0), (101, 9000, 100), (101, 10_000, 0)])
def test_what_very_many_samples_ask_comes_back_when_all_have_come(poems: int, others: int, back: int) -> None:
    asked = [Sample("Write a poem.", f"Poem {i}") for i in range(poems)]
    rest = [Sample(f"{i}?", "") for i in range(others)]
    left_out: list[Sample] = []
    found = list(apart([*asked, *rest], [asked[3]], left_out))
    assert found[:others] == rest and len(found) == others + back
    assert asked[3] in left_out and [s for s in asked if s not in left_out] == found[others:]
    assert len(left_out) + back == poems


def test_a_stream_is_read_no_further_than_it_must() -> None:
    def stream() -> Iterator[Sample]:
        for i in range(30):
            yield Sample("Write a poem." if i % 2 else f"{i}?", f"{i}")
        raise AssertionError("read to its end")

    left_out: list[Sample] = []
    found = list(islice(apart(stream(), [Sample("Write a poem.", "none of these")], left_out), 10))
    assert [sample.answer for sample in found] == [f"{i}" for i in range(0, 20, 2)] and len(left_out) == 9


def test_a_conversation_asks_all_that_its_learned_turns_answer() -> None:
    asked = [Sample("What is the secret?", "42"), conversation("Hello", "Hi", "Bye", "Bye")]
    leaking = [
        conversation("What is the secret?", "42", "And why?", "Because"),
        conversation("What is the secret?", "42", system="Be brief."),
        conversation("Hello", "Hi", "Bye", "See you", "Wait", "Yes", system="Be brief."),
    ]
    apart_from_it = [
        conversation("What is the secret?", "42", "And why?", "Because", weights=(0,)),
        conversation("Bye", "Bye"),
        conversation("Hello", "Hi"),  # nothing that is asked in the end
        conversation("Good day", "Hi", "Bye", "Bye"),
    ]
    assert list(apart([*leaking, *apart_from_it], asked, [])) == apart_from_it


def test_an_answer_is_known_whatever_stands_around_it() -> None:
    others = [Sample("Write a poem.", "Poem 0")]
    poems = [conversation("Write a poem.", f"Poem {i}", "Thanks", "Welcome", system="Rhyme.") for i in range(20)]
    assert list(apart(poems, others, [])) == poems[1:]


def test_validation_from_behind_leaves_training_as_it_is_and_asks_nothing_of_it(tmp_path: Path) -> None:
    rows = [{"prompt": f"Question {i % 30}?", "answer": str(i)} for i in range(60)]
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    options = {"train": str(file), "test": str(file)}
    settings = TaskSettings(name="jsonl", options=options, train_samples=20, test_samples=4)
    task, plain = with_validation_behind(settings, 6), load_task(settings)
    assert task.train == plain.train and task.test == plain.test and len(task.validation) == 6
    assert not {sample.prompt for sample in task.train} & {sample.prompt for sample in task.validation}
    assert not {sample.prompt for sample in task.test} & {sample.prompt for sample in task.validation}
