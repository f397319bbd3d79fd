import json
import re
from pathlib import Path
from typing import Any

import pytest

from benchmarks.common import results
from benchmarks.common.provenance import ROOT, command, provenance
from benchmarks.common.results import RESULTS, refuse_mixture, resume, save, where
from benchmarks.common.timing import interleaved
from benchmarks.peers.store import Store

FILES = sorted(RESULTS.glob("*.json"))


def test_a_result_tells_where_it_comes_from(tmp_path: Path) -> None:
    file = tmp_path / "some.json"
    written = save(file, {"rows": [1, 2]}, threads=2, versions={"peer": "1.0"})
    assert json.loads(file.read_text()) == written
    about = written["provenance"]
    assert about["threads"] == 2
    assert about["versions"]["peer"] == "1.0"
    assert about["versions"]["cutwork"]
    assert about["processor"]["name"] and "generation" in about["processor"]
    assert about["build"].startswith(about["versions"]["cutwork"] + "+")
    assert str(tmp_path) not in json.dumps(about)
    assert where(written).endswith(", 2 threads")


def test_commands_do_not_tell_folders(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("sys.argv", ["x", "--tokenizer", str(tmp_path / "secret" / "model"), "--threads", "2"])
    assert command()[-4:] == ["--tokenizer", "model", "--threads", "2"]
    monkeypatch.setattr("sys.argv", ["x", f"before={tmp_path / 'secret' / 'a.whl'}", "--set", "a=b/c"])
    assert command()[-3:] == ["before=a.whl", "--set", "a=b/c"]
    monkeypatch.setattr("sys.argv", ["x", str(tmp_path / "secret" / "rate=1" / "model")])
    assert command()[-1:] == ["model"]


def test_more_of_the_same_machine_and_build_can_be_added(tmp_path: Path) -> None:
    file = tmp_path / "some.json"
    assert resume(file) == {}
    save(file, {"rows": [1]})
    assert resume(file)["rows"] == [1]


@pytest.mark.parametrize(
    "changed",
    [
        {"build": "0.1.0+00000000"},
        {"build": None, "reconstructed": True},
        {"processor": {"name": "Mine", "vendor": "Me", "family": 1, "model": 1, "generation": "the first"}},
    ],
)
def test_results_of_another_processor_or_build_are_refused(tmp_path: Path, changed: dict[str, Any]) -> None:
    file = tmp_path / "some.json"
    other = provenance() | {"processor": provenance()["processor"] | {"generation": "Zen 3"}} | changed
    file.write_text(json.dumps({"provenance": other, "rows": []}))
    with pytest.raises(SystemExit, match=r"some\.json holds results of .* one file holds one machine and one build"):
        resume(file)


def test_the_store_of_peers_refuses_as_well(tmp_path: Path) -> None:
    file = tmp_path / "peers.json"
    store = Store.open(file)
    store.refuse_mixture()
    about = {"weights": "int8", "sparsity": 0.5, "isa": "native", "version": "1", "decode_tokens": 8}
    key = ("cutwork int8 50%", "tiny", 1, 16, 1, "decode")
    for speed in (3.0, 1.0, 2.0):
        store.add(key, speed, about)
    store.save()
    again = Store.open(file)
    again.refuse_mixture()
    assert again.samples(key) == [3.0, 1.0, 2.0]
    assert again.cells[key]["median"] == 2.0
    again.provenance = again.provenance | {"build": "another"}
    with pytest.raises(SystemExit, match="build another"):
        again.refuse_mixture()


def test_every_round_runs_all_in_turn() -> None:
    order: list[str] = []
    found = interleaved({name: lambda name=name: order.append(name) or len(order) for name in "ab"}, 3)
    assert order == list("ababab")
    assert found == {"a": [1, 3, 5], "b": [2, 4, 6]}


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_committed_results_tell_where_they_come_from(file: Path) -> None:
    about = json.loads(file.read_text())["provenance"]
    needed = set(provenance())
    assert needed <= set(about)
    assert about["commit"] and about["date"] and about["command"]
    if not about.get("reconstructed"):
        assert about["build"] and about["processor"]["vendor"] and about["clean"]


def test_reconstructed_results_cannot_be_added_to() -> None:
    old = [file for file in FILES if json.loads(file.read_text())["provenance"].get("reconstructed")]
    for file in old:
        with pytest.raises(SystemExit):
            refuse_mixture(file, results.load(file.name)["provenance"])


SCRIPTS = [
    file
    for file in sorted((ROOT / "benchmarks").rglob("*.py"))
    if "workers" not in file.parts
    and not file.stem.endswith("worker")
    and file.relative_to(ROOT / "benchmarks").as_posix()
    not in ("tables.py", "speech/data.py", "engine/default_costs.py", "embedding/export.py", "serving/pictures.py")
    and 'if __name__ == "__main__":' in file.read_text()
]


@pytest.mark.parametrize("file", SCRIPTS, ids=lambda file: file.relative_to(ROOT).as_posix())
def test_every_script_writes_where_its_result_comes_from(file: Path) -> None:
    text = file.read_text()
    assert re.search(r"\bsave\(|\bstore\.save\(\)|\bExperiment\(", text)


@pytest.mark.parametrize("file", sorted((ROOT / "benchmarks").rglob("*.py")), ids=lambda file: file.stem)
def test_no_script_imports_tests(file: Path) -> None:
    assert not re.search(r"^\s*(from|import) tests\b", file.read_text(), re.MULTILINE)
