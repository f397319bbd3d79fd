"""The tables of isa.json."""

from statistics import median
from typing import Any

from benchmarks.isa.cells import CUTWORK, DISTURBED, Cell
from benchmarks.isa.targets import cells_of, named, of_memory, ratios, verdicts
from benchmarks.isa.work import WHAT


def targets_table(result: dict[str, Any]) -> str:
    """Each target with what was measured: the median ratio, and the least and greatest of a round."""
    lines = ["| target | against | threads | wanted | measured | |", "|---|---|--:|--:|--:|---|"]
    for each in verdicts(result):
        measured = f"{each.ratio:.2f} ({min(each.ratios):.2f}–{max(each.ratios):.2f})"
        verdict = "met" if each.met else "**missed**"
        lines.append(f"| {each.work} | {each.against} | {each.threads} | {each.least:g} | {measured} | {verdict} |")
    return "\n".join([*lines, "", quiet(result)])


def quiet(result: dict[str, Any]) -> str:
    """Whether the machine was left alone, and in which pages weights lay, as a sentence."""
    rows = result["cells"]
    runs = [run for row in rows for run in row["runs"]]
    disturbed = sum(run["others"] > DISTURBED for run in runs)
    alone = (
        f"in {disturbed or 'none'} of {len(runs)} runs did other processes or the machine's neighbours take more than "
        f"{DISTURBED:.0%} of a processor"
    )

    def pages(own: bool) -> str:
        shares = [run["huge_pages"] for row in rows if _ours(row) == own for run in row["runs"]] or [1.0]
        return f"{median(shares):.0%} ({min(shares):.0%} in the least)"

    return (
        f"{result['layers']} layers, random weights; medians of ratios within a round, with the extremes; {alone}. "
        f"In huge pages were, by the median of runs, {pages(True)} of our processes' private memory, of peers' "
        f"{pages(False)}."
    )


def _ours(row: dict[str, Any]) -> bool:
    return bool(row["cell"]["engine"] == CUTWORK)


def table(result: dict[str, Any]) -> str:
    """Tokens per second, how many times dense of the same dtype, and how much of the memory's bandwidth decode took."""
    cells = cells_of(result)
    others = [what.replace("batch", "batch of") for what in WHAT[1:]]
    heads = ["threads", "weights", "in memory as", "decode", "of memory", *others]
    lines = ["| " + " | ".join(heads) + " |", "|--:|---|---|" + "--:|" * (len(heads) - 3)]
    for cell in sorted(cells, key=_order):
        row = cells[cell]
        memory = f"{median(of_memory(row, result['layers'])):.0%}" if "bytes_per_token" in row else ""
        decode, *others = (_speed(cells, cell, what) for what in WHAT)
        texts = [str(cell.threads), named(cell), _layout(row), decode, memory, *others]
        lines.append("| " + " | ".join(texts) + " |")
    return "\n".join(lines)


def _layout(row: dict[str, Any]) -> str:
    alone, together = (", ".join(row.get(key, [])) for key in ("encodings", "encodings_in_batches"))
    return f"{alone}; batches: {together}" if together not in ("", alone) else alone


def _order(cell: Cell) -> tuple[int, bool]:
    return cell.threads, cell.engine != CUTWORK


def _speed(cells: dict[Cell, dict[str, Any]], cell: Cell, what: str) -> str:
    own = median(run[what] for run in cells[cell]["runs"])
    dense = Cell(cell.engine, cell.isa, f"{cell.weights.split()[0]} dense", cell.threads)
    if dense == cell or dense not in cells:
        return f"{own:.3g}"
    return f"{own:.3g} ({median(ratios(cells, cell, dense, what)):.2f}×)"
