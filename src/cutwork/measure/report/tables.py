"""Results as a table, for the console and in Markdown."""

from collections.abc import Sequence
from typing import Any

from rich import box
from rich.table import Table

from cutwork.tasks.task import LABELS

_HEADINGS = (
    "model",
    "zeros",
    "accuracy",
    "perplexity",
    "disk MB",
    "memory MB",
    "prefill tok/s",
    "decode tok/s",
)
_BASELINES = {"f32": "fp32", "bf16": "bf16", "int8": "int8"}  # what speed-ups are against, as headings call it
_SHORT = {
    "perplexity": "ppl",
    "disk MB": "MB",
    **{f"decode vs dense {name}": f"vs dense {name}" for name in (*_BASELINES.values(), "int4", "int4 or int8")},
}


def called(run: dict[str, Any], name: str) -> str:
    """A variant's name as reports have it: to the run's stages what `quantize` made is int8, though it may be int4."""
    quantized = (run.get("settings") or {}).get("quantize") or {}
    return name.replace("int8", "int4") if quantized.get("scheme") == "w4a16" else name


def headings(results: Sequence[dict[str, Any]]) -> list[str]:
    """The columns of a table; after the accuracy what else any run was measured by, at the end speed-ups."""
    place = _HEADINGS.index("accuracy") + 1
    names = {label: " or ".join(sorted({called(run, name) for run in results})) for label, name in _BASELINES.items()}
    against = [f"decode vs dense {names[label]}" for label in _against(results)]
    return [*_HEADINGS[:place], *other_headings(results), *_HEADINGS[place:], *against]


def other_headings(results: Sequence[dict[str, Any]]) -> list[str]:
    """What any run was measured by but accuracy and perplexity, as headings call it."""
    return [*(LABELS[key] for key in _others(results)), *(f"{task} {metric}" for task, metric in _asked(results))]


def other_cells(results: Sequence[dict[str, Any]], row: dict[str, Any]) -> list[str]:
    """A variant's cells under `other_headings`."""
    asked = row.get("lm_eval", {})
    return [
        *(_number(row.get(key), "{:.1f}") for key in _others(results)),
        *(_number(asked.get(task, {}).get(metric), "{:.3g}") for task, metric in _asked(results)),
    ]


def table_rows(results: Sequence[dict[str, Any]]) -> list[list[str]]:
    """The cells under `headings`, one row per variant; names carry the run's where there are several runs."""
    several = len(results) > 1
    rows = []
    for run in results:
        for row in run["variants"]:
            name = called(run, row["name"])
            if several:
                name = f"{run['recipe']} · {name}"
            rows.append(
                [
                    name,
                    "–" if row["name"].startswith("dense") else f"{row['sparsity']:.0%}",
                    f"{row['accuracy']:.1%}",
                    *other_cells(results, row),
                    _number(row["perplexity"], "{:.2f}"),
                    f"{row['disk_bytes'] / 1e6:.0f}",
                    f"{row['memory_bytes'] / 1e6:.0f}",
                    _number(row.get("prefill_tokens_per_second"), "{:.0f}"),
                    _number(row.get("decode_tokens_per_second"), "{:.1f}"),
                    *(_number(row.get(_speedup(label)), "{:.2f}×") for label in _against(results)),
                ]
            )
    return rows


def console_table(results: Sequence[dict[str, Any]]) -> Table:
    """The table for a terminal: memory left out and headings shortened, so that it fits 80 columns."""
    table = Table(
        title=caption(results), title_justify="left", title_style="", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0)
    )
    names = headings(results)
    shown = [i for i, heading in enumerate(names) if heading != "memory MB"]
    for i in shown:
        table.add_column(
            _SHORT.get(names[i], names[i]), justify="right" if i else "left", no_wrap=i == 0, overflow="fold"
        )
    for row in table_rows(results):
        table.add_row(*(row[i] for i in shown))
    return table


def markdown(results: Sequence[dict[str, Any]]) -> str:
    """The table for a README, with what it was measured on."""
    names = headings(results)
    lines = ["| " + " | ".join(names) + " |", "|---" + "|--:" * (len(names) - 1) + "|"]
    lines += ["| " + " | ".join(row) + " |" for row in table_rows(results)]
    return "\n".join([*lines, "", caption(results) + "."]) + "\n"


def caption(results: Sequence[dict[str, Any]]) -> str:
    """What was measured, on what."""
    tasks = ", ".join(dict.fromkeys(run["task"] for run in results))
    samples = " or ".join(dict.fromkeys(str(run["variants"][0].get("samples", 0)) for run in results))
    machines = " or ".join(dict.fromkeys(_machine(run["machine"]) for run in results))
    return f"{tasks}, {samples} held-out questions; {machines}"


def _machine(machine: dict[str, Any]) -> str:
    threads = f"{machine['threads']} thread{'s' if machine['threads'] > 1 else ''}"
    return f"{machine['cpu']}, {machine['isa']}, {threads}"


def _others(results: Sequence[dict[str, Any]]) -> list[str]:
    """The measures other than accuracy that any variant has."""
    return [key for key in LABELS if any(key in row for run in results for row in run["variants"])]


def _against(results: Sequence[dict[str, Any]]) -> list[str]:
    """The dense models that speed-ups are given against: in floats, float32 if it was measured, and in int8."""
    measured = {label for run in results for row in run["variants"] for label in _BASELINES if _speedup(label) in row}
    return ["bf16" if "bf16" in measured and "f32" not in measured else "f32", "int8"]


def _speedup(label: str) -> str:
    return f"decode_speedup_over_dense_{label}"


def _asked(results: Sequence[dict[str, Any]]) -> list[tuple[str, str]]:
    """The tasks of lm-eval and a metric of each: acc_norm, or what it names first; groups without any left out."""
    tasks = {
        task: [name for name in metrics if name != "sample_len" and "_stderr" not in name]
        for run in results
        for row in run["variants"]
        for task, metrics in row.get("lm_eval", {}).items()
    }
    return [(task, "acc_norm" if "acc_norm" in names else names[0]) for task, names in tasks.items() if names]


def _number(value: float | None, form: str) -> str:
    return "–" if value is None else form.format(value)
