"""`--draft auto`: the user's own model, quantised without training, guesses for itself.

The model decides what is said (`engine/decoding/speculative.py`), so all the draft costs when it is wrong is time. It
is calibrated with what the model writes itself: for a chat model questions after the beginning of a user's message
(Magpie, Xu et al., arXiv 2406.08464) with its answers, else texts after a random token (LLM-QAT, Liu et al., arXiv
2305.17888). Made once, in minutes, and kept in the user's cache by the model's hash.
"""

import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from cutwork.engine.model import Model
from cutwork.engine.tokenizer import load_tokenizer
from cutwork.errors import CutworkError
from cutwork.measure.context import room_for_answers
from cutwork.pack.pack import pack
from cutwork.pack.restore import restore
from cutwork.prune.prune import prune
from cutwork.quantize.quantize import quantize
from cutwork.recipe import PackSettings, PruneSettings, QuantizeSettings
from cutwork.store.cache import cache_directory
from cutwork.store.directory import kind_of, read_config
from cutwork.store.fingerprint import digest, fingerprint
from cutwork.store.lock import only_process
from cutwork.store.output import lock_of
from cutwork.store.resolve import resolve
from cutwork.tasks.task import Sample

QUANTIZE = QuantizeSettings(scheme="w4a16", calibration_samples=64)
PACK = PackSettings(dtype="bf16", head="i8")
TEXTS = 64
_TOKENS = 192  # of a text, or of an answer
_QUESTION = 64  # tokens of a question at most
_BETWEEN = 256  # tokens at most that a template puts between
_LONGEST = 1 << 14  # tokens of a text with what its template puts before it, at most
_MARK = "\ue000"  # a character for private use


def draft_of(model: str | Path, *, threads: int = 0, console: Console | None = None) -> Path:
    """The packed draft of a model of any kind that a plain checkpoint can be restored from.

    Raises CutworkError if none can be made of it.
    """
    directory, console = resolve(model), console or Console(stderr=True)
    if kind_of(directory) == "quantized" or "quantization_config" in read_config(directory):
        raise CutworkError(
            f"no draft can be made of {directory}, which is quantised already; give the plain checkpoint that it was "
            "made from, or leave out the draft"
        )
    settings = [*(each.model_dump(mode="json") for each in (QUANTIZE, PACK)), TEXTS, _TOKENS, _QUESTION]
    output = cache_directory() / "drafts" / digest([fingerprint(directory), settings], digits=24)
    if output.is_dir():
        return output
    refusal = f"another process is making the draft of {directory}; wait for it"
    output.parent.mkdir(parents=True, exist_ok=True)
    with only_process(lock_of(output), refusal):
        for left in output.parent.glob(f"{_scratch(output)}*"):  # by a process that was killed
            shutil.rmtree(left, ignore_errors=True)
        if not output.is_dir():
            console.print(f"making a draft of {directory} once, without training; this takes minutes", highlight=False)
            make_draft(directory, output, own_text(directory, TEXTS, threads=threads, console=console), console=console)
    return output


def make_draft(
    directory: Path,
    output: Path,
    samples: Sequence[Sample],
    *,
    settings: PruneSettings | None = None,
    console: Console,
) -> None:
    """Write the draft of the model in a directory, calibrated with samples of its text, to `output`.

    It is not pruned unless `settings` say so: without training, zeros cost a draft more guesses than they save time.
    Raises CutworkError if none can be made of it.
    """
    output.parent.mkdir(parents=True, exist_ok=True)
    given: dict[str, Any] = {"max_length": _LONGEST, "long": "cut", "console": console}
    with tempfile.TemporaryDirectory(prefix=_scratch(output), dir=output.parent) as work:
        try:
            dense, pruned, quantized = directory, Path(work) / "pruned", Path(work) / "quantized"
            if kind_of(directory) == "packed":
                dense = Path(work) / "dense"
                restore(directory, dense)
            if settings:
                prune(dense, pruned, settings, samples, **given)
            quantize(pruned if settings else dense, quantized, QUANTIZE, samples, **given)
        except CutworkError as error:
            raise CutworkError(f"no draft can be made of {directory}: {error}") from None
        pack(quantized, output, PACK.dtype, head=PACK.head)


def _scratch(output: Path) -> str:
    return f".{output.name}-"


def own_text(directory: Path, count: int, *, threads: int = 0, console: Console) -> list[Sample]:
    """What a decoder-only model writes: questions and answers if it is one that chats, else plain texts.

    Up to so many: a question asked twice or not answered does not count.
    """
    config = read_config(directory)
    if load_tokenizer(directory, config) is None:
        raise CutworkError(f"{directory} has no tokenizer, so no draft is made of it; leave it out")
    # What a template puts before every question may be long.
    context = room_for_answers(directory, [Sample("", "")], 2 * (_QUESTION + _TOKENS) + _BETWEEN)
    with Model.load(directory, threads=threads, max_batch=16, max_context=context) as model:
        if model.encoder or model.tokenizer is None:
            raise CutworkError(f"{directory} has an encoder, so no draft is made of it; leave it out")
        with console.status("the model writes text of its own"):
            written = _conversations(model, count) if model.tokenizer.chat_template else []
            return written or _plain(model, count)


def _conversations(model: Model, count: int) -> list[Sample]:
    """Questions that the model asks where a user's message begins, and its answers; none if it asks none."""
    begin, mark, _ = model.render_chat([{"role": "user", "content": _MARK}]).partition(_MARK)
    if not begin or not mark:
        return []
    opening = model.encode(begin, special=False)
    first = model.generate(opening, temperature=1.0, seed=0, max_new_tokens=_QUESTION, num_return_sequences=count)
    asked = [each.text.strip() for each in (first, *first.alternatives)]
    questions = list(dict.fromkeys(filter(None, asked)))
    if not questions:
        return []
    chats = [model.render_chat([{"role": "user", "content": question}]) for question in questions]
    prompts = [model.encode(chat, special=False) for chat in chats]
    answers = model.generate(prompts, temperature=0.7, seed=0, max_new_tokens=_TOKENS)
    return [Sample(q, a.text) for q, a in zip(questions, answers, strict=True) if a.text.strip()]


def _plain(model: Model, count: int) -> list[Sample]:
    ids = np.random.default_rng(0).integers(0, len(model.tokenizer), count)
    written = model.generate([[int(token)] for token in ids], temperature=1.0, seed=0, max_new_tokens=_TOKENS)
    return [Sample("", each.text) for each in written if each.text.strip()]
