"""What a model that writes no text does with texts: vectors, classes, and how well they answer a query."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from cutwork.architectures import build_plan
from cutwork.engine.assemble import Runtime
from cutwork.engine.classification.classifier import Classifier, Label, Span
from cutwork.engine.classification.question import capped
from cutwork.engine.embedding.embedder import Embedder, EmbedOptions, EmbedProgress, Input
from cutwork.engine.embedding.hidden_states import HiddenStates
from cutwork.engine.protocols import Reads
from cutwork.engine.tokenizer import a_list
from cutwork.errors import CutworkError
from cutwork.plan.ops import Logits


def embedder_of(
    runtime: Runtime, states: HiddenStates, tokenizer: Any, check: Callable[[Sequence[int]], None]
) -> Embedder | None:
    """What makes the model's vectors, if it does. check: raises CutworkError for tokens that it does not know."""
    if runtime.purpose.description is None:
        return None
    return Embedder(states, tokenizer, runtime.purpose.description, runtime.longest_text, check)


def classifier_of(
    runtime: Runtime, states: HiddenStates, tokenizer: Any, config: Mapping[str, Any]
) -> Classifier | None:
    """What gives the model's classes, if it does."""
    head, question = runtime.purpose.head, runtime.purpose.question
    if head is None:
        return None
    if question:
        output = build_plan(config).ops[-1]
        head = capped(head, output.cap) if isinstance(output, Logits) and output.cap else head
    return Classifier(states, tokenizer, head, runtime.longest_text, question)


def embed(model: Reads, inputs: Sequence[Input], progress: EmbedProgress | None, options: EmbedOptions) -> np.ndarray:
    """See `Model.embed`."""
    embedder = model.embedder
    if embedder is None:
        raise CutworkError(
            f"this {model.config.get('model_type', 'model')} makes no vectors of texts: it is no encoder, and no "
            "modules.json in its directory says how"
        )
    return embedder.vectors(embedder.read(inputs, **options), progress, **options)


def classify(model: Reads, texts: Sequence[str | tuple[str, str]]) -> list[list[Label]] | list[list[Span]]:
    """See `Model.classify`."""
    classifier = _classifier(model)
    texts = a_list(texts)
    tokens = classifier.read(texts)
    logits = classifier.logits(tokens)
    if classifier.head.of == "text":
        return [classifier.labels(each) for each in logits]
    alone = [text if isinstance(text, str) else text[0] for text in texts]
    return [classifier.spans(*each) for each in zip(alone, tokens, logits, strict=True)]


def rank(model: Reads, query: str, documents: Sequence[str], *, raw: bool) -> np.ndarray:
    """See `Model.rank`."""
    classifier = _classifier(model)
    classifier.check_ranks()
    pairs = [(query, document) for document in a_list(documents)]
    return classifier.relevance(classifier.logits(classifier.read(pairs)), raw=raw)


def _classifier(model: Reads) -> Classifier:
    if model.classifier is None:
        raise CutworkError(
            f"this {model.config.get('model_type', 'model')} gives no classes: it was not saved with such a head"
        )
    return model.classifier
