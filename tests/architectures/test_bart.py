"""BART and its relatives: every position, every stage, and what is refused; for the rest see test_text_to_text.py."""

import numpy as np
import pytest
from rich.console import Console

from cutwork.architectures import build_encoder_plan, build_plan
from cutwork.errors import CutworkError
from tests.engine.bart_tiny import SMALL, VARIANTS, make
from tests.engine.tiny import relative
from tests.text_to_text import VOCABULARY, load, save, torch_logits

QUIET = Console(quiet=True)
HUGE = {"d_model": 65536, "max_position_embeddings": 65536}


@pytest.fixture(scope="module", params=VARIANTS)
def both(request, tmp_path_factory):
    """(transformers' model, its directory)."""
    model = make(request.param)
    return model, save(model, tmp_path_factory.mktemp(request.param))


def test_every_position_is_the_models(both):
    """The longest input and the longest answer there are positions for."""
    hf, directory = both
    longest = [int(token) for token in np.random.default_rng(1).integers(3, VOCABULARY, 128)]
    with load(directory) as model:
        assert (model.max_context, model.encoder.max_length) == (128, 128)
        actual = model.logits(longest, model.encode_input(longest))
        assert relative(actual, torch_logits(hf, longest, longest)) < 1e-4
        with pytest.raises(CutworkError, match="129 tokens"):
            model.generate([5] * 129)


@pytest.mark.parametrize(
    ("family", "change", "message"),
    [
        ("bart", {"encoder_attention_heads": 5}, "not a multiple of encoder_attention_heads 5"),
        ("bart", {"activation_function": "mish"}, "activation 'mish'"),
        ("bart", {"tie_word_embeddings": False}, "embeddings of their own"),
        ("mbart", {"max_position_embeddings": 0}, "max_position_embeddings"),
        ("marian", {"share_encoder_decoder_embeddings": False}, "two vocabularies"),
        ("marian", {"d_model": 49, "encoder_attention_heads": 7}, "d_model must be even"),
        ("m2m_100", {"d_model": 2, "encoder_attention_heads": 1}, "at least 4"),
        ("marian", HUGE, "65536 positions of d_model 65536"),
        ("m2m_100", HUGE, "65536 positions of d_model 65536"),
    ],
    ids=str,
)
def test_bad_configs_get_one_sentence(family, change, message):
    config = {**SMALL, "model_type": family, **change}
    with pytest.raises(CutworkError, match=message):
        build_encoder_plan(config)
        build_plan(config)
