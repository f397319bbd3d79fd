from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.common.random_checkpoint import count_weights, llama, write_random, write_tiny_llama
from benchmarks.common.random_llama import prune, write_checkpoint, write_packed
from benchmarks.common.shapes import MPT_1B, SHAPES
from cutwork import Model
from cutwork.pack.pack import pack

SHAPE = replace(SHAPES["tiny"], vocabulary=512, context=64)
TOKENS = [5, 9, 300, 7]


@pytest.mark.parametrize(("dtype", "least"), [("bf16", 0.9999), ("int8", 0.99), ("int4", 0.9)])
def test_all_forms_hold_the_same_weights(tmp_path: Path, dtype: str, least: float) -> None:
    write_checkpoint(tmp_path / "plain", SHAPE, "bf16", 0.5)
    write_checkpoint(tmp_path / "checkpoint", SHAPE, dtype, 0.5)
    write_packed(tmp_path / "packed", SHAPE, dtype, 0.5)
    pack(tmp_path / "checkpoint", tmp_path / "again")
    found = []
    for name in ("plain", "packed", "again"):
        with Model.load(tmp_path / name, threads=1, max_context=64) as model:
            found.append(model.logits(TOKENS)[-1])
            if name != "plain":
                assert model.sparsity == pytest.approx(0.5, abs=0.1 if dtype == "int4" else 0.02)
    for other in found[1:]:
        assert np.corrcoef(found[0], other)[0, 1] > least


def test_uneven_rows_lose_more_or_less_than_others() -> None:
    values = np.random.default_rng(0).standard_normal((512, 1024), np.float32)
    even, uneven = (np.count_nonzero(prune(values, 0.75, uneven=each), axis=1) / 1024 for each in (False, True))
    assert even.mean() == pytest.approx(0.25, abs=0.01) and uneven.mean() == pytest.approx(0.25, abs=0.01)
    assert uneven.std() > 4 * even.std()


def test_random_checkpoints_of_any_architecture(tmp_path: Path) -> None:
    write_tiny_llama(tmp_path / "tiny")
    small = {"d_model": 64, "n_heads": 4, "n_layers": 2, "max_seq_len": 64}
    for name, config in (("llama", llama(SHAPE)), ("mpt", MPT_1B | small)):
        write_random(tmp_path / name, config, tmp_path / "tiny")
        with Model.load(tmp_path / name, threads=1) as model:
            assert np.isfinite(model.logits(model.encode("two and two"))).all()
            assert model.generate("two", max_new_tokens=2).tokens
    assert count_weights(tmp_path / "llama") > SHAPE.layers * SHAPE.hidden**2
