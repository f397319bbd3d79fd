import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.numpy import save_file

from cutwork.errors import CutworkError
from cutwork.store.safetensors import NUMPY_DTYPES, SafetensorsFile, SafetensorsWriter, open_tensors


def write_raw(path: Path, header: Any, data: bytes = b"\0" * 64, length: int | None = None) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + data)
    return path


def entry(dtype: str = "F32", shape: tuple[Any, ...] = (4, 4), begin: Any = 0, end: Any = 64) -> dict[str, Any]:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}


DAMAGED = {
    "reaches to byte": {"w": entry(shape=(8, 4), end=128)},
    "of dtype F32 and shape": {"w": entry(shape=(4, 5))},
    "shape [4611686018427387904, 4]": {"w": entry(shape=(2**62, 4))},
    "does not fill": {"w": entry(shape=(2**40, 2**40))},
    "shape [0, 140737488355328, 140737488355328]": {"w": entry(shape=(0, 2**47, 2**47), end=0)},
    "overlap": {"v": entry(shape=(8,), end=32), "w": entry(shape=(9,), begin=28)},
    "unknown dtype 'F31'": {"w": entry("F31")},
    "unknown dtype ['F32']": {"w": entry(["F32"])},  # type: ignore[arg-type]
    "shape [-1, -16]": {"w": entry(shape=(-1, -16))},
    "shape [True, 16]": {"w": entry(shape=(True, 16))},
    "shape [4.0, 4]": {"w": entry(shape=(4.0, 4))},
    "offsets [-64, 0]": {"w": entry(begin=-64, end=0)},
    "reaches": {"w": entry(begin=64, end=0)},
    "offsets [0, '64']": {"w": entry(end="64")},
    "lacks": {"w": {"dtype": "F32", "shape": [1]}},
    "lacks dtype": {"w": [1]},
    "metadata": {"__metadata__": {"format": 3}},
    "not a JSON object": [1],
    "not valid JSON": b'{"w": ',
    "occurs twice": b'{"w": {"dtype": "U8"}, "w": 1}',
    "not valid JSON (": b"[" * 100_000,
}


@pytest.mark.parametrize("problem", sorted(DAMAGED))
def test_damaged_headers_are_refused_in_one_sentence(tmp_path: Path, problem: str) -> None:
    path = write_raw(tmp_path / "model.safetensors", DAMAGED[problem])
    with pytest.raises(CutworkError) as raised:
        SafetensorsFile(path)
    message = str(raised.value)
    assert problem in message and str(path) in message and "\n" not in message


@pytest.mark.parametrize("length", [100, 2**63, 2**64 - 1])
def test_a_header_longer_than_the_file_is_refused(tmp_path: Path, length: int) -> None:
    with pytest.raises(CutworkError, match="does not fit"):
        SafetensorsFile(write_raw(tmp_path / "m.safetensors", {}, b"", length))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n", "is a Git LFS pointer.*git lfs pull"),
        ("<!doctype html><html>", "is a web page, not weights; download the file itself"),
    ],
)
def test_what_stands_for_weights_is_told_by_its_name(tmp_path: Path, content: str, said: str) -> None:
    (tmp_path / "model.safetensors").write_text(content)
    with pytest.raises(CutworkError, match=f"model.safetensors {said}"):
        SafetensorsFile(tmp_path / "model.safetensors")


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 400))
def test_every_truncation_is_refused(tmp_path_factory: pytest.TempPathFactory, size: int) -> None:
    directory = tmp_path_factory.mktemp("cut")
    save_file({"a": np.arange(40.0, dtype=np.float32), "b": np.ones((3, 3))}, directory / "whole.safetensors")
    content = (directory / "whole.safetensors").read_bytes()
    (directory / "model.safetensors").write_bytes(content[: min(size, len(content) - 1)])
    with pytest.raises(CutworkError, match=r"model\.safetensors"):
        open_tensors(directory)


@pytest.mark.parametrize("alignment", [1, 64])
def test_what_is_written_is_read_by_the_library_and_by_us(tmp_path: Path, alignment: int) -> None:
    random = np.random.default_rng(0)
    arrays = {
        dtype: random.integers(0, 2, (3, 5, n)).astype(NUMPY_DTYPES[dtype])
        for n, dtype in enumerate(["F64", "F32", "F16", "I64", "U64", "I32", "I16", "I8", "U8", "BOOL"])
    }
    arrays["F32"] = np.array(2.5, np.float32)  # no dimensions
    with SafetensorsWriter(tmp_path, 20, alignment=alignment, metadata={"format": "pt"}) as writer:
        for dtype, array in arrays.items():
            writer.add(f"the.{dtype}", dtype, array)
        writer.add("the.BF16", "BF16", np.arange(7, dtype=np.uint16))
    ours = open_tensors(tmp_path)
    assert set(ours) == {f"the.{dtype}" for dtype in (*arrays, "BF16")}
    with safe_open(tmp_path / "model.safetensors", "np") as library:
        assert library.metadata() == {"format": "pt"}
        for dtype, array in arrays.items():
            for read in (library.get_tensor(f"the.{dtype}"), ours[f"the.{dtype}"].array):
                assert read.dtype == array.dtype and read.shape == array.shape and (read == array).all()
    assert ours["the.BF16"].dtype == "BF16" and ours["the.BF16"].array.tolist() == list(range(7))
    if alignment == 64:
        assert all(ours[name].array.ctypes.data % 64 == 0 for name in ours if ours[name].array.size)


def test_bfloat16_from_torch_is_read(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    from safetensors.torch import save_file as save

    save({"w": torch.tensor([1.0, -2.0], dtype=torch.bfloat16)}, tmp_path / "model.safetensors")
    tensor = open_tensors(tmp_path)["w"]
    assert tensor.dtype == "BF16" and tensor.array.tolist() == [0x3F80, 0xC000]
    with pytest.raises(ValueError, match="read-only"):
        tensor.array[0] = 0


def test_shards_and_their_index(tmp_path: Path) -> None:
    with SafetensorsWriter(tmp_path, 10, shard_bytes=1000) as writer:
        for i in range(10):
            writer.add(f"w{i}", "F32", np.full(100, i, np.float32))
    assert len(list(tmp_path.glob("model-*.safetensors"))) == 5
    tensors = open_tensors(tmp_path)
    assert [int(tensors[f"w{i}"].array[0]) for i in range(10)] == list(range(10))

    index = tmp_path / "model.safetensors.index.json"
    places = json.loads(index.read_text())["weight_map"]
    for name, place, problem in [
        ("w0", "../other.safetensors", "outside"),
        ("w0", "model-00009-of-00009.safetensors", "missing"),
        ("w0", places["w9"], "missing from"),
        ("more", places["w9"], "missing from"),
        ("w0", 3, "weight_map"),
    ]:
        index.write_text(json.dumps({"weight_map": {**places, name: place}}))
        with pytest.raises(CutworkError, match=problem):
            open_tensors(tmp_path)


def test_more_tensors_than_announced_only_make_more_shards(tmp_path: Path) -> None:
    with SafetensorsWriter(tmp_path, 2) as writer:
        for i in range(50):
            writer.add(f"a.rather.long.name.of.a.tensor.{i}", "U8", np.full(3, i, np.uint8))
    tensors = open_tensors(tmp_path)
    assert len(tensors) == 50 and len(list(tmp_path.glob("*.safetensors"))) > 1
    for path in tmp_path.glob("*.safetensors"):
        with safe_open(path, "np") as library:
            list(library.keys())


def test_two_files_with_the_same_tensor_are_ambiguous(tmp_path: Path) -> None:
    for name in ("a", "b"):
        save_file({"w": np.ones(3)}, tmp_path / f"{name}.safetensors")
    with pytest.raises(CutworkError, match="keep one"):
        open_tensors(tmp_path)


def test_nothing_is_left_open_or_renamed_after_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="taken"), SafetensorsWriter(tmp_path, 2) as writer:
        writer.add("w", "U8", np.zeros(1, np.uint8))
        writer.add("w", "U8", np.zeros(1, np.uint8))
    assert not list(tmp_path.glob("*.safetensors"))


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="tells resident memory where Linux does")
def test_released_memory_is_given_back_and_read_again(tmp_path):
    def resident() -> int:
        lines = Path("/proc/self/status").read_text().splitlines()
        return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("RssFile"))

    values = np.arange(1 << 22, dtype=np.int32)
    with SafetensorsWriter(tmp_path, 3) as writer:
        for name in ("a", "b", "c"):
            writer.add(name, "I32", values)
    tensors = open_tensors(tmp_path)
    before = resident()
    assert all(tensor.array.sum() for tensor in tensors.values())
    touched = resident()
    assert touched - before > 2.5 * values.nbytes
    tensors.release("b")
    assert touched - resident() > 0.9 * values.nbytes
    for tensor in tensors.values():
        np.testing.assert_array_equal(tensor.array, values)
