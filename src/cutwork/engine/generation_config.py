"""What a model's generation_config.json, else its config, says of answers: first, last and forbidden tokens, how to
search and how to draw."""

import math
import reprlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from cutwork.architectures import kind_of
from cutwork.engine.decoding.options import GenerateOptions
from cutwork.engine.decoding.sampling import LEAST_PENALTY
from cutwork.errors import CutworkError
from cutwork.store.json_file import read_json

_SUPPRESSED = ("suppress_tokens", "begin_suppress_tokens")
_COUNTS = ("no_repeat_ngram_size", "min_new_tokens", "min_length")
_RULES = ("bad_words_ids", "sequence_bias", "forced_bos_token_id", "forced_eos_token_id", "renormalize_logits",
          "early_stopping", "do_sample")  # fmt: skip
_Ranges = Mapping[str, Callable[[float], bool]]
_DRAWN: _Ranges = {
    "temperature": lambda x: 0 <= x <= 2,
    "top_k": lambda x: x == int(x) and 0 <= x < 1 << 24,
    "top_p": lambda x: 0 < x <= 1,
    "min_p": lambda x: 0 <= x <= 1,
}
_NUMBERS: _Ranges = {"repetition_penalty": lambda x: LEAST_PENALTY <= x <= 10, "length_penalty": lambda x: abs(x) <= 5}
_BEAMS: _Ranges = {"num_beams": lambda x: x == int(x) and 1 <= x < 1 << 10}
# What this engine does not do, with the values that change nothing; first what matters to draws alone.
_DRAWN_ELSEWHERE = {"typical_p": (1,), "epsilon_cutoff": (0,), "eta_cutoff": (0,), "top_h": ()}
_ELSEWHERE: dict[str, tuple[object, ...]] = {
    "num_beam_groups": (1,),
    "diversity_penalty": (0,),
    "penalty_alpha": (0,),
    "num_return_sequences": (1,),
    "encoder_repetition_penalty": (1,),
    "encoder_no_repeat_ngram_size": (0,),
    "guidance_scale": (1,),
    "exponential_decay_length_penalty": (),
    "stop_strings": ([],),
    "watermarking_config": ({},),
    "force_words_ids": ([],),
    "constraints": ([],),
    "dola_layers": (),
    "token_healing": (False,),
    "max_time": (),
}
_OF_ANSWERS = frozenset(
    name
    for names in (_SUPPRESSED, _COUNTS, _RULES, _DRAWN, _NUMBERS, _BEAMS, _DRAWN_ELSEWHERE, _ELSEWHERE)
    for name in names
)


def read_generation_config(path: Path) -> dict[str, Any]:
    """What a model's generation_config.json says, nothing without one. Raises CutworkError if it is damaged."""
    file = path / "generation_config.json"
    return read_json(file) if file.is_file() else {}


def generation_settings(path: Path, config: Mapping[str, Any]) -> dict[str, Any]:
    """The config of the model in `path`, with what its generation_config.json, if there is one, says instead.

    Then nothing holds that the config alone says of how answers are searched, drawn or ruled, as in transformers.
    Raises CutworkError if the file is damaged: what ends an answer may stand there alone.
    """
    said = read_generation_config(path)
    return {name: value for name, value in config.items() if not (said and name in _OF_ANSWERS)} | said


def stop_tokens(settings: Mapping[str, Any], tokenizer: Any, vocabulary: int) -> frozenset[int]:
    """Ids that end a text: those of the settings, and the tokenizer's.

    Those beyond the `vocabulary` are left out: no model writes them.
    """
    own = getattr(tokenizer, "eos_token_id", None)
    return frozenset([*_tokens(settings.get("eos_token_id"), vocabulary), *_tokens(own, vocabulary)])


def start_tokens(settings: Mapping[str, Any], keys: Sequence[str], vocabulary: int) -> list[int]:
    """What a decoder that answers an encoder's input begins with: what the first of the `keys` that the model has says.

    Raises CutworkError if it has none, or one beyond the `vocabulary`.
    """
    for key in keys:
        start = settings.get(key)
        if isinstance(start, int) and not isinstance(start, bool):
            if not _is_token(start, vocabulary):
                raise CutworkError(f"the model's {key} {start} is not in its vocabulary of {vocabulary} tokens")
            return [start]
    raise CutworkError(f"neither the model's config nor its generation_config.json names a {keys[0]}")


def usual_rules(settings: Mapping[str, Any], vocabulary: int, answers: bool) -> GenerateOptions:
    """What is so of every text, drawn or not, unless a request says otherwise.

    That is tokens never written, as Marian's padding, or not as the first, sequences of them that are likelier or never
    completed, runs not written twice and what is repeated less, how long an answer is at least, and its last token, as
    BART's; of a model that `answers` an encoder's input also the first, as mBART's. And how a beam search, if one is
    asked for, judges its hypotheses. What Whisper does not write, and how it is searched, transcription sees to.
    """
    rules: GenerateOptions = {}
    ends = _tokens(settings.get("eos_token_id"), vocabulary)  # which transformers does not take for bad words
    alone = [[token] for token in ends]
    banned = [words for words in _sequences(settings.get("bad_words_ids"), vocabulary) if words not in alone]
    never = [words[0] for words in banned if len(words) == 1]
    first: list[int] = []
    if kind_of(settings) != "speech":
        more, first = (_tokens(settings.get(name), vocabulary) for name in _SUPPRESSED)
        never += more
        counts = {name: settings.get(name) for name in _COUNTS}
        found = {name: n for name, n in counts.items() if isinstance(n, int) and not isinstance(n, bool) and n >= 0}
        rules |= cast(GenerateOptions, found | _within(_NUMBERS, settings))
        if settings.get("early_stopping") in (True, "never"):
            rules["early_stopping"] = settings["early_stopping"]
    bias = _biases(settings.get("sequence_bias"), vocabulary)
    bias += [(words, -math.inf) for words in banned if len(words) > 1]
    if bias:
        rules["sequence_bias"] = bias
    if never:
        rules["suppress_tokens"] = never
    if first:
        rules["begin_suppress_tokens"] = first
    if answers and _is_token(settings.get("forced_bos_token_id"), vocabulary):
        rules["forced_bos_token_id"] = settings["forced_bos_token_id"]
    if last := _tokens(settings.get("forced_eos_token_id"), vocabulary):
        rules["forced_eos_token_id"] = min(last)  # the one that transformers takes of several
    if settings.get("renormalize_logits") is True:
        rules["renormalize_logits"] = True
    return rules


def usual_sampling(settings: Mapping[str, Any]) -> dict[str, float]:
    """How tokens are drawn unless a request says otherwise, by the names of `Sampling`: what of it a model says that
    can be. Nothing if it says that nothing is drawn."""
    return {} if settings.get("do_sample") is False else _within(_DRAWN, settings)


def usual_beams(settings: Mapping[str, Any], otherwise: int, most: int) -> int:
    """How many hypotheses a translation keeps unless a request says so: `otherwise` where the model does not say, and
    no more than there is room for."""
    return min(int(_within(_BEAMS, settings).get("num_beams", otherwise)), most)


def unheeded(settings: Mapping[str, Any], answers: bool) -> list[str]:
    """Which settings would change answers in transformers but are not obeyed, in the order of their names, and which
    are nothing that could be."""
    if kind_of(settings) == "speech":
        return []
    drawn = settings.get("do_sample") is not False
    elsewhere = {**_ELSEWHERE, **(_DRAWN_ELSEWHERE if drawn else {}), **({} if answers else {"num_beams": (1,)})}
    ranges = {**_NUMBERS, **(_DRAWN if drawn else {}), **(_BEAMS if answers else {})}
    said = {name for name, neutral in elsewhere.items() if settings.get(name) not in (None, *neutral)}
    odd = {name for name in ranges if settings.get(name) is not None} - _within(ranges, settings).keys()
    ends = settings.get("eos_token_id")
    if not all(isinstance(end, int) for end in (ends if isinstance(ends, list) else [0 if ends is None else ends])):
        odd.add("eos_token_id")
    return sorted(said | {f"{name} {reprlib.repr(settings[name])}" for name in odd})


def _within(ranges: _Ranges, settings: Mapping[str, Any]) -> dict[str, float]:
    """Those of the settings that are numbers in these ranges."""
    said = {name: settings.get(name) for name in ranges}
    numbers = {name: x for name, x in said.items() if isinstance(x, int | float) and not isinstance(x, bool)}
    found = {name: x for name, x in numbers.items() if math.isfinite(x) and ranges[name](x)}
    return {name: int(x) if name == "top_k" else x for name, x in found.items()}


def _sequences(value: Any, vocabulary: int) -> list[list[int]]:
    """Those entries of a setting that are sequences of tokens."""
    lists = [each for each in value if isinstance(each, list)] if isinstance(value, list) else []
    return [each for each in lists if each and len(_tokens(each, vocabulary)) == len(each)]


def _biases(value: Any, vocabulary: int) -> list[tuple[list[int], float]]:
    """The sequences of tokens of a setting, each with what is added to the score of its last."""
    pairs = [each for each in value if isinstance(each, list) and len(each) == 2] if isinstance(value, list) else []
    numbers = [(words, x) for words, x in pairs if isinstance(x, int | float) and x < math.inf]
    return [(words, x) for words, x in numbers if _sequences([words], vocabulary)]


def _tokens(value: Any, vocabulary: int) -> list[int]:
    """The tokens that a setting names, one or a list of them."""
    return [token for token in (value if isinstance(value, list) else [value]) if _is_token(token, vocabulary)]


def _is_token(value: Any, vocabulary: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < vocabulary
