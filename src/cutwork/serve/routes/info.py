"""What the server tells of itself: models, tokens, health and metrics."""

import asyncio
from typing import Any

from fastapi import APIRouter
from fastapi.responses import JSONResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from cutwork.serve.http.errors import ApiError
from cutwork.serve.jobs.worker import card
from cutwork.serve.metrics import Metrics
from cutwork.serve.routes.chat import template_message
from cutwork.serve.schemas import DetokenizeRequest, TokenizeRequest
from cutwork.serve.served_model import Engine, Engines


def router(engines: Engines, metrics: Metrics) -> APIRouter:
    """The routes over these models."""
    routes = APIRouter()

    @routes.get("/v1/models", summary="List the models")
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [_model(engine) for engine in engines.all.values()]}

    @routes.get("/v1/models/{name}", summary="One model")
    async def model(name: str) -> dict[str, Any]:
        return _model(engines.find(name))

    @routes.post("/tokenize", summary="Text to token ids")
    async def tokenize(body: TokenizeRequest) -> dict[str, Any]:
        engine = engines.find(body.model)
        if (body.prompt is None) == (body.messages is None):
            raise ApiError(400, "give either prompt or messages", param="prompt")
        text = body.prompt
        if body.messages is not None:
            text = await engine.tokens.render([template_message(m) for m in body.messages], None)
        ids = await engine.tokens.encode(text) if text else []
        return {"tokens": ids, "count": len(ids), "max_model_len": engine.model.max_context}

    @routes.post("/detokenize", summary="Token ids to text")
    async def detokenize(body: DetokenizeRequest) -> dict[str, str]:
        engine = engines.find(body.model)
        if any(token >= engine.model.plan.vocabulary for token in body.tokens):
            raise ApiError(400, f"token ids must be below {engine.model.plan.vocabulary}", param="tokens")
        return {"prompt": await asyncio.to_thread(engine.tokens.text, body.tokens)}

    @routes.get("/health/live", summary="The process answers")
    async def live() -> dict[str, str]:
        return {"status": "ok"}

    @routes.get("/health/ready", summary="The models can take requests")
    async def ready() -> JSONResponse:
        if engines.ready:
            return JSONResponse({"status": "ok"})
        return JSONResponse({"status": "not ready"}, 503, headers={"Retry-After": "5"})

    @routes.get("/metrics", summary="For Prometheus")
    async def prometheus() -> Response:
        return Response(generate_latest(metrics.registry), media_type=CONTENT_TYPE_LATEST)

    return routes


def _model(engine: Engine) -> dict[str, Any]:
    return {
        "id": engine.name,
        "object": "model",
        "created": engine.created,
        "owned_by": "cutwork",
        "max_model_len": engine.model.max_context,
        "cutwork": card(engine.worker),
    }
