"""What a model's generation_config.json, else its config, says of answers: first, last and forbidden tokens, and how to
draw."""

import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

from cutwork.architectures import kind_of
from cutwork.engine.decoding.options import GenerateOptions
from cutwork.engine.decoding.sampling import LEAST_PENALTY
from cutwork.errors import CutworkError
from cutwork.store.json_file import read_json

_SUPPRESSED = ("suppress_tokens", "begin_suppress_tokens")
_COUNTS = ("no_repeat_ngram_size", "min_new_tokens")
_LEAST = "min_length"  # of an answer with the token that starts it, as BART's summarisers say


def read_generation_config(path: Path) -> dict[str, Any]:
    """What a model's generation_config.json says, nothing without one. Raises CutworkError if it is damaged."""
    file = path / "generation_config.json"
    return read_json(file) if file.is_file() else {}


def generation_settings(path: Path, config: Mapping[str, Any]) -> dict[str, Any]:
    """The config of the model in `path`, with what its generation_config.json, if there is one, says instead.

    Then nothing of what the config alone says is forbidden, as in transformers.
    """
    said: dict[str, Any] = {}
    with suppress(CutworkError):  # the file is optional, and only improves on the config
        said = read_generation_config(path)
    kept = {name: value for name, value in config.items() if not (said and name in (*_SUPPRESSED, *_COUNTS, _LEAST))}
    return {**kept, **said}


def stop_tokens(settings: Mapping[str, Any], tokenizer: Any, vocabulary: int) -> frozenset[int]:
    """Ids that end a text: those of the settings, and the tokenizer's.

    Those beyond the `vocabulary` are left out: no model writes them.
    """
    own = getattr(tokenizer, "eos_token_id", None)
    return frozenset([*_tokens(settings.get("eos_token_id"), vocabulary), *_tokens(own, vocabulary)])


def start_tokens(settings: Mapping[str, Any], keys: Sequence[str], vocabulary: int) -> list[int]:
    """What a decoder that answers an encoder's input begins with: what the first of the `keys` that the model has says.

    Raises CutworkError if it has none, or one beyond the `vocabulary`.
    """
    for key in keys:
        start = settings.get(key)
        if isinstance(start, int) and not isinstance(start, bool):
            if not _is_token(start, vocabulary):
                raise CutworkError(f"the model's {key} {start} is not in its vocabulary of {vocabulary} tokens")
            return [start]
    raise CutworkError(f"neither the model's config nor its generation_config.json names a {keys[0]}")


def usual_rules(settings: Mapping[str, Any], vocabulary: int, answers: bool) -> GenerateOptions:
    """What is so of every text, unless a request says otherwise.

    That is tokens never written, as Marian's padding, or not as the first, runs not written twice, how long an answer
    is at least, and its last token, as BART's; of a model that `answers` an encoder's input also the first, as mBART's.
    And whether the probabilities of a beam search add up to 1 without what is never written, as Marian's do. What
    Whisper does not write transcription sees to.
    """
    rules: GenerateOptions = {}
    banned = settings.get("bad_words_ids")
    alone = (
        [words for words in banned if isinstance(words, list) and len(words) == 1] if isinstance(banned, list) else []
    )
    ends = _tokens(settings.get("eos_token_id"), vocabulary)  # which transformers does not take for bad words
    never = [token for [token] in alone if _is_token(token, vocabulary) and token not in ends]
    first: list[int] = []
    if kind_of(settings) != "speech":
        more, first = (_tokens(settings.get(name), vocabulary) for name in _SUPPRESSED)
        never += more
        counts = {name: settings.get(name) for name in _COUNTS}
        least = settings.get(_LEAST)
        if answers and isinstance(least, int) and not counts["min_new_tokens"]:
            counts["min_new_tokens"] = least - 1
        found = {name: n for name, n in counts.items() if isinstance(n, int) and not isinstance(n, bool) and n > 0}
        rules |= cast(GenerateOptions, found)
    if never:
        rules["suppress_tokens"] = never
    if first:
        rules["begin_suppress_tokens"] = first
    if answers and _is_token(settings.get("forced_bos_token_id"), vocabulary):
        rules["forced_bos_token_id"] = settings["forced_bos_token_id"]
    if last := _tokens(settings.get("forced_eos_token_id"), vocabulary):
        rules["forced_eos_token_id"] = min(last)  # the one that transformers takes of several
    if settings.get("renormalize_logits") is True:
        rules["renormalize_logits"] = True
    return rules


def usual_sampling(settings: Mapping[str, Any]) -> dict[str, float]:
    """How tokens are drawn unless a request says otherwise, by the names of `Sampling`: what of it a model says that
    can be. Nothing if it says that nothing is drawn."""
    ranges = {
        "temperature": lambda x: 0 <= x <= 2,
        "top_k": lambda x: x == int(x) and 0 <= x < 1 << 24,
        "top_p": lambda x: 0 < x <= 1,
        "min_p": lambda x: 0 <= x <= 1,
        "repetition_penalty": lambda x: LEAST_PENALTY <= x <= 10,
    }
    said = {} if settings.get("do_sample") is False else {name: settings.get(name) for name in ranges}
    numbers = {name: x for name, x in said.items() if isinstance(x, int | float) and not isinstance(x, bool)}
    found = {name: x for name, x in numbers.items() if math.isfinite(x) and ranges[name](x)}
    return {name: int(x) if name == "top_k" else x for name, x in found.items()}


def _tokens(value: Any, vocabulary: int) -> list[int]:
    """The tokens that a setting names, one or a list of them."""
    return [token for token in (value if isinstance(value, list) else [value]) if _is_token(token, vocabulary)]


def _is_token(value: Any, vocabulary: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < vocabulary
