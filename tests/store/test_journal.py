"""What an interrupted call has done is there for the next one, and nothing else."""

import errno
import os
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest

from cutwork.errors import CutworkError
from cutwork.store.journal import Journal, refuse_existing

KEY = ["model", 1]


def test_entries_are_read_again_but_for_one_that_was_cut_off(tmp_path: Path) -> None:
    output = tmp_path / "out.jsonl"
    with Journal(output, KEY) as journal:
        assert journal.entries == []
        journal.add({"text": "a\u2028b\nc"}, [1])
        journal.add(2)
    whole = journal.path.read_bytes()
    for torn in (b'{"text": "', b"34", b'"\xe2\x80', b"\0\0\0\0"):
        journal.path.write_bytes(whole + torn)
        with Journal(output, KEY) as journal:
            assert journal.entries == [{"text": "a\u2028b\nc"}, [1], 2]
        assert journal.path.read_bytes() == whole
    with Journal(output, KEY) as journal:
        journal.add("\ud800")
        journal.finish()
    assert output.read_bytes() == '{"text": "a\u2028b\\nc"}\n[1]\n2\n"\\ud800"\n'.encode() and not journal.path.exists()


def test_an_output_that_is_there_is_refused_and_what_its_killed_writer_left_removed(tmp_path: Path) -> None:
    output = tmp_path / "out.jsonl"
    refuse_existing(output, overwrite=False)
    with Journal(output, KEY) as journal:
        journal.add("answer")
    output.write_text('"answer"\n')  # and killed
    refuse_existing(output, overwrite=True)
    assert journal.path.exists()
    with pytest.raises(CutworkError, match="exists already"):
        refuse_existing(output, overwrite=False)
    assert not journal.path.exists()
    os.utime(output, (0, 0))
    with Journal(output, KEY) as journal:  # which is to replace it, and is interrupted
        journal.add("another")
    with pytest.raises(CutworkError, match="exists already"):
        refuse_existing(output, overwrite=False)
    assert journal.path.exists()


def test_a_full_disk_is_one_sentence_and_what_is_done_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    journal = Journal(tmp_path / "out.jsonl", KEY)
    journal.add("kept")
    monkeypatch.setattr(journal, "_file", SimpleNamespace(write=full, close=full))
    with pytest.raises(CutworkError, match=r"became full while writing .*out\.jsonl; what is done is kept in"), journal:
        journal.add("lost")
    monkeypatch.undo()
    journal._file.close()
    with Journal(tmp_path / "out.jsonl", KEY) as again:
        assert again.entries == ["kept"]


def test_other_work_starts_anew(tmp_path: Path) -> None:
    output = tmp_path / "out.txt"
    with Journal(output, KEY) as journal:
        journal.add("kept")
    with Journal(output, KEY) as journal:
        assert journal.entries == ["kept"]
    with Journal(output, ["model", 2]) as journal:
        assert journal.entries == []
    with Journal(output, KEY) as journal:
        assert journal.entries == []


def test_one_process_at_a_time_has_it(tmp_path: Path) -> None:
    output = tmp_path / "out.txt"
    asked = threading.Event()
    refused: list[str] = []

    def second() -> None:
        try:
            Journal(output, KEY, waits=asked.set)
        except CutworkError as error:
            refused.append(str(error))

    with Journal(output, KEY) as journal:
        other = threading.Thread(target=second)
        other.start()
        assert asked.wait(10)
        journal.add("first")
        journal.finish()
    other.join(10)
    assert "has been written by another process meanwhile" in refused[0]  # and is not replaced
    assert output.read_text() == '"first"\n' and [file.name for file in tmp_path.iterdir()] == ["out.txt"]


def test_what_another_process_left_unfinished_is_gone_on_with(tmp_path: Path) -> None:
    asked, entries = threading.Event(), list[object]()

    def second() -> None:
        with Journal(tmp_path / "out.txt", KEY, waits=asked.set) as journal:
            entries.extend(journal.entries)

    with Journal(tmp_path / "out.txt", KEY) as journal:
        other = threading.Thread(target=second)
        other.start()
        assert asked.wait(10)
        journal.add("first")
    other.join(10)
    assert entries == ["first"]


def test_a_killed_process_leaves_it_to_the_next(tmp_path: Path) -> None:
    code = """
import os, signal, sys
from pathlib import Path
from cutwork.store.journal import Journal, refuse_existing
journal = Journal(Path(sys.argv[1]), ["model", 1])
journal.add("done")
os.kill(os.getpid(), signal.SIGKILL)
"""
    killed = subprocess.run([sys.executable, "-c", code, str(tmp_path / "out")], check=False)
    assert killed.returncode == -9
    with Journal(tmp_path / "out", KEY, waits=pytest.fail) as journal:
        assert journal.entries == ["done"]


def test_a_place_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CutworkError, match=r"cannot write beside .*out.txt: (not a directory|file exists)$"):
        Journal(tmp_path / "file" / "out.txt", KEY)


def test_the_directory_of_an_output_is_made(tmp_path: Path) -> None:
    with Journal(tmp_path / "new" / "one" / "out.txt", KEY) as journal:
        assert journal.path.parent.is_dir()
