"""Cutwork against the engines people use, on models of the same random weights: python -m benchmarks.peers.

    python -m benchmarks.peers --setup             # only install the peers and convert the models (an hour, 35 GB)
    python -m benchmarks.peers --quick             # one small table
    python -m benchmarks.peers                     # everything that is not measured yet
    python -m benchmarks.peers --seconds 110       # the same in slices: goes on where the last call stopped
    python -m benchmarks.peers --shape 1.1b --threads 1 --only "cutwork int8" --only llama
    python -m benchmarks.peers --report      # the table and plot of what there is

Every peer is installed in an environment of its own under build/peers and gets the same weights. An engine is timed
when its logits agree with a NumPy reference; then all take turns, each in its own process. Every sample is saved at
once in the results file, and a call measures only what is missing there. A file holds one processor and one build of
Cutwork: with another one --fresh begins anew.
"""

import argparse
import sys
import time
from pathlib import Path

from rich.console import Console

from benchmarks.common.results import RESULTS
from benchmarks.common.shapes import SHAPES
from benchmarks.peers import measure, plan, report
from benchmarks.peers.engines import ENGINES, ConversionError, write_model
from benchmarks.peers.environments import ENVIRONMENTS, PEERS
from benchmarks.peers.layers import LAYER_ENGINES, LayerBench
from benchmarks.peers.store import Store


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.peers", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--setup", action="store_true", help="install and convert, measure nothing")
    parser.add_argument("--quick", action="store_true", help="few engines, prompts of 16 and 512, no batches")
    parser.add_argument("--report", action="store_true", help="measure nothing, write table and plot")
    parser.add_argument("--estimate", action="store_true", help="say how long what is missing would take")
    parser.add_argument("--shape", nargs="+", choices=[*SHAPES, "layers"], default=["1.1b", "2.7b", "layers"])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--only", action="append", default=[], metavar="TEXT", help="engines whose names contain it")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="stop before this time is over")
    parser.add_argument("--fresh", action="store_true", help="forget earlier results")
    parser.add_argument("--output", type=Path, default=RESULTS / "peers.json")
    options = parser.parse_args()
    console = Console(soft_wrap=True)
    deadline = time.monotonic() + options.seconds
    store = Store.open(options.output, options.fresh)
    if options.report:
        report.write(store, console)
        return 0
    store.refuse_mixture()
    conditions = [
        plan.Condition(c.shape, c.threads, c.prompt, c.batch, c.decode, names)
        for c in plan.conditions([s for s in options.shape if s != "layers"], options.threads, options.quick)
        if (names := tuple(n for n in c.engines if not options.only or any(text in n for text in options.only)))
    ]
    wanted = list(dict.fromkeys((name, c.shape) for c in conditions for name in c.engines))
    environments = {ENGINES[name].environment for name, _ in wanted}
    if "layers" in options.shape:
        asked = {n for n in LAYER_ENGINES if not options.only or any(text in n for text in options.only)}
        environments |= {LAYER_ENGINES[name][0] for name in asked}
    absent = set_up(wanted, environments - {None}, store, console)
    conditions = [
        plan.Condition(c.shape, c.threads, c.prompt, c.batch, c.decode, names)
        for c in conditions
        if (names := tuple(n for n in c.engines if (n, c.shape) not in absent))
    ]
    bench = measure.Bench(store, console, deadline)
    layers = LayerBench(store, console, deadline, options.only) if "layers" in options.shape else None
    if options.setup:
        for shape in {c.shape for c in conditions}:
            measure.expected(shape)
        return 0
    missing = list(bench.missing(conditions))
    loads = len({(c.shape, c.threads, name) for c, name, _ in missing})
    seconds = sum(s for _, _, s in missing) + measure.LOAD_SECONDS * loads + (layers.estimate() if layers else 0)
    console.print(f"{len(missing)} runs are missing: about {seconds / 60:.0f} minutes", highlight=False)
    if options.estimate:
        return 0
    finished = True
    try:
        if layers:
            layers.run()
        bench.run(conditions)
    except measure.OutOfTime:
        finished = False
    except KeyboardInterrupt:
        console.print("interrupted; what was measured is kept, the same command goes on", highlight=False)
        return 130
    finally:
        store.save()
    if finished:
        report.write(store, console)
    else:
        console.print("time is up; the same command goes on from here", highlight=False)
    return 0


def set_up(
    wanted: list[tuple[str, str]], environments: set[str | None], store: Store, console: Console
) -> set[tuple[str, str]]:
    """Install and convert what is not there yet; the (engine, shape) that cannot run, with reasons in the store."""
    PEERS.mkdir(parents=True, exist_ok=True)
    failed: dict[str | None, str] = {}
    for name in sorted(filter(None, environments)):
        if not ENVIRONMENTS[name].ready:
            with console.status(f"installing {name} (log: {ENVIRONMENTS[name].log})"):
                if error := ENVIRONMENTS[name].install():
                    failed[name] = error
    absent = set()
    for name, shape in wanted:
        engine = ENGINES[name]
        problem = failed.get(engine.environment) or engine.unavailable()
        if not problem:
            try:
                if not engine.path(SHAPES[shape]).exists():
                    with console.status(f"writing the {shape} model of {name}"):
                        write_model(engine, SHAPES[shape])
                store.unavailable.pop(f"{name}, {shape}", None)
            except ConversionError as error:
                problem = str(error)
        if problem:
            absent.add((name, shape))
            store.unavailable[f"{name}, {shape}"] = problem
            console.print(f"[yellow]{name}, {shape}: unavailable: {problem}", highlight=False)
    store.save()
    return absent


if __name__ == "__main__":
    sys.exit(main())
