"""Rendering: the labels are the answer and EOS, and the prompt is exactly what generation starts from."""

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from cutwork.errors import CutworkError
from cutwork.tasks.perplexity import task_text
from cutwork.tasks.rendering import IGNORED, render, render_prompt
from cutwork.tasks.task import Sample

SAMPLE = Sample("What is 3 plus 4?", "3 + 4 = 7\n#### 7")
TEMPLATE = "{% for m in messages %}<user>{{ m.content }}{% endfor %}{% if add_generation_prompt %}<bot>{% endif %}"


@pytest.fixture(params=[None, TEMPLATE])
def tokenizer(request: pytest.FixtureRequest) -> PreTrainedTokenizerFast:
    """One token per byte."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    core = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    from tokenizers import decoders

    core.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<end>", clean_up_tokenization_spaces=False)
    fast.add_special_tokens({"additional_special_tokens": ["<user>", "<bot>"]})
    fast.chat_template = request.param
    return fast


def test_labels_are_the_answer_and_eos(tokenizer: PreTrainedTokenizerFast) -> None:
    ids, labels = render(tokenizer, SAMPLE, 200)
    learned = [label for label in labels if label != IGNORED]
    assert len(ids) == len(labels)
    assert learned == ids[-len(learned) :]
    assert learned[-1] == tokenizer.eos_token_id
    assert tokenizer.decode(learned[:-1]).strip() == SAMPLE.answer


def test_training_starts_from_the_prompt_of_generation(tokenizer: PreTrainedTokenizerFast) -> None:
    ids, labels = render(tokenizer, SAMPLE, 200)
    prompt = tokenizer(render_prompt(tokenizer, SAMPLE.prompt))["input_ids"]
    assert ids[: len(prompt)] == prompt
    assert labels[: len(prompt)] == [IGNORED] * len(prompt)
    assert labels[len(prompt)] != IGNORED


def test_a_long_sample_is_an_error(tokenizer: PreTrainedTokenizerFast) -> None:
    ids, _ = render(tokenizer, SAMPLE, 200)
    assert render(tokenizer, SAMPLE, len(ids))[0] == ids
    with pytest.raises(CutworkError, match="max_length"):
        render(tokenizer, SAMPLE, len(ids) - 1)


def test_task_text_reads_as_in_training(tokenizer: PreTrainedTokenizerFast) -> None:
    text = task_text(tokenizer, [SAMPLE])
    assert tokenizer(text)["input_ids"] == render(tokenizer, SAMPLE, 200)[0]
