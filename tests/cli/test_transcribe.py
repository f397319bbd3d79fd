"""`cutwork transcribe`: which files it writes."""

import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from cutwork.engine.model import Model
from cutwork.engine.speech import formats
from tests.cli.test_commands import cutwork  # noqa: F401 (a fixture)


def test_files_that_are_there_are_replaced_only_if_asked(
    cutwork: Any,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Model, "load", lambda *_, **__: nullcontext())
    made = lambda model, paths, *_, **__: ((path, None) for path in paths)  # noqa: E731
    monkeypatch.setattr(sys.modules["cutwork.cli.transcribe"], "_one_by_one", made)
    monkeypatch.setattr(formats, "FORMATS", dict.fromkeys(formats.FORMATS, lambda _: "new"))
    monkeypatch.setattr(formats, "as_dict", lambda _: {})
    (tmp_path / "talk.txt").write_text("mine")
    arguments = ("transcribe", "model", "talk.wav", "-o", tmp_path, "-f", "txt", "-f", "srt")
    status, _, err = cutwork(*arguments)
    written = [(tmp_path / f"talk.{name}").read_text() for name in ("txt", "srt")]
    assert (status, written) == (0, ["mine", "new"]) and "talk.{srt}" in "".join(err.split("\n"))
    assert cutwork(*arguments, "--overwrite")[0] == 0
    assert (tmp_path / "talk.txt").read_text() == "new"
