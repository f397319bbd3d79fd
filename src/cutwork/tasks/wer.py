"""Word and character error rates, counted by jiwer after Whisper's text normalisation."""

import json
import re
import unicodedata
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from cutwork.errors import CutworkError
from cutwork.extras import install
from cutwork.tasks.task import Sample

_ENGLISH = ("", "en", "english")
_WITHOUT_SPACES = (
    *("zh", "chinese", "mandarin", "yue", "cantonese", "ja", "japanese", "th", "thai", "lo", "lao"),
    *("my", "myanmar", "burmese"),
)


@dataclass(frozen=True)
class WordErrors:
    """Words substituted, left out and put in, of so many in the references; of languages that put no spaces between
    words, characters."""

    errors: int
    words: int

    @property
    def rate(self) -> float:
        """The error rate in percent; may be above 100."""
        return 100 * self.errors / self.words


def error_rates(samples: Sequence[Sample], replies: Sequence[str], model: Path | None = None) -> dict[str, float]:
    """Error rates in percent of transcripts, as `word_errors` counts them: `wer` of words, `cer` of characters.

    Raises CutworkError as that does.
    """
    rates: dict[str, float] = {}
    for name, characters in (("wer", False), ("cer", True)):
        some = [i for i, sample in enumerate(samples) if _is_without_spaces(sample) is characters]
        with suppress(CutworkError):  # there may be none of one kind; if of neither, it is raised below
            rates[name] = word_errors([samples[i] for i in some], [replies[i] for i in some], model).rate
    return rates or {"wer": word_errors(samples, replies, model).rate}


def word_errors(samples: Sequence[Sample], replies: Sequence[str], model: Path | None = None) -> WordErrors:
    """The errors of transcripts of `samples`, whose answers are the references and whose prompts name the language.

    Both are normalised first as Whisper's authors do (arXiv 2212.04356, appendix C): numbers, contractions and
    spellings in English, punctuation and case in other languages; of Chinese, Cantonese, Japanese, Thai, Lao and
    Burmese every character counts as a word. British spellings become American where `model` has the list of them that
    comes with Whisper's tokenizer (normalizer.json). What differs from Whisper's, outside of English: Cantonese is read
    like Chinese, and combining marks, such as the vowels of Hindi and Thai, stay with their letter, as one character,
    where Whisper's puts spaces and so passes over a wrong vowel and counts one word as several. Samples without a word
    do not count. Raises CutworkError if jiwer is missing or there is no reference.
    """
    try:
        import jiwer
    except ImportError:
        raise CutworkError(f"word error rates need jiwer; install it with: {install('eval')}") from None
    english, other, split = normalizers(model)
    references, hypotheses = [], []
    for sample, reply in zip(samples, replies, strict=True):
        spoken = english if sample.prompt.lower() in _ENGLISH else other
        normalise = split if _is_without_spaces(sample) else spoken
        reference = normalise(sample.answer)
        if any(letter.isalnum() for letter in reference):
            references.append(reference)
            hypotheses.append(normalise(reply))
    if not references:
        raise CutworkError("there is no transcript to compare with")
    counted = jiwer.process_words(references, hypotheses)
    errors = counted.substitutions + counted.deletions + counted.insertions
    return WordErrors(errors, counted.hits + counted.substitutions + counted.deletions)


def _is_without_spaces(sample: Sample) -> bool:
    return re.split("[-_]", sample.prompt.lower())[0] in _WITHOUT_SPACES


def normalizers(model: Path | None = None) -> tuple[Callable[[str], str], ...]:
    """Whisper's normalisers of English, of other languages' texts, and of those without spaces, but for what
    `word_errors` says."""
    from transformers.models.whisper.english_normalizer import BasicTextNormalizer, EnglishTextNormalizer

    spellings = model / "normalizer.json" if model else None
    known = json.loads(spellings.read_text(encoding="utf-8")) if spellings and spellings.is_file() else {}
    english, other, split = EnglishTextNormalizer(known), BasicTextNormalizer(), BasicTextNormalizer(split_letters=True)
    other.clean = split.clean = _without_symbols
    return tuple(lambda text, each=each: each(text).strip() for each in (english, other, split))


def _without_symbols(text: str) -> str:
    """Text with spaces for symbols and punctuation, and for marks of these, such as those that choose an emoji."""
    kept = ""
    for character in unicodedata.normalize("NFKC", text):
        kind = unicodedata.category(character)[0]
        stays = kept[-1:].strip() if kind == "M" else kind not in "SP"
        kept += character if stays else " "
    return kept
