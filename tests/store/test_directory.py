import errno
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from cutwork.errors import CutworkError
from cutwork.store.directory import PACKED, copy_side_files, kind_of, read_config
from cutwork.store.fingerprint import fingerprint
from cutwork.store.output import output_directory
from cutwork.store.resolve import resolve


def model(path: Path, **config: Any) -> Path:
    path.mkdir()
    (path / "config.json").write_text(json.dumps({"model_type": "llama", **config}))
    save_file({"w": np.ones(2, np.float32)}, path / "model.safetensors")
    return path


def quantized(layout: str, **more: Any) -> dict[str, Any]:
    return {"quantization_config": {"quant_method": "compressed-tensors", "format": layout, **more}}


def test_the_three_kinds(tmp_path: Path) -> None:
    assert kind_of(model(tmp_path / "a")) == "checkpoint"
    assert (
        kind_of(model(tmp_path / "b", **quantized("int-quantized", sparsity_config={"format": "dense"}))) == "quantized"
    )
    assert kind_of(model(tmp_path / "c", **quantized("pack-quantized"))) == "quantized"
    packed = model(tmp_path / "d")
    (packed / "config.json").unlink()
    (packed / "cutwork.json").write_text('{"config": {"model_type": "qwen2"}}')
    assert kind_of(packed) == "packed"
    assert read_config(packed) == {"model_type": "qwen2"}


@pytest.mark.parametrize(
    ("config", "problem"),
    [
        (quantized("int-quantized", sparsity_config={"format": "sparse-morse"}), "'sparse-morse'"),
        (quantized("int-quantized", transform_config={"config_groups": {"R1": {}}}), "rotates"),
        (quantized("marlin-24"), "'marlin-24'"),
        (quantized("float-quantized"), "'float-quantized'"),
        (quantized("mixed-precision"), "'mixed-precision'"),
        (quantized("int-quantized", config_groups={"g": {"format": "nvfp4-pack-quantized"}}), "'nvfp4-pack-quantized'"),
        ({"quantization_config": {"quant_method": "bitsandbytes"}}, "'bitsandbytes'"),
        ({"quantization_config": {"quant_method": "gptq", "bits": 4}}, "'gptq'"),
        ({"quantization_config": {"quant_method": "awq"}}, "'awq'"),
        ({"quantization_config": "int8"}, "must be an object"),
        ({"compression_config": {"format": "float-quantized"}}, "'float-quantized'"),
    ],
)
def test_quantisations_we_cannot_read_are_named(tmp_path: Path, config: dict[str, Any], problem: str) -> None:
    with pytest.raises(CutworkError, match=problem):
        kind_of(model(tmp_path / "m", **config))


@pytest.mark.parametrize(
    ("file", "problem"),
    [
        ("model.Q4_0.gguf", "GGUF"),
        ("pytorch_model.bin", "pickled weights, which can run code"),
        ("pytorch_model-00001-of-00002.bin", "pickled"),
        ("consolidated.00.pth", "pickled"),
        ("model.onnx", "ONNX"),
        ("onnx/model.onnx", "ONNX"),
        ("tf_model.h5", "TensorFlow"),
        ("flax_model.msgpack", "Flax"),
        ("openvino_model.xml", "OpenVINO"),
        ("adapter_config.json", "LoRA"),
        ("notes.txt", "not a model directory"),
    ],
)
def test_formats_we_cannot_read_are_named(tmp_path: Path, file: str, problem: str) -> None:
    (tmp_path / "m" / file).parent.mkdir(parents=True)
    (tmp_path / "m" / file).write_bytes(b"{}")
    with pytest.raises(CutworkError, match=problem):
        kind_of(tmp_path / "m")


def test_files_and_missing_paths_are_no_models(tmp_path: Path) -> None:
    (tmp_path / "x.gguf").touch()
    (tmp_path / "x.txt").touch()
    for name, problem in [("x.gguf", "GGUF"), ("x.txt", "is a file"), ("gone", "no model directory")]:
        with pytest.raises(CutworkError, match=problem):
            kind_of(tmp_path / name)


def test_shards_that_are_missing_are_told(tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "config.json").write_text("{}")
    (tmp_path / "m" / "model.safetensors.index.json").write_text('{"weight_map": {"w": "model-1-of-1.safetensors"}}')
    with pytest.raises(CutworkError, match=r"model\.safetensors\.index\.json names files that are not there"):
        kind_of(tmp_path / "m")


@pytest.mark.parametrize("content", ["", "{", "[]", "nan", "[" * 100_000, "\xff"])
def test_a_damaged_config_is_one_sentence(tmp_path: Path, content: str) -> None:
    (model(tmp_path / "m") / "config.json").write_bytes(content.encode("latin-1"))
    with pytest.raises(CutworkError, match=r"config\.json"):
        kind_of(tmp_path / "m")


def test_resolving_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub
    from huggingface_hub import errors

    assert resolve(str(model(tmp_path / "m"))) == tmp_path / "m"
    with pytest.raises(CutworkError, match="no model directory at"):
        resolve(tmp_path / "gone")
    with pytest.raises(CutworkError, match="no model directory at"):
        resolve("./some/where/else")

    def snapshot(name: str, **options: Any) -> str:
        asked.append(options)
        if outcome:
            raise outcome[0]
        return str(tmp_path / "m")

    asked: list[dict[str, Any]] = []
    outcome: list[Exception] = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    (tmp_path / "here").mkdir()
    for missing in ("out/packed", "here/packed", "packed", "./here/packed", Path("owner/name"), "hf:./here"):
        with pytest.raises(CutworkError, match="no model directory at"):
            resolve(missing)
    for missing in ("model.gguf", "owner/model.gguf", "./model.gguf", tmp_path / "model.gguf"):
        with pytest.raises(CutworkError, match=r"there is no file .*model\.gguf; check the path"):
            resolve(missing)
    assert not asked  # a path that is not there is never somebody's model
    assert resolve("hf:here/packed") == tmp_path / "m" == resolve("hf:gpt2")
    asked.clear()
    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    assert resolve("owner/name") == tmp_path / "m"
    assert not any("bin" in pattern or "py" in pattern for pattern in asked[0]["allow_patterns"])
    for error, problem in [
        (ConnectionError("no route"), "could not be reached"),
        (errors.LocalEntryNotFoundError("offline"), "could not be reached"),
        (errors.HFValidationError("bad"), "neither a local directory nor a model"),
        (OSError(errno.ENOSPC, "No space left on device"), "disk is full"),
    ]:
        outcome[:] = [error]
        with pytest.raises(CutworkError, match=problem):
            resolve("owner/name")


def test_an_output_appears_when_it_is_complete(tmp_path: Path) -> None:
    with output_directory(tmp_path / "deep" / "out") as partial:
        (partial / "config.json").write_text("{}")
        assert os.listdir(tmp_path / "deep") == [partial.name] and partial.name.startswith(".out.partial-")
    assert os.listdir(tmp_path / "deep") == ["out"] and os.listdir(tmp_path / "deep" / "out") == ["config.json"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, ValueError])
def test_a_failed_output_leaves_nothing(tmp_path: Path, error: type[BaseException]) -> None:
    with pytest.raises(error), output_directory(tmp_path / "out") as partial:
        (partial / "half").write_text("x")
        raise error
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "x"), RuntimeError("io: No space left on device (os error 28)")]
)
def test_a_full_disk_is_one_sentence(tmp_path: Path, error: Exception) -> None:
    with pytest.raises(CutworkError, match="disk became full"), output_directory(tmp_path / "out"):
        raise error
    assert os.listdir(tmp_path) == []


def test_what_may_be_replaced(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with output_directory(tmp_path / "empty") as partial:
        (partial / "config.json").write_text("1")
    with pytest.raises(CutworkError, match="already exists"), output_directory(tmp_path / "empty"):
        raise AssertionError
    with output_directory(tmp_path / "empty", overwrite=True) as partial:
        (partial / "config.json").write_text("2")
    assert (tmp_path / "empty" / "config.json").read_text() == "2"
    with pytest.raises(ZeroDivisionError), output_directory(tmp_path / "empty", overwrite=True):
        raise ZeroDivisionError
    assert (tmp_path / "empty" / "config.json").read_text() == "2"

    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.png").touch()
    with (
        pytest.raises(CutworkError, match="not a model directory"),
        output_directory(tmp_path / "photos", overwrite=True),
    ):
        raise AssertionError
    (tmp_path / "file").touch()
    with pytest.raises(CutworkError, match="is a file"), output_directory(tmp_path / "file", overwrite=True):
        raise AssertionError
    assert sorted(os.listdir(tmp_path)) == ["empty", "file", "photos"]


def test_what_is_read_is_not_replaced_by_another_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a volume that tells no case apart, where both are one."""
    for name in ("Model", "model"):
        (tmp_path / name / "inner").mkdir(parents=True)
        (tmp_path / name / "config.json").write_text("{}")
    monkeypatch.setattr(Path, "samefile", lambda self, other: str(self).lower() == str(other).lower())
    for source in (tmp_path / "Model", tmp_path / "Model" / "inner"):
        with (
            pytest.raises(CutworkError, match="holds the model to read"),
            output_directory(tmp_path / "model", overwrite=True, source=source),
        ):
            raise AssertionError
    with output_directory(tmp_path / "model" / "inner", overwrite=True, source=tmp_path / "Model"):
        pass


def test_what_the_dead_left_behind_is_cleaned_up(tmp_path: Path) -> None:
    for name in (".out.partial-12ab", ".out.retired-12ab", ".other.partial-12ab"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(name)
    with pytest.raises(CutworkError, match="already exists"), output_directory(tmp_path / "out"):
        raise AssertionError  # the retired one was restored: its replacement never arrived
    assert (tmp_path / "out" / "config.json").read_text() == ".out.retired-12ab"
    assert sorted(os.listdir(tmp_path)) == [".other.partial-12ab", "out"]


def test_side_files_are_copied_once(tmp_path: Path) -> None:
    source, destination = tmp_path / "a", tmp_path / "b"
    source.mkdir()
    destination.mkdir()
    for name in ("tokenizer.json", "generation_config.json", "chat_template.jinja", "model.bin", "config.json", "x.py"):
        (source / name).write_text("new")
    (destination / "generation_config.json").write_text("old")
    assert copy_side_files(source, destination) == ["chat_template.jinja", "tokenizer.json"]
    assert (destination / "generation_config.json").read_text() == "old"
    assert PACKED not in os.listdir(destination)


def test_further_chat_templates_keep_their_folder(tmp_path: Path) -> None:
    """Where transformers puts them."""
    source = model(tmp_path / "a")
    (source / "additional_chat_templates").mkdir()
    (source / "additional_chat_templates" / "rag.jinja").write_text("{{ messages }}")
    (tmp_path / "b").mkdir()
    assert copy_side_files(source, tmp_path / "b") == ["additional_chat_templates/rag.jinja"]
    assert (tmp_path / "b" / "additional_chat_templates" / "rag.jinja").is_file()
    before = fingerprint(source)
    (source / "additional_chat_templates" / "rag.jinja").write_text("{{ tools }}")
    assert fingerprint(source) != before


def test_a_fingerprint_tells_contents_not_times(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(bytes(100))
    before = fingerprint(tmp_path)
    os.utime(tmp_path / "model.safetensors", (1, 1))
    for name in (".DS_Store", ".gitattributes", "README.md"):
        (tmp_path / name).write_text("what lies beside")
    for name in ("pytorch_model.bin", "tf_model.h5", "model.gguf"):  # which others may fetch into the same folder
        (tmp_path / name).write_bytes(b"of another format")
    assert fingerprint(tmp_path) == before
    (tmp_path / "model.safetensors").write_bytes(bytes(99) + b"x")
    assert (flat := fingerprint(tmp_path)) != before
    for folder in ("1_Pooling", "runs"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "config.json").write_text("{}")
    assert (pooled := fingerprint(tmp_path)) != flat
    (tmp_path / "runs" / "config.json").write_text("[]")
    assert fingerprint(tmp_path) == pooled
    (tmp_path / "prune-report.json").write_text("{}")
    assert fingerprint(tmp_path) != pooled == fingerprint(tmp_path, reports=False)
    (tmp_path / "1_Pooling" / "config.json").write_text("[]")
    assert fingerprint(tmp_path, reports=False) != pooled
