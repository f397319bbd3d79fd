"""Rerankers that are language models: asked whether a document answers a query, they score yes against no.

As sentence-transformers writes them: a chat template for the roles query and document, and a LogitScore with the ids of
the two tokens (Qwen3-Reranker and others).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from cutwork.architectures.architecture import HEAD, Architecture
from cutwork.engine.chat.template import render_chat
from cutwork.engine.classification.head import Head
from cutwork.engine.embedding.description import (
    generation_prompt,
    read_activation,
    read_modules,
    read_prompts,
    read_transformer,
)
from cutwork.engine.embedding.pooling import Dense
from cutwork.engine.embedding.texts import Text, Tokens, own_tokenizer
from cutwork.errors import CutworkError, check_text
from cutwork.pack.record import EncodedWeight
from cutwork.store import bfloat16
from cutwork.store.json_file import read_json


@dataclass(frozen=True)
class Question:
    """What the model is told before each pair; None: nothing. ask: whether what asks for an answer follows it."""

    instruction: str | None
    ask: bool = True


def read_question(
    path: Path, architecture: Architecture, weights: Mapping[str, EncodedWeight]
) -> tuple[Head, Question] | None:
    """The head that scores yes against no, and the question; None if a directory describes no such model.

    Raises CutworkError if it is damaged.
    """
    modules = dict(read_modules(path))
    folder = modules.get("LogitScore")
    if folder is None:
        return None
    settings = read_json(folder / "config.json")
    stored = {architecture.plan_name(name): weight for name, weight in weights.items()}
    weight = stored.get(HEAD, stored.get(architecture.embedding))
    if weight is None:
        raise CutworkError(f"{path} has no output head, so there are no logits to score by")
    rows = _rows(folder, weight, [settings.get("true_token_id"), settings.get("false_token_id")])
    prompts = read_prompts(path / "config_sentence_transformers.json")
    activation = read_activation(path) or ""
    layers = (Dense(rows, None), Dense(np.array([[1, -1]], np.float32), None))[: len(rows)]
    head = Head("text", "lasttoken", layers, ("LABEL_0",), "none" if activation.endswith("Identity") else "sigmoid")
    default = prompts["default_prompt"] if prompts else None
    ask = generation_prompt(read_transformer(modules["Transformer"])) if "Transformer" in modules else None
    return head, Question(prompts["prompts"][default] if default else None, ask is not False)


def capped(head: Head, cap: float) -> Head:
    """The head of a model that bends each of its logits y to cap · tanh(y / cap), before they are compared."""
    first, *rest = head.layers
    bent = Dense(first.weight / np.float32(cap), None, "tanh")
    scaled = Dense(np.float32(cap) * np.eye(len(first.weight), dtype=np.float32), None)
    return replace(head, layers=(bent, scaled, *rest))


def _rows(folder: Path, weight: EncodedWeight, ids: list[Any]) -> np.ndarray:
    """Float32 [ids that there are, width]: the rows of the output head for tokens; the second may be None."""
    wanted = [token for token in ids if token is not None]
    if ids[0] is None or not all(isinstance(token, int) and 0 <= token < weight.shape[0] for token in wanted):
        raise CutworkError(f"{folder}: true_token_id and false_token_id must be tokens of the model")
    if weight.encoding != "dense" or weight.dtype == "i4":
        raise CutworkError("the output head is stored in a way that no single row is read of; pack it dense, or as i8")
    rows = bfloat16.in_float32(weight.values[wanted])
    return rows if weight.scale is None else rows * weight.scale[wanted][:, None]


class QuestionReader:
    """Writes pairs of a query and a document in the words of the model's chat template; of one that is longer than
    `max_length` tokens the document is cut. May be used from several threads."""

    def __init__(self, tokenizer: Any, max_length: int, question: Question) -> None:
        self._template, self._tokenizer = tokenizer, own_tokenizer(tokenizer)
        self.max_length, self._question = max_length, question

    def read(self, texts: Sequence[Text]) -> list[Tokens]:
        """The tokens of each pair. Raises CutworkError for what is no pair, and a query that leaves no room."""
        return [self._pair(text) for text in texts]

    def _pair(self, text: Text) -> Tokens:
        if isinstance(text, str):
            raise CutworkError("this model tells how well a document answers a query; give pairs, or use rerank")
        query, document = text
        check_text(query + document, "a text")
        ids, cut = self._written(query, document), False
        while len(ids) > self.max_length:
            found = self._tokenizer.encode(document, add_special_tokens=False)
            left = len(found.ids) - (len(ids) - self.max_length) - 1
            if left < 1:
                raise CutworkError(f"the query leaves no room for a document in {self.max_length} tokens; shorten it")
            document, cut = document[: found.offsets[left][0]], True
            ids = self._written(query, document)
        plain = Tokens.of_ids(ids)
        return Tokens(plain.ids, plain.types, plain.special, plain.offsets, truncated=cut)

    def _written(self, query: str, document: str) -> list[int]:
        told = [] if self._question.instruction is None else [_message("system", self._question.instruction)]
        messages = [*told, _message("query", query), _message("document", document)]
        text = render_chat(self._template, messages, ask=self._question.ask)
        found = self._tokenizer.encode(text, add_special_tokens=False)
        return [int(token) for token in found.ids]


def _message(role: str, text: str) -> dict[str, str]:
    return {"role": role, "content": text}
