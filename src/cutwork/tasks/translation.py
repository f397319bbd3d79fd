"""Pairs of sentences in two languages, and how near a translation comes to its reference: BLEU and chrF."""

from collections.abc import Sequence
from dataclasses import replace

from cutwork.errors import CutworkError
from cutwork.tasks.table import table
from cutwork.tasks.task import Task


def translation(
    train_samples: int,
    test_samples: int,
    *,
    test: str,
    train: str | None = None,
    source: str = "source",
    target: str = "target",
    prefix: str = "",
) -> Task:
    """The first pairs of two files of rows with two texts each, the columns `source` and `target`.

    `prefix` comes before every source, such as "translate English to German: " for T5. Sources of the test are left
    out of `train`. Raises CutworkError for data that cannot be read that way.
    """
    prompt = f"{prefix}{{{source}}}"
    task = table(train_samples, test_samples, test=test, train=train, prompt=prompt, answer=target)
    return replace(task, metric="translation")


def translation_quality(replies: Sequence[str], references: Sequence[str]) -> dict[str, float]:
    """Corpus scores from 0 to 100 by sacreBLEU: `bleu` (13a tokens, case matters) and `chrf` (chrF2).

    Raises CutworkError if sacrebleu is not installed.
    """
    try:
        from sacrebleu.metrics import BLEU, CHRF
    except ImportError:
        raise CutworkError("BLEU and chrF need sacrebleu; install it with: pip install 'cutwork[eval]'") from None
    answers, expected = list(replies), [list(references)]
    return {
        "bleu": BLEU().corpus_score(answers, expected).score,
        "chrf": CHRF().corpus_score(answers, expected).score,
    }
