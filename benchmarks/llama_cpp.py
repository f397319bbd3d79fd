"""Cutwork against llama.cpp on a Llama of TinyLlama-1.1B's shape: python benchmarks/llama_cpp.py [--repeats 7].

Four engines stay loaded in four processes and take turns, so that noise hits all alike: Cutwork with 75% zeros and
dense (int8), llama.cpp with Q8_0 and Q4_0, all from the same random numbers. Before anything is timed the logits of
the dense models must agree. llama.cpp is built for this machine in build/peers unless --llama-python names a Python
that has llama-cpp-python.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
import venv
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import random_llama
from rich.console import Console
from rich.table import Table

from cutwork.machine import cpu_name

HERE = Path(__file__).parent
PEERS = HERE.parent / "build" / "peers"
LLAMA_CPP = "llama-cpp-python==0.3.36"
CONTEXT, PREFILL, PROMPT, DECODE = 1024, 512, 16, 64
SPARSE, DENSE, Q8, Q4 = "cutwork int8 75%", "cutwork int8 dense", "llama.cpp Q8_0", "llama.cpp Q4_0"
MINIMUM_CORRELATION = 0.95  # of the logits of int8 and Q8_0, whose roundings differ in every layer


@dataclass
class Worker:
    """An engine in its own process."""

    name: str
    model: Path
    process: subprocess.Popen[str]
    about: dict[str, Any]

    def run(self, prompt: list[int], tokens: list[int], threads: int, logits: bool = False) -> dict[str, Any]:
        request = {"prompt": prompt, "tokens": tokens, "threads": threads, "logits": logits}
        assert self.process.stdin
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        return _read(self.name, self.process)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--layers", type=int, default=22, help="fewer for a quick look")
    parser.add_argument("--llama-python", type=Path, help="a Python with llama-cpp-python, built for this machine")
    parser.add_argument("--output", type=Path, default=HERE / "results" / "llama_cpp.json")
    options = parser.parse_args()
    console = Console()
    llama_python = options.llama_python or install_llama_cpp(console)
    models = write_models(PEERS / f"llama-{options.layers}-layers", options.layers, console)
    workers = [start(name, models[name], llama_python) for name in models]
    try:
        agreement = check(workers, max(options.threads))
        for name, value in agreement.items():
            console.print(f"logits of {name} and {DENSE}: correlation {value:.4f}", highlight=False)
        seconds = measure(workers, options.threads, options.repeats, console)
    finally:
        for worker in workers:
            worker.process.kill()
    result = summarise(workers, seconds, options.layers) | {"logits_correlation": agreement}
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(result, indent=1) + "\n")
    draw(result, options.output.with_suffix(".png"))
    show(result, console)
    console.print(f"written: {options.output} and {options.output.with_suffix('.png').name}", highlight=False)


def install_llama_cpp(console: Console) -> Path:
    """A Python with llama.cpp compiled with this machine's instructions; minutes on the first call."""
    home = PEERS / "llama_cpp"
    python = home / "bin" / "python"
    if not (home / "ready").exists():
        console.print(f"building {LLAMA_CPP} in {home} (some minutes)", highlight=False)
        shutil.rmtree(home, ignore_errors=True)
        venv.create(home, with_pip=True)
        environment = os.environ | {"CMAKE_ARGS": "-DGGML_NATIVE=ON -DCMAKE_BUILD_TYPE=Release"}
        command = [
            str(python),
            "-m",
            "pip",
            "install",
            "--quiet",
            "--no-binary",
            "llama-cpp-python",
            LLAMA_CPP,
            "numpy",
        ]
        subprocess.run(command, check=True, env=environment)
        (home / "ready").touch()
    return python


def write_models(directory: Path, layers: int, console: Console) -> dict[str, Path]:
    """The four models, written on the first call."""
    directory.mkdir(parents=True, exist_ok=True)
    models = {
        SPARSE: (directory / "packed-75", lambda path: random_llama.write_packed(path, layers, 0.75)),
        DENSE: (directory / "packed-dense", lambda path: random_llama.write_packed(path, layers, 0.0)),
        Q8: (directory / "q8_0.gguf", lambda path: random_llama.write_gguf(path, layers, "Q8_0")),
        Q4: (directory / "q4_0.gguf", lambda path: random_llama.write_gguf(path, layers, "Q4_0")),
    }
    for name, (path, write) in models.items():
        if not path.exists():
            with console.status(f"writing the model of {name}"):
                write(path)
    return {name: path for name, (path, _) in models.items()}


def start(name: str, model: Path, llama_python: Path) -> Worker:
    ours = name.startswith("cutwork")
    script = HERE / "workers" / ("cutwork_worker.py" if ours else "llama_cpp_worker.py")
    command = [sys.executable if ours else str(llama_python), str(script), str(model), str(CONTEXT)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    return Worker(name, model, process, _read(name, process))


def check(workers: list[Worker], threads: int) -> dict[str, float]:
    """Correlation of llama.cpp's logits, after a prefill and decode steps, with ours; stops if Q8_0's is low."""
    prompt, tokens = some_tokens(40), some_tokens(4)
    logits = {w.name: np.asarray(w.run(prompt, tokens, threads, logits=True)["logits"]) for w in workers}
    agreement = {name: float(np.corrcoef(logits[name], logits[DENSE])[0, 1]) for name in (Q8, Q4)}
    if agreement[Q8] < MINIMUM_CORRELATION:
        raise SystemExit(f"the engines compute different things (correlation {agreement[Q8]:.3f}); nothing was timed")
    return agreement


def measure(workers: list[Worker], threads: list[int], repeats: int, console: Console) -> dict[str, list[float]]:
    """Seconds of every repetition by "name/threads/phase"; the first, which warms up, is dropped."""
    seconds: dict[str, list[float]] = {}
    with console.status("measuring") as status:
        for repeat in range(repeats + 1):
            for count in threads:
                for worker in workers:
                    status.update(f"measuring, round {repeat} of {repeats}: {worker.name}, {count} threads")
                    prefill = worker.run(some_tokens(PREFILL), [], count)["prefill"]
                    decode = worker.run(some_tokens(PROMPT), some_tokens(DECODE), count)["decode"]
                    if repeat:
                        seconds.setdefault(f"{worker.name}/{count}/prefill", []).append(prefill)
                        seconds.setdefault(f"{worker.name}/{count}/decode", []).append(decode)
    return seconds


def summarise(workers: list[Worker], seconds: dict[str, list[float]], layers: int) -> dict[str, Any]:
    """Tokens per second: medians, extremes and every sample."""
    rows = []
    for key, values in seconds.items():
        name, threads, phase = key.split("/")
        speeds = [(PREFILL if phase == "prefill" else DECODE) / value for value in values]
        row = {"engine": name, "threads": int(threads), "phase": phase, "median": statistics.median(speeds)}
        rows.append(row | {"min": min(speeds), "max": max(speeds), "tokens_per_second": speeds})
    return {
        "command": "python benchmarks/llama_cpp.py",
        "date": time.strftime("%Y-%m-%d"),
        "cpu": cpu_name(),
        "cpus": len(os.sched_getaffinity(0)),
        "model": f"TinyLlama-1.1B shape, {layers} layers, random weights",
        "prefill_tokens": PREFILL,
        "decode": f"{DECODE} tokens after {PROMPT}",
        "engines": {w.name: w.about | {"megabytes": size(w.model) / 1e6} for w in workers},
        "results": rows,
    }


def size(model: Path) -> int:
    """Bytes of the weights on disk."""
    files = [model] if model.is_file() else model.glob("*.safetensors")
    return sum(file.stat().st_size for file in files)


def show(result: dict[str, Any], console: Console) -> None:
    table = Table(box=None, header_style="bold", pad_edge=False)
    for heading in ("engine", "MB", "threads", "prefill 512", "decode", "prefill", "decode"):
        table.add_column(heading, justify="left" if heading == "engine" else "right", no_wrap=True)
    rows = {(row["engine"], row["threads"], row["phase"]): row for row in result["results"]}
    for threads in sorted({row["threads"] for row in result["results"]}):
        for engine, about in result["engines"].items():
            here = [rows[engine, threads, phase] for phase in ("prefill", "decode")]
            base = [rows[Q8, threads, phase]["median"] for phase in ("prefill", "decode")]
            speeds = [f"{row['median']:.1f} ({row['min']:.1f}–{row['max']:.1f})" for row in here]
            ratios = [f"{row['median'] / other:.2f}×" for row, other in zip(here, base, strict=True)]
            table.add_row(engine, f"{about['megabytes']:.0f}", str(threads), *speeds, *ratios)
    title = f"\n{result['model']}, {result['cpu']}: tokens/s (slowest–fastest), then relative to {Q8}"
    console.print(title, highlight=False, soft_wrap=True)
    Console(width=max(console.width, 110)).print(table, highlight=False)


def draw(result: dict[str, Any], path: Path) -> None:
    """Bars of the medians with lines from the slowest to the fastest repetition."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    rows = {(row["engine"], row["threads"], row["phase"]): row for row in result["results"]}
    threads = sorted({row["threads"] for row in result["results"]})
    engines, colours = list(result["engines"]), ("#1b7837", "#a6dba0", "#762a83", "#c2a5cf")
    figure, panels = pyplot.subplots(1, 2, figsize=(10, 4), layout="constrained")
    for panel, phase, title in zip(panels, ("prefill", "decode"), ("Prefill, 512 tokens", "Decode"), strict=True):
        for i, (engine, colour) in enumerate(zip(engines, colours, strict=True)):
            here = [rows[engine, count, phase] for count in threads]
            places = np.arange(len(threads)) + (i - 1.5) * 0.2
            medians = [row["median"] for row in here]
            reach = [[row["median"] - row["min"] for row in here], [row["max"] - row["median"] for row in here]]
            bars = panel.bar(places, medians, 0.19, yerr=reach, color=colour, label=engine, ecolor="#444444")
            panel.bar_label(bars, fmt="%.0f", fontsize=8, padding=2)
        panel.set_xticks(range(len(threads)), [f"{n} thread{'s' if n > 1 else ''}" for n in threads])
        panel.set_title(title)
        panel.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("tokens per second")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False)
    figure.suptitle(f"{result['model']} on {result['cpu']}", fontsize=10)
    figure.savefig(path, dpi=150)


def some_tokens(count: int) -> list[int]:
    return [int(token) for token in np.random.default_rng(count).integers(0, random_llama.VOCABULARY, count)]


def _read(name: str, process: subprocess.Popen[str]) -> dict[str, Any]:
    assert process.stdout
    line = process.stdout.readline()
    if not line:
        raise SystemExit(f"{name} stopped with status {process.wait()}; its message is above")
    answer: dict[str, Any] = json.loads(line)
    return answer


if __name__ == "__main__":
    main()
