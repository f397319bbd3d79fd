"""How many times faster than speech Whisper is written down: dense and sparse, fp32 and int8, and by two peers.

    python -m venv build/peers/whisper
    build/peers/whisper/bin/pip install faster-whisper transformers torch
    CMAKE_ARGS=-DGGML_NATIVE=ON build/peers/whisper/bin/pip install --no-binary pywhispercpp pywhispercpp
    python -m venv build/peers/whisper-blas    # with --no-cache-dir, or it is the same build
    CMAKE_ARGS="-DGGML_NATIVE=ON -DGGML_BLAS=ON -DGGML_BLAS_VENDOR=OpenBLAS" build/peers/whisper-blas/bin/pip install \
        --no-cache-dir --no-binary pywhispercpp pywhispercpp safetensors transformers
    python -m benchmarks.speech.speed --model out/whisper-losses/teacher --clips data/speech/test-other \
        --packed "dense f32=out/whisper-losses/teacher-f32" "dense int8=out/whisper-losses/teacher-int8" … \
        --peer-python build/peers/whisper/bin/python --blas-python build/peers/whisper-blas/bin/python

The peers are faster-whisper, also with its batched pipeline, and whisper.cpp, also with BLAS; they run `--model`, the
checkpoint of the first packed model. A recording of some minutes is joined from `--clips`, recordings with their
transcripts, by which every engine's words are counted. All engines take turns, at temperature 0 without fallbacks.
Beside the whole, the encoder alone (one window, and in Cutwork the decoder's first token) and the decoder alone (so
many tokens of one window), but of whisper.cpp, whose binding does not part them, and of faster-whisper's batches.
Leaves a .json and a .png of `--name` in results/.
"""

import argparse
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from subprocess import PIPE
from typing import Any

import numpy as np
from rich.console import Console

from benchmarks.common import figures
from benchmarks.common.provenance import ROOT
from benchmarks.common.results import RESULTS, save
from benchmarks.common.timing import interleaved
from benchmarks.common.worker import Worker
from cutwork.audio import RATE
from cutwork.engine.decoding.options import GenerateOptions
from cutwork.engine.model import Model
from cutwork.engine.speech.spectrogram import Spectrogram
from cutwork.engine.speech.vocabulary import vocabulary_of
from cutwork.recipe import TaskSettings
from cutwork.store.resolve import resolve
from cutwork.tasks.load import load_task
from cutwork.tasks.task import Sample
from cutwork.tasks.wer import word_errors

HERE = Path(__file__).resolve().parent
BEAMS = {1: "greedy", 5: "five beams"}
TOKENS = 96  # of the decoder alone
BATCH = 8  # windows that faster-whisper's pipeline hears at a time
PLAIN = {
    "temperature": 0.0,
    "compression_ratio_threshold": None,
    "log_prob_threshold": None,
    "no_speech_threshold": None,
    "condition_on_previous_text": False,
}
PEERS = {
    ("faster-whisper", "int8"): "faster_whisper_worker.py",
    ("faster-whisper batched", "int8"): "faster_whisper_worker.py",
    ("faster-whisper", "float32"): "faster_whisper_worker.py",
    ("whisper.cpp", "q8_0"): "whisper_cpp_worker.py",
    ("whisper.cpp", "f16"): "whisper_cpp_worker.py",
    ("whisper.cpp BLAS", "f16"): "whisper_cpp_worker.py",
}
Job = Callable[[], tuple[str | None, float]]


def named(given: list[str]) -> dict[str, Path]:
    """The packed models by the engines' names, from NAME=DIRECTORY."""
    found = {}
    for each in given:
        name, _, directory = each.partition("=")
        if not (Path(directory) / "cutwork.json").is_file():
            raise SystemExit(f"--packed {each}: expected NAME=DIRECTORY of a packed model")
        found[f"Cutwork {name}"] = Path(directory)
    return found


def recording(clips: Path, seconds: float) -> tuple[np.ndarray, str]:
    """The clips of a folder one after the other with pauses, until there is enough, and their transcripts."""
    options = {"directory": str(clips), "test": "."}
    task = TaskSettings(name="speech", train_samples=1, test_samples=10_000, options=options)
    parts: list[np.ndarray] = []
    said: list[str] = []
    for sample in load_task(task).test:
        parts += [sample.audio.astype(np.float32), np.zeros(RATE // 2, np.float32)]
        said.append(sample.answer)
        if sum(map(len, parts)) >= seconds * RATE:
            return np.concatenate(parts), " ".join(said)
    raise SystemExit(f"{clips} holds {sum(map(len, parts)) / RATE:.0f} seconds of speech; ask for no more by --seconds")


def libraries(python: Path) -> dict[str, str]:
    """Where pywhispercpp looks for the libraries that its wheel has beside it."""
    ask = "import os, site; print(*site.getsitepackages(), sep=os.pathsep)"
    return {"LD_LIBRARY_PATH": subprocess.run([python, "-c", ask], stdout=PIPE, text=True, check=True).stdout.strip()}


def ours(model: Model, audio: np.ndarray, window: np.ndarray, beams: int) -> dict[str, Job]:
    vocabulary = vocabulary_of(model.path, model.config, model.tokenizer)
    prompt = vocabulary.prompt("en", "transcribe", times=False)
    memory = model.encode_input(window)
    language = "en" if vocabulary.multilingual else None

    def transcribe() -> tuple[str | None, float]:
        start = time.perf_counter()
        text = model.transcribe(audio, language=language, beam_size=beams, **PLAIN).text
        return text, time.perf_counter() - start

    def encode() -> tuple[str | None, float]:
        start = time.perf_counter()
        model.logits([vocabulary.start], model.encode_input(window))
        return None, time.perf_counter() - start

    def decode() -> tuple[str | None, float]:
        model.logits([vocabulary.start], memory)  # encoded from here on
        options: GenerateOptions = {"max_new_tokens": TOKENS, "min_new_tokens": TOKENS, "num_beams": beams}
        start = time.perf_counter()
        model.respond(memory, prompt, [options])
        return None, time.perf_counter() - start

    return {"transcribe": transcribe, "encode": encode, "decode": decode}


def theirs(worker: Worker, beams: int, whole: bool) -> dict[str, Job]:
    def ask(**request: Any) -> tuple[str | None, float]:
        answer = worker.ask(request)
        return answer["text"], answer["seconds"]

    if whole:
        return {"transcribe": lambda: ask(do="transcribe", beams=beams)}
    return {
        "transcribe": lambda: ask(do="transcribe", beams=beams),
        "encode": lambda: ask(do="encode"),
        "decode": lambda: ask(do="decode", beams=beams, tokens=TOKENS),
    }


def measure(options: argparse.Namespace, console: Console) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    packed = named(options.packed)
    audio, said = recording(options.clips, options.seconds)
    models = {name: Model.load(path, threads=options.threads, max_batch=8) for name, path in packed.items()}
    for name, path in packed.items():
        if models[name].sparsity > 0.1 and "int8" in name:
            models[f"{name} ahead"] = Model.load(path, threads=options.threads, max_batch=8, reorder_weights=True)
    some = next(iter(models.values()))
    size = 2 * int(some.config["max_source_positions"])
    window = Spectrogram(int(some.config["num_mel_bins"]))(audio[: size * 160])
    vocabulary = vocabulary_of(some.path, some.config, some.tokenizer)
    for name, array in (("audio", audio), ("window", window)):
        np.save(options.work / f"{name}.npy", array)
    workers: dict[str, Worker] = {}
    try:
        for (peer, kind), file in PEERS.items():
            if python := options.blas_python if "BLAS" in peer else options.peer_python:
                spec = {
                    "model": str(resolve(options.model).resolve()),
                    "audio": str((options.work / "audio.npy").resolve()),
                    "window": str((options.work / "window.npy").resolve()),
                    "prompt": vocabulary.prompt("en", "transcribe", times=False),
                    "type": kind,
                    "threads": options.threads,
                    "batch": BATCH if "batched" in peer else 0,
                }
                script = HERE / file
                log = options.work / f"{peer}-{kind}.log"
                workers[f"{peer} {kind}"] = Worker(str(python), script, spec, log, libraries(python))
        rows = []
        for beams in options.beams:
            engines = {name: ours(model, audio, window, beams) for name, model in models.items()}
            engines |= {
                name: theirs(worker, beams, "whisper.cpp" in name or "batched" in name)
                for name, worker in workers.items()
            }
            texts: dict[str, str] = {}
            for name, jobs in engines.items():  # the warm-up as well
                texts[name] = jobs["transcribe"]()[0] or ""
                for part in jobs.keys() - {"transcribe"}:
                    jobs[part]()
            reference = texts[next(iter(packed))]
            everything = {(name, part): job for name, jobs in engines.items() for part, job in jobs.items()}
            found = interleaved(everything, options.repeats)
            for name in engines:
                parts = {part: [seconds for _, seconds in runs] for (who, part), runs in found.items() if who == name}
                apart = word_errors([Sample("", reference)], [texts[name]]).rate
                wrong = word_errors([Sample("", said)], [texts[name]])
                row = {
                    "engine": name,
                    "beams": beams,
                    "real_time": len(audio) / RATE / median(parts["transcribe"]),
                    "encoder_ms": 1e3 * median(parts["encode"]) if "encode" in parts else None,
                    "decoded": TOKENS,
                    "decoder_tokens_per_second": TOKENS / median(parts["decode"]) if "decode" in parts else None,
                    "words_apart_from_dense": apart,
                    "wrong_words": wrong.rate,
                    "words": wrong.words,
                    "file": packed[name.removesuffix(" ahead")].name if name in models else None,
                    "seconds": parts,
                    "text": texts[name],
                }
                rows.append(row)
                console.print(
                    f"{beams} beams, {name}: {row['real_time']:.1f}x real time, encoder {whole(row['encoder_ms'])} ms, "
                    f"decoder {whole(row['decoder_tokens_per_second'])} tokens/s, {apart:.1f}% of words apart"
                )
        about = {
            "seconds": len(audio) / RATE,
            "repeats": options.repeats,
            "model": Path(options.model).name,
            "sparsity": {name: model.sparsity for name, model in models.items()},
        }
        return rows, about | {"versions": {name: worker.about["version"] for name, worker in workers.items()}}
    finally:
        for worker in workers.values():
            worker.kill()
        for model in models.values():
            model.close()


def whole(number: float | None) -> str:
    return "" if number is None else f"{number:.0f}"


def table(result: dict[str, Any], quality: dict[str, Any] | None = None) -> str:
    """Times real time, and the two parts as measured in the greedy turn.

    quality: the word error rates of the same weights (speech.accuracy), whose int8 files are quantised another way.
    """
    rows = {(row["engine"], row["beams"]): row for row in result["rows"]}
    turns = sorted({beams for _, beams in rows})
    heads = ["engine", *(BEAMS[beams] for beams in turns), "encoder, ms a window", "decoder, tokens/s"]
    heads += ["words apart from dense"]
    counted = any("wrong_words" in row for row in result["rows"])
    heads += ["wrong words in real speech"] if quality or counted else []
    lines = ["| " + " | ".join(heads) + " |", "|---|" + "--:|" * (len(heads) - 1)]
    for engine in dict.fromkeys(engine for engine, _ in rows):
        greedy = rows[engine, 1]
        cells = [*(f"{rows[engine, beams]['real_time']:.1f}" for beams in turns), whole(greedy["encoder_ms"])]
        cells += [whole(_decoder(greedy)), f"{greedy['words_apart_from_dense']:.1f}%"]
        if quality or counted:
            rate = greedy["wrong_words"] if counted else wrong_words(engine, quality or {})
            cells.append("" if rate is None else f"{rate:.1f}%")
        lines.append(f"| {engine} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _decoder(row: dict[str, Any]) -> float | None:
    """Tokens per second; None of faster-whisper where nobody counted them, as it then made about half of them."""
    known = "decoded" in row or row["engine"].startswith("Cutwork")
    return row["decoder_tokens_per_second"] if known else None


def wrong_words(engine: str, quality: dict[str, Any]) -> float | None:
    """The word error rate, %, of the model that an engine of ours ran, where it was measured."""
    if not engine.startswith("Cutwork"):
        return None
    level = next((int(part.rpartition("-")[2]) / 100 for part in engine.split() if part.startswith("squarehead")), 0.0)
    method = ("SquareHead" if level else "dense") + " W8A8" * ("int8" in engine)
    found = [row for row in quality["rows"] if (row["method"], row["sparsity"]) == (method, level)]
    return found[0]["real"]["wer"] if found else None


def plot(rows: list[dict[str, Any]], file: Path) -> None:
    turns = sorted({row["beams"] for row in rows})
    figure = figures.new_figure(5.5 * len(turns) + 1.5 * (len(turns) == 1), 3.8)
    for ax, beams in zip(figure.subplots(1, len(turns), squeeze=False)[0], turns, strict=True):
        bars = [row for row in rows if row["beams"] == beams][::-1]
        colours = [figures.GREEN if row["engine"].startswith("Cutwork") else figures.GREY for row in bars]
        ax.barh([row["engine"] for row in bars], [row["real_time"] for row in bars], color=colours)
        ax.set_title(BEAMS[beams], fontsize=10)
        ax.set_xlabel("times real time")
        figures.frame(ax, grid=False)
        ax.tick_params(labelsize=8)
    figures.save(figure, file)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="openai/whisper-tiny.en", help="the dense model, a checkpoint")
    parser.add_argument("--packed", nargs="+", required=True, metavar="NAME=DIRECTORY", help="the first: of that model")
    parser.add_argument("--clips", type=Path, required=True, help="a folder of recordings with their transcripts")
    parser.add_argument("--seconds", type=float, default=600, help="at least so much speech")
    parser.add_argument("--beams", type=int, nargs="+", choices=BEAMS, default=list(BEAMS))
    parser.add_argument(
        "--peer-python", type=Path, help="of an environment with faster-whisper, transformers and torch"
    )
    parser.add_argument("--blas-python", type=Path, help="of one with whisper.cpp built with BLAS")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--work", type=Path, default=ROOT / "out" / "whisper-speed")
    parser.add_argument("--name", default="whisper_speed", help="of the result")
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    rows, about = measure(options, Console(stderr=True, highlight=False))
    options.results.mkdir(parents=True, exist_ok=True)
    versions = about.pop("versions")
    file = options.results / f"{options.name}.json"
    result = save(file, {**about, "rows": rows}, threads=options.threads, versions=versions)
    plot(rows, file.with_suffix(".png"))
    print(table(result))


if __name__ == "__main__":
    main()
