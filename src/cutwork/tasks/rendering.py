"""From a sample to text, token ids and labels."""

import re
from collections.abc import Container, Sequence
from datetime import datetime
from typing import Any

from cutwork.errors import CutworkError
from cutwork.tasks.task import Sample

IGNORED = -100  # the label of tokens that no loss counts

_MARKS = re.compile(r"\{%-?\s*generation\s*-?%\}")  # with which a template says what its model writes itself
_DATE = datetime(2024, 7, 26)  # of Llama 3.1's template where nothing tells it the date
_WRITTEN = "".join(f" | replace('%{d}', '{_DATE.strftime('%' + d)}')" for d in "aAbBdejmyYHIMSp")
_SAME_DAY = f"{{% macro strftime_now(format) %}}{{{{ format{_WRITTEN} }}}}{{% endmacro +%}}"  # before a template
_NOBODY_SAYS = "\ue000"  # a character for private use

Turns = Sequence[dict[str, Any]]


def render_prompt(tokenizer: Any, sample: Sample, *, encoder: bool = False) -> str:
    """The text a model is given: the turns before the last answer in its chat template, or a plain question.

    A model with an encoder gets the prompt as it is. Raises CutworkError if the template refuses the turns.
    """
    if encoder:
        return sample.prompt
    if sample.turns:
        return _written(tokenizer, sample.turns[:-1], sample.tools, ask=True)
    if tokenizer.chat_template:
        return _written(tokenizer, [{"role": "user", "content": sample.prompt}], ask=True)
    return f"Question: {sample.prompt}\nAnswer:"


def render_answer(tokenizer: Any, answer: str) -> str:
    """The text that follows the prompt, up to EOS."""
    return answer if tokenizer.chat_template else f" {answer}"


def render(tokenizer: Any, sample: Sample) -> tuple[list[int], list[int]]:
    """Token ids and labels of a training sample, equally long; what the model does not write is `IGNORED`.

    The answer and an EOS are learned; of a conversation every answer, each with what ends it; of a sample without a
    prompt, which is plain text, everything, and no EOS. `tokenizer` is a Hugging Face tokenizer. Raises CutworkError if
    the chat template refuses a conversation or does not say what is an answer.
    """
    if sample.turns:
        return _conversation(tokenizer, sample)
    if not sample.prompt:
        whole: list[int] = tokenizer(sample.answer)["input_ids"]
        return whole, list(whole)
    bos = not tokenizer.chat_template  # a template writes its own
    prompt = tokenizer(render_prompt(tokenizer, sample), add_special_tokens=bos)["input_ids"]
    # Apart from the prompt, so that its tokens are those that generation will start from.
    answer = tokenizer(render_answer(tokenizer, sample.answer), add_special_tokens=False)["input_ids"]
    answer = [*answer, tokenizer.eos_token_id]
    return prompt + answer, [IGNORED] * len(prompt) + answer


def _conversation(tokenizer: Any, sample: Sample) -> tuple[list[int], list[int]]:
    """The answers are what the template marks as such, else what comes after the prompt of each."""
    if not tokenizer.chat_template:
        raise CutworkError(
            "the tokenizer has no chat template, so a conversation cannot be written; "
            "train on rows of one prompt and one answer"
        )
    marked = _MARKS.search(tokenizer.get_chat_template(tools=list(sample.tools) or None))
    if marked and tokenizer.is_fast and all(turn.get("weight") != 0 for turn in sample.turns):
        how = {"return_dict": True, "return_assistant_tokens_mask": True}
        found = _by_template(tokenizer, sample.turns, sample.tools, **how)
        learned = _with_ends(found["input_ids"], found["assistant_masks"], special_tokens(tokenizer))
        pairs = zip(found["input_ids"], learned, strict=True)
        return found["input_ids"], [token if is_learned else IGNORED for token, is_learned in pairs]
    whole, answers = _answers(tokenizer, sample)
    ids: list[int] = []
    labels: list[int] = []
    position = 0
    for start, end in answers:
        # Apart from each other for the same reason.
        given = tokenizer(whole[position:start], add_special_tokens=False)["input_ids"]
        answer = tokenizer(whole[start:end], add_special_tokens=False)["input_ids"]
        if (start, end) == answers[-1] and answer[-1] not in special_tokens(tokenizer):
            answer = [*answer, tokenizer.eos_token_id]
        ids += given + answer
        labels += [IGNORED] * len(given) + answer
        position = end
    return ids, labels


def _with_ends(ids: Sequence[int], learned: Sequence[int], special: Container[int]) -> list[bool]:
    """What is learned, and the special token right behind each answer, where a template's marks leave out its end."""
    marked = [bool(mark) for mark in learned]
    before = [False, *marked[:-1]], [None, *ids[:-1]]
    return [
        mark or (after and last not in special and token in special)
        for token, mark, after, last in zip(ids, marked, *before, strict=True)
    ]


def _answers(tokenizer: Any, sample: Sample) -> tuple[str, list[tuple[int, int]]]:
    """The text of a conversation and where in it the answers to be learned are, each with what ends it.

    An answer starts where the prompt for it ends. One that nothing comes before is not learned.
    """

    def written(turns: Turns, ask: bool = False) -> str:
        return _written(tokenizer, turns, sample.tools, ask=ask)

    turns = list(sample.turns)
    whole, found = written(turns), []
    for i, turn in enumerate(turns):
        if turn["role"] != "assistant" or turn.get("weight") == 0 or i == 0:
            continue
        before = written(turns[:i], ask=True)
        if not whole.startswith(before):
            raise CutworkError(
                f"the chat template writes what comes before message {i + 1} in another way once that is there, so "
                "that a model could not learn to write it; give the tokenizer a template with {% generation %} marks, "
                "or train on rows of one prompt and one answer"
            )
        through = written(turns[: i + 1])
        end = len(through)
        if not whole.startswith(through):
            # Some templates write an answer in another way once turns follow (Qwen3's leaves out what was thought).
            # It ends where things stay as they are if it says something else, with the special token there.
            other = written([*turns[:i], {"role": "assistant", "content": _NOBODY_SAYS}, *turns[i + 1 :]])
            end = len(whole) - _same_end(whole, other)
            closing = re.compile("|".join(map(re.escape, special_tokens(tokenizer).values()))).match(whole, end)
            end = closing.end() if closing else end
        end = len(before) + len(whole[len(before) : end].rstrip())
        if end > len(before):
            found.append((len(before), end))
    return whole, found


def _written(tokenizer: Any, turns: Turns, tools: Turns = (), *, ask: bool = False) -> str:
    """The text of turns; with `ask`, what a model is given that is to write the next one."""
    return str(_by_template(tokenizer, turns, tools, add_generation_prompt=ask, tokenize=False))


def _by_template(tokenizer: Any, turns: Turns, tools: Turns, **how: Any) -> Any:
    """What the chat template makes of turns, or CutworkError with what it has against them.

    Where a template writes the date, it is always the same one, so that a training goes on another day and what is
    measured then compares.
    """
    try:
        template = tokenizer.get_chat_template(tools=list(tools) or None)
        if "strftime_now" in template:
            how["chat_template"] = _SAME_DAY + template
        return tokenizer.apply_chat_template(list(turns), tools=list(tools) or None, **how)
    except Exception as error:  # a template is a program: it can raise anything
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise CutworkError(f"the chat template refuses a conversation: {reason}") from None


def _same_end(one: str, other: str) -> int:
    """How many characters at the end of two texts are the same."""
    pairs = zip(reversed(one), reversed(other), strict=False)
    return next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(one), len(other)))


def special_tokens(tokenizer: Any) -> dict[int, str]:
    """The texts of special tokens by their ids."""
    marked = {token: added.content for token, added in tokenizer.added_tokens_decoder.items() if added.special}
    return marked | dict(zip(tokenizer.all_special_ids, tokenizer.all_special_tokens, strict=True))
