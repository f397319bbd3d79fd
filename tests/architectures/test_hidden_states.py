"""What decoders give without their heads: transformers' last hidden states, whatever the head does with them."""

from functools import partial

import numpy as np
import pytest

from cutwork.architectures import build_embedding_plan
from tests.engine import tiny

TOKENS = np.random.default_rng(0).integers(0, 101, 50)


@pytest.mark.parametrize("variant", ["llama", "granite", "granite-tied-biases", "granite4"])
def test_hidden_states_equal_transformers(variant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    hf = tiny.make(variant)
    with tiny.torch.no_grad():
        expected = hf.base_model(tiny.torch.tensor(TOKENS[None])).last_hidden_state[0].numpy()
    monkeypatch.setattr(tiny, "build_plan", build_embedding_plan)
    assert tiny.relative(tiny.all_logits(tiny.runner(hf), TOKENS), expected) < 1e-4
    # For rows of the head to make logits of.
    monkeypatch.setattr(tiny, "build_plan", partial(build_embedding_plan, scored=True))
    head = hf.lm_head.weight.detach().numpy()
    found = tiny.all_logits(tiny.runner(hf), TOKENS) @ head.T
    assert tiny.relative(found, tiny.torch_logits(hf, TOKENS)) < 1e-4
