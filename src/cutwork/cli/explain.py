"""`cutwork explain`: what is stored how, what a token costs, and where its time goes."""

from collections import defaultdict
from collections.abc import Collection
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cutwork.cli.console import Listing, console, print_json
from cutwork.cli.loading import ModelArgument, loads_model
from cutwork.cli.options import Json
from cutwork.errors import CutworkError
from cutwork.store.block_names import of_any_block

if TYPE_CHECKING:
    from cutwork.engine.backend import Costs
    from cutwork.engine.explain import StepProfile
    from cutwork.engine.load_options import LoadOptions
    from cutwork.engine.model import Model

_NEARLY = 0.02  # of zeros above the point where a bitmask breaks even: what its offsets and padding may cost
_MOST_READ = 512  # megabytes that are taken beside the model, to time reading them


@loads_model("draft", "draft_tokens")
def explain(
    model: ModelArgument,
    loading: "LoadOptions",
    tokens: Annotated[int, typer.Option(min=1, help="Tokens per step: 1 is decode, hundreds are prefill.")] = 1,
    context_tokens: Annotated[int, typer.Option("--after", min=0, help="Tokens already in the KV cache.")] = 16,
    encoder: Annotated[
        bool, typer.Option("--encoder", help="Show the step in which the encoder reads --input tokens.")
    ] = False,
    input_tokens: Annotated[
        int, typer.Option("--input", min=1, help="Tokens of the input, if the model has an encoder.")
    ] = 64,
    batch: Annotated[
        int, typer.Option("--batch", min=1, help="Load as for so many sequences together: serve has 64, batch 32.")
    ] = 1,
    every_layer: Annotated[bool, typer.Option("--all", help="One row per layer instead of one per kind.")] = False,
    repeats: Annotated[int, typer.Option("--repeats", "-r", min=1, help="Steps timed; medians are shown.")] = 20,
    measure: Annotated[
        bool, typer.Option("--measure", help="Time this machine's kernels again before anything is predicted.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Show, per weight: shape, sparsity, encoding, bytes moved per step, measured time and bandwidth.

    The first call on a machine times its kernels, some seconds, and keeps what they cost in Cutwork's cache: from then
    on every command chooses kernels by it.

    Example: [bold]cutwork explain out/smollm2-gsm/packed/sparse-int8 --tokens 1 --threads 2[/bold]
    """
    from cutwork.engine.backend import native
    from cutwork.engine.explain import check_length, profile_encoder, profile_step
    from cutwork.engine.model import Model
    from cutwork.engine.weights.costs import cache_path, have_measured, measure_costs
    from cutwork.machine import cpu_name

    if measure or not have_measured():
        with Model.load(model, **(loading | {"max_batch": batch})) as loaded:
            if not encoder:  # what is wrong is told before anything is measured
                check_length(loaded, tokens, context_tokens)
        typer.echo(f"measuring this machine's kernels, some seconds; kept in {cache_path()}", err=True)
        measure_costs()
    with Model.load(model, **(loading | {"max_batch": batch})) as loaded:
        if encoder:
            profile = profile_encoder(loaded, tokens=input_tokens, repeats=repeats)
        else:
            profile = profile_step(
                loaded, tokens=tokens, context=context_tokens, repeats=repeats, input_tokens=input_tokens
            )
        rows = _weight_rows(loaded, profile, every_layer)
        others = _other_rows(profile)
        moved = sum(row["bytes"] for row in rows)
        # As many bytes as a step reads: what stays in a large cache from step to step is read from it here, too.
        bandwidth = native().read_bandwidth(loaded.threads, min(max(moved >> 20, 1), _MOST_READ))
        summary = {
            "cpu": cpu_name(),
            "isa": loaded.isa,
            "threads": loaded.threads,
            "tokens": profile.tokens,
            "context": profile.context,
            "bytes_per_step": moved,
            "step_ms": 1e3 * profile.seconds,
            "tokens_per_second": profile.tokens / profile.seconds,
            "achieved_gb_per_second": moved / profile.seconds / 1e9,
            "machine_gb_per_second": bandwidth / 1e9,
            "memory_bound_tokens_per_second": profile.tokens * bandwidth / moved,
            "memory": loaded.memory_bytes,
            "sparsity": loaded.sparsity,
        }
    if as_json:
        print_json({**summary, "weights": rows, "other_ops": others})
        return
    _print(summary, rows, others)


def _weight_rows(model: "Model", profile: "StepProfile", every_layer: bool) -> list[dict[str, Any]]:
    """One row per group of weights that an op reads together (q, k, v; gate, up), layers added up unless asked for."""
    groups: dict[tuple[str, ...], list[tuple[tuple[str, ...], float]]] = defaultdict(list)
    predictions: dict[tuple[str, ...], list[tuple[str, float]]] = defaultdict(list)
    for op in profile.ops:
        if op.weights:
            key = op.weights if every_layer else tuple(of_any_block(name) for name in op.weights)
            groups[key].append((op.weights, op.seconds))
            count = 1 if op.kind == "logits" else profile.tokens
            predictions[key] += [_predict(model, model.weights[name], count) for name in op.weights]
    rows = []
    for key, members in groups.items():
        weights = [model.weights[name] for names, _ in members for name in names]
        size = sum(w.rows * w.cols for w in weights)
        nonzeros = sum(w.nonzeros for w in weights)
        moved = sum(
            w.reordered_bytes if w.reordered_bytes and kernel == "spmm_rows" else w.nbytes
            for w, (kernel, _) in zip(weights, predictions[key], strict=True)
        )
        seconds = sum(time for _, time in members)
        rows.append(
            {
                "weights": [name.removesuffix(".weight") for name in key],
                "layers": len(members),
                "shapes": [[model.weights[name].rows, model.weights[name].cols] for name in members[0][0]],
                "sparsity": 1 - nonzeros / size,
                "encodings": sorted({f"{w.encoding} {w.dtype}" for w in weights}),
                "bits_per_weight": 8 * moved / size,
                "bytes": moved,
                "kernels": sorted({kernel for kernel, _ in predictions[key]}),
                "predicted_ms": 1e3 * sum(time for _, time in predictions[key]),
                "ms": 1e3 * seconds,
                "gb_per_second": moved / max(seconds, 1e-12) / 1e9,
                "share": seconds / profile.seconds,
                "note": _note(model, {name for names, _ in members for name in names}),
            }
        )
    return rows


def _predict(model: "Model", weight: Any, tokens: int) -> tuple[str, float]:
    """The kernel chosen for a weight, and the seconds it should take."""
    shape = (weight.encoding, weight.dtype, weight.rows, weight.cols, weight.stored)
    reordered = weight.reordered_bytes
    costs = _costs(model)
    kernel = costs.choose(*shape, tokens, reordered, model.threads)
    return kernel, costs.seconds(kernel, *shape, tokens, model.threads, reordered, weight.form)


def _costs(model: "Model") -> "Costs":
    if model.costs is None:
        raise CutworkError("only native kernels can be explained; unset CUTWORK_REFERENCE")
    return model.costs


def _note(model: "Model", names: Collection[str]) -> str:
    """What is to be said about how weights are stored, if anything."""
    from cutwork.engine.weights.arrange import told
    from cutwork.pack.record import break_even

    weights: list[Any] = [model.weights[name] for name in names]
    if layouts := {model.laid_out[name] for name in names if name in model.laid_out}:
        return told("slots" if "slots" in layouts else "dense", model.isa, model.max_batch)
    dense = [weight for weight in weights if weight.encoding == "dense"]
    if dense:
        what = "stored dense" if len(dense) == len(weights) else "what layers stored dense"
        too_full = all(1 - w.nonzeros / (w.rows * w.cols) < break_even(w.dtype) + _NEARLY for w in dense)
        return f"{what}, too few zeros to profit" if too_full else f"{what} although sparse enough"
    return ""


def _other_rows(profile: "StepProfile") -> list[dict[str, Any]]:
    """Time of the ops that read no weight matrix, by kind."""
    seconds: dict[str, float] = defaultdict(float)
    for op in profile.ops:
        if not op.weights:
            seconds[op.kind] += op.seconds
    return [{"kind": kind, "ms": 1e3 * s, "share": s / profile.seconds} for kind, s in seconds.items()]


def _print(summary: dict[str, Any], rows: list[dict[str, Any]], others: list[dict[str, Any]]) -> None:
    out = console()
    out.print(
        f"sparsity {summary['sparsity']:.1%} in the blocks; memory: "
        + ", ".join(f"{name} {size / 1e6:.0f} MB" for name, size in summary["memory"].items())
    )
    title = f"a step of {summary['tokens']} token(s) after {summary['context']}"
    numbers = "layers|sparsity|bits/w|MB|predicted|ms|GB/s|share"
    listing = Listing(title, "weights|shape|encoding|kernel", numbers, "predicted|bits/w|kernel|layers|shape|GB/s")
    for row in rows:
        listing.add_row(
            _short(row["weights"]),
            _shapes(row["shapes"]),
            ", ".join(row["encodings"]),
            ", ".join(row["kernels"]),
            str(row["layers"]),
            f"{row['sparsity']:.1%}",
            f"{row['bits_per_weight']:.2f}",
            f"{row['bytes'] / 1e6:.1f}",
            f"{row['predicted_ms']:.3f}",
            f"{row['ms']:.3f}",
            f"{row['gb_per_second']:.1f}",
            f"{row['share']:.1%}",
        )
    for row in others:
        blanks = [""] * 8
        listing.add_row(row["kind"], *blanks, f"{row['ms']:.3f}", "", f"{row['share']:.1%}")
    out.print(listing)
    for note in sorted({row["note"] for row in rows} - {""}):
        out.print(f"{note}: {', '.join(_short(row['weights']) for row in rows if row['note'] == note)}")
    ratio = summary["tokens_per_second"] / summary["memory_bound_tokens_per_second"]
    reached = f"{ratio:.0%} of it reached" if ratio <= 1 else "exceeded: memory was slower when that was measured"
    out.print(
        f"{summary['tokens_per_second']:.1f} tokens/s measured; {summary['bytes_per_step'] / 1e6:.1f} MB of weights "
        f"per step at the {summary['machine_gb_per_second']:.1f} GB/s at which so much is read here allow "
        f"{summary['memory_bound_tokens_per_second']:.1f} ({reached})"
    )
    out.print(f"[dim]{summary['cpu']}, {summary['isa']}, {summary['threads']} threads[/dim]")


def _shapes(shapes: list[list[int]]) -> str:
    """Outputs added up over weights that share their inputs: 576+192+192×576."""
    return f"{'+'.join(str(rows) for rows, _ in shapes)}×{shapes[0][1]}"


def _short(names: list[str]) -> str:
    """Names that share a prefix, written once: a.b.{q,k,v}."""
    names = [name.removeprefix("model.").removeprefix("layers.*.") for name in names]
    first = names[0]
    if len(names) == 1:
        return first
    prefix = first[: first.rfind(".") + 1]
    if all(name.startswith(prefix) for name in names):
        return f"{prefix}{{{','.join(name.removeprefix(prefix) for name in names)}}}"
    return ", ".join(names)
