import errno
import json
import os
import signal
import subprocess
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open

from cutwork.errors import CutworkError
from cutwork.pack import pack as writer_module
from cutwork.pack.decode import decode
from cutwork.pack.floats import as_float32
from cutwork.pack.in_memory import pack_in_memory
from cutwork.pack.int4 import dequantize
from cutwork.pack.masked import encode
from cutwork.pack.pack import PackWriter, pack
from cutwork.pack.reader import read_packed
from cutwork.pack.restore import restore
from cutwork.store import bfloat16
from cutwork.store.safetensors import SafetensorsWriter, Tensor, open_tensors

from .models import CONFIG, as_dtype, assert_same_tensors, plain_tensors, sparse, write_checkpoint


@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
def test_a_checkpoint_survives_packing_bit_for_bit(tmp_path: Path, dtype: str) -> None:
    tensors = plain_tensors(dtype)
    tensors["model.layers.0.mlp.up_proj.weight"].array[:, 0] = as_dtype(np.full(101, -0.0, np.float32), dtype).array
    tensors["model.layers.0.mlp.down_proj.weight"].array[3, 4] = as_dtype(np.full(1, np.nan, np.float32), dtype).array[
        0
    ]
    tensors["model.layers.0.buffer"] = Tensor("I64", np.arange(5))
    source = write_checkpoint(tmp_path / "source", tensors)
    summary = pack(source, tmp_path / "packed")
    restore(tmp_path / "packed", tmp_path / "back")
    assert_same_tensors(source, tmp_path / "back")
    assert json.loads((tmp_path / "back" / "config.json").read_text()) == json.loads(
        (source / "config.json").read_text()
    )
    assert (tmp_path / "back" / "tokenizer.json").is_file()

    model = read_packed(tmp_path / "packed")
    up = model.weights["model.layers.0.mlp.up_proj.weight"]
    assert (up.encoding, up.dtype) == ("bitmask", "bf16" if dtype == "BF16" else "f32")
    assert model.weights["model.embed_tokens.weight"].encoding == "dense"
    assert "model.layers.0.buffer" not in model.weights
    assert summary.nbytes < summary.dense_nbytes
    assert {row.name for row in summary.weights} == set(model.weights)


def test_the_choice_of_dtype(tmp_path: Path) -> None:
    source = write_checkpoint(tmp_path / "source", plain_tensors("F32"))
    pack(source, tmp_path / "bf16", "bf16")
    weights = read_packed(tmp_path / "bf16").weights
    assert weights["model.embed_tokens.weight"].dtype == "bf16"
    assert weights["model.norm.weight"].dtype == "f32"  # vectors are not worth rounding
    pack(write_checkpoint(tmp_path / "half", plain_tensors("BF16")), tmp_path / "f32", "f32")
    assert {
        weight.dtype for name, weight in read_packed(tmp_path / "f32").weights.items() if "proj.weight" in name
    } == {"f32"}
    restore(tmp_path / "f32", tmp_path / "back")
    assert_same_tensors(tmp_path / "half", tmp_path / "back")


def test_a_tied_head_is_stored_once(tmp_path: Path) -> None:
    config = {"model_type": "llama", "tie_word_embeddings": True}
    source = write_checkpoint(tmp_path / "source", plain_tensors(tied=True), config)
    pack(source, tmp_path / "packed")
    model = read_packed(tmp_path / "packed")
    assert "lm_head.weight" not in model.weights and model.config["tie_word_embeddings"]
    restore(tmp_path / "packed", tmp_path / "back")
    assert_same_tensors(source, tmp_path / "back")

    different = write_checkpoint(tmp_path / "untied", plain_tensors(), config)
    assert "lm_head.weight" in pack_in_memory(different).weights


def test_packing_in_memory_gives_the_same_weights(tmp_path: Path) -> None:
    source = write_checkpoint(tmp_path / "source", plain_tensors("BF16"))
    pack(source, tmp_path / "packed")
    mapped, made = read_packed(tmp_path / "packed"), pack_in_memory(source)
    assert list(mapped.weights) == list(made.weights) and mapped.config == made.config
    for name, weight in made.weights.items():
        other = mapped.weights[name]
        assert (weight.encoding, weight.dtype, weight.shape) == (other.encoding, other.dtype, other.shape)
        assert (weight.values == other.values).all()
    assert mapped.nbytes == made.nbytes


def test_the_file_is_aligned_and_the_library_loads_it(tmp_path: Path) -> None:
    pack(write_checkpoint(tmp_path / "source", plain_tensors()), tmp_path / "packed")
    file = tmp_path / "packed" / "model.safetensors"
    content = file.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    for name, entry in header.items():
        if name != "__metadata__" and not name.startswith("padding."):
            assert (8 + length + entry["data_offsets"][0]) % 64 == 0, name
    with safe_open(file, "np") as library:
        mask = library.get_tensor("model.layers.0.mlp.up_proj.weight.mask")
    assert (mask == read_packed(tmp_path / "packed").weights["model.layers.0.mlp.up_proj.weight"].mask).all()


@pytest.mark.parametrize("wide", [1, 4])
def test_blocks_come_back_from_the_file(wide: int, tmp_path: Path) -> None:
    high = 5 - wide
    keep = (np.random.default_rng(0).random((64 // high, 256 // wide)) < 0.2).repeat(high, 0).repeat(wide, 1)
    dense = np.where(keep, sparse((64, 256), 0.0, 1), 0).astype(np.float32)
    source = write_checkpoint(tmp_path / "source", {"model.layers.0.mlp.up_proj.weight": Tensor("F32", dense)})
    summary = pack(source, tmp_path / "packed")
    assert summary.weights[0].encoding == f"block{high}x{wide}"
    [weight] = read_packed(tmp_path / "packed").weights.values()
    assert (decode(weight) == dense).all()
    restore(tmp_path / "packed", tmp_path / "back")
    assert_same_tensors(source, tmp_path / "back")


def test_large_models_are_sharded(tmp_path: Path) -> None:
    tmp_path.joinpath("packed").mkdir()
    weights = {f"layers.{i}.weight": encode(sparse((64, 256), 0.9, i)) for i in range(6)}
    with PackWriter(tmp_path / "packed", {"model_type": "llama"}, 6, shard_bytes=20_000) as writer:
        for name, weight in weights.items():
            writer.add(name, weight)
    names = sorted(path.name for path in (tmp_path / "packed").glob("*.safetensors"))
    assert len(names) > 2 and names[0] == f"model-00001-of-{len(names):05d}.safetensors"
    model = read_packed(tmp_path / "packed")
    for name, weight in weights.items():
        assert (model.weights[name].values == weight.values).all()


def test_ctrl_c_leaves_nothing(tmp_path: Path) -> None:
    source = write_checkpoint(tmp_path / "source", plain_tensors())

    def interrupt(done: int, total: int) -> None:
        if done == 3:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        pack(source, tmp_path / "packed", progress=interrupt)
    assert os.listdir(tmp_path) == ["source"]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 kB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    try:
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", disk], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("mounting is not permitted")
    yield disk
    subprocess.run(["umount", disk], check=True)


def test_a_disk_that_becomes_full_leaves_nothing(tmp_path: Path, small_disk: Path) -> None:
    source = write_checkpoint(tmp_path / "source", plain_tensors(zeros=0.0))
    with pytest.raises(CutworkError, match="disk became full"):
        pack(source, small_disk / "packed")
    assert os.listdir(small_disk) == []


def test_memory_is_that_of_the_largest_weight(tmp_path: Path) -> None:
    tensors = {f"model.layers.{i}.mlp.up_proj.weight": as_dtype(sparse((1024, 1024), 0.5, i), "F32") for i in range(6)}
    source = write_checkpoint(tmp_path / "source", tensors)
    del tensors
    tracemalloc.start()
    pack(source, tmp_path / "packed")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2.5 * 4 * 1024 * 1024 + 40e6  # of one of six weights, and of a chunk's temporaries


def test_a_simulated_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write_checkpoint(tmp_path / "source", plain_tensors())
    added = []

    def add(self: SafetensorsWriter, name: str, dtype: str, array: np.ndarray) -> None:
        added.append(name)
        if len(added) == 4:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(writer_module.SafetensorsWriter, "add", add)
    with pytest.raises(CutworkError, match="disk became full"):
        pack(source, tmp_path / "packed")
    assert os.listdir(tmp_path) == ["source"]


@pytest.mark.parametrize("dtype", ["F64", "F8_E4M3"])
def test_types_we_cannot_run_are_refused(tmp_path: Path, dtype: str) -> None:
    kinds = {"F64": np.float64, "F8_E4M3": np.uint8}
    tensors = {"model.norm.weight": Tensor(dtype, np.ones(4, kinds[dtype]))}
    with pytest.raises(CutworkError, match=f"'model.norm.weight' is {dtype}"):
        pack(write_checkpoint(tmp_path / "source", tensors), tmp_path / "packed")
    assert os.listdir(tmp_path) == ["source"]


def test_a_head_that_is_not_there_is_not_rounded(tmp_path: Path) -> None:
    tensors = {name: tensor for name, tensor in plain_tensors("BF16").items() if "lm_head" not in name}
    source = write_checkpoint(tmp_path / "source", tensors, {**CONFIG, "model_type": "bert"})
    with pytest.raises(CutworkError, match="no output head, so none can be i8"):
        pack(source, tmp_path / "packed", head="i8")
    assert not (tmp_path / "packed").exists()


def test_an_embedding_is_rounded_where_the_head_is_another_weight(tmp_path: Path) -> None:
    tensors = plain_tensors()
    pack(write_checkpoint(tmp_path / "source", tensors), tmp_path / "packed", embedding="i8")
    weights = dict(read_packed(tmp_path / "packed").weights)
    embedding = weights.pop("model.embed_tokens.weight")
    original = tensors["model.embed_tokens.weight"].array
    assert (
        embedding.dtype == "i8" and embedding.scale is not None and {each.dtype for each in weights.values()} == {"f32"}
    )
    half_step = np.abs(original).max(axis=1, keepdims=True) / 254
    assert (np.abs(decode(embedding) * embedding.scale[:, None] - original) <= 1.001 * half_step).all()
    tied = {name: tensor for name, tensor in tensors.items() if name != "lm_head.weight"}
    encoder = {**CONFIG, "model_type": "bert"}
    for name, of, config in (("tied", tied, {**CONFIG, "tie_word_embeddings": True}), ("encoder", tied, encoder)):
        with pytest.raises(CutworkError, match="no embedding apart from its output head; leave embedding out"):
            pack(write_checkpoint(tmp_path / name, of, config), tmp_path / "none", embedding="i8")
    assert not (tmp_path / "none").exists()


def test_the_head_can_be_rounded_to_int4_and_comes_back_close(tmp_path: Path) -> None:
    tensors = plain_tensors("BF16")
    tensors["lm_head.weight"] = as_dtype(sparse((64, 300), 0.0), "BF16")
    source = write_checkpoint(tmp_path / "source", tensors)
    pack(source, tmp_path / "packed", head="i4")
    head = read_packed(tmp_path / "packed").weights["lm_head.weight"]
    original = as_float32(tensors["lm_head.weight"])
    assert (head.dtype, head.group) == (
        "i4",
        128,
    ) and 8 * head.nbytes / head.size < 4.5  # 300 columns take the room of 320
    rounded = dequantize(head)
    for start in (0, 128, 256):
        group = slice(start, start + 128)
        half_step = np.abs(original[:, group]).max(axis=1, keepdims=True) / 15
        assert (np.abs(rounded - original)[:, group] <= 1.05 * half_step).all()  # scales are rounded to bfloat16
    restore(tmp_path / "packed", tmp_path / "back")
    restored = open_tensors(tmp_path / "back")["lm_head.weight"]
    assert restored.dtype == "BF16"
    np.testing.assert_array_equal(restored.array, bfloat16.from_float32(rounded))


def test_the_head_can_be_rounded_to_int8_and_comes_back_close(tmp_path: Path) -> None:
    tensors = plain_tensors()
    source = write_checkpoint(tmp_path / "source", tensors)
    pack(source, tmp_path / "packed", head="i8")
    model = read_packed(tmp_path / "packed")
    head = model.weights["lm_head.weight"]
    original = tensors["lm_head.weight"].array
    assert head.dtype == "i8" and head.scale is not None
    assert all(weight.dtype == "f32" for name, weight in model.weights.items() if name != "lm_head.weight")
    rounded = decode(head) * head.scale[:, None]
    half_step = np.abs(original).max(axis=1, keepdims=True) / 254
    assert (np.abs(rounded - original) <= 1.001 * half_step).all()
    restore(tmp_path / "packed", tmp_path / "back")
    restored = open_tensors(tmp_path / "back")["lm_head.weight"]
    assert restored.dtype == "F32"
    np.testing.assert_array_equal(restored.array, rounded.astype(np.float32))
