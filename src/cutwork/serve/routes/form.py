"""What a request says of its answer's form: JSON, a regex, a list of choices or a grammar, by the names that OpenAI's,
vLLM's and llama.cpp's clients have for it."""

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from cutwork.serve.grammar import Form, Kind
from cutwork.serve.http.errors import ApiError
from cutwork.serve.http.json_body import read_json
from cutwork.serve.limits import Limits
from cutwork.serve.routes.schema import Schema, Texts

KINDS: tuple[Kind, ...] = ("json", "regex", "choice", "grammar")


def _as_object(given: Any) -> Any:
    """A JSON schema that may come as its text."""
    if not isinstance(given, str):
        return given
    if len(given) > Limits.schema_bytes:
        raise ValueError(f"has at most {Limits.schema_bytes} characters, not {len(given)}")
    try:
        return read_json(given)
    except RecursionError:
        raise ValueError("is nested too deeply") from None


JsonSchemaOrText = Annotated[dict[str, Any], BeforeValidator(_as_object)]
Choices = Annotated[Texts, Field(min_length=1)]


class JsonSchema(Schema):
    """`response_format.json_schema`. It is followed whether it is strict or not; the name is the client's own."""

    name: str | None = None
    description: str | None = None
    strict: bool | None = None
    schema_: dict[str, Any] = Field(default_factory=dict, alias="schema")


class ResponseFormat(Schema):
    """`response_format`. A json_object may have a schema, as llama.cpp's."""

    type: Literal["text", "json_object", "json_schema", "grammar"] = "text"
    json_schema: JsonSchema | None = None
    schema_: dict[str, Any] | None = Field(None, alias="schema")
    grammar: str | None = None


class StructuredOutputs(Schema):
    """`structured_outputs`, vLLM's."""

    json_: JsonSchemaOrText | None = Field(None, alias="json")
    json_object: bool = False
    regex: str | None = None
    choice: Choices | None = None
    grammar: str | None = None


class FormFields(Schema):
    """Fields about the answer's form, of which one is given. guided_*: what vLLM's older clients call
    `structured_outputs`. grammar: llama.cpp's."""

    response_format: ResponseFormat | None = None
    structured_outputs: StructuredOutputs | None = None
    guided_json: JsonSchemaOrText | None = None
    guided_regex: str | None = None
    guided_choice: Choices | None = None
    guided_grammar: str | None = None
    grammar: str | None = None


def form_of(body: FormFields) -> Form | None:
    """The form that a request's answer is to have, None for any text. Raises ApiError (400) if it is said twice, or
    not what it is."""
    forms = [*_of_response_format(body.response_format), *_others(body)]
    if len(forms) > 1:
        message = f"{forms[0].field} and {forms[1].field} exclude each other"
        raise ApiError(400, message, param=forms[1].field)
    return forms[0] if forms else None


def _of_response_format(given: ResponseFormat | None) -> Iterator[Form]:
    if given is None or given.type == "text":
        return
    needed = {"json_schema": given.json_schema, "grammar": given.grammar}
    if needed.get(given.type, "") is None:
        raise ApiError(400, f"response_format: {given.type} is missing", param="response_format")
    if given.type == "grammar":
        yield Form("grammar", given.grammar, "response_format")
    elif given.json_schema is not None:
        yield Form("json", given.json_schema.schema_, "response_format")
    else:
        yield Form("json", {"type": "object"} if given.schema_ is None else given.schema_, "response_format")


def _others(body: FormFields) -> Iterator[Form]:
    said = body.structured_outputs
    if said is not None and said.json_object:
        yield Form("json", {"type": "object"}, "structured_outputs.json_object")
    for kind in KINDS:
        outputs = getattr(said, "json_" if kind == "json" else kind, None)
        for field, what in (
            (f"structured_outputs.{kind}", outputs),
            (f"guided_{kind}", getattr(body, f"guided_{kind}")),
        ):
            if what is not None:
                yield Form(kind, what, field)
    if body.grammar is not None:
        yield Form("grammar", body.grammar, "grammar")
