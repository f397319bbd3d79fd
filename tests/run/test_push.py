"""`cutwork push` of a small finished run, to a Hub of this machine: what a repository holds, and what its card says."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

pytest.importorskip("torch")

from cutwork.measure.interval import wilson
from cutwork.measure.report.model_card import commands
from cutwork.pack.manifest import read_manifest
from cutwork.recipe import Recipe
from cutwork.recipe_file import load_recipe
from cutwork.run.hub_repository import _without_places
from cutwork.run.run import run as carry_out
from cutwork.store.examples import FILE as EXAMPLES
from cutwork.store.resolve import hub_name
from tests.run.test_run import silent, tiny_settings
from tests.store.fake_hub import TOKEN, FakeHub, fake_hub
from tests.tiny_checkpoint import write_tiny_checkpoint

NAME = "me/tiny-sparse"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("push")
    settings = tiny_settings(write_tiny_checkpoint(directory / "tiny"), directory / "out")
    settings["compare"]["models"] = ["dense-int8", "sparse-int8"]
    return carry_out(Recipe.model_validate(settings), console=silent())


@pytest.fixture
def hub() -> Any:
    with fake_hub() as server:
        yield server


def push(run: Path, *arguments: str, hub: FakeHub | None = None, token: str = TOKEN) -> tuple[int, str, str]:
    """In a process of its own, which is told where the Hub is before it imports its client."""
    endpoint = hub.address if hub else "http://127.0.0.1:9"
    environment = {**os.environ, "HF_ENDPOINT": endpoint, "HF_TOKEN": token, "HF_HUB_DISABLE_XET": "1"}
    environment |= {"COLUMNS": "200", "HF_HUB_OFFLINE": "0"}
    command = [sys.executable, "-c", "from cutwork.cli import main; main()", "push", str(run), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, timeout=300)
    assert "Traceback" not in done.stderr
    return done.returncode, done.stdout, done.stderr


@pytest.fixture(scope="module")
def folder(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dry") / "repository"
    status, out, err = push(run, NAME, "--dry-run", str(folder), "--json")
    assert (status, err) == (0, "")
    written = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    assert json.loads(out) == {"address": str(folder), "files": written}
    return folder


def test_transformers_and_the_engine_load_what_is_given_away(folder: Path, run: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from cutwork import Model

    theirs = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    weight = theirs.get_submodule("model.layers.0.mlp.down_proj").weight
    assert float((weight == 0).float().mean()) == pytest.approx(0.5, abs=0.02)
    prompt = AutoTokenizer.from_pretrained(folder)("two and two")["input_ids"]
    for directory in (folder, folder / "packed" / "sparse-int8", folder / "packed" / "dense-int8"):
        with Model.load(directory, threads=1) as model:
            assert model.encode("two and two") == prompt
            assert len(model.generate(prompt, max_new_tokens=3, ignore_eos=True).tokens) == 3
    assert not list(folder.glob("*report*")) and not list(folder.glob("tune-log*"))


def test_the_card_is_evidence(folder: Path, run: Path) -> None:
    text = (folder / "README.md").read_text()
    front, body = text.removeprefix("---\n").split("\n---\n", 1)
    assert yaml.safe_load(front) == {
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["cutwork", "sparse", "pruned"],
    }
    results = json.loads((run / "results.json").read_text())
    for row in results["variants"]:
        low, high = wilson(row["right"], row["samples"])
        assert f"| {row['name']} | {row['sparsity']:.0%} | {row['accuracy']:.1%} ({low:.1%} to {high:.1%}) |" in body
        assert f"{row['decode_tokens_per_second']:.1f} |" in body
    assert f'    cutwork demo hf:{NAME} -q "Your question"    # ' in body and f"    cutwork chat {NAME} " in body
    for fact in (results["machine"]["cpu"], results["machine"]["isa"], "1 thread;", results["date"], "recipe.yaml"):
        assert fact in body
    entries = read_manifest(run / "packed" / "sparse-int8").weights
    for name, entry in entries.items():
        if len(entry.shape) > 1:
            zeros = 1 - entry.nonzeros / (entry.shape[0] * entry.shape[1])
            assert f"| `{name}` | {entry.shape[0]} × {entry.shape[1]} | {zeros:.2%} | {entry.encoding}" in body
    assert "| `model.layers.*.mlp.down_proj.weight` |" in body
    recipe = yaml.safe_load((folder / "recipe.yaml").read_text())
    assert recipe["prune"]["sparsity"] == 0.5 and recipe["model"] == "tiny"
    assert load_recipe(folder / "recipe.yaml").output == Path("out", recipe["name"])
    everything = b"".join(path.read_bytes() for path in folder.iterdir() if path.suffix in (".md", ".yaml", ".json"))
    assert str(run.parent).encode() not in everything  # where it lay is nobody's business


def test_the_tasks_questions_are_given_away_only_if_asked(run: Path, folder: Path, tmp_path: Path) -> None:
    assert (run / "packed" / "sparse-int8" / EXAMPLES).is_file() and not list(folder.rglob(EXAMPLES))
    status, _, err = push(run, NAME, "--examples", "--dry-run", str(tmp_path / "asked"))
    assert (status, err) == (0, "")
    kept = tmp_path / "asked" / "packed" / "sparse-int8" / EXAMPLES
    assert kept.read_bytes() == (run / "packed" / "sparse-int8" / EXAMPLES).read_bytes()
    assert f"    cutwork demo hf:{NAME}    # " in (tmp_path / "asked" / "README.md").read_text()


def test_a_card_says_what_its_model_can_do() -> None:
    assert list(commands(NAME, "text", template=False, examples=True)) == [
        f'cutwork generate {NAME} "Your prompt"',
        f"cutwork demo hf:{NAME}",
    ]
    assert list(commands(NAME, "speech", template=False, examples=False)) == [f"cutwork transcribe {NAME} talk.wav"]


def test_the_demo_reads_it(folder: Path) -> None:
    command = [sys.executable, "-c", "from cutwork.cli import main; main()", "demo", str(folder), "-n", "3", "--json"]
    done = subprocess.run([*command, "-q", "two?"], capture_output=True, text=True, check=True, timeout=300)
    assert [answer["model"] for answer in json.loads(done.stdout)["answers"]] == ["dense-int8", "sparse-int8"]


def test_it_is_pushed_once(run: Path, folder: Path, hub: FakeHub) -> None:
    status, out, err = push(run, NAME, "--private", hub=hub)
    assert (status, err) == (0, "") and f"{hub.address}/{NAME}/commit/" in out
    pushed = hub.repositories[NAME]
    assert hub.private[NAME]
    files = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert {path: data for path, data in pushed.items() if path != ".gitattributes"} == files
    status, out, err = push(run, NAME, hub=hub)
    assert (status, out) == (1, "") and err.startswith("error: the Hub has a model") and "--overwrite" in err
    pushed |= {f"packed/sparse-int8/{EXAMPLES}": b"[]", "model-00001-of-00002.safetensors": b""}  # of an earlier push
    status, _, err = push(run, NAME, "--overwrite", hub=hub)
    assert (status, err) == (0, "") and set(pushed) == {".gitattributes", *files}
    hub.private[NAME] = False
    status, out, err = push(run, NAME, "--overwrite", "--private", hub=hub)
    assert (status, out) == (1, "") and "is public; make it private there" in err


def test_what_goes_wrong_is_one_sentence(run: Path, tmp_path: Path, hub: FakeHub) -> None:
    def fails(*arguments: str, directory: Path = run, **options: Any) -> str:
        status, out, err = push(directory, *arguments, **options)
        assert (status, out) == (1, "") and err.count("\n") == 1 and err.startswith("error: ")
        return err

    assert "hf auth login" in fails(NAME, hub=hub, token="hf_other")
    assert "cannot be a name on the Hub" in fails("what is this?", hub=hub)
    assert "could not be reached" in fails(NAME)
    assert "no packed model 'sparse-bf16'; it has dense-int8, sparse-int8" in fails(NAME, "--sparse", "sparse-bf16")
    assert "no model that was pruned" in fails(NAME, "--sparse", "dense-int8")
    assert "finish its run first" in fails(NAME, directory=tmp_path)
    hub.broken = True
    assert "the disk is on fire" in fails(NAME, hub=hub)
    shutil.copytree(run, tmp_path / "run")
    results = json.loads((run / "results.json").read_text())
    untrained = {**results, "settings": {**results["settings"], "tune": None}}
    (tmp_path / "run" / "results.json").write_text(json.dumps(untrained))
    assert "fine-tuned nothing" in fails(NAME, directory=tmp_path / "run")
    (tmp_path / "run" / "results.json").write_text(json.dumps(results))
    state = tmp_path / "run" / "stages.json"
    made = json.loads(state.read_text())
    for name in ("packed/sparse-int8", "sparse"):
        state.write_text(json.dumps({**made, name: "another"}))
        assert "made anew after they were measured" in fails(NAME, directory=tmp_path / "run")
    state.write_text(json.dumps(made))
    shutil.rmtree(tmp_path / "run" / "sparse")
    assert "made anew after they were measured" in fails(NAME, directory=tmp_path / "run")
    del results["settings"]
    (tmp_path / "run" / "results.json").write_text(json.dumps(results))
    assert "an older cutwork" in fails(NAME, directory=tmp_path / "run")


def test_files_are_named_without_where_they_lay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("train", "test"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "rows.jsonl").touch()
    options = {"train": str(tmp_path / "train" / "rows.jsonl"), "test": str(tmp_path / "test" / "rows.jsonl")}
    task = {"name": "jsonl", "options": {**options, "prefix": "/no_think {question}"}}
    compare = {"perplexity_text": None, "lm_eval": ["gsm8k"]}
    settings = {"name": "a", "model": "/home/me/base", "output": "/home/me/out", "task": task, "compare": compare}
    found, names = _without_places(settings, None)
    assert found["model"] == "base" and found["output"] == "out/a" and found["compare"] == compare
    assert found["task"]["options"] == {
        "train": "./train/rows.jsonl",
        "test": "./test/rows.jsonl",
        "prefix": "/no_think {question}",
    }
    assert names[options["train"]] == "./train/rows.jsonl"
    alone, _ = _without_places({**settings, "task": {"name": str(tmp_path / "test")}}, "owner/base")
    assert alone["task"]["name"] == "./test" and alone["model"] == "/home/me/base"
    monkeypatch.chdir(tmp_path)
    for name in ("gsm8k", "hellaswag"):
        (tmp_path / name).mkdir()  # what is called like a task is none of its files
    tasks, _ = _without_places(
        {**settings, "task": {"name": "gsm8k"}, "compare": {"lm_eval": ["hellaswag", str(tmp_path / "mine.yaml")]}},
        None,
    )
    assert tasks["task"]["name"] == "gsm8k" and tasks["compare"]["lm_eval"] == ["hellaswag", "./mine.yaml"]
    assert hub_name("out/dense") is None and hub_name("Out/dense") is None
    assert hub_name("owner/name") == hub_name("hf:owner/name") == "owner/name"
