"""The commands that write, on tiny models, and what an undisturbed call of each leaves."""

import hashlib
import json
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tests.child import ended

from .process import start

Contents = dict[str, str]  # of each file of a directory, or "": of a file itself; "" where two calls leave other bytes
_TRAINING = ["--max-steps", "4", "--save-every", "1", "--batch-size", "4", "--micro-batch-size", "4"]
_TRAINING += ["--warmup-steps", "0", "--max-length", "64", "--dtype", "float32", "--report-to", "none"]
_CALIBRATION = ["--calibration-samples", "4", "--max-length", "64"]
_CHOOSING = ["--metric", "tokens", "--samples", "20", "--validation-samples", "8", "--test-samples", "8"]
_CHOOSING += ["--max-length", "128", "--max-new-tokens", "4", "--calibration-samples", "8", "--method", "sparsegpt"]
_CHOOSING += ["--max-steps", "2", "--batch-size", "4", "--threads", "1", "--speedup", "1.3"]
FOLDER = "trial"  # of outputs, below what was made; undisturbed calls write there, too, as some name where they wrote
STAGED = ("run", "compress")  # whose output appears one model after the other, and cannot be there before


@dataclass(frozen=True)
class Command:
    """A command with an output, and what an undisturbed call did and left."""

    arguments: list[str]  # what follows `cutwork`, but for the output
    option: list[str]  # that stands before the output
    seconds: float = 0.0
    operations: int = 0  # on files, below the folder of the output
    bytes: int = 0
    contents: dict[str, Contents] | None = None  # of each part that appears as a whole, by its path below the output

    def call(self, output: Path, *more: str) -> list[str]:
        """What follows `cutwork` for this output."""
        return [*self.arguments, *self.option, str(output), *more]


def read_commands(work: Path) -> dict[str, Command]:
    """The commands in a directory where `make_commands` has been."""
    return {name: Command(**fields) for name, fields in json.loads((work / "commands.json").read_text()).items()}


def make_commands(work: Path, only: str | None = None) -> None:
    """Make tiny models and data in a directory, and call every command, or one, twice: for `read_commands`."""
    from tests.tiny_checkpoint import write_tiny_checkpoint
    from tests.torch_models.tiny import sums

    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    samples = [{"prompt": f"{i} and {i} are", "answer": f" {2 * i}"} for i in range(20)]
    questions = [{"custom_id": f"{i}", "url": "/v1/completions", "body": _question(i)} for i in range(40)]
    learned = [{"prompt": sample.prompt, "answer": sample.answer} for sample in sums(60)]
    tables = {"samples": samples, "tests": samples[-4:], "questions": questions, "sums": learned}
    for name, rows in tables.items():
        (work / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    write_tiny_checkpoint(work / "dense")
    write_tiny_checkpoint(work / "other", seed=1)
    (work / "recipe.yaml").write_text(yaml.safe_dump(_recipe(work)))
    data, dense = ["--task", str(work / "samples.jsonl")], str(work / "dense")
    _call(["prune", dense, str(work / "sparse"), "--method", "magnitude", "--sparsity", "0.7"], work)
    packed = ["--threads", "1", "--max-batch", "4", "--cache-mb", "8"]
    commands = {
        "tune": Command(["tune", str(work / "sparse"), *data, *_TRAINING], []),
        "prune": Command(["prune", dense, *data, *_CALIBRATION, "--method", "sparsegpt"], []),
        "quantize": Command(["quantize", str(work / "sparse"), *data, *_CALIBRATION], []),
        "pack": Command(["pack", str(work / "sparse")], []),
        "batch": Command(["batch", *packed, dense, str(work / "questions.jsonl")], []),
        "compress": Command(["compress", dense, "--data", str(work / "sums.jsonl"), *_CHOOSING], []),
        "run": Command(["run", str(work / "recipe.yaml")], ["--output"]),
    }
    known = {name: _measured(command, work) for name, command in commands.items() if only in (None, name)}
    partial = work / "commands.json.partial"
    partial.write_text(json.dumps({name: command.__dict__ for name, command in known.items()}))
    partial.rename(work / "commands.json")


def output_name(command: str) -> str:
    """What the output of a command is called."""
    return "out.jsonl" if command == "batch" else "out"


def contents_of(part: Path) -> Contents:
    """What is in a file, or in every file of a directory, as far as two calls of a command leave the same."""
    files = [part] if part.is_file() else sorted(path for path in part.rglob("*") if path.is_file())
    return {str(file.relative_to(part)): _digest(file) for file in files}


def agree(found: Contents, wanted: Contents) -> bool:
    """Whether there are the same files with the same contents."""
    return found.keys() == wanted.keys() and all(found[name] == digest for name, digest in wanted.items() if digest)


def _measured(command: Command, work: Path) -> Command:
    """What it leaves, twice."""
    found: list[dict[str, Contents]] = []
    folder = work / FOLDER
    output = folder / output_name(command.arguments[0])
    for _ in range(2):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        began = time.monotonic()
        operations = _call(command.call(output), work, folder)
        seconds = time.monotonic() - began
        found.append({part: contents_of(output / part) for part in _parts(output)})
    size = sum(path.stat().st_size for path in folder.rglob("*"))
    same = {part: _common(found[0][part], found[1][part]) for part in found[0]}
    weights = {name: digest for part in same.values() for name, digest in part.items() if name.endswith(".safetensors")}
    assert all(weights.values()), f"two calls of {command.arguments[0]} made other weights: {weights}"
    shutil.rmtree(folder)
    return Command(command.arguments, command.option, seconds, operations, size, same)


def _parts(output: Path) -> list[str]:
    """What of an output appears as a whole: itself, and of a run every model."""
    models = {file.parent for file in output.rglob("*.safetensors")}
    return sorted({".", *(str(model.relative_to(output)) for model in models)})


def _common(one: Contents, other: Contents) -> Contents:
    assert one.keys() == other.keys(), one.keys() ^ other.keys()
    return {name: digest if other[name] == digest else "" for name, digest in one.items()}


def _digest(file: Path) -> str:
    content = file.read_bytes()
    if file.suffix == ".jsonl":  # of training steps or answers, with times or ids
        content = json.dumps(sorted(map(_meaning, content.split(b"\n")[:-1]))).encode()
    return hashlib.sha256(content).hexdigest()[:16]


def _meaning(line: bytes) -> list[str]:
    entry = json.loads(line)
    if "step" in entry:
        return [str(entry["step"])]
    return [entry["custom_id"], entry["response"]["body"]["choices"][0]["text"]]


def _call(arguments: list[str], work: Path, within: Path | None = None) -> int:
    log, counted = work / "log", work / "operations"
    status = ended(start(arguments, log, within=within or work, counted=counted), 600)
    assert status == 0, f"cutwork {' '.join(arguments)}: {status}\n{log.read_text()}"
    return int(counted.read_text())


def _question(number: int) -> dict[str, Any]:
    return {"prompt": f"question {number}", "max_tokens": 8, "temperature": 0, "ignore_eos": True}


def _recipe(work: Path) -> dict[str, Any]:
    tune = {"max_steps": 3, "save_every": 1, "batch_size": 4, "micro_batch_size": 4, "warmup_steps": 0}
    tune |= {"dtype": "float32", "report_to": ["none"]}
    compare = {"accuracy_samples": 2, "max_new_tokens": 2, "perplexity_tokens": 32, "prompt_tokens": 4}
    compare |= {"decode_tokens": 2, "repeats": 1, "threads": 1}
    options = {"train": str(work / "samples.jsonl"), "test": str(work / "tests.jsonl")}
    return {
        "name": "tiny",
        "model": str(work / "dense"),
        "output": str(work / "unused"),
        "task": {"name": "jsonl", "train_samples": 12, "test_samples": 4, "max_length": 64, "options": options},
        "teacher": tune,
        "prune": {"sparsity": 0.5, "calibration_samples": 4, "method": "sparsegpt"},
        "tune": {**tune, "losses": {"squarehead": 1.0}},
        "quantize": {"calibration_samples": 4},
        "compare": compare,
    }
