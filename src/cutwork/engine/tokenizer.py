"""The model's tokenizer, from transformers without torch."""

import json
import reprlib
import sys
from collections.abc import Collection, Iterable, Mapping, Sequence
from operator import index
from pathlib import Path
from textwrap import shorten
from typing import Any, SupportsIndex, TypeVar

from cutwork.errors import CutworkError, check_text

FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "tokenizer_config.json", "spiece.model")
Item = TypeVar("Item")
GENERIC = ("PreTrainedTokenizerFast", "TokenizersBackend")  # classes that tokenizer.json describes completely


def load_tokenizer(path: Path, config: Mapping[str, Any]) -> Any:
    """The transformers tokenizer of a model directory of any kind; None if the directory has no tokenizer files.

    Where tokenizer.json says everything it is read directly: the general way imports torch if that is installed, which
    takes seconds. The config is handed over to it, since a packed model has no config.json beside its tokenizer. Code
    that came with the model is never run. Raises CutworkError if the files cannot be read.
    """
    if not any((path / name).is_file() for name in FILES):
        return None
    try:
        if (path / "tokenizer.json").is_file() and _settings(path).get("tokenizer_class", GENERIC[0]) in GENERIC:
            from transformers import PreTrainedTokenizerFast

            tokenizer: Any = PreTrainedTokenizerFast.from_pretrained(str(path))
        else:
            from transformers import AutoConfig, AutoTokenizer

            settings = AutoConfig.for_model(**config)
            # Mistral's own format has no chat template; it is taken wherever mistral-common is installed.
            tokenizer = AutoTokenizer.from_pretrained(
                str(path), config=settings, trust_remote_code=False, mistral_format=False
            )
        tokenizer.model_max_length = sys.maxsize  # ours is the context; whatever stands in the file
        return tokenizer
    except BaseException as error:  # transformers and tokenizers raise many kinds
        panicked = type(error).__name__ == "PanicException"  # in Rust, which is no Exception
        if not (isinstance(error, Exception) or panicked):
            raise
        said = shorten(str(error), 300, placeholder=" …").rstrip(".")
        raise CutworkError(f"the tokenizer in {path} cannot be read: {said}; get its files again") from None


def encode(tokenizer: Any, text: str, *, special: bool = True) -> list[int]:
    """Token ids of a prompt, with the special tokens the model expects, but no second one to begin with.

    special: False for a rendered chat, whose template writes all that it wants.
    """
    if tokenizer is None:
        raise CutworkError("this model directory has no tokenizer; give token ids instead of text")
    if not isinstance(text, str):
        raise _no_prompt(text)
    if not text:
        raise CutworkError("the prompt is empty")
    check_text(text, "the prompt")
    ids = [int(token) for token in tokenizer.encode(text, add_special_tokens=special)]
    if special and len(ids) > 1 and ids[0] == ids[1] == tokenizer.bos_token_id:
        return ids[1:]
    return ids


def token_ids(prompt: Iterable[SupportsIndex]) -> list[int]:
    """Token ids, of whatever kind of integers. Raises CutworkError for anything else."""
    try:
        if not isinstance(prompt, str | bytes):
            return [index(token) for token in prompt]
    except TypeError:
        pass
    raise _no_prompt(prompt)


def a_list(texts: str | Sequence[Item]) -> Sequence[str | Item]:
    """A text alone as a list of one. Raises CutworkError for what is no list either."""
    if isinstance(texts, str):
        return [texts]
    if not isinstance(texts, Collection) or isinstance(texts, bytes):
        raise CutworkError(f"expected a text or a list, not {reprlib.repr(texts)}")
    return texts


def _no_prompt(given: object) -> CutworkError:
    return CutworkError(f"expected text or a list of token ids, not {reprlib.repr(given)}")


def longest_text(path: Path) -> int | None:
    """Tokens of a text at most, as the tokenizer of a model that reads only says; None if it names no limit."""
    length = _settings(path).get("model_max_length")
    return length if isinstance(length, int) and not isinstance(length, bool) and 2 <= length <= 1 << 24 else None


def _settings(path: Path) -> dict[str, Any]:
    try:
        settings = json.loads((path / "tokenizer_config.json").read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return settings if isinstance(settings, dict) else {}
