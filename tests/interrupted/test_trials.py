"""A few of the trials, and that they see what must not be."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")

from .commands import agree, contents_of

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("interrupted") / "work"


def trials(work: Path, kind: str, count: int) -> str:
    """In a process of its own, which forks and should have no other threads."""
    command = [sys.executable, "-m", "tests.interrupted", kind, "--seed", "1", "--trials", str(count), "--only", "pack"]
    done = subprocess.run([*command, "--work", work], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_what_is_interrupted_is_whole_and_heals(work: Path) -> None:
    assert "pack killed" in trials(work, "kills", 6)
    assert "pack twice at once" in trials(work, "pairs", 3)


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a disk")
def test_a_full_disk_keeps_nothing_half(work: Path) -> None:
    if subprocess.run(["unshare", "-m", "true"], capture_output=True, check=False).returncode:
        pytest.skip("disks cannot be mounted here")
    assert "pack on a full disk" in trials(work, "disks", 4)


def test_a_torn_file_and_a_missing_one_are_seen(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("whole")
    (tmp_path / "b.jsonl").write_text('{"step": 1}\n{"step": 2}\n')
    whole = contents_of(tmp_path)
    assert agree(contents_of(tmp_path), {**whole, "a": ""})
    (tmp_path / "b.jsonl").write_text('{"step": 1}\n')
    assert not agree(contents_of(tmp_path), whole)
    (tmp_path / "b.jsonl").unlink()
    assert not agree(contents_of(tmp_path), whole)
