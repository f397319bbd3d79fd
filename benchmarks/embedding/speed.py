"""How many sentences a second an encoder turns into vectors, int8, by zeros, against ONNX Runtime and OpenVINO.

    python -m benchmarks.embedding.speed --model DIR [--sparse 80%=PACKED ...]    # a quiet machine, some minutes

all-MiniLM-L6-v2 or another encoder of sentences, whose zeros are by magnitude unless trained checkpoints are given;
random tokens in lengths of sentences (8 to 48) and paragraphs (128), one text at a time and 32. Engines take turns in
processes that stand still while others work, with malloc in huge pages for all; vectors of the dense ones are compared
before anything counts; medians and extremes. The peers' environment is made under build/peers unless --peer-python
names one. Leaves embedding_speed.json in results/.
"""

import argparse
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from rich.console import Console

from benchmarks.common.provenance import ROOT
from benchmarks.common.results import RESULTS, save
from benchmarks.common.timing import interleaved
from benchmarks.common.worker import Worker
from benchmarks.embedding.variants import PEER, exported, packed
from benchmarks.peers.environments import python_of

SCRIPT = Path(__file__).with_name("worker.py")
HUGE_PAGES = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}
BATCHES = (1, 32)
THREADS = (1, 2)
TEXTS = {"sentences": (8, 48, 256), "paragraphs": (128, 129, 64)}  # tokens from, below; how many
PEERS = {"onnxruntime": "ONNX Runtime int8", "openvino": "OpenVINO int8"}


def main() -> None:
    """Prepare what is missing, measure, write, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="a dense checkpoint of sentence-transformers'")
    parser.add_argument("--sparse", action="append", default=[], metavar="80%=DIR", help="a trained sparse checkpoint")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--peer-python", help="of an environment with onnxruntime, openvino, nncf, torch")
    parser.add_argument("--work", type=Path, default=ROOT / "build" / "embedding")
    parser.add_argument("--output", type=Path, default=RESULTS / "embedding_speed.json")
    options = parser.parse_args()
    console = Console(stderr=True)
    options.work.mkdir(parents=True, exist_ok=True)
    if options.peer_python is None and (failed := PEER.install()):
        raise SystemExit(failed)
    python = options.peer_python or str(PEER.python)
    trained = {name: Path(path) for name, _, path in (each.partition("=") for each in options.sparse)}
    onnx, openvino = exported(options.model, options.work, python)
    engines = {
        **{
            f"Cutwork {name}": ("cutwork", path)
            for name, path in packed(options.model, options.work, trained, console).items()
        },
        PEERS["onnxruntime"]: ("onnxruntime", onnx),
        PEERS["openvino"]: ("openvino", openvino),
    }
    rows: list[dict[str, Any]] = []
    versions: dict[str, str] = {}
    for threads in THREADS:
        rows += measure(engines, threads, python, options, versions, console)
        save(options.output, {"rows": rows, "rounds": options.rounds}, versions=versions)
    print(table({"rows": rows}))


def measure(
    engines: dict[str, tuple[str, Path]],
    threads: int,
    python: str,
    options: argparse.Namespace,
    versions: dict[str, str],
    console: Console,
) -> list[dict[str, Any]]:
    """All rows of a number of threads."""
    workers = {}
    rows = []
    try:
        for name, (engine, model) in engines.items():
            spec = {"engine": engine, "model": str(model.resolve()), "threads": threads}
            own = python_of(None) if engine == "cutwork" else python
            workers[name] = Worker(own, SCRIPT, spec, options.work / f"{engine}-{model.stem}.log", HUGE_PAGES)
            versions[name] = workers[name].about["version"]
        for kind, (low, high, count) in TEXTS.items():
            texts = texts_of(low, high, count)
            for size in BATCHES:
                batches = [texts[start : start + size] for start in range(0, count, size)]
                request = {"batches": batches}
                warm = {name: worker.ask(request) for name, worker in workers.items()}
                near = agreement(warm)
                jobs = {name: partial(seconds_of, worker, request) for name, worker in workers.items()}
                times = interleaved(jobs, options.rounds)
                for name, seconds in times.items():
                    speeds = sorted(count / each for each in seconds)
                    rows.append(
                        {
                            "engine": name,
                            "threads": threads,
                            "texts": kind,
                            "batch": size,
                            "per_second": round(median(speeds), 2),
                            "slowest": round(speeds[0], 2),
                            "quickest": round(speeds[-1], 2),
                            "huge_pages": warm[name]["huge"],
                            "cosine_with_dense": near[name],
                        }
                    )
                console.print(f"{threads} threads, {kind}, batch {size}: done")
    finally:
        for worker in workers.values():
            worker.kill()
    return rows


def seconds_of(worker: Worker, request: dict[str, Any]) -> float:
    """Of one answer."""
    return float(worker.ask(request)["seconds"])


def texts_of(low: int, high: int, count: int) -> list[list[int]]:
    """Random tokens between BERT's [CLS] and [SEP], the shortest first."""
    draw = np.random.default_rng(0)
    lengths = sorted(draw.integers(low, high, count).tolist())
    return [[101, *draw.integers(1000, 30000, length - 2).tolist(), 102] for length in lengths]


def agreement(answers: dict[str, dict[str, Any]]) -> dict[str, float]:
    """The smallest cosine of each engine's vectors with those of our dense int8 model.

    Raises SystemExit if another engine's dense model says something else: then it is not the same work.
    """
    dense = np.asarray(answers["Cutwork 0%"]["vectors"])
    near = {name: float((np.asarray(each["vectors"]) * dense).sum(axis=1).min()) for name, each in answers.items()}
    for name in PEERS.values():
        if near[name] < 0.9:
            raise SystemExit(f"{name}: its vectors have a cosine of {near[name]:.3f} with ours; it runs another model")
    return {name: round(value, 4) for name, value in near.items()}


def table(result: dict[str, Any]) -> str:
    """Sentences a second, medians (slowest to quickest), and how many times the best of the others."""
    rows = result["rows"]
    engines = list(dict.fromkeys(row["engine"] for row in rows))
    cells = list(dict.fromkeys((row["texts"], row["batch"], row["threads"]) for row in rows))
    found = {(row["engine"], row["texts"], row["batch"], row["threads"]): row for row in rows}
    heads = [f"{texts}, batch {batch}, {threads} thread{'s' * (threads > 1)}" for texts, batch, threads in cells]
    lines = [f"| | {' | '.join(heads)} |", "|---|" + "--:|" * len(cells)]
    for engine in engines:
        parts = []
        for cell in cells:
            row = found[engine, *cell]
            best = max(found[peer, *cell]["per_second"] for peer in PEERS.values())
            times = f", {row['per_second'] / best:.2f}×" if engine not in PEERS.values() else ""
            parts.append(f"{row['per_second']:.0f} ({row['slowest']:.0f}–{row['quickest']:.0f}){times}")
        lines.append(f"| {engine} | {' | '.join(parts)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
