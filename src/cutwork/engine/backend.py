"""Which executor runs the plan: the native one, or the reference in NumPy."""

import os
from typing import Any, Literal

from cutwork.errors import CutworkError

Backend = Literal["auto", "native", "reference"]


def choose(backend: Backend) -> Any:
    """The module that offers `Weight`, `Executor`, `isa()` and `default_threads()`.

    "auto" is native, unless the environment variable CUTWORK_REFERENCE is set to something else than 0. Raises
    CutworkError if the native module was not built for this installation.
    """
    if backend not in ("auto", "native", "reference"):
        raise CutworkError(f"backend must be auto, native or reference, not {backend!r}")
    if backend == "reference" or (backend == "auto" and os.environ.get("CUTWORK_REFERENCE", "0") not in ("", "0")):
        from cutwork.engine import reference

        return reference
    try:
        from cutwork import _native
    except ImportError as error:
        raise CutworkError(
            f"the native module cannot be loaded ({error}); reinstall cutwork, or run slowly with CUTWORK_REFERENCE=1"
        ) from None
    return _native
