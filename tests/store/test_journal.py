"""What an interrupted call has done is there for the next one, and nothing else."""

from pathlib import Path

import pytest

from cutwork.errors import CutworkError
from cutwork.store.journal import Journal


def test_entries_are_read_again_but_for_one_that_was_cut_off(tmp_path: Path) -> None:
    output = tmp_path / "out.jsonl"
    journal = Journal(output)
    assert journal.read() == []
    journal.add({"text": "a\u2028b\nc"}, [1])
    journal.add(2)
    whole = journal.path.read_bytes()
    for torn in (b'{"text": "', b"34", b'"\xe2\x80'):
        journal.path.write_bytes(whole + torn)
        assert Journal(output).read() == [{"text": "a\u2028b\nc"}, [1], 2]
        assert journal.path.read_bytes() == whole
    journal.become_output()
    assert output.read_bytes() == whole and not journal.path.exists()


def test_other_work_starts_anew(tmp_path: Path) -> None:
    output = tmp_path / "out.txt"
    first = Journal(output, ["model", 1])
    first.read()
    first.add("kept")
    assert Journal(output, ["model", 1]).read() == ["kept"]
    assert Journal(output, ["model", 2]).read() == []
    assert Journal(output, ["model", 1]).read() == []
    first.remove()
    assert not list(tmp_path.iterdir())


def test_a_place_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(CutworkError, match="cannot write beside"):
        Journal(tmp_path / "nowhere" / "out.txt").read()
