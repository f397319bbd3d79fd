"""`cutwork bench`: prefill and decode speed, latency and memory, side by side."""

import time
from contextlib import ExitStack
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cutwork.cli.console import Listing, console, print_json
from cutwork.cli.loading import ModelArgument, check_writes_text, loads_model, tell_layouts
from cutwork.cli.options import Json
from cutwork.errors import CutworkError

if TYPE_CHECKING:
    from cutwork.engine.load_options import LoadOptions


@loads_model("context", "draft", "draft_tokens")
def bench(
    model: ModelArgument,
    loading: "LoadOptions",
    against: Annotated[
        list[str] | None, typer.Option(help="Another model to compare with; may be given several times.")
    ] = None,
    prompt_tokens: Annotated[int, typer.Option("--prompt", "-p", min=1, help="Tokens of the prompt.")] = 512,
    decode_tokens: Annotated[int, typer.Option("--decode", "-n", min=1, help="Tokens to decode after it.")] = 64,
    batch: Annotated[int, typer.Option("--batch", "-b", min=1, help="Sequences at a time.")] = 1,
    repeats: Annotated[int, typer.Option("--repeats", "-r", min=1, help="Rounds; medians are reported.")] = 5,
    as_json: Json = False,
) -> None:
    """Measure speed. Several models run interleaved in one process, so that the machine's moods hit all alike.

    Example: [bold]cutwork bench out/sparse-int8 --against out/dense-int8 --threads 2[/bold]
    """
    from cutwork.engine.embedding.description import reads_only
    from cutwork.engine.model import Model
    from cutwork.machine import cpu_name
    from cutwork.measure.context import decoded, room
    from cutwork.measure.speed import measure
    from cutwork.store.directory import read_config
    from cutwork.store.resolve import resolve

    configs = {path: read_config(resolve(path, codes=True)) for path in [model, *(against or [])]}
    for path, config in configs.items():
        if reads_only(config):
            raise CutworkError(f"{path} writes no text, so there is no decoding to measure; use explain or embed")
    twice = next((path for path in against or () if [model, *(against or ())].count(path) > 1), None)
    if twice:
        raise CutworkError(f"{twice} is given twice; a model is compared with others")
    longest = {path: decoded(config, prompt_tokens, decode_tokens) for path, config in configs.items()}
    for path, tokens in longest.items():
        if tokens > (most := room(configs[path], tokens)):
            raise CutworkError(
                f"{tokens} tokens do not fit the context of {path}, {most}; set --prompt or --decode lower"
            )
    with ExitStack() as stack:
        models: dict[str, Model] = {}
        load_seconds: dict[str, float] = {}
        for path in [model, *(against or [])]:
            start = time.perf_counter()
            models[path] = stack.enter_context(
                Model.load(
                    path,
                    **(loading | {"max_context": longest[path], "max_batch": batch}),
                )
            )
            load_seconds[path] = time.perf_counter() - start
            check_writes_text(models[path])
            if not as_json:
                tell_layouts(path, models[path])
        speeds = measure(models, prompt_tokens, decode_tokens, repeats, batch=batch)
        any_model = models[model]
        machine: dict[str, Any] = {"cpu": cpu_name(), "isa": any_model.isa, "threads": any_model.threads}
        rows = {
            path: {
                **speeds[path].as_json(),
                "sparsity": models[path].sparsity,
                "memory_bytes": models[path].memory_bytes,
                "load_seconds": load_seconds[path],
            }
            for path in models
        }
    settings = {"prompt_tokens": prompt_tokens, "decode_tokens": decode_tokens, "batch": batch, "repeats": repeats}
    if as_json:
        print_json({"machine": machine, **settings, "models": rows})
        return
    out = console()
    out.print(_table(rows, settings))
    out.print(f"[dim]{machine['cpu']}, {machine['isa']}, {machine['threads']} threads; medians of {repeats}[/dim]")


def _table(rows: dict[str, dict[str, Any]], settings: dict[str, int]) -> Listing:
    title = "prompt {prompt_tokens}, decode {decode_tokens}, batch {batch}".format(**settings)
    numbers = "sparsity|weights MB|prefill tok/s|decode tok/s|ms/token|p95|load s|speed-up"
    result = Listing(title, "model", numbers, "load s|p95|sparsity|weights MB|ms/token")
    base = next(reversed(rows.values()))  # the last one given is what the others are compared with
    for path, row in rows.items():
        prefill = row["prefill_tokens_per_second"] / base["prefill_tokens_per_second"]
        decode = row["decode_tokens_per_second"] / base["decode_tokens_per_second"]
        result.add_row(
            path,
            f"{row['sparsity']:.0%}",
            f"{row['memory_bytes']['weights'] / 1e6:.0f}",
            _with_spread(row["prefill_tokens_per_second"], row["prefill_runs"]),
            _with_spread(row["decode_tokens_per_second"], row["decode_runs"]),
            f"{row['step_ms_p50']:.2f}",
            f"{row['step_ms_p95']:.2f}",
            f"{row['load_seconds']:.2f}",
            "" if row is base else f"{prefill:.2f}× / {decode:.2f}×",
        )
    return result


def _with_spread(middle: float, runs: list[float]) -> str:
    spread = max(max(runs) - middle, middle - min(runs)) / middle
    return f"{middle:.1f} ±{spread:.0%}"
