"""The options with which commands load a model, as one thing: the same names, help and defaults everywhere."""

import functools
import inspect
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from cutwork.errors import CutworkError

if TYPE_CHECKING:
    from cutwork.engine.load_options import LoadOptions
    from cutwork.engine.model import Model

AUTO = "auto"  # in place of a draft model: one made of the model itself

ModelArgument = Annotated[
    str,
    typer.Argument(
        metavar="MODEL", help="A checkpoint, quantised or packed model directory, or a Hub name (hf:OWNER/NAME)."
    ),
]

AdapterOption = Annotated[
    str | None, typer.Option("--adapter", metavar="DIR", help="A LoRA adapter (PEFT's files) that answers instead.")
]
AdaptersOption = Annotated[
    list[str] | None,
    typer.Option(
        "--adapter",
        metavar="NAME=DIR",
        help="A LoRA adapter of the one model (PEFT's files), as a model NAME; may be repeated.",
    ),
]


def with_adapter(loading: "LoadOptions", path: str | None) -> "LoadOptions":
    """The options for a model with the adapter in a directory, if there is one."""
    return {**loading, "adapters": {"adapter": path}, "adapter": "adapter"} if path else loading


def check_writes_text(model: "Model") -> None:
    """Raise CutworkError for a model that is not for text, or writes none."""
    model.check_writes()
    if model.architecture.kind == "speech":
        raise CutworkError("this model hears speech; use cutwork transcribe")


def tell_layouts(name: str, model: "Model", *, slots: bool = False) -> None:
    """Say on standard error how many weights were written out dense when they were loaded, or put in slots, and why."""
    from cutwork.engine.weights.arrange import told

    for layout, count in Counter(model.laid_out.values()).items():
        if slots or layout == "dense":
            weights = "1 weight is" if count == 1 else f"{count} weights are"
            typer.echo(f"{name}: {weights} {told(layout, model.isa, model.max_batch)}", err=True)


def named_model(given: str) -> tuple[str, str]:
    """(name to answer under, model) of MODEL or NAME=MODEL: the directory's or file's name unless another is given."""
    name, _, model = given.partition("=")
    if name and model and not Path(given).exists():
        return name, model
    path = Path(given)
    return (path.resolve().name if path.is_dir() else path.stem if path.is_file() else given), given


def named_adapters(given: Sequence[str] | None) -> dict[str, str]:
    """Directories of adapters by name. Raises CutworkError for a name that is missing or given twice."""
    named: dict[str, str] = {}
    for each in given or ():
        name, _, path = each.partition("=")
        if not name or not path or name in named:
            raise CutworkError(f"--adapter takes NAME=DIR, each name once, not '{each}'")
        named[name] = path
    return named


def _options(
    threads: Annotated[int, typer.Option("--threads", "-t", min=0, help="0: every CPU this process may use.")] = 0,
    weights: Annotated[
        Literal["auto", "i8", "i4"],
        typer.Option(
            help="Round a checkpoint's floats to the nearest while it is loaded: i8, or i4, which changes more. "
            "auto: as they are stored."
        ),
    ] = "auto",
    reorder_weights: Annotated[
        bool | None,
        typer.Option(
            "--reorder-weights/--no-reorder-weights",
            help="Faster prompts and batches from sparse int8, for 2.5 more bytes of memory a nonzero. Default: where "
            "much comes at once (serve, batch, eval, embed, translate, transcribe), if a quarter of the free memory "
            "suffices.",
        ),
    ] = None,
    huge_pages: Annotated[
        bool, typer.Option(help="Copy the weights to huge pages; if not, processes share the mapped file's.")
    ] = True,
    context: Annotated[
        int | None, typer.Option("--context", min=1, help="Longest context in tokens; default: the model's own.")
    ] = None,
    cache_dtype: Annotated[
        Literal["auto", "f32", "bf16", "i8"],
        typer.Option(help="Numbers in the KV cache; i8 halves bf16's memory. auto: f32 for float32 models, else bf16."),
    ] = "auto",
    cache_mb: Annotated[
        int | None, typer.Option("--cache-mb", min=1, help="KV cache; default: a quarter of the free memory.")
    ] = None,
    draft: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL",
            help="A quicker model that guesses; auto: this one in int4, made once in minutes; ngram: no model. "
            "The answers stay the first one's own.",
        ),
    ] = None,
    draft_tokens: Annotated[int, typer.Option(min=1, max=32, help="Tokens that are guessed at a time, at most.")] = 4,
) -> "LoadOptions":
    return {
        "threads": threads,
        "weights": weights,
        "reorder_weights": reorder_weights,
        "huge_pages": huge_pages,
        "max_context": context,
        "cache_dtype": cache_dtype,
        "cache_bytes": None if cache_mb is None else cache_mb << 20,
        "draft": draft,
        "draft_tokens": draft_tokens,
    }


def loads_model(*without: str, batches: bool = False) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command, instead of its parameter `loading`, the options of `_options`, and it what they make.

    without: parameters of `_options` that mean nothing to the command. batches: many tokens come at once, so that it
    is for the loader to say whether weights are reordered.
    """
    shared = [p for p in _parameters(_options) if p.name not in without]

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        others = [p for p in _parameters(command) if p.name != "loading"]

        @functools.wraps(command)
        def parsed(**values: Any) -> None:
            loading = _options(**{p.name: values.pop(p.name) for p in shared})
            if loading["reorder_weights"] is None and not batches:
                loading["reorder_weights"] = False
            command(**values, loading=loading)

        parsed.__signature__ = inspect.Signature([*others, *shared])  # type: ignore[attr-defined]  # Typer reads it
        parsed.__annotations__ = {}
        return parsed

    return decorate


def with_draft(loading: "LoadOptions", model: str) -> "LoadOptions":
    """The options for a model, with the directory of its own draft where they say that it is to have one.

    For when the model is loaded, after all that may be refused: a draft takes minutes to make.
    """
    if loading.get("draft") != AUTO:
        return loading
    from cutwork.compress.draft import draft_of

    return {**loading, "draft": draft_of(model, threads=loading["threads"])}


def _parameters(function: Callable[..., Any]) -> list[inspect.Parameter]:
    signature = inspect.signature(function)
    return [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in signature.parameters.values()]
