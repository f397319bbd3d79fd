"""Word error rate, counted by jiwer after Whisper's text normalisation."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from cutwork.errors import CutworkError
from cutwork.extras import install
from cutwork.tasks.task import Sample

_ENGLISH = ("", "en", "english")


@dataclass(frozen=True)
class WordErrors:
    """Words substituted, left out and put in, of so many in the references."""

    errors: int
    words: int

    @property
    def rate(self) -> float:
        """The word error rate in percent; may be above 100."""
        return 100 * self.errors / self.words


def word_errors(samples: Sequence[Sample], replies: Sequence[str], model: Path | None = None) -> WordErrors:
    """The errors of transcripts of `samples`, whose answers are the references and whose prompts name the language.

    Both are normalised first as Whisper's authors do (arXiv 2212.04356, appendix C): numbers, contractions and
    spellings in English, punctuation and case in other languages. British spellings become American where `model` has
    the list of them that comes with Whisper's tokenizer (normalizer.json). Samples without a word do not count.
    Raises CutworkError if jiwer is missing or there is no reference.
    """
    try:
        import jiwer
    except ImportError:
        raise CutworkError(f"word error rates need jiwer; install it with: {install('eval')}") from None
    english, other = normalizers(model)
    references, hypotheses = [], []
    for sample, reply in zip(samples, replies, strict=True):
        normalise = english if sample.prompt.lower() in _ENGLISH else other
        reference = normalise(sample.answer)
        if any(letter.isalnum() for letter in reference):
            references.append(reference)
            hypotheses.append(normalise(reply))
    if not references:
        raise CutworkError("there is no transcript to compare with")
    counted = jiwer.process_words(references, hypotheses)
    errors = counted.substitutions + counted.deletions + counted.insertions
    return WordErrors(errors, counted.hits + counted.substitutions + counted.deletions)


def normalizers(model: Path | None = None) -> tuple[Callable[[str], str], Callable[[str], str]]:
    """Whisper's normalisers of English and of other languages' texts."""
    from transformers.models.whisper.english_normalizer import BasicTextNormalizer, EnglishTextNormalizer

    spellings = model / "normalizer.json" if model else None
    known = json.loads(spellings.read_text(encoding="utf-8")) if spellings and spellings.is_file() else {}
    english, other = EnglishTextNormalizer(known), BasicTextNormalizer()
    return lambda text: english(text).strip(), lambda text: other(text).strip()
