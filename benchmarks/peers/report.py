"""What the results file says: tables, the targets, a plot."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps
from rich.console import Console

from benchmarks.common import figures
from benchmarks.common.results import where
from benchmarks.common.shapes import SHAPES, TITLES
from benchmarks.peers.plan import BANDWIDTH
from benchmarks.peers.store import Store
from benchmarks.peers.targets import roofline, target_rows


def write(store: Store, console: Console) -> None:
    """The plot beside the JSON, and all tables on the screen."""
    console.print("\n".join(document(store)), markup=False, highlight=False)
    if draw(store, store.path.with_suffix(".png")):
        console.print(f"written: {store.path} and .png", highlight=False)


def document(store: Store) -> Iterator[str]:
    """Every table there is, as Markdown."""
    cells = list(store.cells.values())
    if not cells and not store.layers:
        yield "Nothing is measured yet."
        return
    dates = sorted({str(cell["date"])[:10] for cell in (*cells, *store.layers.values())})
    period = dates[0] if len(dates) == 1 else f"{dates[0]} to {dates[-1]}"
    machine = where({"provenance": store.provenance})
    yield f"# Cutwork and its peers\n\n`python -m benchmarks.peers`, {machine}, {period}\n"
    yield "Random weights of a published shape, the same for all. Tokens per second: median (slowest–fastest)."
    yield "Decode after a prompt of that many tokens. Every engine's logits agreed with a NumPy reference first.\n"
    yield from _targets(store)
    for shape in SHAPES:
        for threads in sorted({c["threads"] for c in cells}):
            here = [c for c in cells if (c["shape"], c["threads"]) == (shape, threads) and c["engine"] != BANDWIDTH]
            if here:
                yield f"## {TITLES[shape]} shape, {threads} thread{'s' * (threads > 1)}\n"
                yield from _speeds([c for c in here if c["isa"] == "native"])
            for isa in ("avx2", "scalar"):
                if lower := [c for c in here if c["isa"] == isa]:
                    yield f"### {isa} only, {threads} thread{'s' * (threads > 1)}\n"
                    yield from _speeds(lower)
    yield from _layers(store)
    yield from _roofline(store)
    yield from _versions(store)


def _targets(store: Store) -> Iterator[str]:
    rows = [
        [r.work, r.unit, f"{r.ours:.1f}", r.peer, f"{r.theirs:.1f}", f"{r.ratio:.2f}×", f"≥ {r.wanted:.2f}×",
         "met" if r.ratio >= r.wanted else "**missed**"]
        for r in target_rows(store)
    ]  # fmt: skip
    if rows:
        yield "## Targets\n"
        yield from _table(("work", "unit", "ours", "peer", "theirs", "ratio", "target", ""), rows)


def _speeds(cells: Sequence[dict[str, Any]]) -> Iterator[str]:
    columns = sorted({(c["phase"] == "decode", c["batch"], c["prompt"]) for c in cells})
    columns = [c for c in columns if c[0] or (c[1] == 1 and c[2] > 16)]
    names = list(dict.fromkeys(c["engine"] for c in cells))
    found = {(c["engine"], c["phase"] == "decode", c["batch"], c["prompt"]): c for c in cells}
    heads = [
        (f"decode after {prompt}" if decode else f"prefill {prompt}") + (f", batch {batch}" if batch > 1 else "")
        for decode, batch, prompt in columns
    ]
    rows = []
    for name in sorted(names, key=_rank):
        row = [name]
        for column in columns:
            cell = found.get((name, *column))
            row.append(f"{cell['median']:.1f} ({cell['min']:.1f}–{cell['max']:.1f})" if cell else "")
        rows.append(row)
    yield from _table(("engine", *heads), rows)


def overview(store: Store, shape: str) -> str:
    """Medians of one shape, one line an engine; the fastest of each column is bold."""
    heads = {
        ("prefill", 512, 1): "prefill 512",
        ("prefill", 2048, 1): "prefill 2048",
        ("decode", 16, 1): "decode",
        ("decode", 512, 1): "decode after 512",
        ("decode", 16, 4): "batch 4",
        ("decode", 16, 16): "batch 16",
    }
    found = {
        (name, (phase, prompt, batch), threads): cell["median"]
        for (name, of, threads, prompt, batch, phase), cell in store.cells.items()
        if of == shape and cell["isa"] == "native" and name != BANDWIDTH
    }
    columns = [(head, t) for head in heads for t in (1, 2) if any(key[1:] == (head, t) for key in found)]
    fastest = {column: max(v for key, v in found.items() if key[1:] == column) for column in columns}
    titles = [f"{heads[head]}, {threads} thread{'s' * (threads > 1)}" for head, threads in columns]
    rows = []
    for name in sorted({key[0] for key in found}, key=_rank):
        values = [found.get((name, *column)) for column in columns]
        if not any(values):
            continue
        shown = ["" if v is None else f"{v:.0f}" if v >= 100 else f"{v:.1f}" for v in values]
        bold = [v is not None and v == fastest[column] for v, column in zip(values, columns, strict=True)]
        rows.append([name, *(f"**{text}**" if b else text for text, b in zip(shown, bold, strict=True))])
    return "\n".join(_table(("engine", *titles), rows)).rstrip()


def zeros_table(store: Store) -> str:
    """Decode after 16 tokens of our sparse models, times that of our own dense int4 and int8."""
    rows = []
    for name in (f"cutwork {weights} {zeros}%" for weights in ("int8", "int4") for zeros in (50, 75, 90)):
        cells = []
        for threads in (1, 2):
            for dense in ("cutwork int4 0%", "cutwork int8 0%"):
                mine, other = (store.cells.get((each, "1.1b", threads, 16, 1, "decode")) for each in (name, dense))
                cells.append(f"{mine['median'] / other['median']:.2f}×" if mine and other else "")
        if any(cells):
            rows.append([name.removeprefix("cutwork "), *cells])
    heads = [
        f"times dense {bits}, {threads} thread{'s' * (threads > 1)}" for threads in (1, 2) for bits in ("int4", "int8")
    ]
    return "\n".join(_table(("weights", *heads), rows)).rstrip()


def avx2_table(store: Store) -> str:
    """What AVX2 gives, ours and theirs, on both numbers of threads."""
    lines = []
    for threads in (1, 2):
        here = [c for c in store.cells.values() if (c["shape"], c["threads"], c["isa"]) == ("1.1b", threads, "avx2")]
        if here:
            lines += [f"{threads} thread{'s' * (threads > 1)}:", "", *_speeds(here)]
    return "\n".join(lines).rstrip()


def layers_table(store: Store) -> str:
    """Single layers, one thread: G multiply-adds per second by zeros, zeros included."""
    sparsities = (0.0, 0.5, 0.75, 0.9)
    found = {(c["dtype"], c["tokens"], c["engine"], c["sparsity"]): c["median"] for c in store.layers.values()}
    rows = []
    for dtype, tokens, engine in sorted({key[:3] for key in found}):
        values = [found.get((dtype, tokens, engine, s)) for s in sparsities]
        best = [max(found.get((dtype, tokens, other, s), 0) for other in {k[2] for k in found}) for s in sparsities]
        shown = ["" if v is None else f"{v:.0f}" if v >= 100 else f"{v:.1f}" for v in values]
        cells = [f"**{text}**" if v == top else text for text, v, top in zip(shown, values, best, strict=True)]
        rows.append([f"{dtype}, {tokens} token{'s' * (tokens > 1)}", engine, *cells])
    return "\n".join(_table(("layer", "engine", *(f"{s:.0%} zeros" for s in sparsities)), rows)).rstrip()


def _layers(store: Store) -> Iterator[str]:
    cells = list(store.layers.values())
    if not cells:
        return
    yield "## Single layers, 4096 × 4096\n"
    yield f"Chains of {', '.join(sorted({str(c['layers']) + ' (' + c['dtype'] + ')' for c in cells}))} layers, "
    yield "so that the weights exceed the caches. G multiply-adds/s, zeros included.\n"
    sparsities = sorted({c["sparsity"] for c in cells})
    rows: dict[tuple[Any, ...], dict[float, str]] = {}
    for c in cells:
        key = (c["dtype"], c["tokens"], c["threads"], c["engine"])
        rows.setdefault(key, {})[c["sparsity"]] = f"{c['median']:.1f} ({c['min']:.1f}–{c['max']:.1f})"
    body = [[*map(str, key), *(row.get(s, "") for s in sparsities)] for key, row in sorted(rows.items())]
    yield from _table(("dtype", "tokens", "threads", "engine", *(f"{s:.0%}" for s in sparsities)), body)


def _roofline(store: Store) -> Iterator[str]:
    rows = [[r["shape"], str(r["threads"]), r["engine"], f"{r['megabytes']:.0f}", f"{r['gigabytes']:.1f}",
             f"{r['bandwidth']:.1f}", f"{r['share']:.0%}"] for r in roofline(store)]  # fmt: skip
    if rows:
        yield "## Decode and what memory reads\n"
        yield "Bytes of a token (weights, KV cache) times tokens/s beside the read bandwidth measured in the same call."
        yield "That is no upper bound: memory has fast and slow minutes, and single samples reach 131% of it.\n"
        yield from _table(("shape", "threads", "engine", "MB per token", "GB/s", "bandwidth GB/s", "share"), rows)


def _versions(store: Store) -> Iterator[str]:
    yield "## What ran\n"
    rows = []
    for name, about in sorted(store.engines.items(), key=lambda item: _rank(item[0])):
        check = store.checks.get(name)
        rows.append([name, about["version"], f"{check['correlation']:.4f}" if check else "", str(about["megabytes"])])
    yield from _table(("engine", "version", "correlation of logits", "MB on disk"), rows)
    for name, reason in store.unavailable.items():
        yield f"- unavailable: **{name}**: {reason}"


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    yield "| " + " | ".join(heads) + " |"
    yield "|" + "|".join(" --- " if i == 0 else " --: " for i in range(len(heads))) + "|"
    for row in rows:
        yield "| " + " | ".join(text.replace("|", "/") for text in row) + " |"
    yield ""


def _rank(name: str) -> tuple[bool, str]:
    return not name.startswith("cutwork"), name


def draw(store: Store, path: Path) -> bool:
    """Decode and prefill against sparsity, peers as lines across: one column per shape and number of threads."""
    panels = sorted({(c["shape"], c["threads"]) for c in store.cells.values() if c["shape"] in ("1.1b", "2.7b")})
    if not panels:
        return False
    figure = figures.new_figure(4 * len(panels) + 1.5, 7)
    axes = figure.subplots(2, len(panels), squeeze=False)
    peers = sorted({c["engine"] for c in store.cells.values() if _is_peer(c)})
    colours = dict(zip(peers, colormaps["tab10"](np.linspace(0, 1, max(len(peers), 1))), strict=True))
    for column, (shape, threads) in enumerate(panels):
        for row, (phase, prompt) in enumerate((("decode", 16), ("prefill", 512))):
            axis = axes[row][column]
            here = [
                c for c in store.cells.values()
                if (c["shape"], c["threads"], c["phase"], c["prompt"], c["batch"]) == (shape, threads, phase, prompt, 1)
            ]  # fmt: skip
            for cell in filter(_is_peer, here):
                axis.axhline(cell["median"], color=colours[cell["engine"]], label=cell["engine"], linewidth=1.2)
            for weights, colour in (("int8", figures.GREEN), ("int4", figures.PURPLE)):
                _curve(axis, here, weights, colour)
            axis.set_ylim(bottom=0)
            axis.set_title(f"{TITLES[shape]} shape, {threads} thread{'s' * (threads > 1)}: {phase}", fontsize=9)
            figures.frame(axis, grid=False)
            axis.set_xlabel("zeros, %")
    axes[0][0].set_ylabel("decode, tokens/s")
    axes[1][0].set_ylabel("prefill of 512, tokens/s")
    labels: dict[str, Any] = {}
    for axis in axes.flat:
        handles, names = axis.get_legend_handles_labels()
        labels |= dict(zip(names, handles, strict=True))
    figure.legend(labels.values(), labels.keys(), loc="outside right center", frameon=False, fontsize=8)
    figures.save(figure, path)
    return True


def _curve(axis: Any, cells: Sequence[dict[str, Any]], weights: str, colour: str) -> None:
    mine = [c for c in cells if c["engine"].startswith("cutwork") and (c["isa"], c["weights"]) == ("native", weights)]
    for ahead, line in ((False, "-"), (True, "--")):
        points = sorted(
            (c["sparsity"], c["median"], c["min"], c["max"]) for c in mine if c["engine"].endswith("ahead") == ahead
        )
        if points:
            x, y, low, high = np.array(points).T
            label = f"cutwork {weights}" + ", reordered" * ahead
            axis.errorbar(
                100 * x, y, [y - low, high - y], color=colour, linestyle=line, marker="o", capsize=2, label=label
            )


def _is_peer(cell: dict[str, Any]) -> bool:
    return cell["isa"] == "native" and not cell["engine"].startswith("cutwork") and cell["engine"] != BANDWIDTH
