"""How a model is loaded: the keywords of `Model.load`, `assemble` and `add_draft`, and their defaults."""

from collections.abc import Mapping
from pathlib import Path
from typing import Literal, TypedDict, get_args

from cutwork.engine.adapters import check_names, number_of
from cutwork.engine.backend import BackendName
from cutwork.engine.check_options import check_options
from cutwork.engine.weights.cache_size import CacheDType
from cutwork.errors import CutworkError
from cutwork.pack.rounding import Rounding

LOOKUP = "ngram"  # in place of a draft model


class LoadOptions(TypedDict, total=False):
    """Keywords of `Model.load`, which says what they mean."""

    threads: int
    weights: Rounding
    cache_dtype: Literal["auto"] | CacheDType
    max_context: int | None
    max_input: int | None
    max_batch: int
    cache_bytes: int | None
    backend: BackendName
    draft: str | Path | None
    draft_tokens: int
    reorder_weights: bool | None
    huge_pages: bool
    adapters: Mapping[str, str | Path]
    adapter: str | None


_DEFAULTS: LoadOptions = {
    "threads": 0,
    "weights": "auto",
    "cache_dtype": "auto",
    "max_context": None,
    "max_input": None,
    "max_batch": 16,
    "cache_bytes": None,
    "backend": "auto",
    "draft": None,
    "draft_tokens": 4,
    "reorder_weights": False,
    "huge_pages": True,
    "adapters": {},
    "adapter": None,
}


def result_key(given: LoadOptions) -> dict[str, object]:
    """Those of the options, as JSON, that answers depend on: by what else has them, kept answers may be told apart."""
    names = ("weights", "cache_dtype", "max_context", "max_input", "backend", "draft", "draft_tokens", "adapter")
    options: dict[str, object] = {**_DEFAULTS, **given}
    return {name: None if options[name] is None else str(options[name]) for name in names}


def with_defaults(given: LoadOptions) -> LoadOptions:
    """All options, those given and the others' defaults. Raises CutworkError for one unknown or out of range."""
    check_options(given, LoadOptions)
    options = _DEFAULTS | given
    threads, max_batch, cache_dtype = options["threads"], options["max_batch"], options["cache_dtype"]
    if not 0 <= threads <= 1024 or max_batch < 1:
        raise CutworkError(f"threads must be from 0 to 1024 and max_batch at least 1, not {threads} and {max_batch}")
    if cache_dtype not in ("auto", *get_args(CacheDType)):
        raise CutworkError(f"cache_dtype must be auto, f32, bf16 or i8, not {cache_dtype!r}")
    if options["weights"] not in get_args(Rounding):
        raise CutworkError(f"weights must be auto, i8 or i4, not {options['weights']!r}")
    if not 1 <= options["draft_tokens"] <= 32:
        raise CutworkError(f"draft_tokens must be from 1 to 32, not {options['draft_tokens']}")
    names = list(options["adapters"])
    check_names(names)
    number_of(names, options["adapter"])
    return options
