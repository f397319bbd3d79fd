"""POST /infill: what belongs between two texts, as llama.cpp's server does for editors; the work of a completion."""

from collections.abc import AsyncIterator
from typing import Annotated, Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response
from pydantic import Field

from cutwork.serve.answer_fields import timings
from cutwork.serve.http.errors import ApiError
from cutwork.serve.http.json_body import JsonRoute
from cutwork.serve.http.stream import EventStream, whole_answer
from cutwork.serve.jobs.worker import Scored
from cutwork.serve.limits import Limits
from cutwork.serve.routes.completions import Completion, CompletionRequest, begin
from cutwork.serve.routes.conversation import WARNING
from cutwork.serve.routes.generation import MAX_SEED, EngineFields
from cutwork.serve.routes.schema import ModelName, Schema, Texts, at_most
from cutwork.serve.served_models import ServedModels

WITHOUT_EFFECT = ("n_indent", "samplers", "t_max_prompt_ms", "t_max_predict_ms")


class ExtraFile(Schema):
    """An entry of `input_extra`: a file to know of."""

    filename: str = "file"
    text: str
    time: Any = None  # when an editor took it up


class InfillRequest(EngineFields):
    """POST /infill. `prompt` is what has been typed after the prefix. n_predict: -1 for as many tokens as there may be,
    0 to read the prompt ahead and write nothing."""

    model: ModelName = None
    input_prefix: str = Field(examples=["def add(a, b):\n    return "])
    input_suffix: str
    prompt: str = ""
    input_extra: Annotated[list[ExtraFile], Field(fail_fast=True), at_most(Limits.messages)] = Field(
        default_factory=list
    )
    n_predict: int = Field(128, ge=-1, le=1 << 24)
    seed: int | None = Field(None, ge=-MAX_SEED, le=MAX_SEED)
    stop: Texts | None = None
    stream: bool = False
    n_indent: int | None = None
    samplers: Any = None
    t_max_prompt_ms: float | None = None
    t_max_predict_ms: float | None = None
    response_fields: Texts | None = None  # the answer has no others that cost anything
    id_slot: int | None = None


def router(models: ServedModels, limits: Limits) -> APIRouter:
    """The route over these models."""
    routes = APIRouter(route_class=JsonRoute)

    @routes.post("/infill", summary="Fill in the middle", response_model=None)
    async def infill(body: InfillRequest, request: Request) -> Response:
        served = await models.find_text(request, body.model)
        fill = served.infill
        if fill is None:
            raise ApiError(400, "this model cannot fill in the middle: its tokenizer has no tokens for it")
        files = [(file.filename, file.text) for file in body.input_extra]
        same = body.model_dump(include={*EngineFields.model_fields, "model", "seed", "stop"}, exclude_unset=True)
        ends = [*body.stop_token_ids, *fill.ends]  # may be more than a client may give
        prompt = fill.prompt(body.input_prefix + body.prompt, body.input_suffix, files)
        most = limits.max_tokens if body.n_predict < 0 else max(1, body.n_predict)
        asked = CompletionRequest(**same, prompt=prompt, max_tokens=most)
        work = await begin(asked.model_copy(update={"stop_token_ids": ends}), request, served, limits)
        unused = [name for name in WITHOUT_EFFECT if getattr(body, name) is not None]
        headers = {WARNING: f"without effect: {', '.join(unused)}"} if unused else {}
        writes = body.n_predict != 0
        if body.stream:
            return EventStream(work.job, _events(work, writes), limits.deadline, headers, done=False)
        return JSONResponse(await whole_answer(request, work.job, _whole(work, writes)), headers=headers)

    return routes


async def _whole(work: Completion, writes: bool) -> dict[str, Any]:
    [request] = await work.job.wait()
    return _end(work, request.text if writes else "")


async def _events(work: Completion, writes: bool) -> AsyncIterator[dict[str, Any]]:
    async for _, piece in work.job:
        assert not isinstance(piece, Scored)
        if piece.text and writes:
            yield {"content": piece.text, "stop": False}
    yield _end(work, "")


def _end(work: Completion, text: str) -> dict[str, Any]:
    [request] = work.job.started
    return {
        "content": text,
        "stop": True,
        "stop_type": "limit" if request.finish_reason == "length" else "eos" if request.stop.found is None else "word",
        "model": work.served.name,
        "tokens_predicted": len(request.tokens),
        "tokens_evaluated": len(work.prompts[0]),
        "timings": timings([request]),
    }
