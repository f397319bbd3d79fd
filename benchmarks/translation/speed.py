"""How fast T5 translates, dense and with 75% zeros, in fp32 and int8, against CTranslate2 and transformers.

    python -m benchmarks.translation.speed --prepare --dense out/t5/teacher --sparse out/t5/seed0/ce-75-rate0.001
    python -m benchmarks.translation.speed --peer-python build/peers/t5/bin/python     # a quiet machine, some minutes

The trained model of translation.accuracy on its held-out sentences, all of which every engine translates once for its
BLEU, and random weights of T5-small's and T5-base's shapes on random tokens, answers of a fixed length. Every engine
gets sixteen sentences at a time; outputs are compared with transformers' before anything is timed; engines take turns,
medians. `--peer-python` belongs to an environment with ctranslate2, torch and transformers. Leaves
translation_speed.json and .png in results/.
"""

import argparse
import time
from collections.abc import Callable
from functools import partial
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from rich.console import Console

from benchmarks.common import figures
from benchmarks.common.provenance import ROOT
from benchmarks.common.results import RESULTS, resume, save
from benchmarks.common.timing import interleaved
from benchmarks.common.worker import Worker
from benchmarks.translation.data import TEST, held_out
from benchmarks.translation.prepare import AHEAD, APART, SHAPES, VARIANTS, prepare
from benchmarks.translation.worker import BATCH
from cutwork.engine.decoding.options import GenerateOptions
from cutwork.engine.model import Model
from cutwork.engine.processes import ModelProcesses
from cutwork.tasks.task import Sample
from cutwork.tasks.translation import translation_quality

SCRIPT = Path(__file__).with_name("worker.py")
BEAMS = (1, 5)
# How each is set up, with which variables of the environment: CTranslate2 as it comes, with an instruction set that it
# would not choose, and with a translator on every core.
PEERS: dict[str, tuple[dict[str, Any], dict[str, str]]] = {
    "CTranslate2 int8": ({"engine": "ctranslate2"}, {}),
    "CTranslate2 int8, AVX2": ({"engine": "ctranslate2"}, {"CT2_FORCE_CPU_ISA": "AVX2"}),
    "CTranslate2 int8, AVX512": ({"engine": "ctranslate2"}, {"CT2_FORCE_CPU_ISA": "AVX512"}),
    "CTranslate2 int8, a translator a core": ({"engine": "ctranslate2", "translators": True}, {}),
    "transformers fp32": ({"engine": "transformers"}, {}),
}

Translate = Callable[[list[list[int]], int, int, bool], tuple[list[list[int]], float]]


def asked(beams: int, length: int, fixed: bool) -> GenerateOptions:
    return {"max_new_tokens": length, "num_beams": beams, "min_new_tokens": length if fixed else 0}


def by_length(sources: list[list[int]]) -> list[int]:
    return sorted(range(len(sources)), key=lambda i: -len(sources[i]))


def ours(model: Model) -> Translate:
    """Cutwork as a function from sources, beams, length and whether that is fixed to answers and seconds."""

    def translate(sources: list[list[int]], beams: int, length: int, fixed: bool) -> tuple[list[list[int]], float]:
        start = time.perf_counter()
        order = by_length(sources)
        size = len(order) if beams > 1 else BATCH  # beams fill the model's places: sixteen sentences' as well
        results: dict[int, list[int]] = {}
        for first in range(0, len(order), size):
            part = order[first : first + size]
            answers = model.generate([sources[i] for i in part], **asked(beams, length, fixed))
            results |= {i: answer.tokens for i, answer in zip(part, answers, strict=True)}
        return [results[i] for i in range(len(sources))], time.perf_counter() - start

    return translate


def apart(processes: ModelProcesses) -> Translate:
    """Cutwork in processes, likewise: batches go to whichever is free."""

    def translate(sources: list[list[int]], beams: int, length: int, fixed: bool) -> tuple[list[list[int]], float]:
        start = time.perf_counter()
        order = by_length(sources)
        if beams > 1:
            pieces = [order[i :: processes.count] for i in range(processes.count)]
        else:  # of like length, for nothing takes the place of what is done
            pieces = [order[i : i + BATCH] for i in range(0, len(order), BATCH)]
        results: dict[int, list[int]] = {}
        given = [[sources[i] for i in piece] for piece in pieces]
        for number, answers in processes.each("generate", given, **asked(beams, length, fixed)):
            results |= {i: answer.tokens for i, answer in zip(pieces[number], answers, strict=True)}
        return [results[i] for i in range(len(sources))], time.perf_counter() - start

    return translate


def theirs(worker: Worker) -> Translate:
    def translate(sources: list[list[int]], beams: int, length: int, fixed: bool) -> tuple[list[list[int]], float]:
        answer = worker.ask({"sources": sources, "beams": beams, "length": length, "fixed": fixed})
        return answer["tokens"], answer["seconds"]

    return translate


def seconds_of(translate: Translate, *request: Any) -> float:
    return translate(*request)[1]


def cut(tokens: list[int]) -> list[int]:
    """An answer without its end and what follows."""
    return tokens[: tokens.index(1)] if 1 in tokens else tokens


def sources_of(shape: str, count: int, directory: Path) -> list[list[int]]:
    """What is translated: held-out sentences, or random tokens of about such lengths."""
    if shape == "trained":
        return list(map(source_tokens(directory), held_out(TEST)[:count]))
    random = np.random.default_rng(0)
    lengths = random.integers(12, 40, count)
    return [[*random.integers(3, 32000, int(length)).tolist(), 1] for length in lengths]


def source_tokens(directory: Path) -> Callable[[Sample], list[int]]:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(directory)
    return lambda sample: tokenizer(sample.prompt)["input_ids"]


def bleu(directory: Path, answers: list[list[int]]) -> float:
    """Of the whole test."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(directory)
    texts = tokenizer.batch_decode(list(map(cut, answers)), skip_special_tokens=True)
    return translation_quality(texts, [sample.answer for sample in held_out(TEST)])["bleu"]


def measure(shape: str, options: argparse.Namespace, console: Console) -> list[dict[str, Any]]:
    """All rows of one shape."""
    work = options.work / shape
    count, length = SHAPES[shape]["sentences"], SHAPES[shape]["length"]
    count, fixed = options.sentences or count, shape != "trained"
    sources = sources_of(shape, count, work / "dense-f32")
    engines: dict[str, Translate] = {}
    versions: dict[str, str] = {}
    loaded: dict[str, Model | ModelProcesses] = {}
    workers = []
    try:
        for name, (how, environment) in PEERS.items():
            spec = {**how, "model": str((work / "dense-f32").resolve()), "threads": options.threads}
            log = options.work / f"{shape}-{name}.log"
            worker = Worker(str(options.peer_python), SCRIPT, spec, log, environment)
            workers.append(worker)
            versions[name], engines[name] = worker.about["version"], theirs(worker)
        for variant in (*VARIANTS, AHEAD):
            model = Model.load(
                work / f"packed-{variant.partition(',')[0]}",
                threads=options.threads,
                max_batch=BATCH * max(BEAMS),
                reorder_weights=variant == AHEAD,
            )
            loaded[variant] = model
            engines[f"Cutwork {variant}"] = ours(model)
        for variant in APART:
            processes = ModelProcesses(
                work / f"packed-{variant.partition(',')[0]}",
                options.threads,
                threads=options.threads,
                max_batch=BATCH * max(BEAMS),
                reorder_weights=None,
            )
            loaded[variant] = processes
            engines[f"Cutwork {variant}"] = apart(processes)
        # The sparse model is another model, so its outputs are compared with its own in transformers.
        spec = {"engine": "transformers", "model": str((work / "sparse-f32").resolve()), "threads": options.threads}
        other = Worker(str(options.peer_python), SCRIPT, spec, options.work / f"{shape}-sparse.log", {})
        workers.append(other)
        quality = {}
        if shape == "trained":
            test = list(map(source_tokens(work / "dense-f32"), held_out(TEST)))
            for beams, (name, translate) in product(BEAMS, engines.items()):
                answers = translate(test, beams, SHAPES[shape]["length"], False)[0]
                quality[name, beams] = bleu(work / "dense-f32", answers)
                console.print(f"{beams} beams, {name}: BLEU {quality[name, beams]:.1f}")
        rows = []
        for beams in BEAMS:
            expected = {
                "dense": list(map(cut, engines["transformers fp32"](sources, beams, length, fixed)[0])),
                "sparse": list(map(cut, theirs(other)(sources, beams, length, fixed)[0])),
            }
            same, tokens = {}, {}
            for name, translate in engines.items():
                found = list(map(cut, translate(sources, beams, length, fixed)[0]))  # the warm-up as well
                wanted = expected["sparse" if "sparse" in name else "dense"]
                same[name] = sum(a == b for a, b in zip(found, wanted, strict=True)) / len(sources)
                tokens[name] = sum(map(len, found))
                if name.endswith("f32") and same[name] < 0.9:
                    raise SystemExit(f"{name}, {beams} beams: only {same[name]:.0%} of the answers are transformers'")
            jobs = {name: partial(seconds_of, each, sources, beams, length, fixed) for name, each in engines.items()}
            times = interleaved(jobs, options.repeats)
            for name, seconds in times.items():
                row = {
                    "shape": shape,
                    "engine": name,
                    "version": versions.get(name, ""),
                    "beams": beams,
                    "sentences": len(sources),
                    "sentences_per_second": len(sources) / median(seconds),
                    "tokens_per_second": tokens[name] / median(seconds),
                    "seconds": seconds,
                    "same_as_transformers": same[name],
                    "bleu": quality.get((name, beams)),
                }
                rows.append(row)
                console.print(
                    f"{shape}, {beams} beams, {name}: {row['sentences_per_second']:.1f} sentences/s, "
                    f"{row['tokens_per_second']:.0f} tokens/s, {same[name]:.0%} the same"
                )
        return rows
    finally:
        for worker in workers:
            worker.kill()
        for model in loaded.values():
            model.close()


def table(result: dict[str, Any]) -> str:
    """Sentences and answer tokens per second, and BLEU where it is measured."""
    rows = result["rows"]
    engines = list(dict.fromkeys(row["engine"] for row in rows))
    keys = list(dict.fromkeys((row["shape"], row["beams"]) for row in rows))
    found = {(row["engine"], row["shape"], row["beams"]): row for row in rows}

    def cell(engine: str, key: tuple[str, int]) -> str:
        row = found.get((engine, *key))
        if row is None:
            return "–"
        rate, tokens = row["sentences_per_second"], row["tokens_per_second"]
        bleu = f" / {row['bleu']:.1f}" if row.get("bleu") is not None else ""
        return f"{rate:.{0 if rate >= 20 else 1}f} / {tokens:.0f}{bleu}"

    names = [f"{shape}, {'greedy' if beams == 1 else f'{beams} beams'}" for shape, beams in keys]
    lines = ["| engine | " + " | ".join(names) + " |", "|---|" + "--:|" * len(names)]
    lines += [f"| {engine} | " + " | ".join(cell(engine, key) for key in keys) + " |" for engine in engines]
    return "\n".join(lines)


def plot(rows: list[dict[str, Any]], file: Path) -> None:
    shapes = list(dict.fromkeys(row["shape"] for row in rows))
    figure = figures.new_figure(4.4 * len(shapes), 6)
    axes = figure.subplots(len(BEAMS), len(shapes), squeeze=False)
    for i, beams in enumerate(BEAMS):
        for ax, shape in zip(axes[i], shapes, strict=True):
            bars = [row for row in rows if (row["shape"], row["beams"]) == (shape, beams)][::-1]
            colours = [figures.GREEN if row["engine"].startswith("Cutwork") else figures.GREY for row in bars]
            ax.barh([row["engine"] for row in bars], [row["sentences_per_second"] for row in bars], color=colours)
            ax.set_title(f"{shape}, {'greedy' if beams == 1 else f'{beams} beams'}", fontsize=10)
            ax.set_xlabel("sentences per second")
            figures.frame(ax, grid=False)
            ax.tick_params(labelsize=8)
    figures.save(figure, file)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prepare", action="store_true", help="make and pack the models, and time nothing")
    parser.add_argument("--dense", type=Path, help="the trained model, a checkpoint")
    parser.add_argument("--sparse", type=Path, help="the same with zeros")
    parser.add_argument("--shape", choices=SHAPES, nargs="+", default=list(SHAPES))
    parser.add_argument("--peer-python", type=Path)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--sentences", type=int, help="fewer than each shape's own number")
    parser.add_argument("--work", type=Path, default=ROOT / "out" / "translation-speed")
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    console = Console(stderr=True, highlight=False)
    if options.prepare:
        for shape in options.shape:
            prepare(shape, options.work / shape, options.dense, options.sparse, console)
        return
    if not options.peer_python:
        parser.error("--peer-python is needed")
    file = options.results / "translation_speed.json"
    result = resume(file)
    rows = result.get("rows", [])
    for shape in options.shape:
        rows = [row for row in rows if row["shape"] != shape] + measure(shape, options, console)
        rows.sort(key=lambda row: list(SHAPES).index(row["shape"]))
        options.results.mkdir(parents=True, exist_ok=True)
        versions = {row["engine"]: row["version"] for row in rows if row["version"]}
        content = {"repeats": options.repeats, "rows": rows}
        result = save(file, content, threads=options.threads, versions=versions)
    plot(rows, options.results / "translation_speed.png")
    print(table(result))


if __name__ == "__main__":
    main()
