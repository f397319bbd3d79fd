"""Questions are asked whole where the context holds them, else without their beginning, and that is said."""

from io import StringIO
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
from rich.console import Console
from tokenizers.processors import TemplateProcessing

from cutwork.engine.model import Model
from cutwork.measure.quality import accuracy, prompt_tokens, replies
from cutwork.tasks.rendering import render, render_prompt
from cutwork.tasks.task import Sample, Task
from tests.tiny_checkpoint import write_tiny_checkpoint


def test_a_question_longer_than_the_context_loses_its_beginning(tmp_path: Path) -> None:
    write_tiny_checkpoint(tmp_path)
    said = Console(file=StringIO(), width=200)
    with Model.load(tmp_path, max_context=48) as model:
        model.tokenizer.chat_template = None
        questions = [Sample("a cat?", ""), Sample("the cat sat on the mat and then " * 20, "")]
        texts = replies(model, "cats", questions, max_new_tokens=16, console=said)
        short, long = [model.encode(render_prompt(model.tokenizer, question)) for question in questions]
        assert len(short) < 32 and len(long) >= 48
        assert texts == [model.generate(prompt, max_new_tokens=16).text for prompt in (short, long[-32:])]
        assert all(texts)
        output = said.file.getvalue()  # type: ignore[attr-defined]
        assert "cats: 1 of 2 questions leave no room for an answer of 16 tokens in the context of 48" in output


@pytest.mark.parametrize(("longest", "kept"), [(10, 38), (40, 24)])
def test_an_answer_has_room_though_its_question_alone_would_fit(longest: int, kept: int, tmp_path: Path) -> None:
    write_tiny_checkpoint(tmp_path)
    said = Console(file=StringIO(), width=200)
    with Model.load(tmp_path, max_context=48) as model:
        model.tokenizer.chat_template = None
        question = next(
            sample
            for words in range(1, 99)
            if len(prompt_tokens(model, sample := Sample("a cat " * words, ""))) in range(40, 48)
        )
        [text] = replies(model, "cats", [question], max_new_tokens=longest, console=said)
        asked = model.generate(prompt_tokens(model, question)[-kept:], max_new_tokens=longest)
        assert text == asked.text and "cats: 1 of 1 questions leave no room" in said.file.getvalue()  # type: ignore[attr-defined]


@pytest.mark.parametrize("chats", [True, False])
def test_questions_are_asked_with_the_tokens_of_training(chats: bool, tmp_path: Path) -> None:
    write_tiny_checkpoint(tmp_path)
    with Model.load(tmp_path, max_context=48) as model:
        end = model.tokenizer.eos_token
        model.tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
            single=f"{end} $A", special_tokens=[(end, model.tokenizer.eos_token_id)]
        )
        if not chats:
            model.tokenizer.chat_template = None
        ids, labels = render(model.tokenizer, Sample("a cat?", "yes"))
        assert prompt_tokens(model, Sample("a cat?", "")) == ids[: labels.index(next(x for x in labels if x >= 0))]


def test_translations_between_named_languages_are_asked_in_these() -> None:
    asked: list[object] = []

    class Translator:
        path = Path("nllb")

        def translate(self, texts: list[str], **options: object) -> list[SimpleNamespace]:
            asked.append((texts, options))
            return [SimpleNamespace(text=text.upper()) for text in texts]

    questions = [Sample(text, "", languages=("eng_Latn", "deu_Latn")) for text in ("hello there", "yes")]
    texts = replies(cast("Model", Translator()), "pairs", questions, max_new_tokens=9, num_beams=2)
    assert texts == ["HELLO THERE", "YES"]
    languages = {"source": "eng_Latn", "target": "deu_Latn", "prefix": ""}
    assert asked == [(["yes", "hello there"], {**languages, "max_new_tokens": 9, "num_beams": 2})]


def test_transcripts_without_spaces_have_a_character_error_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("jiwer")
    monkeypatch.setattr("cutwork.measure.quality.replies", lambda *_, **__: ["は"])
    task = Task("speech", (), (Sample("ja", "はい"),), metric="speech")
    model = cast(Model, SimpleNamespace(path=Path()))
    assert accuracy(model, task).quality == {"cer": 50}
