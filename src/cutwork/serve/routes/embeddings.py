"""POST /v1/embeddings: what it takes and answers."""

import base64
from typing import Annotated, Any, Literal

import numpy as np
from fastapi import APIRouter, Request
from fastapi.responses import Response
from pydantic import Field

from cutwork.engine.embedding.embedder import Embedder, EmbedOptions, Input
from cutwork.engine.embedding.texts import Tokens
from cutwork.serve.answer_fields import json_answer
from cutwork.serve.http.errors import ApiError
from cutwork.serve.http.json_body import JsonRoute
from cutwork.serve.http.middleware import client_of
from cutwork.serve.http.stream import seconds_left, while_connected, whole_answer
from cutwork.serve.jobs.reader import Reading
from cutwork.serve.limits import Limits
from cutwork.serve.routes.schema import ModelName, Schema, TokenIds, at_most, check_uncut
from cutwork.serve.served_models import ServedModels

NUMBER = 20  # characters of a number in an answer
Inputs = Annotated[list[str], Field(fail_fast=True), at_most(1 << 16)]
ManyTokenIds = Annotated[list[TokenIds], Field(fail_fast=True), at_most(1 << 16)]


class EmbeddingsRequest(Schema):
    """POST /v1/embeddings; `input` is one text or list of token ids, or several."""

    model: ModelName = None
    input: str | TokenIds | Inputs | ManyTokenIds = Field(examples=["Hello"])
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: int | None = Field(None, ge=1, le=1 << 20)
    truncate: bool = False
    normalize: bool | None = None
    prompt_name: str | None = Field(None, max_length=256)
    prompt: str | None = None


def router(models: ServedModels, limits: Limits) -> APIRouter:
    """The route over these models."""
    routes = APIRouter(route_class=JsonRoute)

    @routes.post("/v1/embeddings", summary="Vectors of texts", response_model=None)
    async def embeddings(body: EmbeddingsRequest, request: Request) -> Response:
        served = await models.find_embedding(request, body.model)
        embedder = served.model.embedder
        assert embedder
        inputs = _inputs(body, limits)
        options: EmbedOptions = {"dimensions": body.dimensions, "normalize": body.normalize}
        prompts: EmbedOptions = {"prompt_name": body.prompt_name, "prompt": body.prompt}
        embedder.check(options | prompts)
        size = sum(len(each) + len(body.prompt or "") for each in inputs)
        served.tokens.check_size(size, "input")
        read = served.tokens.run(size, read_inputs, embedder, inputs, prompts, body.truncate)
        tokens = await while_connected(request, read, seconds_left(request, limits.deadline))
        last = embedder.last_only(options)
        seconds = seconds_left(request, limits.deadline)
        job = Reading(tokens, lambda states: embedder.pool(states, options), seconds, client_of(request), last=last)
        served.reader.submit(job)

        async def whole() -> Response:
            pooled = await job.wait()
            numbers = len(pooled) * embedder.width * NUMBER
            return await served.tokens.run(numbers, _answer, embedder, pooled, options, body, served.name, job.tokens)

        return await whole_answer(request, job, whole())

    return routes


def read_inputs(embedder: Embedder, inputs: list[Input], prompts: EmbedOptions, truncate: bool) -> list[Tokens]:
    """What the model reads of the inputs. Raises ApiError (400) for one that is longer, unless it may be cut."""
    tokens = embedder.read(inputs, **prompts)
    if not truncate:
        check_uncut("input", [each.truncated for each in tokens], embedder.max_length, param="input")
    return tokens


def _inputs(body: EmbeddingsRequest, limits: Limits) -> list[Input]:
    one = isinstance(body.input, str) or (bool(body.input) and isinstance(body.input[0], int))
    inputs: Any = [body.input] if one else body.input
    if not 1 <= len(inputs) <= limits.inputs:
        raise ApiError(400, f"input: give from 1 to {limits.inputs} inputs, not {len(inputs)}", param="input")
    if not all(inputs):
        raise ApiError(400, "input: an input is empty", param="input")
    return list(inputs)


def _answer(
    embedder: Embedder,
    pooled: list[np.ndarray],
    options: EmbedOptions,
    body: EmbeddingsRequest,
    name: str,
    tokens: int,
) -> Response:
    vectors = embedder.finish(np.stack(pooled), options)
    if not np.isfinite(vectors).all():
        raise ApiError(500, "the model gave numbers that are not finite")
    data = (
        {"object": "embedding", "index": index, "embedding": _written(vector, body.encoding_format)}
        for index, vector in enumerate(vectors)
    )
    end = {"model": name, "usage": {"prompt_tokens": tokens, "total_tokens": tokens}}
    return json_answer({"object": "list"}, data, end, "data")


def _written(vector: np.ndarray, form: Literal["float", "base64"]) -> str | list[float]:
    if form == "base64":
        return base64.b64encode(vector.astype("<f4").tobytes()).decode()
    return [float(f"{number:.9g}") for number in vector.tolist()]
