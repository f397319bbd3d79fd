"""`cutwork embed`: files in, vectors out, resumable."""

import base64
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cutwork.engine.model import Model
from cutwork.store.fingerprint import fingerprint
from cutwork.store.journal import Journal
from tests.cli.test_commands import cutwork  # noqa: F401 (a fixture)
from tests.engine.test_embedding import encoder, pooling, write

TEXTS = ["one", "", "a longer line than the others", "two\ttabs", "\u2028one line"]
OPTIONS = {"prompt_name": None, "prompt": None, "pooling": None, "normalize": None, "dimensions": None}


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    modules = {"Pooling": pooling("mean"), "Normalize": {}}
    path = tmp_path_factory.mktemp("embed") / "model"
    return write(encoder(), path, modules, prompts={"query": "find: "})


@pytest.fixture(scope="module")
def expected(directory: Path) -> np.ndarray:
    with Model.load(directory, threads=1) as model:
        return model.embed([text or "x" for text in TEXTS])


def lines(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_a_file_becomes_npy_or_jsonl(cutwork: Any, directory: Path, expected: Any, tmp_path: Path) -> None:  # noqa: F811
    texts = [text or "x" for text in TEXTS]
    source = lines(tmp_path / "in.jsonl", [{"id": f"t{i}", "body": text} for i, text in enumerate(texts)])
    output = tmp_path / "out.npy"
    status, out, err = cutwork("embed", directory, source, "-o", output, "--field", "body", "-t", 1)
    assert status == 0 and "5 vectors" in err and not out
    found = np.load(output)
    assert found.dtype == np.float32 and np.abs(found - expected).max() < 1e-6
    status, out, _ = cutwork("embed", directory, source, "-o", output, "--field", "body", "--overwrite", "--json")
    assert status == 0 and json.loads(out) | {"seconds": 0} == {"texts": 5, "resumed": 0, "width": 48, "seconds": 0}
    status, _, err = cutwork("embed", directory, source, "-o", output)
    assert status == 1 and "exists already" in err
    output = tmp_path / "out.jsonl"
    status, _, _ = cutwork("embed", directory, lines(tmp_path / "plain.jsonl", texts), "-o", output)
    rows = [json.loads(line) for line in output.read_text().splitlines()]
    assert [row["index"] for row in rows] == list(range(5)) and "id" not in rows[0]
    assert np.abs(np.array([row["embedding"] for row in rows]) - expected).max() < 1e-6
    text = tmp_path / "in.txt"
    text.write_text("\n".join(texts) + "\n")
    status, out, _ = cutwork("embed", directory, text, "--dimensions", 5, "--prompt-name", "query")
    assert status == 0 and [len(json.loads(line)["embedding"]) for line in out.splitlines()] == [5] * 5
    status, out, _ = cutwork("embed", directory, text, "--dimensions", 5, "--json")
    assert status == 0 and [len(row["embedding"]) for row in json.loads(out)] == [5] * 5


def test_it_goes_on_where_it_was_interrupted(cutwork: Any, directory: Path, tmp_path: Path) -> None:  # noqa: F811
    source, output = lines(tmp_path / "in.jsonl", ["one", "two"]), tmp_path / "out.npy"
    kept = np.arange(48, dtype=np.float32)
    with Model.load(directory) as model:
        key = [fingerprint(directory), ["one", "two"], OPTIONS, model.loaded_with, model.max_context]
    with Journal(output, key) as journal:
        journal.add([1, base64.b64encode(kept.tobytes()).decode()])
    kept_lines = (tmp_path / ".out.npy.partial").read_bytes()
    status, _, err = cutwork("embed", directory, source, "-o", output, "--weights", "i8")
    assert status == 0 and "already" not in err  # no vectors of two models side by side
    output.unlink()
    (tmp_path / ".out.npy.partial").write_bytes(kept_lines)
    status, _, err = cutwork("embed", directory, source, "-o", output)
    assert status == 0 and "1 of 2 are embedded already" in err
    assert (np.load(output)[1] == kept).all() and not (np.load(output)[0] == kept).any()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.jsonl", "out.npy"]


@pytest.mark.parametrize(
    ("name", "content"),
    [("in.jsonl", '"a"\n\n"b"\n""\n"c"\n'), ("in.txt", "a\nb\nc\n\nd\n")],
)
def test_an_empty_text_is_told_by_its_line_before_others_take_time(
    cutwork: Any,  # noqa: F811
    directory: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    content: str,
) -> None:
    monkeypatch.setattr(sys.modules["cutwork.cli.embed"], "CHUNK", 2)
    (tmp_path / name).write_text(content)
    command = ("embed", directory, tmp_path / name, "-o", tmp_path / "out.npy")
    status, _, err = cutwork(*command)
    assert status == 1 and f"{name}, line 4 is empty" in " ".join(err.split())
    assert not (tmp_path / ".out.npy.partial").exists()
    assert cutwork(*command, "--prompt-name", "query")[0] == 0  # which is something to read


@pytest.mark.parametrize(
    ("content", "more", "message"),
    [
        ('{"text": 3}\n', (), "line 1 has no text in the field 'text'"),
        ('"a"\n{"b": ', (), "line 2 is not JSON"),
        ("\n", (), "holds no texts"),
        ('"a"\n', ("-o", "out.bin"), "must end in .npy or .jsonl"),
        ('"a"\n', ("--pooling", "middle"), "pooling must be"),
        ('"a"\n', ("--overwrite",), "--overwrite is for --output alone"),
        ('"a"\n', ("--prompt", "a", "--prompt-name", "query"), "give either --prompt or --prompt-name"),
        ('"a"\n', ("--dimensions", 49), "dimensions must be from 1 to 48"),
        ('"a"\n', ("--prompt-name", "passage"), "no prompt 'passage'; it has query"),
    ],
)
def test_bad_input_is_one_sentence(cutwork: Any, directory: Path, tmp_path: Path, content, more, message) -> None:  # noqa: F811
    source = tmp_path / "in.jsonl"
    source.write_text(content)
    status, _, err = cutwork("embed", directory, source, *more)
    assert status == 1 and message in err and len(err.strip().splitlines()) == 1


def test_commands_for_models_that_write_say_so_and_explain_shows_the_step(cutwork: Any, directory: Path) -> None:  # noqa: F811
    for command in (("bench", directory), ("generate", directory, "a"), ("chat", directory)):
        status, _, err = cutwork(*command)
        assert status == 1 and "writes no text" in err, command
    status, _, err = cutwork("translate", directory, "a")
    assert status == 1 and "use embed" in err
    status, out, _ = cutwork("explain", directory, "--tokens", 40, "-r", 2, "--json")
    shown = json.loads(out)
    assert status == 0 and shown["tokens"] == 40 and shown["context"] == 0
    assert any(op["kind"] == "self_attention" for op in shown["other_ops"])
    status, _, err = cutwork("explain", directory, "--tokens", 4000)
    assert status == 1 and "profile fewer" in err
