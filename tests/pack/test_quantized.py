"""Checkpoints quantised by compressed-tensors itself."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cutwork import _native as native
from cutwork.errors import CutworkError
from cutwork.pack.decode import decode
from cutwork.pack.floats import from_float32
from cutwork.pack.in_memory import pack_in_memory
from cutwork.pack.int4 import dequantize
from cutwork.pack.pack import pack
from cutwork.pack.reader import read_packed, verify
from cutwork.pack.restore import restore
from cutwork.store import bfloat16
from cutwork.store.directory import read_config
from cutwork.store.safetensors import Tensor, open_tensors

from .models import CONFIG, assert_same_tensors, plain_tensors, sparse, write_checkpoint

torch = pytest.importorskip("torch")
compressors = pytest.importorskip("compressed_tensors.compressors")
quantization = pytest.importorskip("compressed_tensors.quantization")

NAMES = ("model.layers.0.mlp.up_proj", "model.layers.0.mlp.down_proj")
LAYOUTS = {
    "int-quantized": "IntQuantizationCompressor",
    "pack-quantized": "PackedQuantizationCompressor",
}


def to_tensor(value: Any) -> Tensor:
    names = {torch.bfloat16: "BF16", torch.float16: "F16", torch.float32: "F32", torch.int8: "I8", torch.int32: "I32"}
    dtype = names.get(value.dtype, "I64")
    if dtype == "BF16":
        value = value.view(torch.int16)
    array = value.contiguous().numpy()
    return Tensor(dtype, array.view(np.uint16) if dtype == "BF16" else array)


def quantized(
    path: Path, layout: str, scale_dtype: Any, cols: int = 256, **weights: Any
) -> tuple[Path, dict[str, Any]]:
    """A checkpoint of which two layers are quantised, and the values that compressed-tensors reads from those."""
    args = quantization.QuantizationArgs(**{"num_bits": 8, "strategy": "channel", "symmetric": True, **weights})
    scheme = quantization.QuantizationScheme(targets=["Linear"], weights=args)
    compressor = getattr(compressors, LAYOUTS[layout])
    tensors = {name: tensor for name, tensor in plain_tensors("BF16").items() if "proj.weight" not in name}
    expected = {}
    for seed, name in enumerate(NAMES):
        dense = torch.from_numpy(sparse((101, cols), 0.7, seed)).to(scale_dtype)
        width = cols // (args.group_size or cols)
        groups = dense.float().reshape(101, width, -1)
        if args.symmetric:
            scale = groups.abs().amax(-1) / (2 ** (args.num_bits - 1) - 0.5)  # as its observers do: -128 can occur
            zero_point = torch.zeros(101, width, dtype=torch.int8)
        else:
            scale = (groups.amax(-1) - groups.amin(-1)) / (2**args.num_bits - 1)
            zero_point = (-(2 ** (args.num_bits - 1)) - groups.amin(-1) / scale).round().to(torch.int8)
        if args.strategy == "tensor":
            scale, zero_point = scale.max().reshape(1), zero_point[:1, 0]
        state = {"weight": dense, "weight_scale": scale.to(scale_dtype), "weight_zero_point": zero_point}
        stored = compressor.compress(state, scheme)
        expected[name] = compressor.decompress(stored, scheme)["weight"]
        tensors |= {f"{name}.{part}": to_tensor(value) for part, value in stored.items()}
    config = {
        **CONFIG,
        "quantization_config": {
            "quant_method": "compressed-tensors",
            "format": layout,
            "quantization_status": "compressed",
            "config_groups": {"group_0": scheme.model_dump(mode="json")},
        },
    }
    return write_checkpoint(path, tensors, config), expected


def floats(value: Any) -> np.ndarray:
    return np.asarray(value.float().numpy())


@pytest.mark.parametrize("strategy", ["channel", "tensor"])
@pytest.mark.parametrize("scale_dtype", [torch.bfloat16, torch.float32, torch.float16])
def test_int8_keeps_its_codes(tmp_path: Path, strategy: str, scale_dtype: Any) -> None:
    source, _ = quantized(tmp_path / "source", "int-quantized", scale_dtype, strategy=strategy)
    summary = pack(source, tmp_path / "packed")
    model = read_packed(tmp_path / "packed")
    for name in NAMES:
        weight = model.weights[f"{name}.weight"]
        assert (weight.encoding, weight.dtype) == ("bitmask", "i8") and weight.sparsity > 0.65
        assert weight.scale is not None and weight.scale.shape == (101,) and weight.scale.dtype == np.float32
        assert decode(weight).min() >= -127
    assert summary.clamped >= 1  # the quantiser's range reaches -128; kernels' does not
    assert set(model.weights) == {f"{name}.weight" for name in NAMES} | {
        "lm_head.weight", "model.embed_tokens.weight", "model.layers.0.mlp.up_proj.bias", "model.norm.weight",
    }  # fmt: skip
    assert model.source.kind == "quantized"
    restore(tmp_path / "packed", tmp_path / "back")
    assert_same_tensors(source, tmp_path / "back")


def test_int8_means_what_compressed_tensors_means(tmp_path: Path) -> None:
    source, expected = quantized(tmp_path / "source", "int-quantized", torch.float32)
    for name in NAMES:
        weight = pack_in_memory(source).weights[f"{name}.weight"]
        assert weight.scale is not None
        ours = decode(weight) * weight.scale[:, None]
        assert np.abs(ours - floats(expected[name])).max() <= weight.scale.max() * 1.001  # a clamped code is one off
        assert ((ours == 0) == (floats(expected[name]) == 0)).all()


@pytest.mark.parametrize("scale_dtype", [torch.bfloat16, torch.float32, torch.float16])
@pytest.mark.parametrize(
    ("weights", "group"),
    [
        ({"strategy": "group", "group_size": 128}, 128),
        ({"strategy": "group", "group_size": 32}, 32),
        ({"strategy": "channel"}, 256),
    ],
)
@pytest.mark.parametrize("layout_cols", [256, 384])
def test_int4_keeps_its_codes(
    tmp_path: Path, scale_dtype: Any, weights: dict[str, Any], group: int, layout_cols: int
) -> None:
    source, expected = quantized(
        tmp_path / "source", "pack-quantized", scale_dtype, cols=layout_cols, num_bits=4, **weights
    )
    summary = pack(source, tmp_path / "packed")
    model = read_packed(tmp_path / "packed")
    assert "quantization_config" in model.config and summary.clamped == 0
    for name in NAMES:
        weight = model.weights[f"{name}.weight"]
        verify(name, weight)
        assert (weight.encoding, weight.dtype) == ("bitmask", "i4") and weight.sparsity > 0.65
        assert weight.group == (layout_cols if weights["strategy"] == "channel" else group)
        values = from_float32(dequantize(weight), to_tensor(expected[name]).dtype)
        assert values.array.tobytes() == (to_tensor(expected[name]).array + 0).tobytes()
        loaded = native.Weight.int4(
            *weight.shape, weight.values, weight.scale, weight.group, weight.mask, weight.offsets
        )
        assert (loaded.to_dense() == decode(weight)).all()
    restore(tmp_path / "packed", tmp_path / "back")
    assert_same_tensors(source, tmp_path / "back")
    again = pack_in_memory(tmp_path / "back")
    assert all((again.weights[n].values == model.weights[n].values).all() for n in model.weights)


def test_int4_beside_codes_that_must_become_floats_is_restored_as_floats(tmp_path: Path) -> None:
    source, expected = quantized(
        tmp_path / "source", "pack-quantized", torch.float32, num_bits=4, strategy="group", group_size=128
    )
    tensors: dict[str, Tensor] = dict(open_tensors(source))
    tensors[f"{NAMES[0]}.weight_g_idx"] = Tensor("I32", np.arange(256, dtype=np.int32) // 128)
    mixed = write_checkpoint(tmp_path / "mixed", tensors, read_config(source))
    pack(mixed, tmp_path / "packed")
    model = read_packed(tmp_path / "packed")
    assert [model.weights[f"{name}.weight"].dtype for name in NAMES] == ["f32", "i4"]
    restore(tmp_path / "packed", tmp_path / "back")
    restored = open_tensors(tmp_path / "back")
    assert not any("_packed" in name or "_shape" in name for name in restored)
    for name in NAMES:
        np.testing.assert_array_equal(restored[f"{name}.weight"].array, floats(expected[name]))


@pytest.mark.parametrize("scale_dtype", [torch.bfloat16, torch.float32, torch.float16])
@pytest.mark.parametrize(
    "weights",
    [
        {"num_bits": 4, "strategy": "group", "group_size": 64, "symmetric": False},
        {"num_bits": 4, "strategy": "group", "group_size": 16},
        {"num_bits": 8, "strategy": "group", "group_size": 128},
    ],
)
def test_packed_codes_become_the_values_they_stand_for(
    tmp_path: Path, scale_dtype: Any, weights: dict[str, Any]
) -> None:
    source, expected = quantized(tmp_path / "source", "pack-quantized", scale_dtype, **weights)
    pack(source, tmp_path / "packed")
    model = read_packed(tmp_path / "packed")
    assert "quantization_config" not in model.config
    for name in NAMES:
        weight = model.weights[f"{name}.weight"]
        dense = decode(weight)
        ours = bfloat16.to_float32(dense) if weight.dtype == "bf16" else dense
        assert weight.dtype == ("bf16" if scale_dtype == torch.bfloat16 else "f32")
        assert (ours == floats(expected[name])).all()
        assert weight.encoding == "bitmask" and weight.sparsity > 0.65
    restore(tmp_path / "packed", tmp_path / "back")
    again = pack_in_memory(tmp_path / "back")
    assert all((again.weights[n].values == model.weights[n].values).all() for n in model.weights)


@pytest.mark.parametrize(("words", "dtype", "point"), [(0, "f32", -8), (-0x77777778, "i4", 0)])
def test_zero_points_count_as_they_are_unpacked(tmp_path: Path, words: int, dtype: str, point: int) -> None:
    """Packed, the points -8 are words of zero, and points of zero are none."""
    layout = {"num_bits": 4, "strategy": "group", "group_size": 64, "symmetric": False}
    source, _ = quantized(tmp_path / "source", "pack-quantized", torch.float32, **layout)
    tensors: dict[str, Tensor] = dict(open_tensors(source))
    for name in NAMES:
        stored = tensors[f"{name}.weight_zero_point"]
        assert stored.dtype == "I32"
        tensors[f"{name}.weight_zero_point"] = Tensor("I32", np.full_like(stored.array, words))
    model = pack_in_memory(write_checkpoint(tmp_path / "moved", tensors, read_config(source)))
    for name in NAMES:
        weight = model.weights[f"{name}.weight"]
        assert weight.dtype == dtype
        if point:
            assert decode(weight).min() == 0  # no code lies below -8


@pytest.mark.parametrize("weights", [{"strategy": "group", "group_size": 64}, {"symmetric": False}])
def test_int8_that_the_kernels_cannot_scale_becomes_floats(tmp_path: Path, weights: dict[str, Any]) -> None:
    source, expected = quantized(tmp_path / "source", "int-quantized", torch.float32, **weights)
    for name in NAMES:
        weight = pack_in_memory(source).weights[f"{name}.weight"]
        assert weight.dtype == "f32"
        assert (decode(weight) == floats(expected[name])).all()
    pack(source, tmp_path / "packed")
    restore(tmp_path / "packed", tmp_path / "back")  # as what they are now
    assert "quantization_config" not in read_config(tmp_path / "back")
    restored = open_tensors(tmp_path / "back")
    assert not any("_scale" in name or "_zero_point" in name for name in restored)
    for name in NAMES:
        np.testing.assert_array_equal(restored[f"{name}.weight"].array, floats(expected[name]))


def test_parts_that_do_not_fit_together_are_refused(tmp_path: Path) -> None:
    source, _ = quantized(
        tmp_path / "source", "pack-quantized", torch.float32, num_bits=4, strategy="group", group_size=128
    )
    tensors: dict[str, Tensor] = dict(open_tensors(source))
    name = f"{NAMES[0]}.weight"
    for number, changes in enumerate(
        [
            {f"{name}_shape": Tensor("I64", np.array([101, 2**40]))},
            {f"{name}_shape": Tensor("I64", np.array([99, 256]))},
            {f"{name}_shape": Tensor("I64", np.array([101, -256]))},
            {f"{name}_scale": Tensor("F32", np.ones((101, 3), np.float32))},
            {f"{name}_scale": Tensor("F32", np.ones((50, 2), np.float32))},
            {f"{name}_scale": Tensor("I32", np.ones((101, 2), np.int32))},
        ]
    ):
        broken = write_checkpoint(tmp_path / str(number), {**tensors, **changes}, read_config(source))
        with pytest.raises(CutworkError, match=f"'{name}'"):
            pack(broken, tmp_path / "packed")


def test_as_many_scales_as_rows_are_not_scales_of_rows(tmp_path: Path) -> None:
    """compressed-tensors has scales of blocks, whose number may be that of the rows."""
    source, _ = quantized(tmp_path / "source", "int-quantized", torch.float32, cols=202)
    tensors: dict[str, Tensor] = dict(open_tensors(source))
    name, config = f"{NAMES[0]}.weight", read_config(source)
    scale = tensors[f"{name}_scale"].array.reshape(1, 101)
    tensors[f"{name}_scale"] = Tensor("F32", scale)
    model = pack_in_memory(write_checkpoint(tmp_path / "one_row", tensors, config))
    np.testing.assert_array_equal(decode(model.weights[name]), tensors[name].array * scale.repeat(2, axis=1))
    config["quantization_config"]["config_groups"]["group_0"]["weights"]["strategy"] = "block"
    with pytest.raises(CutworkError, match="has scales for blocks of rows and columns, which cutwork cannot read"):
        pack_in_memory(write_checkpoint(tmp_path / "blocks", tensors, config))
