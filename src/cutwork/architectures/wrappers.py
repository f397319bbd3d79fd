"""Models that also see, whose language model does not run as it would alone."""

from collections.abc import Mapping
from typing import Any

from cutwork.errors import CutworkError

_WRAPPER = "wrapper_model_type"  # in the config of a language model that was taken out of another: what that was
# What lets all tokens before the answer attend to each other, though the language model's config does not say so.
_BOTH_WAYS = ("paligemma",)


def check_wrapper(config: Mapping[str, Any]) -> None:
    """Raise CutworkError for a language model that this engine would run otherwise than it runs inside of its model."""
    if config.get(_WRAPPER) in _BOTH_WAYS:
        raise CutworkError(
            f"this engine does not run the language model of a {config[_WRAPPER]!r}, which sees prompts both ways"
        )
