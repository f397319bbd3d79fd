"""The context that a measurement needs, so that its KV cache is no larger than it must be, and the room for inputs."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cutwork.architectures import architecture_of, kind_of
from cutwork.engine.tokenizer import load_tokenizer
from cutwork.errors import CutworkError
from cutwork.recipe import CompareSettings
from cutwork.store.directory import read_config
from cutwork.tasks.rendering import render_prompt
from cutwork.tasks.task import Sample


def room(config: Mapping[str, Any], tokens: int) -> int:
    """So many tokens, or the most that a model of this configuration was made for if these are fewer."""
    return min(tokens, architecture_of(config).context(config).most)


def decoded(config: Mapping[str, Any], prompt_tokens: int, decode_tokens: int) -> int:
    """Tokens of a decoder's sequence when so many are timed after a prompt, which is not among them if an encoder reads
    it."""
    return decode_tokens + 1 + (0 if architecture_of(config).inputs else prompt_tokens)


def room_for_answers(directory: Path, samples: Sequence[Sample], max_new_tokens: int) -> int:
    """Tokens of the longest prompt of a decoder-only model's samples with its answer, within what it was made for."""
    config = read_config(directory)
    tokenizer = load_tokenizer(directory, config)
    prompts = [render_prompt(tokenizer, sample) for sample in samples]
    longest = max((len(ids) for ids in tokenizer(prompts, add_special_tokens=False)["input_ids"]), default=0)
    return room(config, longest + 1 + max_new_tokens)  # one more for a token that the engine puts first


def room_for_inputs(directory: Path, samples: Sequence[Sample]) -> int | None:
    """Tokens of the longest question of an encoder, within what it can take, if it was made for fewer; else None."""
    config = read_config(directory)
    lengths_of = architecture_of(config).inputs
    tokenizer = load_tokenizer(directory, config)
    if lengths_of is None or tokenizer is None or any(sample.audio is not None for sample in samples):
        return None
    lengths = lengths_of(config)
    questions = [sample.prompt for sample in samples]
    longest = max((len(ids) for ids in tokenizer(questions)["input_ids"]), default=0)
    return min(longest, lengths.most) if longest > lengths.usual else None


def check_comparable(config: Mapping[str, Any], settings: CompareSettings) -> None:
    """Raise CutworkError for what a model of this configuration cannot be asked: anything if it is an encoder, more
    tokens than it was made for, or lm-eval's tasks of one with an encoder."""
    if kind_of(config) == "embedding":
        raise CutworkError("compare: this model writes no text that could be compared; end with --until pack")
    tokens = decoded(config, settings.prompt_tokens, settings.decode_tokens)
    if tokens > (most := room(config, tokens)):
        raise CutworkError(
            f"compare: {tokens} tokens do not fit the context of {most}; set prompt_tokens or decode_tokens lower"
        )
    if settings.lm_eval and kind_of(config) != "text":
        raise CutworkError("compare.lm_eval: lm-eval's tasks are for decoder-only models; leave it out")
