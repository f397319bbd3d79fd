"""BART and its relatives: every position, every stage, and what is refused; for the rest see test_text_to_text.py."""

from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from cutwork.architectures import build_encoder_plan, build_plan
from cutwork.errors import CutworkError
from cutwork.pack.pack import pack
from cutwork.prune.prune import prune
from cutwork.quantize.quantize import quantize
from cutwork.recipe import PruneSettings, QuantizeSettings, TuneSettings
from cutwork.tune.tune import tune
from tests.bart_tiny import SMALL, VARIANTS, make
from tests.engine.tiny import byte_level_tokenizer, relative, torch, transformers
from tests.text_to_text import ANSWER, INPUTS, VOCABULARY, load, save, torch_logits
from tests.torch_models.tiny import sums

QUIET = Console(quiet=True)


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


@pytest.mark.parametrize("variant", ["bart", "mbart", "marian", "m2m-100"])
def test_all_stages(variant, tmp_path: Path):
    """Pruned, tuned, quantised and packed, it is what transformers makes of it."""
    dense, pruned, tuned, rounded = (tmp_path / name for name in ("dense", "pruned", "tuned", "rounded"))
    make(variant).save_pretrained(dense)
    byte_level_tokenizer().save_pretrained(dense)
    prune(dense, pruned, PruneSettings(method="magnitude", sparsity=0.6), console=QUIET)
    settings = TuneSettings(max_steps=2, batch_size=4, micro_batch_size=4, save_every=2, dtype="float32")
    tune(pruned, tuned, settings, sums(8), max_length=64, console=QUIET)
    quantize(tuned, rounded, QuantizeSettings(method="rtn"), console=QUIET)
    oracle = transformers.AutoModelForSeq2SeqLM.from_pretrained(tuned, dtype=torch.float32).eval()
    expected = torch_logits(oracle, INPUTS[3], ANSWER)
    for directory, tolerance in ((tuned, 1e-4), (rounded, 0.1)):
        pack(directory, directory / "packed")
        with load(directory / "packed") as model:
            assert model.sparsity > 0.59
            assert relative(model.logits(ANSWER, model.encode_input(INPUTS[3])), expected) < tolerance


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
    ],
    ids=str,
)
def test_bad_configs_get_one_sentence(family, change, message):
    config = {**SMALL, "model_type": family, **change}
    with pytest.raises(CutworkError, match=message):
        build_encoder_plan(config)
        build_plan(config)
