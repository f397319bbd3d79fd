"""Accuracy against speed and memory: an experiment's files beside llama.cpp's of the same dense model.

    python -m benchmarks.evidence.pareto short      # after `python -m benchmarks.evidence short`, on a quiet machine
    python -m benchmarks.evidence.pareto longer --rounds 9
    python -m benchmarks.evidence.pareto new-numbers    # after `python -m benchmarks.evidence.new_numbers`
    python -m benchmarks.evidence.pareto int4-heads --output out/new-numbers    # after its script
    python -m benchmarks.evidence.pareto converged    # after `python -m benchmarks.evidence.converged_files`
    python -m benchmarks.evidence.pareto converged-longer --output out/converged-longer    # after its script
    python -m benchmarks.evidence.pareto gsm8k --ik FOLDER      # after `python -m benchmarks.evidence.gsm8k`

llama.cpp quantises the teacher itself, or the dense model that was trained on for as long as the sparse ones, as its
llama-quantize does, and answers the same questions of the test, greedily; for GSM8K and the converged teachers with an
importance matrix, and beside OpenVINO in int4. Then all files take turns, each alone in memory; nobody's weights are
mapped, so that all can be in huge pages. ik_llama.cpp, where a folder with its llama-bench is given, runs llama.cpp's
files, its weights interleaved while they are loaded, and is asked nothing. Leaves
pareto.json, or pareto_longer.json, _new_numbers, _int4_heads, _converged, _converged_longer or _gsm8k, and its .png, in
results/.
"""

import argparse
import hashlib
import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import count, cycle
from pathlib import Path
from typing import Any, Literal

import numpy as np
from rich.console import Console

from benchmarks.common.pages import huge_share
from benchmarks.common.random_llama import some_tokens
from benchmarks.common.results import RESULTS, load, save
from benchmarks.common.timing import interleaved
from benchmarks.common.worker import Worker
from benchmarks.evidence.data import recipe_of, splits
from benchmarks.evidence.designs import DENSE, DESIGNS
from benchmarks.evidence.pareto_figure import plot, speed
from benchmarks.evidence.peer_files import LLAMA, OPENVINO, calibration, gguf_files, openvino_file
from benchmarks.evidence.statistics import Pairs, packed, points_above, right_share, seed_pairs
from benchmarks.isa import llama
from benchmarks.isa.cells import IK
from benchmarks.peers.environments import ENVIRONMENTS, WORKERS, python_of
from cutwork.measure.compare import Measurements
from cutwork.recipe import Recipe
from cutwork.run.stages import sample_digest
from cutwork.tasks.rendering import render_prompt
from cutwork.tasks.task import Sample, Task, is_right
from cutwork.torch_models.load import load_tokenizer

PEERS = (LLAMA, IK, OPENVINO)
Rival = Literal["fastest", "most accurate", "own"]  # a dense 4-bit file that a sparse one is held against
_DECODE = "decode, 1 threads"
_PROMPTS = {"decode": (16, 128), "prefill": (512, 1)}  # tokens of the prompt, tokens decoded
_HUGE = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}
_BATCH, _CONTEXT = 16, 640
_TRAINED_ON = ", trained on"  # of a dense model, beside the teacher
_DENSE_4_BITS = ("Q4_K_M", "IQ4_NL", "Q4_0", "Q4_0, head too")  # of llama.cpp
_WORKERS = {  # by engine: the environment and the script
    "cutwork": (None, "cutwork_worker.py"),
    LLAMA: ("llama", "llama_cpp_worker.py"),
    OPENVINO: ("openvino", "openvino_worker.py"),
}
_WEIGHTS = (".safetensors", ".bin")
_TOGETHER = 128  # questions that are handed over at a time
_VOCABULARY = 49152


@dataclass(frozen=True)
class Pareto:
    """What is compared of an experiment.

    result: its name. rows: the kind of its rows whose files are timed. dense: the stage of the model that the peers
    quantise, seed: which of several that is. kinds: of llama.cpp's files. reference: what all answers are held against,
    `called` so in the table. calibrated: llama.cpp gets an importance matrix. openvino: it joins, in int4.
    """

    result: str
    rows: str = "quantized"
    dense: str = "teacher"
    seed: int | None = None
    kinds: tuple[str, ...] = ("Q8_0", "Q4_K_M", "Q4_0")
    reference: str = "cutwork bf16"
    called: str = "the teacher's"
    calibrated: bool = False
    openvino: bool = False


PARETOS = {
    "short": Pareto("pareto"),
    "longer": Pareto("pareto_longer"),
    "new-numbers": Pareto(
        "pareto_new_numbers",
        rows="tuned",
        dense="ce-0-rate0.0004-steps249-seed0",
        seed=0,
        kinds=("Q8_0", *_DENSE_4_BITS),
        reference="cutwork int8",
        called="dense int8's",
    ),
    "int4-heads": Pareto(
        "pareto_int4_heads",
        rows="file",
        dense="ce-0-rate0.0004-steps125-seed0",
        seed=0,
        kinds=("Q8_0", *_DENSE_4_BITS),
        reference="cutwork int8",
        called="dense int8's",
        calibrated=True,
    ),
    "converged": Pareto(
        "pareto_converged",
        rows="file",
        kinds=("Q8_0", *_DENSE_4_BITS),
        reference="cutwork int8",
        called="the teacher's in int8",
        calibrated=True,
        openvino=True,
    ),
    "converged-longer": Pareto(
        "pareto_converged_longer",
        rows="file",
        dense="ce-kl-longer-dense-seed0-0",
        seed=0,
        kinds=("Q8_0", *_DENSE_4_BITS),
        reference="cutwork int8, trained on",
        called="dense int8's, trained on",
        calibrated=True,
        openvino=True,
    ),
    "gsm8k": Pareto(
        "pareto_gsm8k",
        rows="tuned",
        dense="ce-0-rate2e-05-steps250-seed0",
        seed=0,
        kinds=("Q8_0", *_DENSE_4_BITS, "Q3_K_M"),
        reference="cutwork int8",
        called="dense int8's",
        calibrated=True,
        openvino=True,
    ),
}


def models(
    about: Pareto, result: str, recipe: Recipe, samples: Sequence[Sample], output: Path, console: Console
) -> list[dict[str, Any]]:
    """Our files as the experiment's result lists them, and the peers', made where they are missing."""
    found = [row for row in load(f"{result}.json")["rows"] if row["kind"] == about.rows]
    ours = [
        {
            "engine": "cutwork",
            "weights": row["encoding"],
            "zeros": row["level"],
            "file": str(output / "packed" / row["file"]),
            **{key: row[key] for key in ("pattern", "loss", "seed", "right", "samples", "answers") if key in row},
        }
        for row in found
    ]
    checkpoint = output / about.dense
    data = calibration(recipe, checkpoint, samples) if about.calibrated else ()
    peers = gguf_files(checkpoint, about.kinds, data, output / "gguf" / about.dense, console)
    if about.openvino:
        peers.append(openvino_file(checkpoint, data, output / "openvino" / about.dense, console))
    return [*ours, *(peer if about.seed is None else {**peer, "seed": about.seed} for peer in peers)]


def beside(found: list[dict[str, Any]], folder: Path) -> list[dict[str, Any]]:
    """The 4-bit files of llama.cpp as ik_llama.cpp runs them: the same answers, as the same weights give them."""
    theirs = [model for model in found if model["engine"] == LLAMA and model["weights"] in _DENSE_4_BITS]
    return [{**model, "engine": IK, "folder": str(folder)} for model in theirs]


class Bench:
    """ik_llama.cpp's own program in the place of a process that stays: each run loads the file anew."""

    def __init__(self, model: dict[str, Any], threads: int) -> None:
        build = llama.Build(IK, Path(model["folder"]))
        self._command = build.command("llama-bench", Path(model["file"]).resolve(), threads)
        self.huge_share, self.version = 0.0, ""

    def time(self, prompt: int, decode: int) -> dict[str, float]:
        """Seconds, as a worker gives them: of a prompt's tokens, or of tokens that follow nothing."""
        asked = ("-p", str(prompt), "-n", "0") if decode == 1 else ("-p", "0", "-n", str(decode))
        output, _, share = llama.run([*self._command, *asked, "-r", "1", "-o", "json"])
        self.huge_share = max(share, self.huge_share)
        rows = json.loads(output[output.index("[") :])
        self.version = f"{rows[0]['build_commit']}, {' '.join(self._command[5:])}"
        [(phase, speed)] = llama.parse_singles(rows).items()
        return {phase: (prompt if phase == "prefill" else decode) / speed}


def start(model: dict[str, Any], threads: int) -> Worker:
    """A process that runs a model."""
    environment, script = _WORKERS[model["engine"]]
    spec = {"model": model["file"], "threads": threads, "context": _CONTEXT, "batch": _BATCH, "map": False}
    spec |= {"batch_context": _CONTEXT, "reorder_weights": False}
    log = Path(model["file"]).with_suffix(f".{threads}.log")
    return Worker(python_of(environment), WORKERS / script, spec, log, _HUGE)


def ask(model: dict[str, Any], task: Task, tokenizer: Any, most: int, kept: Measurements, key: Any) -> dict[str, Any]:
    """A peer's greedy answers to all questions; those that an interrupted call had are kept."""
    prompts = [
        tokenizer(render_prompt(tokenizer, sample), add_special_tokens=False)["input_ids"] for sample in task.test
    ]
    replies, workers = [], list[Worker]()

    def some(first: int) -> dict[str, Any]:
        if not workers:
            workers.append(start(model, 2))
        asked = {"answer": prompts[first : first + _TOGETHER], "most": most, "end": tokenizer.eos_token_id}
        return {"tokens": workers[0].ask(asked)["tokens"]}

    try:
        for first in range(0, len(prompts), _TOGETHER):
            for answer in kept.get([*key, first], partial(some, first))["tokens"]:
                ended = answer[:-1] if answer[-1] == tokenizer.eos_token_id else answer
                replies.append(tokenizer.decode(ended, skip_special_tokens=True))
    finally:
        for worker in workers:
            worker.kill()
    right = np.array([is_right(reply, sample.answer) for reply, sample in zip(replies, task.test, strict=True)])
    return {"right": int(right.sum()), "samples": len(right), "answers": packed(right), "replies": replies}


def timed(found: list[dict[str, Any]], threads: int, rounds: int) -> None:
    """Adds tokens/s of every round to the models, and how much of each process was in huge pages.

    A round times one file of every kind, of its seeds in turn, and each in a process of its own, so that nothing else
    lies in memory meanwhile.
    """
    number = count()  # no prompt comes twice: an engine may remember prefixes

    def turn(files: Iterator[dict[str, Any]]) -> None:
        model = next(files)
        worker = Bench(model, threads) if model["engine"] == IK else start(model, threads)
        try:
            for phase, (prompt, decode) in _PROMPTS.items():
                asked = partial(_seconds, worker, phase, prompt, decode, number)
                tokens = decode if phase == "decode" else prompt
                asked()  # to warm up
                model.setdefault(f"{phase}, {threads} threads", []).append(round(tokens / asked(), 1))
            share = worker.huge_share if isinstance(worker, Bench) else huge_share(worker.pid)
            model[f"huge pages, {threads} threads"] = share
            if isinstance(worker, Bench):
                model["version"] = worker.version
        finally:
            if isinstance(worker, Worker):
                worker.kill()

    interleaved({name: partial(turn, cycle(group)) for name, group in names(found)}, rounds)


def _seconds(worker: Worker | Bench, phase: str, prompt: int, decode: int, number: Iterator[int]) -> float:
    if isinstance(worker, Bench):
        return worker.time(prompt, decode)[phase]
    answer = worker.ask({"time": [some_tokens(prompt, _VOCABULARY, next(number))], "decode": decode})
    return float(answer[phase])


def names(found: list[dict[str, Any]]) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Models that differ in their seed only, together; a dense one that was trained on, beside the teacher, as that."""
    groups: dict[str, list[dict[str, Any]]] = defaultdict(list)
    teacher = any(model["engine"] == "cutwork" and not model["zeros"] and "pattern" not in model for model in found)
    for model in found:
        pattern = {"unstructured": "anywhere"}.get(name := model.get("pattern", "4:16"), name)
        how = ", ".join(filter(None, (pattern, model.get("loss"))))
        zeros = f", {model['zeros']:.0%} zeros ({how})" if model["zeros"] else ""
        if teacher and name == DENSE:
            zeros = _TRAINED_ON
        groups[f"{model['engine']} {model['weights']}{zeros}"].append(model)
    yield from groups.items()


def rival(result: dict[str, Any], which: Rival) -> str:
    """A dense 4-bit file: the peers' fastest or most accurate one, or our own, the more accurate of two."""
    groups = dict(names(result["models"]))
    by_speed, by_answers = lambda name: speed(groups[name], _DECODE), lambda name: right_share(groups[name])[0]
    if which == "own":
        return max((n for n in groups if n in ("cutwork int4", f"cutwork int4{_TRAINED_ON}")), key=by_answers)
    peers = (n for n in groups if n.startswith(PEERS) and n.endswith((*_DENSE_4_BITS, "int4")))
    return max(peers, key=by_speed if which == "fastest" else by_answers)


def sparse_beside(result: dict[str, Any], dense: str) -> Iterator[tuple[str, Pairs, float]]:
    """Every kind of sparse file: its answers and a dense one's, of the seeds that both have, and how many times as fast
    as that it decodes on one thread."""
    groups = dict(names(result["models"]))
    for name, group in groups.items():
        if group[0]["zeros"] and (pairs := seed_pairs(group, groups[dense])):
            yield name, pairs, speed(group, _DECODE) / speed(groups[dense], _DECODE)


def table(result: dict[str, Any]) -> str:
    """Every kind of file: accuracy, its difference from the dense reference's, bytes, and tokens/s."""
    about = next(each for each in PARETOS.values() if each.result == result.get("about", "pareto"))
    lines = [
        f"| | right [95%] | minus {about.called}, points [95%] | MB | decode, 1 / 2 threads | prompt of 512 |",
        "|---|--:|--:|--:|--:|--:|",
    ]
    groups = dict(names(result["models"]))
    dense = groups[about.reference]
    for name, group in groups.items():
        decode, prompt = (
            " / ".join(f"{speed(group, f'{phase}, {threads} threads'):.0f}" for threads in result["threads"])
            for phase in ("decode", "prefill")
        )
        megabytes = f"{group[0]['bytes'] / 1e6:.0f}"
        if "right" not in group[0]:
            lines.append(f"| {name} | not asked |  | {megabytes} | {decode} | {prompt} |")
            continue
        mean, low, high = right_share(group)
        change, least, most = points_above(seed_pairs(group, dense))
        difference = "" if name == about.reference else f"{change:+.1f} [{least:+.1f}, {most:+.1f}]"
        lines.append(
            f"| {name} | {mean:.1%} [{low:.1%}, {high:.1%}] | {difference} | {megabytes} | {decode} | {prompt} |"
        )
    return "\n".join(lines)


def glance(result: dict[str, Any]) -> str:
    """What a first look needs of `table`: files in 8 and 4 bits, and one stream on one core."""
    about = next(each for each in PARETOS.values() if each.result == result.get("about", "pareto"))
    groups = dict(names(result["models"]))
    dense = groups[about.reference]
    lines = [f"| file | right | minus {about.called}, points [95%] | MB | tok/s |", "|---|--:|--:|--:|--:|"]
    for name, group in groups.items():
        change, low, high = points_above(seed_pairs(group, dense))
        difference = "" if name == about.reference else f"{change:+.1f} [{low:+.1f}, {high:+.1f}]"
        megabytes, tokens = group[0]["bytes"] / 1e6, speed(group, _DECODE)
        lines.append(f"| {name} | {right_share(group)[0]:.1%} | {difference} | {megabytes:.0f} | {tokens:.0f} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("design", nargs="?", choices=list(PARETOS), default="short")
    parser.add_argument("--output", type=Path, help="of the experiment; default: the recipe's")
    parser.add_argument("--rounds", type=int, default=5, help="each times one file of every kind, of its seeds in turn")
    parser.add_argument("--speed-alone", action="store_true", help="time the peers' files, and ask them nothing new")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--ik", type=Path, metavar="FOLDER", help="ik_llama.cpp, built for this processor")
    parser.add_argument("--data", help="of gsm8k: a directory with test.jsonl, where the Hub is out of reach")
    options = parser.parse_args()
    if options.ik and (problem := llama.Build(IK, options.ik).missing()):
        parser.error(problem)

    console, design, about = Console(stderr=True), DESIGNS[options.design], PARETOS[options.design]
    recipe = recipe_of(design, data=options.data)
    output = options.output or recipe.output
    task, tokenizer = splits(design, recipe)["test"], load_tokenizer(output / "teacher")
    found = models(about, design.result, recipe, task.train, output, console)
    kept = Measurements(output / "measurements")
    for model in found:
        file = Path(model["file"])
        parts = [file] if file.is_file() else [part for part in sorted(file.rglob("*")) if part.suffix in _WEIGHTS]
        model["bytes"] = sum(part.stat().st_size for part in parts)
        if "right" in model:
            continue
        with parts[0].open("rb") as opened:
            contents = hashlib.file_digest(opened, "sha256").hexdigest()
        key = [contents, sample_digest(task.test), recipe.compare.max_new_tokens, model["engine"]]
        if options.speed_alone and not kept.has(key):
            continue
        row = kept.get(key, partial(ask, model, task, tokenizer, recipe.compare.max_new_tokens, kept, key))
        model |= {name: value for name, value in row.items() if name != "replies"}
        console.print(
            f"{model['engine']} {model['weights']}: {row['right'] / row['samples']:.1%} right", highlight=False
        )
    if options.ik:
        found += beside(found, options.ik)
    for threads in options.threads:
        timed(found, threads, options.rounds)
    for model in found:
        model["file"] = str(Path(model["file"]).relative_to(output))
        model.pop("folder", None)
    engines = {model["engine"] for model in found}
    versions = {
        engine: ENVIRONMENTS[environment].packages[0].replace("==", " ")
        for engine, (environment, _) in _WORKERS.items()
        if environment and engine in engines
    }
    content = {"about": about.result, "threads": options.threads, "rounds": options.rounds, "models": found}
    result = save(RESULTS / f"{about.result}.json", content, versions=versions)
    plot(list(names(result["models"])), result["threads"][0], RESULTS / f"{about.result}.png")
    print(table(result))


if __name__ == "__main__":
    main()
