"""How a request is to be answered: the one list of its options, and the settings made of them."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, TypedDict

import numpy as np

from cutwork.engine.check_options import check_options
from cutwork.engine.decoding.beam import Beams
from cutwork.engine.decoding.sampling import Constraint, Sampling
from cutwork.errors import CutworkError


class GenerateOptions(TypedDict, total=False):
    """Keywords of `Model.generate` and `Session.add`, by whatever way they come: Python, a command or HTTP.

    Those from `temperature` on are the fields of `Sampling`, its `Rules` included, and of `Beams`, which hold their
    defaults and meaning.

    max_new_tokens: 128 by default. stop: strings (or one) that end the answer and are left out of it; keep_stop: not
    left out, False by default. ignore_eos: go on after an end-of-sequence token. stop_token_ids: other tokens that end
    it. skip_special_tokens: leave special tokens out of the text, True by default; hidden_tokens: leave these out
    instead.
    priority: of those that wait, lower ones are served first, 0 by default. client: whose request it is; those with the
    least running are served first. cache_salt: what has been computed of a prompt is shared only with requests that
    have the same salt, so that nobody learns from the time or the usage what others asked; "" by default.
    adapter: the name of that of the model's adapters which answers; None, the default, is the one that it was loaded to
    answer with, or the model alone.
    """

    max_new_tokens: int
    stop: str | Sequence[str]
    keep_stop: bool
    ignore_eos: bool
    stop_token_ids: Sequence[int]
    skip_special_tokens: bool
    hidden_tokens: frozenset[int] | None
    priority: int
    client: str
    cache_salt: str
    adapter: str | None
    temperature: float
    top_k: int
    top_p: float
    min_p: float
    repetition_penalty: float
    presence_penalty: float
    frequency_penalty: float
    logit_bias: Mapping[int, float]
    sequence_bias: Sequence[tuple[Sequence[int], float]]
    logits_processor: Callable[[np.ndarray, Sequence[int]], None] | None
    constraint: Constraint | None
    seed: int | None
    logprobs: int | None
    suppress_tokens: Sequence[int]
    begin_suppress_tokens: Sequence[int]
    forced_bos_token_id: int | None
    forced_eos_token_id: int | None
    forced_tokens: Mapping[int, int]
    no_repeat_ngram_size: int
    min_new_tokens: int
    min_length: int
    num_beams: int
    length_penalty: float
    early_stopping: bool | Literal["never"]
    num_return_sequences: int
    num_beam_groups: int
    diversity_penalty: float
    renormalize_logits: bool


def settings_of(options: GenerateOptions) -> tuple[Sampling, Beams | None]:
    """How to choose tokens, and how to search if it is a beam search.

    Raises CutworkError for an option unknown, out of range or without meaning to a beam search.
    """
    check_options(options, GenerateOptions)
    chosen = _only(options, Sampling)
    if "min_new_tokens" in chosen:
        chosen.pop("min_length", None)
    sampling, beams = Sampling(**chosen), Beams(**_only(options, Beams))
    if beams.num_beams == 1:
        return sampling, None
    _check_search(options)
    return sampling, beams


def each_answer(options: GenerateOptions) -> list[GenerateOptions]:
    """The options of each answer to a prompt: a beam search finds all of its own, draws differ in their seed."""
    count = options.get("num_return_sequences", 1)
    if count == 1:
        return [options]
    check_options(options, GenerateOptions)
    if options.get("num_beams", 1) > 1:
        return [options]
    if count < 1:
        raise CutworkError(f"num_return_sequences must be at least 1, not {count}")
    if not options.get("temperature"):
        raise CutworkError(
            "num_return_sequences needs a temperature above 0 or num_beams; greedy answers are all equal"
        )
    if options.get("constraint") is not None:
        raise CutworkError("a constraint follows one answer; leave out num_return_sequences")
    seed = options.get("seed")
    answers = []
    for number in range(count):
        difference: GenerateOptions = {"num_return_sequences": 1, "seed": None if seed is None else seed + number}
        answers.append(options | difference)
    return answers


def _only(options: GenerateOptions, kind: type) -> dict[str, Any]:
    """Those options that are fields of the dataclass `kind`."""
    return {key: value for key, value in options.items() if key in kind.__dataclass_fields__}  # type: ignore[attr-defined]


def _check_search(options: GenerateOptions) -> None:
    """Raise CutworkError for options that mean nothing to a beam search."""
    if options.get("temperature"):
        raise CutworkError("beam search does not sample; leave out temperature, or num_beams for draws")
    for name in ("stop", "logprobs", "constraint"):
        if options.get(name) not in (None, 0, (), []) or (name == "logprobs" and options.get(name) is not None):
            raise CutworkError(f"{name} cannot be combined with num_beams; leave one of them out")
