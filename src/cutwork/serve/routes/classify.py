"""POST /classify and /v1/rerank: what they take and answer."""

from collections.abc import Callable
from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, Request
from fastapi.responses import Response
from pydantic import AliasChoices, Field

from cutwork.engine.classification.classifier import Classifier
from cutwork.engine.embedding.texts import Text, Tokens
from cutwork.serve.answer_fields import identifier, json_answer, opening
from cutwork.serve.http.errors import ApiError
from cutwork.serve.http.json_body import JsonRoute
from cutwork.serve.http.middleware import client_of
from cutwork.serve.http.stream import seconds_left, while_connected, whole_answer
from cutwork.serve.jobs.reader import Reading
from cutwork.serve.limits import Limits
from cutwork.serve.routes.schema import ModelName, Schema, at_most, check_uncut
from cutwork.serve.served_model import ServedModel
from cutwork.serve.served_models import ServedModels
from cutwork.serve.time_limit import TimeIsOver, within

PART = 256  # characters of what an answer says of a text
Inputs = Annotated[list[str], Field(fail_fast=True), at_most(1 << 16)]


class ClassifyRequest(Schema):
    """POST /classify, in vLLM's words."""

    model: ModelName = None
    input: str | Inputs = Field(examples=["I like it."])
    truncate: bool = False


class Document(Schema):
    """A document to rank."""

    text: str


class RerankRequest(Schema):
    """POST /v1/rerank, in Jina's and Cohere's words."""

    model: ModelName = None
    query: str = Field(examples=["What is cutwork?"])
    documents: Annotated[list[str | Document], Field(fail_fast=True), at_most(1 << 16)]
    top_n: int | None = Field(None, ge=1, le=1 << 20)
    return_documents: bool = True
    raw_scores: bool = False
    truncate: bool = Field(True, validation_alias=AliasChoices("truncate", "truncation"))


def router(models: ServedModels, limits: Limits) -> APIRouter:
    """The routes over these models."""
    routes = APIRouter(route_class=JsonRoute)

    @routes.post("/classify", summary="Classes of texts", response_model=None)
    async def classify(body: ClassifyRequest, request: Request) -> Response:
        served = await models.find_classifier(request, body.model)
        texts = [body.input] if isinstance(body.input, str) else body.input
        _check(texts, "input", limits)

        def answer(classifier: Classifier, tokens: list[Tokens], logits: list[np.ndarray]) -> Response:
            parts = (
                {"index": i, **_classes(classifier, *each)}
                for i, each in enumerate(zip(texts, tokens, logits, strict=True))
            )
            return json_answer(opening("classify", "list", served.name), parts, {"usage": _usage(tokens)}, "data")

        return await _read(request, served, list(texts), body.truncate, answer)

    @routes.post("/v1/rerank", summary="How well documents answer a query", response_model=None)
    @routes.post("/v2/rerank", include_in_schema=False, response_model=None)
    @routes.post("/rerank", include_in_schema=False, response_model=None)
    async def rerank(body: RerankRequest, request: Request) -> Response:
        served = await models.find_classifier(request, body.model)
        assert served.model.classifier
        served.model.classifier.check_ranks()
        documents = [each if isinstance(each, str) else each.text for each in body.documents]
        _check([body.query], "query", limits)
        _check(documents, "documents", limits)

        def answer(classifier: Classifier, tokens: list[Tokens], logits: list[np.ndarray]) -> Response:
            scores = classifier.relevance(logits, raw=body.raw_scores).tolist()
            best = sorted(range(len(scores)), key=lambda i: -scores[i])[: body.top_n]
            results = (
                {
                    "index": i,
                    "relevance_score": scores[i],
                    **({"document": {"text": documents[i]}} if body.return_documents else {}),
                }
                for i in best
            )
            head = {"id": identifier("rerank"), "model": served.name, "usage": _usage(tokens)}
            return json_answer(head, results, {"meta": {"api_version": {"version": "1"}}}, "results")

        return await _read(request, served, [(body.query, each) for each in documents], body.truncate, answer)

    async def _read(
        request: Request,
        served: ServedModel,
        texts: list[Text],
        truncate: bool,
        answer: Callable[[Classifier, list[Tokens], list[np.ndarray]], Response],
    ) -> Response:
        classifier = served.model.classifier
        assert classifier
        size = sum(len(text) if isinstance(text, str) else len(text[0]) + len(text[1]) for text in texts)
        served.tokens.check_size(size, "input" if isinstance(texts[0], str) else "documents")
        read = served.tokens.run(size, _tokens, classifier, texts, truncate)
        tokens = await while_connected(request, read, seconds_left(request, limits.deadline))
        seconds, head = seconds_left(request, limits.deadline), classifier.head
        job = Reading(tokens, head.logits, seconds, client_of(request), last=head.last_only)
        served.reader.submit(job)

        async def whole() -> Response:
            logits = await job.wait()
            if not all(np.isfinite(each).all() for each in logits):
                raise ApiError(500, "the model gave numbers that are not finite")
            return await served.tokens.run(size + PART * len(texts), answer, classifier, tokens, logits)

        return await whole_answer(request, job, whole())

    return routes


def _check(texts: list[str], field: str, limits: Limits) -> None:
    if not 1 <= len(texts) <= limits.inputs:
        raise ApiError(400, f"{field}: give from 1 to {limits.inputs} texts, not {len(texts)}", param=field)
    if not all(texts):
        raise ApiError(400, f"{field}: a text is empty", param=field)


def _tokens(classifier: Classifier, texts: list[Text], truncate: bool) -> list[Tokens]:
    try:
        # A language model's chat template writes what it is asked.
        tokens = within(Limits.template_seconds, lambda: classifier.read(texts))
    except TimeIsOver:
        took = f"{Limits.template_seconds:g} seconds"
        raise ApiError(400, f"the texts were not read after {took}; give fewer, or shorter ones") from None
    if not truncate:
        check_uncut("text", [each.truncated for each in tokens], classifier.max_length)
    return tokens


def _classes(classifier: Classifier, text: str, tokens: Tokens, logits: np.ndarray) -> dict[str, Any]:
    """Of a text all classes' numbers and the likeliest; of a model for tokens the parts that are of a class."""
    if classifier.head.of == "token":
        return {"entities": [vars(span) for span in classifier.spans(text, tokens, logits)]}
    scores = classifier.head.scores(logits)[0]
    labels = classifier.head.labels
    return {"label": labels[int(scores.argmax())], "probs": scores.tolist(), "num_classes": len(labels)}


def _usage(tokens: list[Tokens]) -> dict[str, int]:
    total = sum(map(len, tokens))
    return {"prompt_tokens": total, "total_tokens": total}
