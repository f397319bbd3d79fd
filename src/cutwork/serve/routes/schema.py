"""What request bodies have in common."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

TokenId = Annotated[int, Field(ge=0, lt=1 << 31)]
ModelName = Annotated[str | None, Field(max_length=512)]
TokenCount = Annotated[int, Field(ge=1, le=1 << 24)]


class Schema(BaseModel):
    """A request's body. Unknown fields are ignored, as OpenAI's clients expect; known ones are held to their range, and
    every one of them has an effect."""

    model_config = ConfigDict(extra="ignore", protected_namespaces=())
