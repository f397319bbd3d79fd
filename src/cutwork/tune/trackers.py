"""Where losses are reported to beside the log: transformers' integrations, by name."""

from collections.abc import Sequence

from transformers.integrations import get_available_reporting_integrations
from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK

from cutwork.errors import CutworkError


def trackers(names: Sequence[str]) -> list[str]:
    """The names as transformers takes them: none given is tensorboard if it is installed, "none" no tracker.

    Raises CutworkError for a name that transformers does not know or a package that is not there.
    """
    available = get_available_reporting_integrations()
    if not names:
        return [name for name in available if name == "tensorboard"]
    if list(names) == ["none"]:
        return []
    for name in names:
        if name not in INTEGRATION_TO_CALLBACK:
            raise CutworkError(f"unknown tracker '{name}'; known: {', '.join(sorted(INTEGRATION_TO_CALLBACK))}, none")
        if name not in available:
            raise CutworkError(f"the tracker {name} is not installed; install it with: pip install {name}")
    return list(names)
