"""Cutwork: sparse fine-tuning of language models, and a CPU engine that turns the zeros into speed.

`cutwork.Model` loads and runs a model without torch; everything else is reached through the `cutwork` command.
"""

import os
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["Model", "__version__"]

# Before anything imports transformers, which warns that torch is not there.
os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")

if TYPE_CHECKING:
    from cutwork.engine.model import Model


def __getattr__(name: str) -> Any:
    if name == "Model":
        from cutwork.engine.model import Model

        return Model
    raise AttributeError(f"module 'cutwork' has no attribute '{name}'")
