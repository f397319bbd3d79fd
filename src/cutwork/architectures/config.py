"""Reads numbers and names out of a Hugging Face config, checking each: a config is input like any other."""

from collections.abc import Mapping
from typing import Any

from cutwork.errors import CutworkError

MAX_WIDTH = 65536  # columns the int8 kernels accumulate without overflow
ACTIVATIONS = {  # Hugging Face's names → the engine's
    "silu": "silu",
    "swish": "silu",
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_python_tanh": "gelu_tanh",
    "gelu_python": "gelu",
    "relu": "relu",
}


def integer(config: Mapping[str, Any], key: str, *, maximum: int, default: int | None = None, minimum: int = 1) -> int:
    """config[key] as an integer in [minimum, maximum]; `default` replaces a missing or null entry."""
    value = config.get(key)
    value = default if value is None else value
    if isinstance(value, bool) or not isinstance(value, int) or not minimum <= value <= maximum:
        raise CutworkError(f"config.json: {key} must be an integer from {minimum} to {maximum}, not {value!r}")
    return value


def number(config: Mapping[str, Any], key: str, default: float | None = None, *, minimum: float = 0.0) -> float:
    """config[key] as a finite number ≥ minimum; `default` replaces a missing or null entry."""
    value = config.get(key)
    value = default if value is None else value
    if isinstance(value, bool) or not isinstance(value, int | float) or not minimum <= value < float("inf"):
        raise CutworkError(f"config.json: {key} must be a number of at least {minimum:g}, not {value!r}")
    return float(value)


def flag(config: Mapping[str, Any], key: str, default: bool = False) -> bool:
    """config[key] as a boolean; `default` replaces a missing or null entry."""
    value = config.get(key)
    value = default if value is None else value
    if not isinstance(value, bool):
        raise CutworkError(f"config.json: {key} must be true or false, not {value!r}")
    return value


def activation(config: Mapping[str, Any], default: str = "silu") -> str:
    """The engine's name of config["hidden_act"]."""
    name = str(config.get("hidden_act", default))
    if name not in ACTIVATIONS:
        raise CutworkError(
            f"this engine does not know the activation {name!r}; it runs {', '.join(sorted(ACTIVATIONS))}"
        )
    return ACTIVATIONS[name]
