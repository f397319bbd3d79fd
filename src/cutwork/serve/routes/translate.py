"""POST /translate."""

import time
from typing import Any

from fastapi import APIRouter, Request

from cutwork.engine.decoding.options import GenerateOptions
from cutwork.engine.translation import NUM_BEAMS, check_translates, longest_answer, translates, translation_prefix
from cutwork.serve.http.errors import ApiError
from cutwork.serve.http.middleware import client_of
from cutwork.serve.http.stream import identifier, timings, usage, whole_answer
from cutwork.serve.jobs.worker import Choice, Group
from cutwork.serve.limits import Limits
from cutwork.serve.options import check_prompt
from cutwork.serve.schemas import TranslateRequest
from cutwork.serve.served_model import Engine, Engines


def router(engines: Engines, limits: Limits) -> APIRouter:
    """The route over these models."""
    routes = APIRouter()

    @routes.post("/translate", summary="Translate texts")
    async def translate(body: TranslateRequest, request: Request) -> dict[str, Any]:
        engine = _engine(engines, body.model)
        texts = _texts(body, limits)
        prefix = translation_prefix(engine.model.config) if body.prefix is None else body.prefix
        prompts = {i: await engine.tokens.encode(prefix + text) for i, text in enumerate(texts) if text.strip()}
        choices = []
        for ids in prompts.values():
            check_prompt(ids, engine, limits)
            options: GenerateOptions = {
                "max_new_tokens": body.max_tokens or longest_answer(len(ids), engine.model.max_context),
                "num_beams": body.num_beams or min(NUM_BEAMS, limits.beams),
                "length_penalty": body.length_penalty,
            }
            choices.append(Choice(ids, options))
        group = engine.worker.submit(choices, limits.deadline, client_of(request))
        places = list(prompts)

        async def whole() -> dict[str, Any]:
            async for _ in group:
                pass
            finished = [each for each in group.requests if each]
            return {
                "id": identifier("translate"),
                "object": "translation",
                "created": int(time.time()),
                "model": engine.name,
                "translations": _translations(len(texts), places, group),
                "usage": usage(sum(map(len, prompts.values())), finished),
                "timings": timings(finished),
            }

        return await whole_answer(request, group, whole())

    return routes


def _engine(engines: Engines, name: str | None) -> Engine:
    """A model that translates: that of the name, or without one the first there is."""
    chosen = engines.find(name)
    if name is None:
        chosen = next((each for each in engines.all.values() if translates(each.model.config)), chosen)
    check_translates(chosen.model.config)
    return chosen


def _texts(body: TranslateRequest, limits: Limits) -> list[str]:
    texts = [body.text] if isinstance(body.text, str) else body.text
    too_many = {
        "text": (len(texts), limits.prompts, "texts"),
        "num_beams": (body.num_beams or 1, limits.beams, "beams"),
        "max_tokens": (body.max_tokens or 0, limits.max_tokens, "tokens"),
        "prefix": (len(body.prefix or ""), limits.text_length, "characters"),
    }
    too_many["text "] = (max(map(len, texts), default=0), limits.text_length, "characters in a text")
    for field, (value, most, what) in too_many.items():
        if value > most:
            name = field.strip()
            raise ApiError(400, f"{name}: this server allows at most {most} {what}, not {value}", param=name)
    if not any(text.strip() for text in texts):
        raise ApiError(400, "text: there is nothing to translate", param="text")
    return texts


def _translations(count: int, places: list[int], group: Group) -> list[dict[str, Any]]:
    """One entry per text, in order; empty texts stay empty."""
    results: list[dict[str, Any]] = [
        {"index": i, "text": "", "finish_reason": "stop", "score": None} for i in range(count)
    ]
    for place, request in zip(places, group.requests, strict=True):
        assert request
        result = request.result()
        results[place] |= {"text": result.text, "finish_reason": result.finish_reason, "score": result.score}
    return results
