"""What request bodies have in common."""

from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import AliasChoices, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from cutwork.serve.http.errors import ApiError
from cutwork.serve.limits import Limits

# Fields of OpenAI's and other servers' clients that change no answer here: who asks, what is kept, billed or cached.
UNUSED = {
    *("user", "safety_identifier", "metadata", "store", "service_tier", "cache_control", "cache_prompt"),
    *("prompt_cache_key", "prompt_cache_retention", "prompt_cache_options", "include_obfuscation", "prediction"),
    *("refusal", "annotations", "reasoning_details", "timings_per_token", "id"),
    "guided_decoding_backend",
}
# Fields that other servers know, where they say what is so here in any case.
NEUTRAL: dict[str, Any] = {
    "modalities": ["text"],
    "best_of": 1,
    "use_beam_search": False,
    "continuous_usage_stats": False,
    "chunking_strategy": "auto",
}


def at_most(count: int) -> BeforeValidator:
    """A list or object of so many entries at most; of a larger one none is looked at."""

    def check(value: Any) -> Any:
        if isinstance(value, list | dict) and len(value) > count:
            raise ValueError(f"has at most {count} entries, not {len(value)}")
        return value

    return BeforeValidator(check)


TokenId = Annotated[int, Field(ge=0, lt=1 << 31)]
ModelName = Annotated[str | None, Field(max_length=512)]
TokenIds = Annotated[list[TokenId], Field(fail_fast=True), at_most(Limits.token_ids)]
Texts = Annotated[list[str], Field(fail_fast=True), at_most(1024)]
TokenCount = Annotated[int, Field(ge=1, le=1 << 24)]


def instead_of(value: float, other: float | None) -> BeforeValidator:
    """What stands for a value by which other servers turn something off."""
    return BeforeValidator(lambda given: other if given == value and not isinstance(given, bool) else given)


class Schema(BaseModel):
    """A request's body, or an object in it. Every field has an effect and is held to its range; one that is not known
    is refused, unless it is empty, one of `UNUSED`, or as in `NEUTRAL`. Null stands for a field's default, as if it
    were left out."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=())

    @model_validator(mode="before")
    @classmethod
    def _leave_out(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        needed = cls._names()
        return {
            key: entry
            for key, entry in value.items()
            if (entry is not None or needed[key] if key in needed else not changes_nothing(key, entry))
        }

    @classmethod
    def _names(cls) -> dict[str, bool]:
        """The names by which its fields are given, and whether they must be."""
        names = {name: field.is_required() for name, field in cls.model_fields.items()}
        for field in cls.model_fields.values():
            alias = field.validation_alias
            for name in alias.choices if isinstance(alias, AliasChoices) else [alias]:
                names[str(name)] = field.is_required()
        return names


def changes_nothing(name: str, value: Any) -> bool:
    """Whether a field that is not known may be left out, as the answer is the same."""
    empty = value is None or (isinstance(value, str | list | dict) and not value)
    return empty or name in UNUSED or (name in NEUTRAL and value == NEUTRAL[name])


def check_uncut(what: str, cut: Sequence[bool], most: int, param: str | None = None) -> None:
    """Raise ApiError (400) if one of a request's texts, each a `what`, was longer than the model reads."""
    if True in cut:
        message = f"{what} {cut.index(True) + 1} has more than the {most} tokens that this model reads"
        advice = "shorten it, or set truncate to cut it"
        raise ApiError(400, f"{message}; {advice}", param=param, code="context_length_exceeded")
