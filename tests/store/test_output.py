"""Whatever interrupts the writing of an output, there is the old one or the whole new one, and the next call heals."""

import multiprocessing
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from cutwork.errors import CutworkError
from cutwork.store import output as output_module
from cutwork.store import partial as partial_module
from cutwork.store.atomic import write_atomically
from cutwork.store.output import output_directory

WRITER = """
import os, signal, sys
from pathlib import Path
from cutwork.store.output import output_directory
with output_directory(Path(sys.argv[1]), overwrite=True) as partial:
    (partial / "config.json").write_text("new")
    print(partial.name, flush=True)
    sys.stdin.readline()
"""


def model(path: Path, text: str) -> Path:
    path.mkdir()
    (path / "config.json").write_text(text)
    return path


def test_a_partial_output_belongs_to_its_process_whatever_its_number(tmp_path: Path) -> None:
    """As of two containers that share a volume: a living writer's directory is left alone, a killed one's removed."""
    out = tmp_path / "out"
    writer = subprocess.Popen([sys.executable, "-c", WRITER, out], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert writer.stdin and writer.stdout
    name = writer.stdout.readline().decode().strip()
    with output_directory(out, overwrite=True) as partial:
        (partial / "config.json").write_text("mine")
        assert (tmp_path / name).is_dir() and partial.name != name
    assert (out / "config.json").read_text() == "mine"
    writer.kill()
    writer.wait()
    assert (tmp_path / name).is_dir()
    with pytest.raises(CutworkError, match="already exists"), output_directory(out):
        raise AssertionError
    assert os.listdir(tmp_path) == ["out"]


def test_a_reader_always_finds_a_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = model(tmp_path / "out", "old")
    moved: list[Path] = []
    monkeypatch.setattr(
        Path, "rename", lambda self, target, rename=Path.rename: (moved.append(self), rename(self, target))[1]
    )
    with output_directory(out, overwrite=True) as partial:
        (partial / "config.json").write_text("new")
    assert out not in moved  # the old one never left: they were exchanged
    assert (out / "config.json").read_text() == "new" and os.listdir(tmp_path) == ["out"]


def test_without_an_exchange_the_old_one_comes_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output_module, "_exchange", lambda *_: False)
    out = model(tmp_path / "out", "old")

    def killed_between_the_steps() -> None:
        rename = Path.rename

        def dies(self: Path, target: Path) -> Path:
            if self == out:
                rename(self, target)
                os.kill(os.getpid(), signal.SIGKILL)
            return rename(self, target)

        Path.rename = dies  # type: ignore[method-assign, assignment]
        with output_directory(out, overwrite=True) as partial:
            (partial / "config.json").write_text("new")

    child = multiprocessing.get_context("fork").Process(target=killed_between_the_steps)
    child.start()
    child.join()
    assert child.exitcode == -9 and not out.exists()
    with output_directory(out, overwrite=True) as partial:
        assert (out / "config.json").read_text() == "old"
        (partial / "config.json").write_text("new")
    assert (out / "config.json").read_text() == "new" and os.listdir(tmp_path) == ["out"]


def test_another_process_may_be_quicker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out"
    sync = output_module.sync

    def meanwhile(path: Path) -> None:
        sync(path)
        model(out, "theirs")

    monkeypatch.setattr(output_module, "sync", meanwhile)
    with pytest.raises(CutworkError, match="already exists"), output_directory(out) as partial:
        (partial / "config.json").write_text("mine")
    assert (out / "config.json").read_text() == "theirs" and os.listdir(tmp_path) == ["out"]


def test_everything_is_on_the_disk_before_the_name_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    fsync, rename, replace = os.fsync, Path.rename, Path.replace

    def named(opened: int) -> str:
        return os.path.basename(os.readlink(f"/proc/self/fd/{opened}"))

    monkeypatch.setattr(os, "fsync", lambda opened: (done.append(named(opened)), fsync(opened))[1])
    monkeypatch.setattr(Path, "rename", lambda self, target: (done.append("rename"), rename(self, target))[1])
    monkeypatch.setattr(Path, "replace", lambda self, target: (done.append("rename"), replace(self, target))[1])
    with output_directory(tmp_path / "out") as partial:
        (partial / "sub").mkdir()
        (partial / "sub" / "weights").write_text("x")
    assert done == ["weights", "sub", partial.name, "rename", tmp_path.name]
    done.clear()
    write_atomically(tmp_path / "small", "x")
    assert done[0].startswith(".small.partial-") and done[1:] == ["rename", tmp_path.name]


def test_what_a_killed_writer_of_a_small_file_left_is_removed(tmp_path: Path) -> None:
    for name in (".small.partial-00ff", ".smaller.partial-00ff", ".small.partial"):
        (tmp_path / name).write_text("half")
    with partial_module.partial(tmp_path / "small") as held:
        write_atomically(tmp_path / "small", "whole")
        assert held.exists()  # another writer's
    assert sorted(os.listdir(tmp_path)) == [".small.partial", ".smaller.partial-00ff", "small"]
