"""What a model is given of a conversation: its own chat template's text."""

import hashlib
import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, lru_cache
from typing import Any

from cutwork.engine.chat.formats import AnswerFormat, format_of
from cutwork.engine.chat.thought import Thought
from cutwork.engine.decoding.sampling import Constraint
from cutwork.errors import CutworkError

SWITCHES = ("enable_thinking", "thinking")  # what templates call the setting that turns thoughts on and off
GIVEN = ("raise_exception", "strftime_now")  # what transformers gives every template
TOOLS = ("tools", "xml_tools")  # the second is SmolLM3's
_LIKE = 'each message must be like {"role": "user", "content": "text"}'
EFFORT, BUDGET = "reasoning_effort", "thinking_budget"  # settings that some templates know


class ChatTemplate:
    """A model's chat template, and what can be known of it without running it."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer

    @cached_property
    def form(self) -> AnswerFormat:
        """How the model writes thoughts and calls."""
        return format_of(self._tokenizer)

    @cached_property
    def settings(self) -> frozenset[str]:
        """The names that the template looks up and a request may set."""
        written = getattr(self._tokenizer, "chat_template", None) or ""
        texts = written.values() if isinstance(written, Mapping) else [written]  # which is used depends on the tools
        special = getattr(self._tokenizer, "special_tokens_map", ())
        names = {name for text in texts for name in _looked_up(str(text))}
        return frozenset(names - {"messages", *TOOLS, *special, *_own_parameters(self._tokenizer)})

    @cached_property
    def hidden(self) -> frozenset[int] | None:
        """The special tokens that are left out of an answer's text; None if all of them are."""
        special = {i: str(t) for i, t in getattr(self._tokenizer, "added_tokens_decoder", {}).items() if t.special}
        hidden = frozenset(i for i, text in special.items() if not self.form.kept(text))
        return None if len(hidden) == len(special) else hidden

    @property
    def switch(self) -> str | None:
        """The setting that turns thoughts on and off, if the template has one."""
        return next((name for name in SWITCHES if name in self.settings), None)

    def check(self, given: Mapping[str, Any]) -> None:
        """Raise CutworkError for a setting that the template does not know, but for thoughts turned off that it does
        not have."""
        for name, value in given.items():
            if name not in self.settings and not (name in SWITCHES and value is False and self.switch is None):
                known = ", ".join(sorted(self.settings)) or "none"
                raise CutworkError(f"this model's chat template has no setting {name!r}; it looks up: {known}")

    def within(
        self,
        prompt: str,
        budget: int | None,
        then: Constraint | None,
        encode: Callable[[str], list[int]],
        decode: Callable[[Sequence[int]], str],
        vocabulary: int,
        begun: str = "",
    ) -> Constraint | None:
        """What an answer to the prompt has to follow so that its thought ends within so many tokens, and `then` comes
        after it. begun: what the prompt holds of the answer. The rest as for `Thought`."""
        thought = self.form.thought
        over = bool(begun) and not self.form.thinks(prompt, begun)
        if thought is None or over or prompt.rstrip().endswith(thought[1].strip()) or (budget is None and then is None):
            return then
        thinking = self.form.thinks(prompt, begun)
        return Thought(thought, encode, decode, thinking=thinking, budget=budget, then=then, vocabulary=vocabulary)

    def without_thought(self, prompt: str) -> str:
        """A prompt after which the model has finished thinking: its thought is closed for it (arXiv 2504.09858)."""
        if self.form.thought is None:
            return prompt
        opening, closing = self.form.thought
        return f"{prompt}{'' if self.form.thinks(prompt) else opening}\n\n{closing}\n\n"


def render_chat(
    tokenizer: Any,
    messages: Sequence[Mapping[str, Any]],
    tools: Sequence[Mapping[str, Any]] | None = None,
    settings: Mapping[str, Any] | None = None,
    *,
    ask: bool = True,
    go_on: bool = True,
) -> str:
    """The prompt that the model's chat template makes of messages {"role": …, "content": …} and tools it may call.

    settings: what the template looks up besides, as "enable_thinking". ask: end with what an answer follows. A last
    message of the assistant is to be gone on with (`begun`), unless `go_on` is off. Raises CutworkError if the model
    has no template, or its template knows no tools or refuses the messages.
    """
    if tokenizer is None or not getattr(tokenizer, "chat_template", None):
        raise CutworkError("this model has no chat template; use generate with a plain prompt")
    tools_name = _tools_name(tokenizer, tools) if tools else None
    if tools and tools_name is None:
        raise CutworkError("this model's chat template knows no tools; leave tools out")
    if not isinstance(messages, Sequence):
        raise CutworkError(f"messages are a list, and {_LIKE}")
    if not messages:
        raise CutworkError("there are no messages to answer")
    for message in messages:
        fields = [message.get(name) for name in ("role", "content")] if isinstance(message, Mapping) else [None]
        if not all(isinstance(field, str) for field in fields):
            raise CutworkError(_LIKE)
    calls = format_of(tokenizer).calls
    given = [_with_ids(message, calls.id_length) if calls else message for message in messages]
    named = {tools_name: list(tools)} if tools and tools_name else {}
    continued = go_on and bool(begun(messages))
    try:
        return str(
            tokenizer.apply_chat_template(
                given,
                tokenize=False,
                add_generation_prompt=ask and not continued,
                continue_final_message=continued,
                **{**(settings or {}), **named},
            )
        )
    except Exception as error:  # a template is a program: it can raise anything
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise CutworkError(f"the model's chat template refuses these messages: {reason}") from None


def begun(messages: Sequence[Mapping[str, Any]]) -> str:
    """The beginning of the answer that the last message gives; "" if it gives none."""
    last = messages[-1] if messages else {}
    return str(last["content"]) if last.get("role") == "assistant" and not last.get("tool_calls") else ""


def _with_ids(message: Mapping[str, Any], length: int | None) -> Mapping[str, Any]:
    """A message whose calls' ids have the length that the template demands, by whatever name a client knows them."""
    if length is None:
        return message
    result = dict(message)
    if message.get("tool_call_id"):
        result["tool_call_id"] = _short(message["tool_call_id"], length)
    if message.get("tool_calls"):
        result["tool_calls"] = [
            {**call, "id": _short(str(call.get("id", place)), length)}
            for place, call in enumerate(message["tool_calls"])
        ]
    return result


def _short(name: str, length: int) -> str:
    fits = len(name) == length and name.isalnum()
    return name if fits else hashlib.sha256(name.encode()).hexdigest()[:length]


def _tools_name(tokenizer: Any, tools: Sequence[Mapping[str, Any]]) -> str | None:
    """What the template that a tokenizer has for these tools calls them; None if it takes none, or there is none."""
    try:
        known = _looked_up(tokenizer.get_chat_template(tools=list(tools)))
    except ValueError:  # of several templates none is for this
        return None
    return next((name for name in TOOLS if name in known), None)


def _own_parameters(tokenizer: Any) -> set[str]:
    method = getattr(tokenizer, "apply_chat_template", None)
    return set(inspect.signature(method).parameters) if method else set()


@lru_cache(maxsize=16)
def _looked_up(template: str) -> frozenset[str]:
    """Names that a template may look up."""
    import jinja2
    from jinja2 import meta

    environment = jinja2.Environment(extensions=["jinja2.ext.loopcontrols"])  # nothing is rendered
    try:
        tree = environment.parse(re.sub(r"{%-?\s*(end)?generation\s*-?%}", "", template))
    except jinja2.TemplateSyntaxError:
        return frozenset()  # it will be refused with the messages
    return frozenset(meta.find_undeclared_variables(tree) - {*environment.globals, *GIVEN})
