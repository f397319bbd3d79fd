"""Models of the Hub on this disk: listed, removed, asked for by revision."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from cutwork.cli import app
from cutwork.errors import CutworkError
from cutwork.store import hub
from cutwork.store.resolve import resolve

huggingface_hub = pytest.importorskip("huggingface_hub")
constants = pytest.importorskip("huggingface_hub.constants")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache with two revisions of a model and a data set, laid out as huggingface_hub does."""
    root = tmp_path / "hub"
    for kind, name, commits in (("models", "a--b", ("1" * 40, "2" * 40)), ("datasets", "a--d", ("3" * 40,))):
        repository = root / f"{kind}--{name}"
        (repository / "blobs").mkdir(parents=True)
        for number, commit in enumerate(commits):
            blob = repository / "blobs" / f"{number}"
            blob.write_bytes(b"x" * 1_000_000 * (number + 1))
            snapshot = repository / "snapshots" / commit
            snapshot.mkdir(parents=True)
            (snapshot / "model.safetensors").symlink_to(blob)
        (repository / "refs").mkdir()
        (repository / "refs" / "main").write_text(commits[0])
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(root))
    monkeypatch.setenv("CUTWORK_HOME", str(tmp_path / "own"))
    return root


def run(*arguments: str) -> str:
    done = CliRunner().invoke(app, list(arguments), catch_exceptions=False)
    assert done.exit_code == 0
    return done.output


def test_models_are_listed_and_removed(cache: Path) -> None:
    listed = run("list")
    assert listed.count("a/b") == 2 and "a/d" not in listed and "111111111111" in listed
    assert '"size": 2000000' in run("list", "--json")
    assert "2 MB are free again" in run("rm", "a/b@2222")
    assert [model.revision for model in hub.downloaded()] == ["1" * 40]
    run("rm", "hf:a/b")
    assert hub.downloaded() == [] and (cache / "datasets--a--d").is_dir() and "no models" in run("list")
    with pytest.raises(CutworkError, match="'a/b' is not in the cache"):
        hub.remove("a/b")
    with pytest.raises(CutworkError, match="'a/d@3' is not in the cache"):
        hub.remove("a/d", "3")


def test_a_revision_is_removed_by_its_branch_and_never_by_a_beginning_of_several(cache: Path) -> None:
    other = cache / "models--a--b" / "snapshots" / ("2" + "3" * 39)
    other.mkdir()
    with pytest.raises(CutworkError, match=f"'a/b@2' may be any of {'2' * 40}, {other.name}; give more of the one"):
        hub.remove("a/b", "2")
    assert len(hub.downloaded()) == 3
    hub.remove("a/b", "main")
    assert [model.revision for model in hub.downloaded()] == ["2" * 40, other.name]
    hub.remove("a/b", "23")
    assert [model.revision for model in hub.downloaded()] == ["2" * 40]


def test_what_was_made_here_is_listed_and_removed_as_well(cache: Path, tmp_path: Path) -> None:
    own = tmp_path / "own"
    for name in ("gguf/tiny-0123-codes", "drafts/abcd", "drafts/.abcd.partial-0"):
        (own / name / "inner").mkdir(parents=True)
        (own / name / "inner" / "model.safetensors").write_bytes(b"x" * 3_000_000)
    (own / "costs-avx2-0.json").touch()
    assert [model["name"] for model in json.loads(run("list", "--json"))] == [
        *("a/b", "a/b", "drafts/abcd", "gguf/tiny-0123-codes")
    ]
    assert "gguf/tiny-0123-codes" in run("list")
    assert "gguf/tiny-0123-codes: 3 MB are free again" in run("rm", "gguf/tiny-0123-codes", "a/b")
    assert list((own / "gguf").iterdir()) == [] and (own / "drafts" / "abcd").is_dir()
    run("rm", "drafts/abcd")
    assert "no models" in run("list")


def test_without_a_cache_there_is_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "none"))
    assert hub.downloaded() == []


def test_of_folders_only_those_of_sentence_transformers_are_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: dict[str, Any] = {}

    def snapshot(name: str, **options: Any) -> str:
        asked.update(options)
        return str(tmp_path)

    (tmp_path / "model.safetensors").touch()
    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    inside = ["1_Pooling/config.json", "2_Dense/model.safetensors", "additional_chat_templates/rag.jinja"]
    flat = ["config.json", "model.safetensors"]
    others = ["onnx/model.safetensors", "openvino/config.json", "1_Pooling/old/config.json", "a/config.json"]
    others += ["ad/config.json", "adapter/config.json", "consolidated.safetensors"]

    def fetched(**options: bool) -> list[str]:
        hub.download("a/b", **options)
        patterns = {key: asked[key] for key in ("allow_patterns", "ignore_patterns")}
        return list(huggingface_hub.utils.filter_repo_objects([*flat, *inside, *others, "a.bin"], **patterns))

    assert fetched() == flat + inside
    assert fetched(folders=True) == flat + inside + others[:-1]


def test_a_revision_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, str | None]] = []

    def snapshot(name: str, *, revision: str | None = None, **_: object) -> str:
        asked.append((name, revision))
        return str(tmp_path)

    (tmp_path / "model.safetensors").touch()
    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    monkeypatch.chdir(tmp_path)
    resolve("owner/name@refs/pr/1")
    resolve("hf:name")
    run("pull", "a/b", "hf:c/d@v1")
    run("pull", "a/b", "--revision", "v2")
    assert asked == [("owner/name", "refs/pr/1"), ("name", None), ("a/b", None), ("c/d", "v1"), ("a/b", "v2")]


@pytest.mark.parametrize(
    ("files", "config", "problems"),
    [
        (["pytorch_model.bin"], {"architectures": ["M2MModel"]}, ["'a/b' has no", "M2MModel.from", "a/b@refs/pr/N"]),
        (["pytorch_model.bin"], {"is_encoder_decoder": True}, ["AutoModelForSeq2SeqLM.from_pretrained"]),
        (["Q8/x-Q8_0.gguf", "x-Q4_0.gguf"], {}, ["`hf download a/b Q8/x-Q8_0.gguf`"]),
        (["tf_model.h5", "README.md"], {"architectures": ["a b"]}, ["its tf_model.h5 is TensorFlow"]),
    ],
    ids=["pickled", "without a class", "gguf", "tensorflow"],
)
def test_what_has_no_safetensors_is_told_with_what_can_be_done(
    files: list[str], config: dict[str, Any], problems: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: str(tmp_path))
    monkeypatch.setattr(huggingface_hub.HfApi, "list_repo_files", lambda *_, **__: files)
    with pytest.raises(CutworkError) as raised:
        hub.download("a/b")
    assert all(problem in str(raised.value) for problem in problems)
    assert hub.download("a/b", folders=True) == tmp_path  # of a run not everything is a model


def test_without_the_hub_what_is_in_the_cache_is_taken_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreachable(*_: object, **__: object) -> list[str]:
        raise ConnectionError

    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: str(tmp_path))
    monkeypatch.setattr(huggingface_hub.HfApi, "list_repo_files", unreachable)
    assert hub.download("a/b") == tmp_path
