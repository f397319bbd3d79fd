"""What request bodies have in common."""

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from cutwork.serve.limits import Limits


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


class Schema(BaseModel):
    """A request's body. Unknown fields are ignored, as OpenAI's clients expect; known ones are held to their range, and
    every one of them has an effect."""

    model_config = ConfigDict(extra="ignore", protected_namespaces=())
