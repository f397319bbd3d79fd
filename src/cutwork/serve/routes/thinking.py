"""What a request says of the model's thoughts: whether it thinks, for how long, and who gets to read it."""

from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import AliasChoices, Field

from cutwork.engine.chat.template import BUDGET, EFFORT, ChatTemplate
from cutwork.serve.http.errors import ApiError
from cutwork.serve.routes.schema import Schema

Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh"]
# Tokens of a thought, for models whose template knows no effort; None: no limit.
BUDGETS: dict[Effort, int | None] = {
    "none": 0, "minimal": 256, "low": 1024, "medium": 4096, "high": None, "xhigh": None,
}  # fmt: skip


class ThinkingFields(Schema):
    """Fields about thoughts.

    reasoning_format: "none" leaves thoughts in the text, as the model wrote them. include_reasoning: false leaves them
    out of the answer.
    """

    chat_template_kwargs: dict[str, Any] | None = None
    enable_thinking: bool | None = None
    reasoning_effort: Effort | None = None
    thinking_budget: int | None = Field(
        None, ge=0, le=1 << 24, validation_alias=AliasChoices("thinking_budget", "thinking_token_budget")
    )
    include_reasoning: bool = True
    reasoning_format: Literal["auto", "deepseek", "none"] = "auto"


@dataclass
class Thinking:
    """What such fields mean for one model.

    settings: of its template. closed: whether its thought is to be closed before it begins. budget: tokens of the
    thought, None for no limit. warnings: what has no effect.
    """

    settings: dict[str, Any]
    closed: bool = False
    budget: int | None = None
    warnings: list[str] = field(default_factory=list)


def thinking_of(body: ThinkingFields, template: ChatTemplate) -> Thinking:
    """What a request's fields mean for a model. Raises ApiError (400) for what cannot be had of it, CutworkError for
    settings that its template does not know."""
    result = Thinking(dict(body.chat_template_kwargs or {}), budget=body.thinking_budget)
    template.check(result.settings)
    thinks = template.form.thought is not None or template.switch is not None
    on, effort = body.enable_thinking, body.reasoning_effort
    if effort == "none" or body.thinking_budget == 0:
        if on:
            raise ApiError(400, "enable_thinking contradicts a budget or effort of none", param="enable_thinking")
        on = False
    elif effort is not None and not thinks:
        result.warnings.append("reasoning_effort has no effect: this model does not think")
    elif effort is not None:
        on = True if on is None else on
        if EFFORT in template.settings:
            result.settings.setdefault(EFFORT, effort)
        elif result.budget is None:
            result.budget = BUDGETS[effort]
    if on and not thinks:
        message = "this model does not think; leave out what asks for it (enable_thinking, thinking)"
        raise ApiError(400, message, param="enable_thinking")
    if body.thinking_budget and not thinks:
        result.warnings.append("thinking_budget has no effect: this model does not think")
    if on is not None and template.switch is not None:
        result.settings.setdefault(template.switch, on)
    if result.budget is not None and BUDGET in template.settings:
        result.settings.setdefault(BUDGET, result.budget)
    result.closed = on is False and template.switch is None
    return result
