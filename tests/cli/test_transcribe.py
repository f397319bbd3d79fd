"""`cutwork transcribe`: which files it writes."""

import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from cutwork.engine.model import Model
from cutwork.engine.speech import formats
from tests.cli.test_commands import cutwork  # noqa: F401 (a fixture)
from tests.tiny_checkpoint import write_tiny_checkpoint


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
    model, talk, out = write_tiny_checkpoint(tmp_path / "model"), tmp_path / "talk.wav", tmp_path / "out"
    talk.write_bytes(b"monday")
    out.mkdir()
    (out / "talk.txt").write_text("mine")
    arguments = ("transcribe", model, talk, "-o", out, "-f", "txt", "-f", "srt")
    status, _, err = cutwork(*arguments)
    written = [(out / f"talk.{name}").read_text() for name in ("txt", "srt")]
    assert (status, written) == (0, ["mine", "new"]) and "talk.{srt}" in "".join(err.split("\n"))
    assert cutwork(*arguments, "--overwrite")[0] == 0
    assert (out / "talk.txt").read_text() == "new"
    status, _, err = cutwork(*arguments)
    assert status == 0 and "1 of 1 are in" in err
    for other in ((*arguments, "--language", "fr"), arguments):
        status, _, err = cutwork(*other)
        assert status == 1 and "was not made of this recording, model and options" in " ".join(err.split())
        talk.write_bytes(b"tuesday")  # of the same name
