"""`cutwork transcribe`: which files it writes."""

import json
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from cutwork.engine.model import Model
from cutwork.engine.speech import formats
from tests.cli.test_commands import cutwork  # noqa: F401 (a fixture)
from tests.tiny_checkpoint import write_tiny_checkpoint


@pytest.fixture
def arguments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[object, ...]:
    """A command that says "new" of a recording without a model that hears."""
    monkeypatch.setattr(Model, "load", lambda *_, **__: nullcontext())
    made = lambda model, paths, *_, **__: ((path, None) for path in paths)  # noqa: E731
    monkeypatch.setattr(sys.modules["cutwork.cli.transcribe"], "_one_by_one", made)
    monkeypatch.setattr(formats, "FORMATS", dict.fromkeys(formats.FORMATS, lambda _: "new"))
    monkeypatch.setattr(formats, "as_dict", lambda _: {})
    (tmp_path / "talk.wav").write_bytes(b"monday")
    return "transcribe", write_tiny_checkpoint(tmp_path / "model"), tmp_path / "talk.wav", "-o", tmp_path / "out"


def test_files_that_are_there_are_replaced_only_if_asked(
    cutwork: Any,  # noqa: F811
    arguments: tuple[object, ...],
    tmp_path: Path,
) -> None:
    talk, out = tmp_path / "talk.wav", tmp_path / "out"
    out.mkdir()
    (out / "talk.txt").write_text("mine")
    arguments = (*arguments, "-f", "txt", "-f", "srt")
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


def test_old_files_are_not_taken_for_new_ones_after_an_interruption(
    cutwork: Any,  # noqa: F811
    arguments: tuple[object, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    files = [out / "talk.txt", out / "talk.srt"]
    for file in files:
        file.write_text("old")
    arguments = (*arguments, "-f", "txt", "-f", "srt")
    with monkeypatch.context() as stopped:

        def no_more(_: object) -> str:
            raise KeyboardInterrupt

        stopped.setitem(formats.FORMATS, "srt", no_more)
        assert cutwork(*arguments, "--overwrite")[0] != 0
    assert cutwork(*arguments)[0] == 0
    assert [file.read_text() for file in files] == ["new", "new"]


def test_what_another_call_made_is_known_by_file(
    cutwork: Any,  # noqa: F811
    arguments: tuple[object, ...],
    tmp_path: Path,
) -> None:
    french = (*arguments, "--language", "fr")
    assert cutwork(*arguments, "-f", "txt")[0] == cutwork(*french, "-f", "srt")[0] == 0
    assert cutwork(*arguments, "-f", "txt")[0] == cutwork(*french, "-f", "srt")[0] == 0  # each its own
    for other in ((*french, "-f", "txt", "-f", "srt"), (*arguments, "-f", "srt")):
        status, _, err = cutwork(*other)
        assert status == 1 and "was not made of this recording, model and options" in " ".join(err.split())
    known = tmp_path / "out" / ".cutwork"
    known.write_text(json.dumps({"talk": json.loads(known.read_text())["talk.txt"]}))  # as it was kept before
    assert cutwork(*arguments, "-f", "srt")[0] == 0 and cutwork(*french, "-f", "txt")[0] == 1
    assert cutwork(*french, "-f", "vtt")[0] == 0 and cutwork(*french, "-f", "txt")[0] == 1
