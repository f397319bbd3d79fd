"""Floats that are rounded while they are packed: the linears that `quantize` rounds, to the same codes."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

from cutwork.engine.model import Model
from cutwork.errors import CutworkError
from cutwork.pack.in_memory import pack_in_memory
from cutwork.pack.pack import pack
from cutwork.pack.reader import read_packed
from cutwork.pack.rounding import rounding
from cutwork.pack.source import SourceCheckpoint
from tests.architectures import test_encoders as encoders
from tests.architectures import test_t5 as t5
from tests.engine import bart_tiny, t5gemma_tiny, tiny
from tests.tiny_checkpoint import write_tiny_checkpoint

torch = pytest.importorskip("torch")

MAKERS = {
    **dict.fromkeys(tiny.VARIANTS, tiny.make),
    **dict.fromkeys(encoders.ENCODERS, encoders.make),
    **dict.fromkeys(bart_tiny.VARIANTS, bart_tiny.make),
    **dict.fromkeys(t5gemma_tiny.VARIANTS, t5gemma_tiny.make),
    **dict.fromkeys(t5.VARIANTS, t5.make),
}


@pytest.mark.parametrize("variant", MAKERS)
def test_the_linears_that_quantize_rounds_are_rounded(variant: str, tmp_path: Path) -> None:
    from cutwork.quantize.schemes import choose
    from cutwork.recipe import QuantizeSettings

    model: Any = MAKERS[variant](variant)
    model.save_pretrained(tmp_path)
    source = SourceCheckpoint(tmp_path)
    chosen = {f"{name}.weight" for name in choose(model, QuantizeSettings(method="rtn"))}
    if not chosen <= set(source.names):
        pytest.skip("saved by other names than the module's")
    found = rounding(source, "i4")
    assert {name for name in found if name != source.head} == chosen
    assert set(found.values()) == ({"i4", "i8"} if source.head else {"i4"})


@pytest.mark.parametrize(("bits", "kept"), [("auto", True), ("i8", False), ("i4", False)])
def test_signs_of_zeros_are_kept_where_something_brings_them_back(bits: Any, kept: bool, tmp_path: Path) -> None:
    source = write_tiny_checkpoint(tmp_path / "source")
    file = source / "model.safetensors"
    with safe_open(file, "np") as opened:
        state = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 (not a mapping)
    for name, weight in state.items():
        if "proj" in name:
            pruned = np.arange(weight.size).reshape(weight.shape) % 4 > 0
            state[name] = np.where(pruned, np.float32(-0.0), weight)
    save_file(state, file, metadata={"format": "pt"})
    pack(source, tmp_path / "packed", weights=bits)
    with safe_open(tmp_path / "packed" / "model.safetensors", "np") as opened:
        assert any(name.endswith(".negative_zeros") for name in opened.keys()) == kept  # noqa: SIM118


@pytest.mark.parametrize("bits", ["i8", "i4"])
def test_rounding_while_loading_is_rounding_while_packing(bits: Any, tmp_path: Path) -> None:
    source = write_tiny_checkpoint(tmp_path / "source")
    pack(source, tmp_path / "packed", weights=bits)
    stored, made = read_packed(tmp_path / "packed").weights, pack_in_memory(source, bits).weights
    dtypes = {name: weight.dtype for name, weight in made.items()}
    assert dtypes == {name: weight.dtype for name, weight in stored.items()}
    linears = [name for name in dtypes if "proj" in name]
    assert linears and {dtypes[name] for name in linears} == {bits}
    for name in linears:
        np.testing.assert_array_equal(np.asarray(made[name].values), np.asarray(stored[name].values))
    with Model.load(source, weights=bits) as at_once, Model.load(tmp_path / "packed") as packed:
        answers = [model.generate("12 + 30 =", max_new_tokens=12).tokens for model in (at_once, packed)]
    assert answers[0] == answers[1]


@pytest.mark.parametrize("bits", ["i8", "i4"])
@pytest.mark.parametrize("value", [float("nan"), float("-inf")])
def test_what_is_not_finite_is_not_rounded(bits: Any, value: float, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    file = write_tiny_checkpoint(tmp_path / "source") / "model.safetensors"
    stored = load_file(file)
    stored["model.layers.0.mlp.down_proj.weight"][3, 5] = value
    save_file(stored, file, {"format": "pt"})
    with pytest.raises(CutworkError, match=r"0\.mlp\.down_proj\.weight has weights that are not finite; the model is"):
        pack(file.parent, tmp_path / "packed", weights=bits)
    assert not (tmp_path / "packed").exists()


def test_int8_codes_are_those_of_quantize(tmp_path: Path) -> None:
    from cutwork.quantize.quantize import quantize
    from cutwork.recipe import QuantizeSettings

    source = write_tiny_checkpoint(tmp_path / "source")
    quantize(source, tmp_path / "quantized", QuantizeSettings(method="rtn"))
    ours, theirs = pack_in_memory(source, "i8").weights, pack_in_memory(tmp_path / "quantized").weights
    assert any(weight.dtype == "i8" for weight in theirs.values())
    for name, weight in theirs.items():
        if weight.dtype == "i8":
            apart = np.asarray(ours[name].values, int) - np.asarray(weight.values, int)
            assert np.abs(apart).max() <= 1, "their scales are rounded to the checkpoint's dtype"
            assert (apart != 0).mean() < 0.05
            np.testing.assert_allclose(ours[name].scale, weight.scale, rtol=2**-8)


def test_weights_of_packed_models_stay_as_they_are(tmp_path: Path) -> None:
    pack(write_tiny_checkpoint(tmp_path / "source"), tmp_path / "packed")
    with pytest.raises(CutworkError, match="is packed, so its weights stay as they are; leave out weights"):
        Model.load(tmp_path / "packed", weights="i8")


def test_other_numbers_are_refused(tmp_path: Path) -> None:
    wrong: Any = "fp8"
    with pytest.raises(CutworkError, match="weights must be auto, i8 or i4, not 'fp8'"):
        Model.load(write_tiny_checkpoint(tmp_path), weights=wrong)
