"""Pairs of sentences in two languages, and how near a translation comes to its reference: BLEU and chrF."""

import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from cutwork.errors import CutworkError
from cutwork.extras import install
from cutwork.tasks.table import table
from cutwork.tasks.task import Sample, Task

# What cuts texts into words for BLEU, by their script; None: sacreBLEU has nothing for it that is not downloaded.
_TOKENIZERS = {
    **{"CJK": "zh", "HIRAGANA": "ja-mecab", "HANGUL": "ko-mecab"},
    **dict.fromkeys(("THAI", "LAO", "MYANMAR", "KHMER", "TIBETAN")),
}


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
    """Corpus scores from 0 to 100 by sacreBLEU: `chrf` (chrF2) and BLEU, of which case matters.

    BLEU is `bleu`, of 13a tokens, or in languages that these do not cut into words, told by the script of the
    references, `bleu_zh`, `bleu_ja` and `bleu_ko` after sacreBLEU's tokenisers; Japanese and Korean only where MeCab is
    installed (`sacrebleu[ja]`, `sacrebleu[ko]`), Thai, Lao, Burmese, Khmer and Tibetan never. Raises CutworkError if
    sacrebleu is not installed.
    """
    try:
        from sacrebleu.metrics import BLEU, CHRF
    except ImportError:
        raise CutworkError(f"BLEU and chrF need sacrebleu; install it with: {install('eval')}") from None
    answers, expected = list(replies), [list(references)]
    tokenizer = _TOKENIZERS.get(_script(references), "13a")
    metrics: dict[str, Any] = {"chrf": CHRF()}
    try:
        if tokenizer:
            name = "bleu" if tokenizer == "13a" else f"bleu_{tokenizer[:2]}"
            metrics = {name: BLEU(tokenize=tokenizer), **metrics}
    except RuntimeError:  # MeCab is missing
        pass
    return {name: metric.corpus_score(answers, expected).score for name, metric in metrics.items()}


def _script(texts: Sequence[str]) -> str:
    """The script that most letters of some texts are of, as Unicode calls it; HIRAGANA for Japanese in all of its."""
    letters: Counter[str] = Counter()
    for character, times in Counter("".join(texts)).items():
        if character.isalpha():
            letters[unicodedata.name(character, "").replace("-", " ").split(" ")[0]] += times
    kana = letters["HIRAGANA"] + letters.pop("KATAKANA", 0)
    letters["HIRAGANA"] = kana + letters["CJK"] if 10 * kana > letters["CJK"] else 0
    return max(letters, key=letters.__getitem__) if letters.total() else ""
