import contextlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cutwork import _native
from cutwork.errors import CutworkError
from cutwork.pack.decode import decode
from cutwork.pack.pack import pack
from cutwork.pack.reader import read_packed, verify
from cutwork.pack.restore import restore
from cutwork.store.directory import read_config
from cutwork.store.safetensors import SafetensorsWriter, Tensor, open_tensors

from .models import QUANTIZED, assert_same_tensors, llama_checkpoint, plain_tensors, write_checkpoint

UP = "model.layers.0.mlp.up_proj.weight"


@pytest.fixture
def packed(tmp_path: Path) -> Path:
    pack(write_checkpoint(tmp_path / "source", plain_tensors()), tmp_path / "packed")
    return tmp_path / "packed"


def edit_manifest(packed: Path, **changes: Any) -> None:
    path = packed / "cutwork.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def edit_weight(packed: Path, **changes: Any) -> None:
    weights = json.loads((packed / "cutwork.json").read_text())["weights"]
    edit_manifest(packed, weights={**weights, UP: {**weights[UP], **changes}})


def edit_tensors(packed: Path, changes: dict[str, Tensor | None]) -> None:
    """Rewrite the file with some tensors replaced, or left out where None."""
    tensors: dict[str, Any] = {name: Tensor(t.dtype, t.array.copy()) for name, t in open_tensors(packed).items()}
    tensors.update(changes)
    with SafetensorsWriter(packed, len(tensors)) as writer:
        for name, tensor in tensors.items():
            if tensor is not None:
                writer.add(name, tensor.dtype, tensor.array)


def test_a_mapped_weight_is_a_view_of_the_file(packed: Path) -> None:
    weight = read_packed(packed).weights[UP]
    assert weight.mask is not None and not weight.mask.flags.owndata and not weight.values.flags.writeable
    verify(UP, weight)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"version": 3}, "format version 3 and this cutwork reads 2; upgrade"),
        ({"version": "1"}, "not the description"),
        ({"version": 0}, "damaged: version"),
        ({"format": "other"}, "not the description"),
        ({"weights": 3}, "damaged: weights"),
        ({"config": None}, "damaged: config"),
        ({"surprise": 1}, "damaged: surprise"),
        ({"source": {"kind": "packed"}}, "damaged: source.kind"),
    ],
)
def test_damaged_manifests(packed: Path, changes: dict[str, Any], problem: str) -> None:
    edit_manifest(packed, **changes)
    with pytest.raises(CutworkError, match=problem):
        read_packed(packed)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"encoding": "block4"}, "encoding"),
        ({"dtype": "i2"}, "dtype"),
        ({"dtype": "i4"}, "group"),
        ({"dtype": "i4", "group": 48, "scale": "F32"}, "multiple of 32"),
        ({"dtype": "i4", "group": 32, "scale": "F64"}, "scale"),
        ({"dtype": "i4", "group": 32, "scale": "F32"}, "scale' is missing"),
        ({"dtype": "i4", "group": 32, "scale": "F32", "shape": [7070]}, "no matrix"),
        ({"dtype": "i4", "group": 32, "scale": "F32", "shape": [101, 0]}, "impossible shape"),
        ({"dtype": "bf16"}, "should be BF16"),
        ({"dtype": "i8"}, "should be I8"),
        ({"encoding": "dense"}, f"'{UP}' is missing"),
        ({"shape": [101, 71, 1]}, "no matrix"),
        ({"shape": [101, 2**40]}, "impossible shape"),
        ({"shape": [2**47, 70]}, "mask' is U64"),
        ({"shape": [2**50, 70]}, "less than"),
        ({"shape": [101, 129]}, "mask' is U64"),
        ({"shape": [0, 70]}, "impossible shape"),
        ({"shape": [-1, 70]}, "greater than or equal"),
        ({"nonzeros": 5}, "values' is F32"),
        ({"nonzeros": -1}, "nonzeros"),
        ({"nonzeros": 1.5}, "nonzeros"),
    ],
)
def test_damaged_entries(packed: Path, changes: dict[str, Any], problem: str) -> None:
    edit_weight(packed, **changes)
    with pytest.raises(CutworkError, match=problem):
        read_packed(packed)


def test_missing_and_mistyped_tensors(packed: Path) -> None:
    offsets = open_tensors(packed)[f"{UP}.offsets"].array
    for part, tensor, problem in [
        ("mask", None, "is missing"),
        ("values", None, "is missing"),
        ("offsets", None, "is missing"),
        ("offsets", Tensor("I64", offsets.astype(np.int64)), "is I64"),
        ("offsets", Tensor("U64", offsets[1:].copy()), "should be U64"),
    ]:
        kept = open_tensors(packed)[f"{UP}.{part}"]
        kept = Tensor(kept.dtype, kept.array.copy())
        edit_tensors(packed, {f"{UP}.{part}": tensor})
        with pytest.raises(CutworkError, match=problem):
            read_packed(packed)
        edit_tensors(packed, {f"{UP}.{part}": kept})
    read_packed(packed)


@pytest.mark.parametrize(("part", "index"), [("mask", (3, 0, 1)), ("offsets", 5), ("offsets", -1), ("values", -1)])
def test_contents_that_a_kernel_trusts(packed: Path, tmp_path: Path, part: str, index: Any) -> None:
    tensor = open_tensors(packed)[f"{UP}.{part}"]
    array = tensor.array.copy()
    array.view(np.uint64 if part != "values" else np.uint32)[index] ^= np.array(
        1, array.dtype if part != "values" else "u4"
    )
    edit_tensors(packed, {f"{UP}.{part}": Tensor(tensor.dtype, array)})
    weight = read_packed(packed).weights[UP]
    with pytest.raises(CutworkError, match="is damaged"):
        verify(UP, weight)
    with pytest.raises(CutworkError, match="is damaged"):
        restore(packed, tmp_path / "back")
    assert not (tmp_path / "back").exists()
    if part != "values":
        with pytest.raises(ValueError, match=r"row group|offset|nonzeros"):
            _native.Weight.masked("bitmask", *weight.shape, weight.values, weight.mask, weight.offsets, weight.scale)


def test_a_scale_may_be_negative(tmp_path: Path) -> None:
    for dtype in QUANTIZED:
        tensors: dict[str, Tensor] = dict(open_tensors(llama_checkpoint(tmp_path / dtype, dtype, "dense")))
        for name, tensor in tensors.items():
            if name.endswith("_scale"):
                negative = tensor.array ^ 0x8000 if tensor.dtype == "BF16" else -tensor.array
                tensors[name] = Tensor(tensor.dtype, negative)
        source = write_checkpoint(tmp_path / f"{dtype} negative", tensors, read_config(tmp_path / dtype))
        pack(source, tmp_path / f"{dtype} packed")
        restore(tmp_path / f"{dtype} packed", tmp_path / f"{dtype} back")
        assert_same_tensors(source, tmp_path / f"{dtype} back")


def test_truncated_files(packed: Path) -> None:
    path = packed / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(CutworkError, match="damaged"):
        read_packed(packed)
    path.unlink()
    with pytest.raises(CutworkError, match="incomplete"):
        read_packed(packed)


@pytest.mark.parametrize(
    ("source", "problem"),
    [
        ({"kind": "checkpoint", "extras": ["gone"]}, "'gone' is missing"),
        ({"kind": "checkpoint", "tied": {"a": "gone"}}, "tied to 'gone'"),
        ({"kind": "checkpoint", "dtypes": {UP: "I64"}}, "cannot have been I64"),
    ],
)
def test_damaged_descriptions_of_the_source(packed: Path, tmp_path: Path, source: Any, problem: str) -> None:
    edit_manifest(packed, source=source)
    with pytest.raises(CutworkError, match=problem):
        restore(packed, tmp_path / "back")
    assert not (tmp_path / "back").exists()


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_damage_anywhere_is_a_sentence(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    packed = tmp_path_factory.getbasetemp() / "fuzzed"
    if not packed.exists():
        pack(write_checkpoint(packed.with_name("fuzz-source"), plain_tensors()), packed)
        for name in ("cutwork.json", "model.safetensors"):
            (packed / f"{name}.whole").write_bytes((packed / name).read_bytes())
    whole = {name: (packed / f"{name}.whole").read_bytes() for name in ("cutwork.json", "model.safetensors")}
    name = data.draw(st.sampled_from(sorted(whole)))
    content = bytearray(whole[name])
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, min(len(content), 9000) - 1))
        content[place : place + data.draw(st.integers(0, 2))] = data.draw(st.binary(max_size=3))
    for other, untouched in whole.items():
        (packed / other).write_bytes(content if other == name else untouched)
    with contextlib.suppress(CutworkError):
        for weight_name, weight in read_packed(packed).weights.items():
            verify(weight_name, weight)
            decode(weight)
