"""From a sample to token ids and labels."""

from typing import Any

from cutwork.errors import CutworkError
from cutwork.tasks.task import Sample

IGNORED = -100  # the label of tokens that no loss counts


def render_prompt(tokenizer: Any, prompt: str, *, encoder: bool = False) -> str:
    """The text a model is given: a user's turn of its chat template, or a plain question if it has none.

    A model with an encoder gets the prompt as it is.
    """
    if encoder:
        return prompt
    if tokenizer.chat_template:
        turns = [{"role": "user", "content": prompt}]
        return str(tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False))
    return f"Question: {prompt}\nAnswer:"


def render_answer(tokenizer: Any, answer: str) -> str:
    """The text that follows the prompt, up to EOS."""
    return answer if tokenizer.chat_template else f" {answer}"


def render(tokenizer: Any, sample: Sample, max_length: int) -> tuple[list[int], list[int]]:
    """Token ids and labels of a training sample, equally long; the prompt's labels are `IGNORED`, EOS is learned.

    A sample without a prompt is plain text: all of it is learned, up to `max_length` tokens, without an EOS.
    `tokenizer` is a Hugging Face tokenizer. Raises CutworkError for any other sample of more than `max_length` tokens.
    """
    if not sample.prompt:
        whole: list[int] = tokenizer(sample.answer)["input_ids"][:max_length]
        return whole, list(whole)
    bos = not tokenizer.chat_template  # a template writes its own
    prompt = tokenizer(render_prompt(tokenizer, sample.prompt), add_special_tokens=bos)["input_ids"]
    # Apart from the prompt, so that its tokens are those that generation will start from.
    answer = tokenizer(render_answer(tokenizer, sample.answer), add_special_tokens=False)["input_ids"]
    answer = [*answer, tokenizer.eos_token_id]
    if len(prompt) + len(answer) > max_length:
        raise CutworkError(
            f"a sample has {len(prompt) + len(answer)} tokens, more than task.max_length = {max_length}; "
            f"raise it or drop the sample that begins {sample.prompt[:60]!r}"
        )
    return prompt + answer, [IGNORED] * len(prompt) + answer
