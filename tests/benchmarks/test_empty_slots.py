from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from benchmarks.engine import empty_slots


@pytest.mark.parametrize("dtype", empty_slots.DTYPES)
def test_what_real_masks_leave_empty_is_counted_beside_random_ones(dtype: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    chances = 0.5 * rng.random((256, 1))  # rows of unlike density, which random masks of as many zeros have not
    uneven = (rng.random((256, 512)) < chances).astype(np.float32)
    tensors = {"model.layers.0.mlp.up_proj.weight": uneven, "model.embed_tokens.weight": np.ones((8, 8), np.float32)}
    save_file(tensors, tmp_path / "model.safetensors")
    found = empty_slots.counted(tmp_path, dtype)
    assert found["zeros"] == pytest.approx(1 - uneven.mean()) and sum(found["forms"].values()) == 1
    slots = empty_slots.in_slots(uneven != 0, dtype)
    assert found["empty"]["real"] == pytest.approx(1 - uneven.sum() / slots.stored)
    assert 0 < found["empty"]["random"] < found["empty"]["real"] < 0.6
    row = {"model": "one", "dtype": dtype, **found}
    assert f"| one | {dtype} | {found['zeros']:.0%} | 1, 0 | " in empty_slots.table({"rows": [row]})
