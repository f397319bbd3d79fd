"""`cutwork pack`: store a checkpoint for the engine, or restore it."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cutwork.cli.console import Listing, console, print_json
from cutwork.cli.options import Json, Overwrite
from cutwork.errors import CutworkError
from cutwork.progress import progress_bar
from cutwork.recipe import EmbeddingDType, FloatDType, HeadDType

if TYPE_CHECKING:
    from cutwork.pack.pack import PackSummary
    from cutwork.pack.pack import Progress as Report


def pack(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A checkpoint directory or Hub name; see --restore.")],
    output: Annotated[Path, typer.Argument(metavar="OUT", help="Directory to make.")],
    dtype: Annotated[FloatDType, typer.Option(help="Of unquantised matrices; auto: the checkpoint's.")] = "auto",
    weights: Annotated[
        HeadDType,
        typer.Option(
            help="Round the linears of the blocks to the nearest, without calibration: i8 per row, i4 per 128 columns "
            "of a row; the output head, too, to i8. cutwork quantize loses less in 4 bits."
        ),
    ] = "auto",
    head: Annotated[
        HeadDType,
        typer.Option(
            help="Round the output head, which is read whole for every token: i8 per row, i4 per 128 columns of a row. "
            "cutwork quantize --head w4a16 loses far less than i4 does here."
        ),
    ] = "auto",
    embedding: Annotated[
        EmbeddingDType, typer.Option(help="Round the embedding to i8, where the output head is another weight.")
    ] = "auto",
    restore: Annotated[bool, typer.Option("--restore", help="MODEL is packed; write its checkpoint to OUT.")] = False,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Pack a checkpoint: zeros of its matrices become one bit each, and the engine maps the files.

    Plain, int-quantized and pack-quantized checkpoints are read. Other commands pack them in memory at every start.

    Example: [bold]cutwork pack out/smollm2-gsm/sparse-quantized out/packed[/bold]; of one that is not quantised yet,
    [bold]cutwork pack Qwen/Qwen3-0.6B out/qwen-int8 --weights i8[/bold]
    """
    from cutwork.store.directory import kind_of
    from cutwork.store.resolve import resolve

    source = resolve(model, codes=True)
    packed = kind_of(source) == "packed"
    if restore:
        if not packed:
            raise CutworkError(f"{source} is not packed; leave out --restore to pack it")
        _restore(source, output, overwrite, as_json)
        return
    if packed:
        raise CutworkError(f"{source} is packed already; add --restore to get its checkpoint back")
    from cutwork.pack.pack import pack as write

    with _progress("packing") as report:
        how: dict[str, Any] = {"weights": weights, "head": head, "embedding": embedding}
        summary = write(source, output, dtype, **how, overwrite=overwrite, progress=report)
    if as_json:
        print_json(_as_dict(summary, output))
    else:
        _print(summary, output)


def _restore(source: Path, output: Path, overwrite: bool, as_json: bool) -> None:
    from cutwork.pack.restore import restore

    with _progress("restoring") as report:
        nbytes = restore(source, output, overwrite=overwrite, progress=report)
    if as_json:
        print_json({"output": str(output), "bytes": nbytes})
    else:
        console().print(f"{output}: checkpoint of {_megabytes(nbytes)}")


@contextmanager
def _progress(verb: str) -> Iterator["Report"]:
    """A bar on standard error that counts weights."""
    with progress_bar(transient=True) as bar:
        task = bar.add_task(verb, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _as_dict(summary: "PackSummary", output: Path) -> dict[str, object]:
    totals = {
        "output": str(output),
        "bytes": summary.nbytes,
        "dense_bytes": summary.dense_nbytes,
        "checkpoint_bytes": summary.source_nbytes,
        "sparsity": summary.sparsity,
        "clamped_codes": summary.clamped,
    }
    return totals | {"weights": [asdict(weight) for weight in summary.weights]}


def _print(summary: "PackSummary", output: Path) -> None:
    out = console()
    listing = Listing("", "weight|shape|stored as", "zeros|size|of dense", "shape")
    for weight in summary.weights:
        if len(weight.shape) == 2:
            listing.add_row(
                weight.name.removeprefix("model.").removesuffix(".weight"),
                "×".join(map(str, weight.shape)),
                f"{weight.encoding} {weight.dtype}",
                f"{weight.sparsity:.1%}",
                _megabytes(weight.nbytes),
                f"{weight.nbytes / max(weight.dense_nbytes, 1):.0%}",
            )
    out.print(listing)
    vectors = [weight for weight in summary.weights if len(weight.shape) != 2]
    size = _megabytes(sum(weight.nbytes for weight in vectors))
    out.print(f"and {len(vectors)} norms, biases and other small tensors: {size}", markup=False)
    masked = sum(weight.encoding != "dense" for weight in summary.weights)
    if masked:
        out.print(f"{masked} weights are stored without their zeros; {summary.sparsity:.1%} of them is zero")
    else:
        out.print("no weight has enough zeros to leave them out: prune the model to make it smaller and faster")
    if head := summary.wide_head:
        size = f"{_megabytes(head.nbytes)} of {_megabytes(summary.nbytes)}"
        out.print(f"every token reads the output head in {head.dtype}, {size}; --head i8 rounds it", markup=False)
    if summary.clamped:
        out.print(f"{summary.clamped} int8 codes of -128 run as -127", markup=False)
    out.print(
        f"[bold]{output}[/bold]: {_megabytes(summary.nbytes)}, where dense takes {_megabytes(summary.dense_nbytes)} "
        f"and the checkpoint {_megabytes(summary.source_nbytes)}",
    )


def _megabytes(nbytes: int) -> str:
    return f"{nbytes / 1e6:.1f} MB" if nbytes >= 1e5 else f"{nbytes / 1e3:.1f} kB"
