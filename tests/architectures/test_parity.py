"""The plan of every architecture, run by the reference, equals transformers."""

import numpy as np
import pytest

from tests.engine.tiny import VARIANTS, all_logits, make, relative, runner, torch_logits

TOKENS = np.random.default_rng(0).integers(0, 101, 50)


@pytest.mark.parametrize("variant", VARIANTS)
def test_logits_equal_transformers(variant):
    model = make(variant)
    expected = torch_logits(model, TOKENS)
    assert relative(all_logits(runner(model), TOKENS), expected) < 1e-4


@pytest.mark.parametrize("variant", ["llama", "mistral-window"])
@pytest.mark.parametrize("chunk", [1, 7])
def test_chunked_prefill_equals_prefill_at_once(variant, chunk):
    executor = runner(make(variant))
    assert relative(all_logits(executor, TOKENS, chunk), all_logits(executor, TOKENS)) < 1e-6
