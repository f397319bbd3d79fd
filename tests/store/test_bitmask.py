"""Bitmask checkpoints of old compressed-tensors, written here as field by field as their layout says.

benchmarks/engine/legacy_checkpoints.py checks the same with files that the old packages themselves write.
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cutwork import Model
from cutwork.errors import CutworkError
from cutwork.pack.pack import pack
from cutwork.pack.restore import restore
from cutwork.prune.prune import prune
from cutwork.quantize.quantize import quantize
from cutwork.recipe import PruneSettings, QuantizeSettings
from cutwork.store.bitmask import plain_config
from cutwork.store.checkpoint import open_checkpoint
from cutwork.store.directory import kind_of, read_config
from cutwork.store.safetensors import SafetensorsWriter, Tensor, open_tensors
from cutwork.torch_models.load import load_model
from tests.tiny_checkpoint import write_tiny_checkpoint
from tests.torch_models.tiny import cut

Parts = dict[str, Tensor]
IDS = list(b"12+3=15 #### 15")


def bitmask(name: str, tensor: Tensor) -> Parts:
    """The parts of `sparse-bitmask` under the prefix `name`."""
    present = tensor.array != 0
    counts = present.sum(axis=-1).reshape(-1)
    return {
        f"{name}.compressed": Tensor(tensor.dtype, tensor.array[present]),
        f"{name}.bitmask": Tensor("U8", np.packbits(present, axis=-1, bitorder="little")),
        f"{name}.shape": Tensor("I64", np.array(tensor.shape, np.int64)),
        f"{name}.row_offsets": Tensor("I64", (np.cumsum(counts) - counts).astype(np.int64)),
    }


def two_of_four(name: str, tensor: Tensor) -> Parts:
    """The parts of `sparse-24-bitmask`: always two values of four, even if they are zero."""
    rows, cols = tensor.shape
    fours = np.abs(tensor.array.astype(np.float32)).reshape(-1, 4)
    present = np.zeros(fours.shape, bool)
    np.put_along_axis(present, np.argsort(-fours, axis=1, kind="stable")[:, :2], True, axis=1)
    present = present.reshape(rows, cols)
    return {
        f"{name}.compressed": Tensor(tensor.dtype, tensor.array[present].reshape(rows, cols // 2)),
        f"{name}.bitmask": Tensor("U8", np.packbits(present, axis=-1, bitorder="little")),
        f"{name}.shape": Tensor("I64", np.array([[rows], [cols]], np.int64)),
    }


def since_0_9(tensors: Parts, layout: Callable[[str, Tensor], Parts] = bitmask) -> Parts:
    """Only the linears of the blocks, under the names of their modules."""
    stored: Parts = {}
    for name, tensor in tensors.items():
        stored |= layout(name.removesuffix(".weight"), tensor) if name.endswith("proj.weight") else {name: tensor}
    return stored


def before_0_9(tensors: Parts) -> Parts:
    """Every tensor, norms and embeddings too, under its own name."""
    return {part: value for name, tensor in tensors.items() for part, value in bitmask(name, tensor).items()}


def rewrite(source: Path, directory: Path, tensors: Parts, sparsity: dict[str, Any]) -> Path:
    """A copy of a checkpoint with other tensors and a `sparsity_config`."""
    shutil.copytree(source, directory)
    (directory / "model.safetensors").unlink()
    with SafetensorsWriter(directory, len(tensors), alignment=1) as writer:
        for name, tensor in tensors.items():
            writer.add(name, tensor.dtype, tensor.array)
    config = json.loads((directory / "config.json").read_text())
    config.setdefault("quantization_config", {"quant_method": "compressed-tensors"})["sparsity_config"] = sparsity
    (directory / "config.json").write_text(json.dumps(config))
    return directory


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint that 2:4 fits; some groups of four have fewer than two values."""
    directory = write_tiny_checkpoint(tmp_path_factory.mktemp("models") / "plain")
    model = load_model(directory, torch.float32)
    torch.manual_seed(0)
    with torch.no_grad():
        for name, parameter in cut(model, 0.3).named_parameters():
            if name.endswith("proj.weight"):
                smallest = parameter.abs().unflatten(1, (-1, 4)).argsort(-1)[..., :2]
                parameter.copy_(parameter.unflatten(1, (-1, 4)).scatter(-1, smallest, 0).flatten(1))
    model.bfloat16().save_pretrained(directory)
    return directory


STYLES = {
    "bitmask": (since_0_9, {"format": "sparse-bitmask"}),
    "bitmask-before-0.9": (before_0_9, {"format": "sparse-bitmask"}),
    "24-bitmask": (lambda tensors: since_0_9(tensors, two_of_four), {"format": "sparse-24-bitmask"}),
}


@pytest.fixture(params=STYLES)
def legacy(request: pytest.FixtureRequest, plain: Path, tmp_path: Path) -> Path:
    style, sparsity = STYLES[request.param]
    return rewrite(plain, tmp_path / "legacy", style(dict(open_tensors(plain))), sparsity)


def test_its_tensors_are_those_it_was_made_of(legacy: Path, plain: Path) -> None:
    assert kind_of(legacy) == "checkpoint"
    assert "quantization_config" not in read_config(legacy)
    found, wanted = open_checkpoint(legacy), open_tensors(plain)
    assert set(found) == set(wanted)
    for name in wanted:
        assert found.describe(name) == wanted.describe(name)
        assert found[name].dtype == wanted[name].dtype
        np.testing.assert_array_equal(found[name].array, wanted[name].array)


def test_the_engine_and_the_trainer_see_the_dense_model(legacy: Path, plain: Path, tmp_path: Path) -> None:
    pack(legacy, tmp_path / "packed")
    restore(tmp_path / "packed", tmp_path / "restored")
    assert "sparsity_config" not in (tmp_path / "restored" / "config.json").read_text()
    with Model.load(plain) as dense:
        expected = dense.logits(IDS)
        for directory in (legacy, tmp_path / "packed", tmp_path / "restored"):
            with Model.load(directory) as model:
                np.testing.assert_array_equal(model.logits(IDS), expected)
    theirs, ours = load_model(plain, "auto").state_dict(), load_model(legacy, "auto").state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


@pytest.mark.parametrize("how", ["quantize", "prune"])
def test_it_can_be_quantised_and_pruned(legacy: Path, plain: Path, tmp_path: Path, how: str) -> None:
    for source, name in ((plain, "a"), (legacy, "b")):
        if how == "quantize":
            quantize(source, tmp_path / name, QuantizeSettings(method="rtn"))
        else:
            prune(source, tmp_path / name, PruneSettings(method="magnitude", sparsity=0.7))
    ours, theirs = (dict(open_tensors(tmp_path / name)) for name in "ba")
    assert all(np.array_equal(ours[name].array, theirs[name].array) for name in theirs)
    assert "sparsity_config" not in (tmp_path / "b" / "config.json").read_text()


@pytest.mark.parametrize("style", STYLES)
def test_codes_may_lie_in_a_bitmask(plain: Path, tmp_path: Path, style: str) -> None:
    quantize(plain, tmp_path / "int8", QuantizeSettings(method="rtn"))
    store, sparsity = STYLES[style]
    legacy = rewrite(tmp_path / "int8", tmp_path / "legacy", store(dict(open_tensors(tmp_path / "int8"))), sparsity)
    assert kind_of(legacy) == "quantized"
    assert set(open_checkpoint(legacy)) == set(open_tensors(tmp_path / "int8"))
    with Model.load(tmp_path / "int8") as dense, Model.load(legacy) as model:
        np.testing.assert_array_equal(model.logits(IDS), dense.logits(IDS))


def test_old_places_of_the_description() -> None:
    sparse = {"format": "sparse-bitmask"}
    assert plain_config({"a": 1, "sparsity_config": sparse}) == {"a": 1}
    assert plain_config({"compression_config": {"sparsity_config": sparse}}) == {}
    assert plain_config({"quantization_config": {"format": "dense", "sparsity_config": sparse}}) == {}
    int8 = {"format": "int-quantized", "config_groups": {"group_0": {}}}
    assert plain_config({"compression_config": {**int8, "sparsity_config": sparse}}) == {"quantization_config": int8}
    gptq = {"quantization_config": {"quant_method": "gptq", "bits": 4}}
    assert plain_config(gptq) == gptq


@pytest.mark.parametrize(
    "change",
    [
        {"shape": Tensor("I64", np.array([64, 2**40]))},
        {"shape": Tensor("I64", np.array([2**40, 2**40]))},
        {"shape": Tensor("I64", np.array([-64, -64]))},
        {"shape": Tensor("I64", np.array([63, 64]))},
        {"shape": Tensor("I64", np.array([64, 63]))},
        {"shape": Tensor("I64", np.zeros(0, np.int64))},
        {"shape": Tensor("F32", np.array([64, 64], np.float32))},
        {"shape": Tensor("F32", np.array([64, np.nan], np.float32))},
        {"bitmask": Tensor("U8", np.full((64, 8), 255, np.uint8))},
        {"bitmask": Tensor("I8", np.zeros((64, 8), np.int8))},
        {"compressed": Tensor("BF16", np.ones(3, np.uint16))},
        {"compressed": None},
        {"shape": None},
    ],
)
def test_parts_that_do_not_fit_are_refused(plain: Path, tmp_path: Path, change: dict[str, Tensor | None]) -> None:
    tensors = since_0_9(dict(open_tensors(plain)))
    for part, value in change.items():
        tensors.pop(f"model.layers.0.self_attn.q_proj.{part}")
        if value is not None:
            tensors[f"model.layers.0.self_attn.q_proj.{part}"] = value
    broken = rewrite(plain, tmp_path / "broken", tensors, {"format": "sparse-bitmask"})
    pruned = PruneSettings(method="magnitude")
    for read in (
        lambda: Model.load(broken),
        lambda: load_model(broken, "auto"),
        lambda: prune(broken, tmp_path / "out", pruned),
    ):
        with pytest.raises(CutworkError, match=r"'model.layers.0.self_attn.q_proj.weight' are missing or do not fit"):
            read()
