"""How long a model's sequences, or an encoder's inputs, may be, by its Hugging Face config."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from cutwork.errors import CutworkError


@dataclass(frozen=True)
class Lengths:
    """Tokens of a sequence, or of an encoder's input: what a model was made for, and what it can take if asked to."""

    usual: int
    most: int


LengthsOf = Callable[[Mapping[str, Any]], Lengths]


def absolute(key: str, default: int = 2048) -> LengthsOf:
    """Of a model with a position for each token, so many as config[key] says, or `default` if it says nothing; more if
    asked for where its RoPE is stretched by YaRN, which configs do not always count in.

    What is returned raises CutworkError for a config that says nonsense.
    """

    def lengths(config: Mapping[str, Any]) -> Lengths:
        longest = config.get(key, default)
        if isinstance(longest, bool) or not isinstance(longest, int) or not 2 <= longest <= 1 << 24:
            raise CutworkError(f"config.json: {key} must be an integer from 2, not {longest!r}")
        return Lengths(longest, max(longest, _stretched(config, longest)))

    return lengths


def _stretched(config: Mapping[str, Any], longest: int) -> int:
    """As far as YaRN stretches RoPE; 0 where it does not, or what is said of it cannot be (parse_rope says so)."""
    settings = config.get("rope_parameters") or config.get("rope_scaling")
    if not isinstance(settings, dict) or "yarn" not in (settings.get("rope_type"), settings.get("type")):
        return 0
    original, factor = settings.get("original_max_position_embeddings") or longest, settings.get("factor")
    if not isinstance(original, int) or not isinstance(factor, int | float) or not 1 <= original * factor <= 1 << 24:
        return 0
    return int(original * factor)


def relative(key: str) -> LengthsOf:
    """Of a model that knows only distances; config[key] is what it was trained with (512 if it says nothing)."""

    def lengths(config: Mapping[str, Any]) -> Lengths:
        usual = config.get(key, 512)
        return Lengths(usual if isinstance(usual, int) and 2 <= usual <= 1 << 14 else 512, 1 << 14)

    return lengths
