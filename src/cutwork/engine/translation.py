"""Translation by models with an encoder: what comes before a text, and texts of any length as batches of alike ones."""

import reprlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Unpack

from cutwork.architectures import kind_of
from cutwork.engine.decoding.options import GenerateOptions
from cutwork.engine.decoding.requests import Generation, Timings
from cutwork.engine.languages import encode_from, language_token, says_last
from cutwork.engine.protocols import Answers
from cutwork.errors import CutworkError

TranslationProgress = Callable[[Mapping[int, Generation]], None]


class TranslateOptions(GenerateOptions, total=False):
    """Options of `Model.translate`, which says what they are."""

    prefix: str | None
    source: str | None
    target: str | None


NUM_BEAMS = 5  # what translations are usually measured with; of models that do not say
BATCHES = 4  # handed over together, so that a long text does not leave the others' places empty


def translates(config: Mapping[str, Any]) -> bool:
    """Whether a model of this configuration reads a text and answers with another."""
    return kind_of(config) == "translation"


def check_translates(config: Mapping[str, Any]) -> None:
    """Raises CutworkError unless a model of this configuration translates texts."""
    if translates(config):
        return
    kind = config.get("model_type", "model")
    instead = {"speech": "transcribe", "embedding": "embed"}.get(kind_of(config), "generate")
    raise CutworkError(f"a {kind} does not translate texts; use {instead}, or load an encoder-decoder such as T5")


def translation_prefix(config: Mapping[str, Any]) -> str:
    """What a model wants before each text, by the `task_specific_params` of its configuration; nothing if it says none.

    Raises CutworkError, naming them, if it knows several translations.
    """
    tasks = config.get("task_specific_params")
    prefixes = {
        settings["prefix"]
        for name, settings in (tasks.items() if isinstance(tasks, dict) else ())
        if name.startswith("translation") and isinstance(settings, dict) and isinstance(settings.get("prefix"), str)
    }
    if len(prefixes) > 1:
        known = ", ".join(map(repr, sorted(prefixes)))
        raise CutworkError(f"this model knows several translations; choose by its prefix: {known}")
    return prefixes.pop() if prefixes else ""


def longest_answer(tokens: int, max_context: int) -> int:
    """How long a translation of so many tokens may become, unless somebody says otherwise."""
    return min(3 * tokens + 32, max_context - 1)


def answers_in(tokenizer: Any, start_tokens: Sequence[int], target: str | None) -> GenerateOptions:
    """What makes a model's answers be in a language; nothing if none is given, or if its answers are already.

    Raises CutworkError for a language that the tokenizer does not know, or that the model does not answer in.
    """
    if not target:
        return {}
    token = language_token(tokenizer, target)
    usual = {tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id}
    if not says_last(tokenizer) or start_tokens[0] in usual:
        return {"forced_bos_token_id": token}
    # The token that starts decoding says the language, as where that of the text comes last.
    if token not in start_tokens:
        start = tokenizer.convert_ids_to_tokens(start_tokens[0])
        raise CutworkError(f"this model's answers begin with {start}, so it does not translate into {target!r}")
    return {}


def translate(
    model: Answers,
    texts: Sequence[str],
    progress: TranslationProgress | None,
    *,
    prefix: str | None = None,
    source: str | None = None,
    target: str | None = None,
    **options: Unpack[GenerateOptions],
) -> list[Generation]:
    """See `Model.translate`."""
    check_translates(model.config)
    assert model.encoder
    if wrong := [text for text in texts if not isinstance(text, str)]:
        raise CutworkError(f"expected texts to translate, not {reprlib.repr(wrong[0])}")
    before = translation_prefix(model.config) if prefix is None else prefix
    rules = answers_in(model.tokenizer, model.start_tokens, target)

    def encode(text: str) -> list[int]:
        return encode_from(model.tokenizer, before + text, source) if source else model.encode(before + text)

    tokens = {i: encode(text) for i, text in enumerate(texts) if text.strip()}
    for i, ids in tokens.items():
        if len(ids) > model.encoder.max_length:
            raise CutworkError(
                f"the text that begins with {texts[i].strip()[:40]!r} has {len(ids)} tokens, but this model reads at "
                f"most {model.encoder.max_length}; split it"
            )
    results = {
        i: Generation("", [], "stop", 0, Timings(0.0, 0.0, 0.0, 0)) for i in range(len(texts)) if i not in tokens
    }
    if results and progress:
        progress(results)
    order = sorted(tokens, key=lambda i: -len(tokens[i]))
    size = BATCHES * model.max_batch
    for start in range(0, len(order), size):
        part = order[start : start + size]
        asked: list[tuple[list[int], GenerateOptions]] = []
        for ids in (tokens[i] for i in part):
            usual: GenerateOptions = {
                "num_beams": model.usual_beams,
                "max_new_tokens": longest_answer(len(ids), model.max_context),
            }
            asked.append((ids, usual | rules | options))
        done = dict(zip(part, model.answer_each(asked), strict=True))
        results |= done
        if progress:
            progress(done)
    return [results[i] for i in range(len(texts))]
