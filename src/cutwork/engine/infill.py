"""Filling in the middle: the tokens that families were trained with, and the prompt made of them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

ENDS = ("<|fim_pad|>", "<fim_pad>", "<|endoftext|>", "<|end_of_text|>", "<|cursor|>", "<EOT>")


@dataclass(frozen=True)
class InfillFormat:
    """Marks around what comes before and after the gap, each one token of the vocabulary; the answer follows the last.

    before, after, gap: marks of the prefix, of the suffix, and of the gap, "" if there is none. suffix_first: the order
    of the two. files: marks of a repository and of each of its files, if the model knows them. ends: of a model, tokens
    with which the gap is filled, as it goes on with something else.
    """

    before: str
    after: str
    gap: str
    suffix_first: bool = False
    files: tuple[str, str] | None = None
    ends: tuple[int, ...] = ()

    @property
    def marks(self) -> list[str]:
        """All its tokens."""
        return [mark for mark in (self.before, self.after, self.gap, *(self.files or ())) if mark]

    def prompt(self, prefix: str, suffix: str, files: Sequence[tuple[str, str]] = ()) -> str:
        """The prompt after which the model writes what belongs between; files: (name, text) of others to know of."""
        repository, file = self.files or ("", "")
        others = "".join(f"{file}{name}\n{text}\n" for name, text in files)
        start = f"{repository}repository\n{others}{file}file\n" if files and self.files else others
        parts = [f"{self.before}{prefix}", f"{self.after}{suffix}"]
        return start + "".join(reversed(parts) if self.suffix_first else parts) + self.gap


FORMATS = [
    InfillFormat(  # Qwen2.5-Coder, Granite 4, CodeGemma
        "<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>", files=("<|repo_name|>", "<|file_sep|>")
    ),
    InfillFormat("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"),
    InfillFormat("<fim_prefix>", "<fim_suffix>", "<fim_middle>", files=("<repo_name>", "<file_sep>")),  # StarCoder2
    InfillFormat("<fim_prefix>", "<fim_suffix>", "<fim_middle>"),  # StarCoder, Granite Code, SmolLM
    InfillFormat("<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>"),  # DeepSeek-Coder
    InfillFormat("[PREFIX]", "[SUFFIX]", "", suffix_first=True),  # Codestral
    InfillFormat("<[fim-prefix]>", "<[fim-suffix]>", "<[fim-middle]>", suffix_first=True),  # Seed-Coder
]


def infill_format(tokenizer: Any) -> InfillFormat | None:
    """The first format whose marks a tokenizer all has, with its ends; None if the model cannot fill in the middle.

    It takes as long as reading the whole vocabulary.
    """
    vocabulary = tokenizer.get_vocab() if tokenizer is not None else {}
    for known in FORMATS:
        if all(mark in vocabulary for mark in known.marks):
            ends = (int(vocabulary[mark]) for mark in (*known.marks, *ENDS) if mark in vocabulary)
            return replace(known, ends=tuple(ends))
    return None
