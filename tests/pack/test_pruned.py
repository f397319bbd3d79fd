"""Masks that SparseGPT chose, with the codes that masked GPTQ gave them: the same sums in every encoding, bit for bit.

Loud inputs and large weights keep their place, so columns and tiles differ far more than in a mask drawn at random.
"""

from functools import cache
from typing import Any

import numpy as np
import pytest
import torch

from cutwork import _native
from cutwork.engine.weights.bind import make_weight
from cutwork.pack import slots
from cutwork.pack.int4 import encode_int4
from cutwork.pack.masked import encode
from cutwork.prune.adaptive import AdaptiveTiles
from cutwork.prune.pattern import KeepNOfM, Pattern, Unstructured
from cutwork.prune.sparsegpt import sparsegpt
from cutwork.quantize.gptq import gptq
from cutwork.quantize.grid import Grid
from tests.native.test_int4 import reference as int4_reference
from tests.native.test_kernels import ISAS, every_product
from tests.native.test_slots import in_slots
from tests.native.weights import int8_reference
from tests.prune.test_pruners import correlated, random_weight

PATTERNS: dict[str, Pattern] = {
    "50%": Unstructured(0.5),
    "75%": Unstructured(0.75),
    "4:16": KeepNOfM(4, 16),
    "adaptive": AdaptiveTiles(0.75),
}
LINEARS = ((48, 288, 32), (96, 1152, 128))  # rows and columns, and how many of these share a scale in int4
TOKENS = (1, 4, 16, 40)


@cache
def pruned(rows: int, cols: int, group: int, pattern: str) -> tuple[np.ndarray, np.ndarray]:
    """Codes int8 [rows, cols] and scales float32 [rows, groups]; a `group` of 0 is int8."""
    statistics = correlated(cols)
    tiles = random_weight(rows // 16, cols // 16).kron(torch.ones(16, 16))  # else adaptive keeps four of 16 everywhere
    weight, mask = sparsegpt(random_weight(rows, cols) * tiles, statistics, PATTERNS[pattern])
    quantized = gptq(weight, statistics, Grid(4, group) if group else Grid())
    assert mask.any() and not quantized.codes[~mask].any()
    return quantized.codes.numpy(), quantized.scales.numpy()


def weights_of(codes: np.ndarray, scale: np.ndarray, group: int, pattern: str) -> dict[str, Any]:
    """Native weights: as files hold them, and what is made of those at load."""
    if group:
        dense, bitmask = (encode_int4(codes, scale, group, allow_bitmask=allowed) for allowed in (False, True))
    else:
        dense, bitmask = (encode(codes, scale[:, 0].copy(), allow_bitmask=allowed) for allowed in (False, True))
    assert (dense.encoding, bitmask.encoding) == ("dense", "bitmask")
    stored = {"dense": dense, "bitmask": bitmask}
    if pattern in ("4:16", "adaptive"):
        stored["slots"] = slots.in_slots(codes, bitmask)
        assert stored["slots"].encoding == "slots"
    weights = {name: make_weight("w", each.shape, each, _native.Weight) for name, each in stored.items()}
    weights["slots as they are needed"] = in_slots(codes, bitmask.scale, slots.steps_needed(codes != 0), group=group)
    weights |= {f"{name} in slots": weights[name].in_slots() for name in ("dense", "bitmask")}
    return weights | {"bitmask written out": weights["bitmask"].in_dense()}


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("dtype", ["i8", "i4"])
def test_every_encoding_has_the_same_sums(isa: str, dtype: str, pattern: str) -> None:
    rng = np.random.default_rng(4)
    for rows, cols, columns_per_scale in LINEARS:
        group = columns_per_scale if dtype == "i4" else 0
        codes, scale = pruned(rows, cols, group, pattern)
        for name, weight in weights_of(codes, scale, group, pattern).items():
            np.testing.assert_array_equal(weight.to_dense(), codes, err_msg=name)
            for tokens in TOKENS:
                x = rng.standard_normal((tokens, cols)).astype(np.float32)
                expected = int4_reference(x, codes, scale, group) if group else int8_reference(x, codes, scale[:, 0])
                products = [weight.matmul(x, isa=isa)] if "slots" in name else every_product(weight, x, isa)
                for y in products:
                    np.testing.assert_array_equal(y, expected, err_msg=f"{name}, {tokens} tokens")
