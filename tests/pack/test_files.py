"""Every dtype with every pattern of zeros goes through files: packed, loaded, run, restored."""

from pathlib import Path

import numpy as np
import pytest

from cutwork.engine.model import Model
from cutwork.pack.pack import pack
from cutwork.pack.reader import read_packed, verify
from cutwork.pack.restore import restore

from .models import DTYPES, LINEARS, PATTERNS, QUANTIZED, assert_same_tensors, llama_checkpoint

BLOCKS = {"1x4": "block1x4", "4x1": "block4x1"}


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype_and_pattern_through_files(dtype: str, pattern: str, tmp_path: Path) -> None:
    source = llama_checkpoint(tmp_path / "source", dtype, pattern)
    pack(source, tmp_path / "packed")
    packed = read_packed(tmp_path / "packed")
    for name in (f"model.layers.0.{linear}.weight" for linear in LINEARS):
        verify(name, packed.weights[name])
        encoding = packed.weights[name].encoding
        assert (encoding == "dense") == (pattern == "dense")
        assert encoding == BLOCKS.get(pattern, encoding) or dtype in QUANTIZED
        if pattern in ("4:16", "adaptive") and dtype in QUANTIZED:
            assert encoding == "slots"
            assert packed.weights[name].keep == (4 if pattern == "4:16" else 0)
    restore(tmp_path / "packed", tmp_path / "restored")
    assert_same_tensors(source, tmp_path / "restored")
    logits = []
    for directory in ("source", "packed", "restored"):
        with Model.load(tmp_path / directory, threads=1, cache_bytes=1 << 22) as model:
            logits.append(model.logits([3, 1, 4, 1, 5]))
    assert np.isfinite(logits[0]).all() and logits[0].std() > 0
    assert all(np.array_equal(logits[0], other) for other in logits[1:])
