"""Prompts beside a model: few, short, and none where the file is not like that."""

import json
from pathlib import Path

import pytest

from cutwork.pack.pack import pack
from cutwork.store.examples import FILE, LONGEST, read_examples, write_examples
from tests.pack.models import plain_tensors, write_checkpoint


def test_the_first_short_ones_are_kept(tmp_path):
    write_examples(tmp_path, ["a", "", "x" * (LONGEST + 1), "b", "c", "é", "e"])
    assert read_examples(tmp_path) == ["a", "b", "c", "é"]


def test_without_prompts_there_is_no_file(tmp_path):
    write_examples(tmp_path, [""])
    assert not (tmp_path / FILE).exists() and read_examples(tmp_path) == []


@pytest.mark.parametrize("content", ["", "{", "3", '{"a": 1}', "[" * 100_000, json.dumps([1, "", "x" * 601])])
def test_other_files_give_none(tmp_path, content):
    (tmp_path / FILE).write_text(content)
    assert read_examples(tmp_path) == []


def test_a_packed_model_appears_with_its_examples(tmp_path, monkeypatch):
    source = write_checkpoint(tmp_path / "source", plain_tensors())
    seen = []
    monkeypatch.setattr(
        Path, "rename", lambda self, to, move=Path.rename: (seen.append(read_examples(self)), move(self, to))[1]
    )
    pack(source, tmp_path / "packed", examples=["a", ""])
    assert seen[-1] == ["a"] == read_examples(tmp_path / "packed")
