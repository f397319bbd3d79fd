"""Pairs of sentences in two languages, and how near a translation comes to its reference: BLEU and chrF."""

from collections.abc import Sequence
from dataclasses import replace

from cutwork.errors import CutworkError
from cutwork.extras import install
from cutwork.tasks.table import table
from cutwork.tasks.task import Sample, Task


def translation(
    train_samples: int,
    test_samples: int,
    *,
    test: str,
    train: str | None = None,
    source: str = "source",
    target: str = "target",
    prefix: str = "",
    source_language: str = "",
    target_language: str = "",
) -> Task:
    """The first pairs of two files of rows with two texts each, the columns `source` and `target`.

    `prefix` comes before every source, such as "translate English to German: " for T5. The languages are for models of
    many, by the names that their tokenizer has for them: eng_Latn, en_XX, en. Sources of the test are left out of
    `train`. Raises CutworkError for data that cannot be read that way.
    """
    if bool(source_language) != bool(target_language):
        raise CutworkError("translation: give both source_language and target_language, or neither")
    prompt = f"{prefix}{{{source}}}"
    task = table(train_samples, test_samples, test=test, train=train, prompt=prompt, answer=target)

    def told(samples: Sequence[Sample]) -> tuple[Sample, ...]:
        languages = (source_language, target_language) if source_language else ()
        return tuple(replace(sample, languages=languages) for sample in samples)

    return replace(task, train=told(task.train), test=told(task.test), metric="translation")


def translation_quality(replies: Sequence[str], references: Sequence[str]) -> dict[str, float]:
    """Corpus scores from 0 to 100 by sacreBLEU: `bleu` (13a tokens, case matters) and `chrf` (chrF2).

    Raises CutworkError if sacrebleu is not installed.
    """
    try:
        from sacrebleu.metrics import BLEU, CHRF
    except ImportError:
        raise CutworkError(f"BLEU and chrF need sacrebleu; install it with: {install('eval')}") from None
    answers, expected = list(replies), [list(references)]
    return {
        "bleu": BLEU().corpus_score(answers, expected).score,
        "chrf": CHRF().corpus_score(answers, expected).score,
    }
