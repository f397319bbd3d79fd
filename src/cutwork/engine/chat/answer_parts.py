"""An answer to a conversation, part by part: what the command line and Python programs read."""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Unpack

from cutwork.engine.chat.reader import AnswerReader, Part
from cutwork.engine.chat.template import begun
from cutwork.engine.decoding.options import GenerateOptions
from cutwork.errors import CutworkError

if TYPE_CHECKING:
    from cutwork.engine.model import Model


def answer_parts(
    model: "Model",
    messages: Sequence[Mapping[str, Any]],
    tools: Sequence[Mapping[str, Any]] | None = None,
    *,
    settings: Mapping[str, Any] | None = None,
    think: bool | None = None,
    thinking_budget: int | None = None,
    **options: Unpack[GenerateOptions],
) -> Iterator[Part]:
    """Answer a conversation; what is thought, called and said comes apart, as it is written.

    settings: of the chat template. think: whether to think first, by default what the model does by itself.
    thinking_budget: tokens of a thought at most. Raises CutworkError as `Model.generate` and `Model.render_chat`.
    """
    template = model.chat_template
    if think and template.switch is None and template.form.thought is None:
        raise CutworkError("this model does not think; leave out think")
    given = dict(settings or {})
    if think is not None and template.switch is not None:
        given.setdefault(template.switch, think)
    prompt = model.render_chat(messages, tools, given)
    if think is False and template.switch is None and not begun(messages):
        prompt = template.without_thought(prompt)
    encode = partial(model.tokenizer.encode, add_special_tokens=False)
    decode = partial(model.tokenizer.decode, skip_special_tokens=False, clean_up_tokenization_spaces=False)
    then = options.get("constraint")
    limit = template.within(prompt, thinking_budget, then, encode, decode, model.plan.vocabulary, begun(messages))
    chosen: GenerateOptions = options | {"constraint": limit, "hidden_tokens": template.hidden}
    reader = AnswerReader(template.form, prompt, tools, begun=begun(messages))
    for piece in model.generate(model.encode(prompt, special=False), stream=True, **chosen):
        yield from reader.feed(piece)
    yield from reader.finish()
