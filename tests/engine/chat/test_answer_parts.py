"""Answers part by part, and how the terminal shows them."""

import io

import pytest
from rich.console import Console
from tokenizers.processors import TemplateProcessing

from cutwork.cli.chat import _Shown
from cutwork.engine.chat.answer_parts import answer_parts
from cutwork.engine.chat.reader import Part
from cutwork.engine.model import Model
from cutwork.errors import CutworkError

from ..tiny import byte_level_tokenizer, make, packed

USER = [{"role": "user", "content": "Hi"}]


@pytest.fixture
def model(tmp_path):
    tokenizer = byte_level_tokenizer()
    tokenizer.chat_template = "{% for m in messages %}{{ m.content }}\n{% endfor %}<think>{{ language }}"
    tokenizer.save_pretrained(tmp_path)
    with Model(packed(make("llama", vocab_size=300), tmp_path), threads=1, cache_bytes=1 << 22) as model:
        yield model


def joined(parts, kind):
    return "".join(part.text for part in parts if part.kind == kind)


def test_thoughts_end_within_their_budget_or_do_not_begin(model):
    parts = list(answer_parts(model, USER, thinking_budget=6, max_new_tokens=40, ignore_eos=True))
    assert joined(parts, "reasoning") and joined(parts, "content")
    parts = list(answer_parts(model, USER, think=False, max_new_tokens=40, ignore_eos=True))
    assert not joined(parts, "reasoning") and joined(parts, "content")


def test_a_model_that_does_not_think_cannot_be_told_to(model):
    model.tokenizer.chat_template = "{{ messages[0].content }}"
    with pytest.raises(CutworkError, match="does not think"):
        list(answer_parts(model, USER, think=True))
    assert joined(list(answer_parts(model, USER, think=False, max_new_tokens=9, ignore_eos=True)), "content")


def test_the_prompt_has_the_tokens_that_the_template_wrote(model):
    model.tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    theirs = model.tokenizer.apply_chat_template(USER, add_generation_prompt=True, return_dict=False)
    assert model.chat(USER, max_new_tokens=1).prompt_tokens == len(theirs)
    given, add = [], model.session.add
    model.session.add = lambda tokens, *more, **options: given.append(list(tokens)) or add(tokens, *more, **options)
    list(answer_parts(model, USER, max_new_tokens=1))
    assert given == [theirs]


def test_what_the_model_writes_is_told_apart(model):
    tokens = [*model.tokenizer.encode("Hm.</think>\n\nYes."), 2]
    parts = list(answer_parts(model, USER, max_new_tokens=40, forced_tokens=dict(enumerate(tokens))))
    assert (joined(parts, "reasoning"), joined(parts, "content")) == ("Hm.", "Yes.")


@pytest.mark.parametrize(("terminal", "thoughts"), [(True, False), (True, True), (False, False), (False, True)])
def test_the_terminal_folds_thoughts(terminal, thoughts, capsys):
    console = Console(file=io.StringIO(), force_terminal=terminal, width=80, color_system=None)
    shown = _Shown(console, thoughts)
    shown.all(
        iter([Part("reasoning", "Hm [b]"), Part("reasoning", " well"), Part("content", "Yes"), Part("content", ".")])
    )
    assert capsys.readouterr().out == shown.answer == "Yes." and shown.thought == "Hm [b] well"
    written = console.file.getvalue()
    assert ("Hm [b] well" in written) is thoughts
    assert ("thought for 0 s" in written) is (terminal and not thoughts)
