"""Names of spoken languages as Whisper's tokens have them."""

import re


def language_code(name: str) -> str:
    """The code of a language given by its English name or a code, with or without a region (de, de-AT, German); what is
    not known comes back in lower case."""
    from transformers.models.whisper.tokenization_whisper import TO_LANGUAGE_CODE

    lower = name.strip().lower()
    without_region = re.split("[-_]", lower)[0]
    return str(TO_LANGUAGE_CODE.get(lower) or TO_LANGUAGE_CODE.get(without_region) or without_region)
