"""Rendering: the labels are the answer and EOS, and the prompt is exactly what generation starts from."""

from datetime import datetime, tzinfo
from itertools import groupby
from typing import Any, Self

import pytest
from transformers import PreTrainedTokenizerFast
from transformers.utils import chat_template_utils

from cutwork.errors import CutworkError
from cutwork.tasks.perplexity import task_text
from cutwork.tasks.rendering import IGNORED, render, render_prompt
from cutwork.tasks.task import Sample
from tests.tasks.letters import CHATML, QUESTIONS, THOUGHTS, UNMARKED, letters

SAMPLE = Sample("What is 3 plus 4?", "3 + 4 = 7\n#### 7")
CALL = [{"type": "function", "function": {"name": "add", "arguments": {"a": 3}}}]
TOOLS = ({"type": "function", "function": {"name": "add"}},)


@pytest.fixture(params=[None, QUESTIONS])
def tokenizer(request: pytest.FixtureRequest) -> PreTrainedTokenizerFast:
    return letters(request.param)


def turns(*said: str, **last: Any) -> tuple[dict[str, Any], ...]:
    """Turns of a user and an assistant by turns, in front of them a system's that begins with a colon."""
    roles = ["user", "assistant"] * len(said)
    if said[0][0] == ":":
        roles.insert(0, "system")
    found = [{"role": role, "content": text.lstrip(":")} for role, text in zip(roles, said, strict=False)]
    return (*found[:-1], found[-1] | last)


def learned(template: str, sample: Sample) -> list[str]:
    """The texts that are learned of a conversation."""
    tokenizer = letters(template)
    ids, labels = render(tokenizer, sample)
    assert all(label in (token, IGNORED) for token, label in zip(ids, labels, strict=True))
    runs = groupby(labels, key=lambda label: label != IGNORED)
    return [tokenizer.decode(list(run)) for is_learned, run in runs if is_learned]


def test_labels_are_the_answer_and_eos(tokenizer: PreTrainedTokenizerFast) -> None:
    ids, labels = render(tokenizer, SAMPLE)
    learned = [label for label in labels if label != IGNORED]
    assert len(ids) == len(labels)
    assert learned == ids[-len(learned) :]
    assert learned[-1] == tokenizer.eos_token_id
    assert tokenizer.decode(learned[:-1]).strip() == SAMPLE.answer


def test_training_starts_from_the_prompt_of_generation(tokenizer: PreTrainedTokenizerFast) -> None:
    ids, labels = render(tokenizer, SAMPLE)
    prompt = tokenizer(render_prompt(tokenizer, SAMPLE))["input_ids"]
    assert ids[: len(prompt)] == prompt
    assert labels[: len(prompt)] == [IGNORED] * len(prompt)
    assert labels[len(prompt)] != IGNORED


def test_task_text_reads_as_in_training(tokenizer: PreTrainedTokenizerFast) -> None:
    text = task_text(tokenizer, [SAMPLE])
    assert tokenizer(text)["input_ids"] == render(tokenizer, SAMPLE)[0]


@pytest.mark.parametrize("template", [CHATML, UNMARKED, THOUGHTS])
def test_every_answer_of_a_conversation_is_learned_with_what_ends_it(template: str) -> None:
    sample = Sample("", "", turns=turns(":Be brief.", "One?", "1", "Two?", "2"))
    last = "<think></think>2<|im_end|>" if template == THOUGHTS else "2<|im_end|>"
    assert learned(template, sample) == ["1<|im_end|>", last]
    tokenizer = letters(template)
    text = tokenizer.decode(render(tokenizer, sample)[0])
    whole = tokenizer.apply_chat_template(list(sample.turns), tokenize=False)
    assert text.rstrip() == whole.rstrip()


def test_what_ends_an_answer_is_learned_though_a_template_marks_the_content_alone() -> None:
    alone = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' %}{% generation %}{{ m.content }}"
        "{% endgeneration %}{% else %}{{ m.content }}{% endif %}<|im_end|>\n{% endfor %}"
    )
    sample = Sample("", "", turns=turns("One?", "1", "Two?", "2"))
    assert learned(alone, sample) == ["1<|im_end|>", "2<|im_end|>"]


def test_calls_of_tools_are_learned_and_what_they_return_is_not() -> None:
    asked, answered = turns("3 + 4?", "")[0], {"role": "tool", "content": "7"}
    calls = {"role": "assistant", "content": "", "tool_calls": CALL}
    sample = Sample("", "", turns=(asked, calls, answered, {"role": "assistant", "content": "7."}), tools=TOOLS)
    for template in (CHATML, UNMARKED):
        assert learned(template, sample) == ['call add {"a": 3}<|im_end|>', "7.<|im_end|>"]
    prompt = render_prompt(letters(CHATML), sample)
    assert prompt.startswith("<|im_start|>tool add<|im_end|>\n")
    assert prompt.endswith("<|im_start|>tool\n7<|im_end|>\n<|im_start|>assistant\n")


def test_an_answer_without_weight_is_not_learned() -> None:
    for template in (CHATML, UNMARKED):
        first = {"role": "assistant", "content": "1", "weight": 0}
        sample = Sample("", "", turns=(turns("One?")[0], first, *turns("Two?", "2")))
        assert learned(template, sample) == ["2<|im_end|>"]


def test_an_answer_that_the_template_does_not_end_gets_an_eos() -> None:
    open_end = UNMARKED.replace("{% endfor %}<|im_end|>\n{% else %}", "{% endfor %}\n{% else %}")
    sample = Sample("", "", turns=turns("One?", "1", "Two?", "2"))
    assert learned(open_end, sample) == ["1", "2<end>"]


@pytest.mark.parametrize(
    ("template", "sample", "message"),
    [
        (None, Sample("", "", turns=turns(":s", "q", "a")), "no chat template"),
        (QUESTIONS, Sample("", "", turns=turns(":s", "q", "a")), "before message 3 in another way"),
        ("{{ raise_exception('no system') }}", Sample("", "", turns=turns(":s", "q", "a")), "refuses .*: no system"),
    ],
)
def test_a_template_that_does_not_say_what_is_an_answer_is_refused(template: str, sample: Sample, message: str) -> None:
    with pytest.raises(CutworkError, match=message) as caught:
        render(letters(template), sample)
    assert "\n" not in str(caught.value)


def test_a_template_that_writes_the_date_reads_alike_on_all_days(monkeypatch: pytest.MonkeyPatch) -> None:
    class Tomorrow(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> Self:
            return cls(2030, 1, 1, tzinfo=tz)

    tokenizer = letters("{{ strftime_now('%d %b %Y') }}" + CHATML)
    conversation = Sample("", "", turns=({"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}))
    today = [render(tokenizer, sample) for sample in (Sample("a", "b"), conversation)]
    monkeypatch.setattr(chat_template_utils, "datetime", Tomorrow)
    assert [render(tokenizer, sample) for sample in (Sample("a", "b"), conversation)] == today
    assert render_prompt(tokenizer, Sample("a", "b")).startswith("26 Jul 2024<|im_start|>user")
