"""Questions are asked whole where the context holds them, else without their beginning, and that is said."""

from io import StringIO
from pathlib import Path

from rich.console import Console

from cutwork.engine.model import Model
from cutwork.measure.quality import replies
from cutwork.tasks.rendering import render_prompt
from cutwork.tasks.task import Sample
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
        assert "cats: 1 of 2 questions fill the context of 48 tokens" in output
