"""What the server tells of itself: models, tokens, health and metrics."""

from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import Field

from cutwork.serve.http.errors import ApiError
from cutwork.serve.http.json_body import JsonRoute
from cutwork.serve.http.stream import seconds_left, while_connected
from cutwork.serve.limits import Limits
from cutwork.serve.metrics import Metrics
from cutwork.serve.routes.chat_request import Messages, template_messages
from cutwork.serve.routes.schema import ModelName, Schema, TokenIds
from cutwork.serve.served_model import ServedModel
from cutwork.serve.served_models import Place, ServedModels


class TokenizeRequest(Schema):
    """POST /tokenize."""

    model: ModelName = None
    prompt: str | None = Field(None, examples=["Hello"])
    messages: Messages | None = None
    add_special_tokens: bool | None = None  # by default with a prompt, not with a chat, whose template writes its own


class DetokenizeRequest(Schema):
    """POST /detokenize."""

    model: ModelName = None
    tokens: TokenIds = Field(examples=[[1, 2]])


def router(models: ServedModels, limits: Limits, metrics: Metrics) -> APIRouter:
    """The routes over these models."""
    routes = APIRouter(route_class=JsonRoute)

    @routes.get("/v1/models", summary="List the models")
    async def all_models() -> dict[str, Any]:
        places = models.places.values()
        return {"object": "list", "data": [_model(p, name) for p in places for name in (p.name, *p.adapters)]}

    @routes.get("/v1/models/{name:path}", summary="One model")
    async def one_model(name: str) -> dict[str, Any]:
        return _model(models.place(name), name)

    @routes.post("/tokenize", summary="Text to token ids")
    async def tokenize(body: TokenizeRequest, request: Request) -> dict[str, Any]:
        served = await models.find(request, body.model)
        if (body.prompt is None) == (body.messages is None):
            raise ApiError(400, "give either prompt or messages", param="prompt")
        work = _token_ids(body, served)
        ids = await while_connected(request, work, seconds_left(request, limits.deadline))
        return {"tokens": ids, "count": len(ids), "max_model_len": served.model.max_context}

    @routes.post("/detokenize", summary="Token ids to text")
    async def detokenize(body: DetokenizeRequest, request: Request) -> dict[str, str]:
        served = await models.find(request, body.model)
        if len(body.tokens) > served.model.max_context:
            raise ApiError(400, f"this model takes at most {served.model.max_context} tokens", param="tokens")
        if any(token >= served.model.plan.vocabulary for token in body.tokens):
            raise ApiError(400, f"token ids must be below {served.model.plan.vocabulary}", param="tokens")
        return {"prompt": await served.tokens.decode(body.tokens)}

    @routes.head("/health/live", include_in_schema=False)
    @routes.get("/health/live", summary="The process answers")
    async def live() -> JSONResponse:
        return JSONResponse(
            {"status": "ok"} if models.alive else {"status": "a thread has ended"}, 200 if models.alive else 503
        )

    @routes.head("/health", include_in_schema=False)
    @routes.head("/health/ready", include_in_schema=False)
    @routes.get("/health", summary="As /health/ready, by other servers' name")
    @routes.get("/health/ready", summary="The models can take requests")
    async def ready() -> JSONResponse:
        if models.ready:
            return JSONResponse({"status": "ok"})
        return JSONResponse({"status": "not ready"}, 503, headers={"Retry-After": "5"})

    @routes.get("/metrics", summary="For Prometheus")
    async def prometheus() -> Response:
        return Response(generate_latest(metrics.registry), media_type=CONTENT_TYPE_LATEST)

    return routes


async def _token_ids(body: TokenizeRequest, served: ServedModel) -> list[int]:
    text, most = body.prompt, served.model.max_context
    if body.messages is not None:
        messages, size = await template_messages(body.messages, served.tokens)
        text = await served.tokens.render(messages, None, size=size, most=most)
    special = body.messages is None if body.add_special_tokens is None else body.add_special_tokens
    return await served.tokens.encode(text, most=most, special=special) if text else []


def _model(place: Place, name: str) -> dict[str, Any]:
    """A model by its name, or by that of one of its adapters, whose `parent` it is."""
    return {
        "id": name,
        **({} if name == place.name else {"parent": place.name}),
        "object": "model",
        "created": place.card["created"],
        "owned_by": "cutwork",
        "max_model_len": place.card["context"],
        "cutwork": {**place.card, "loaded": place.served is not None},
    }
