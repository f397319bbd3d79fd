"""Models that translate between many languages: how a text says its own, and an answer the one that is wanted.

As NLLB, M2M100 and mBART-50 have it: a token for each language, before the text, and the first of the answer. mBART has
its own last, after the token that ends the text, and the other is what starts decoding.
"""

from typing import Any

from cutwork.errors import CutworkError, check_text


def language_token(tokenizer: Any, language: str) -> int:
    """The token of a language, by the name the tokenizer has for it ("deu_Latn", "de_DE", or "de" for `__de__`).

    Raises CutworkError, naming some, if it has none, and if there is no tokenizer.
    """
    if tokenizer is None:
        raise CutworkError("this model directory has no tokenizer, so it knows no languages; leave them out")
    vocabulary = tokenizer.get_vocab()
    special = set(tokenizer.all_special_tokens) | set(tokenizer.get_added_vocab())
    for spelling in (f"__{language}__", language):
        if spelling in vocabulary and spelling in special:
            return int(vocabulary[spelling])
    near = sorted(token.strip("_") for token in special if token.strip("_").startswith(language[:2]))
    known = f"; near to it: {', '.join(near[:8])}" if near else ""
    raise CutworkError(f"this model's tokenizer knows no language {language!r}{known}")


def encode_from(tokenizer: Any, text: str, language: str) -> list[int]:
    """Token ids of a text that is in a language: its token, the text, the end; or its token last (`says_last`)."""
    token, end = language_token(tokenizer, language), int(tokenizer.eos_token_id)
    check_text(text, "the prompt")
    ids = [int(each) for each in tokenizer.encode(text, add_special_tokens=False)]
    return [*ids, end, token] if says_last(tokenizer) else [token, *ids, end]


def says_last(tokenizer: Any) -> bool:
    """Whether a tokenizer puts a text's language behind it."""
    around = [int(each) for each in tokenizer.encode("")]
    return len(around) > 1 and around[-2] == tokenizer.eos_token_id != around[-1]
