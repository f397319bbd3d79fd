"""POST /translate: what it takes and answers."""

from typing import Any

from fastapi import APIRouter, Request
from pydantic import Field

from cutwork.engine.decoding.options import GenerateOptions
from cutwork.engine.decoding.requests import Generation
from cutwork.engine.translation import check_translates, longest_answer, translation_prefix
from cutwork.serve.answer_fields import opening, timings, usage
from cutwork.serve.http.errors import ApiError
from cutwork.serve.http.json_body import JsonRoute
from cutwork.serve.http.middleware import cache_salt_of, client_of
from cutwork.serve.http.stream import seconds_left, while_connected, whole_answer
from cutwork.serve.jobs.worker import Choice, TextJob
from cutwork.serve.limits import Limits
from cutwork.serve.routes.generation import check_prompt, longest_prompt
from cutwork.serve.routes.schema import ModelName, Schema, Texts, TokenCount
from cutwork.serve.served_models import ServedModels


class TranslateRequest(Schema):
    """POST /translate."""

    model: ModelName = None
    text: str | Texts = Field(examples=["How are you?"])
    prefix: str | None = None
    source: str | None = Field(None, min_length=1, max_length=64, description="The texts' language, as eng_Latn or en.")
    target: str | None = Field(None, min_length=1, max_length=64, description="The language to translate to.")
    num_beams: int | None = Field(None, ge=1, le=1 << 10)
    length_penalty: float | None = Field(None, ge=-5, le=5)
    max_tokens: TokenCount | None = None


def router(models: ServedModels, limits: Limits) -> APIRouter:
    """The route over these models."""
    routes = APIRouter(route_class=JsonRoute)

    @routes.post("/translate", summary="Translate texts")
    async def translate(body: TranslateRequest, request: Request) -> dict[str, Any]:
        served = await models.find_translator(request, body.model)
        check_translates(served.model.config)
        texts = _texts(body, limits)
        prefix = translation_prefix(served.model.config) if body.prefix is None else body.prefix
        most = longest_prompt(served)

        async def encoded() -> dict[int, list[int]]:
            return {
                i: await served.tokens.encode(prefix + text, most=most, language=body.source)
                for i, text in enumerate(texts)
                if text.strip()
            }

        rules = await served.tokens.answers_in(body.target)
        prompts = await while_connected(request, encoded(), seconds_left(request, limits.deadline))
        choices = []
        for ids in prompts.values():
            check_prompt(ids, served)
            options: GenerateOptions = {
                "max_new_tokens": body.max_tokens or longest_answer(len(ids), served.model.max_context),
                "num_beams": body.num_beams or min(served.model.usual_beams, limits.beams),
                "cache_salt": cache_salt_of(request),
                **rules,
            }
            if body.length_penalty is not None:
                options["length_penalty"] = body.length_penalty
            choices.append(Choice(ids, options))
        job = TextJob(choices, seconds_left(request, limits.deadline), client_of(request))
        served.worker.submit(job)
        places = list(prompts)

        async def whole() -> dict[str, Any]:
            finished = await job.wait()
            return {
                **opening("translate", "translation", served.name),
                "translations": _translations(len(texts), places, [request.result() for request in finished]),
                "usage": usage(sum(map(len, prompts.values())), finished, each=1),
                "timings": timings(finished),
            }

        return await whole_answer(request, job, whole())

    return routes


def _texts(body: TranslateRequest, limits: Limits) -> list[str]:
    texts = [body.text] if isinstance(body.text, str) else body.text
    capped = {
        "text": (len(texts), limits.prompts, "texts"),
        "num_beams": (body.num_beams or 1, limits.beams, "beams"),
        "max_tokens": (body.max_tokens or 0, limits.max_tokens, "tokens"),
        "prefix": (len(body.prefix or ""), limits.text_length, "characters"),
    }
    capped["text "] = (max(map(len, texts), default=0), limits.text_length, "characters in a text")
    for field, (value, cap, what) in capped.items():
        if value > cap:
            name = field.strip()
            raise ApiError(400, f"{name}: this server allows at most {cap} {what}, not {value}", param=name)
    if not any(text.strip() for text in texts):
        raise ApiError(400, "text: there is nothing to translate", param="text")
    return texts


def _translations(count: int, places: list[int], results: list[Generation]) -> list[dict[str, Any]]:
    """One entry per text, in order; empty texts stay empty."""
    translations: list[dict[str, Any]] = [
        {"index": i, "text": "", "finish_reason": "stop", "score": None} for i in range(count)
    ]
    for place, result in zip(places, results, strict=True):
        translations[place] |= {"text": result.text, "finish_reason": result.finish_reason, "score": result.score}
    return translations
