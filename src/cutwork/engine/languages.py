"""Models that translate between many languages: how a text says its own, and an answer the one that is wanted.

As NLLB, M2M100 and mBART-50 have it: a token for each language, before the text, and the first of the answer.
"""

import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from cutwork.engine.decoding.options import GenerateOptions
from cutwork.errors import CutworkError


def language_token(tokenizer: Any, language: str) -> int:
    """The token of a language, by the name the tokenizer has for it ("deu_Latn", "de_DE", or "de" for `__de__`).

    Raises CutworkError, naming some, if it has none.
    """
    vocabulary = tokenizer.get_vocab()
    special = set(tokenizer.all_special_tokens) | set(tokenizer.get_added_vocab())
    for spelling in (f"__{language}__", language):
        if spelling in vocabulary and spelling in special:
            return int(vocabulary[spelling])
    near = sorted(token.strip("_") for token in special if token.strip("_").startswith(language[:2]))
    known = f"; near to it: {', '.join(near[:8])}" if near else ""
    raise CutworkError(f"this model's tokenizer knows no language {language!r}{known}")


def encode_from(tokenizer: Any, text: str, language: str) -> list[int]:
    """Token ids of a text that is in a language: its token, the text, the end."""
    first = language_token(tokenizer, language)
    return [first, *map(int, tokenizer.encode(text, add_special_tokens=False)), int(tokenizer.eos_token_id)]


def usual_rules(path: Path, config: Mapping[str, Any]) -> GenerateOptions:
    """What a model's generation_config.json (else its config) says of every answer: tokens that are never written, as
    Marian's padding, and the first and the last one, as mBART's and BART's."""
    generation: Any = {}
    with suppress(OSError, ValueError, RecursionError):  # the file is optional
        generation = json.loads((path / "generation_config.json").read_bytes())
    said = {**config, **(generation if isinstance(generation, dict) else {})}
    rules: GenerateOptions = {}
    banned = said.get("bad_words_ids")
    single = (
        [words[0] for words in banned if isinstance(words, list) and len(words) == 1]
        if isinstance(banned, list)
        else []
    )
    if single:
        rules["suppress_tokens"] = [token for token in single if _is_token(token)]
    if _is_token(said.get("forced_bos_token_id")):
        rules["forced_bos_token_id"] = said["forced_bos_token_id"]
    if _is_token(said.get("forced_eos_token_id")):
        rules["forced_eos_token_id"] = said["forced_eos_token_id"]
    return rules


def _is_token(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0
