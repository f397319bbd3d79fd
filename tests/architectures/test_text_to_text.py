"""Models with an encoder of text, end to end on tiny random ones: logits and text equal transformers'."""

import json
import shutil
from pathlib import Path

import pytest
from rich.console import Console

from cutwork.pack.pack import pack
from cutwork.prune.prune import prune
from cutwork.quantize.quantize import quantize
from cutwork.recipe import PruneSettings, QuantizeSettings, TuneSettings
from cutwork.tune.tune import tune
from tests.architectures import test_t5
from tests.engine import bart_tiny, t5gemma_tiny
from tests.engine.tiny import byte_level_tokenizer, relative, torch, transformers
from tests.text_to_text import ANSWER, INPUTS, load, save, torch_logits, written
from tests.torch_models.tiny import sums

QUIET = Console(quiet=True)
MODELS = [(made, variant) for made in (test_t5, bart_tiny, t5gemma_tiny) for variant in made.VARIANTS]


@pytest.fixture(scope="module", params=MODELS, ids=[variant for _, variant in MODELS])
def both(request, tmp_path_factory):
    """(transformers' model, its directory)."""
    made, variant = request.param
    model = made.make(variant)
    return model, save(model, tmp_path_factory.mktemp(variant))


@pytest.mark.parametrize("backend", ["native", "reference"])
def test_logits_equal_transformers(both, backend):
    hf, directory = both
    with load(directory, backend=backend) as model:
        for source in INPUTS:
            actual = model.logits(ANSWER, model.encode_input(source))
            assert relative(actual, torch_logits(hf, source, ANSWER)) < 1e-4


@pytest.mark.parametrize("threads", [1, 3])
def test_greedy_tokens_equal_transformers_alone_and_together(both, threads):
    hf, directory = both
    with load(directory, threads=threads) as model:
        together = model.generate(INPUTS, max_new_tokens=24, ignore_eos=True)
        alone = [model.generate(source, max_new_tokens=24, ignore_eos=True) for source in INPUTS]
    for source, result, single in zip(INPUTS, together, alone, strict=True):
        assert result.tokens == single.tokens == written(hf, source, 24)
        assert result.prompt_tokens == len(source)


def test_beams_equal_transformers(both):
    hf, directory = both
    with load(directory) as model:
        for source in INPUTS:
            found = model.generate(source, max_new_tokens=12, ignore_eos=True, num_beams=4)
            assert found.tokens == written(hf, source, 12, num_beams=4)


def test_what_the_model_says_of_every_answer_holds(both, tmp_path):
    """Tokens that it never writes, its first one and its last; and what a request says instead."""
    hf, directory = both
    shutil.copytree(directory, tmp_path, dirs_exist_ok=True)
    plain = written(hf, INPUTS[3], 12)
    banned = next((token for token in plain if token != 2), 3)  # the end of a text is no bad word
    said = {"bad_words_ids": [[banned], [plain[0], 9]], "forced_bos_token_id": 7, "forced_eos_token_id": 2}
    settings = json.loads((tmp_path / "generation_config.json").read_text()) | said
    (tmp_path / "generation_config.json").write_text(json.dumps(settings))
    expected = written(hf, INPUTS[3], 12, **(said | {"bad_words_ids": [[banned]]}))
    with load(tmp_path) as model:
        assert model.generate(INPUTS[3], max_new_tokens=12, ignore_eos=True).tokens == expected
        options = {"suppress_tokens": [], "forced_bos_token_id": None, "forced_eos_token_id": None}
        assert model.generate(INPUTS[3], max_new_tokens=12, ignore_eos=True, **options).tokens == plain
    # Without what is never written, probabilities add up to 1 again: beams are compared by these.
    never = {"bad_words_ids": [[token] for token in (0, 1, *range(3, 200))], "renormalize_logits": True}
    (tmp_path / "generation_config.json").write_text(json.dumps({**settings, **never}))
    expected = written(hf, INPUTS[3], 12, num_beams=4, **(said | never))
    with load(tmp_path) as model:
        found = model.generate(INPUTS[3], max_new_tokens=12, ignore_eos=True, num_beams=4)
        assert found.tokens == expected
        unlikely = model.generate(INPUTS[3], max_new_tokens=12, ignore_eos=True, num_beams=4, renormalize_logits=False)
        assert unlikely.score < found.score - 0.1


STAGES = [(bart_tiny, name) for name in ("bart", "mbart", "marian", "m2m-100")] + [(t5gemma_tiny, "t5gemma-uneven")]


@pytest.mark.parametrize(("made", "variant"), STAGES)
def test_all_stages(made, variant, tmp_path: Path):
    """Pruned, tuned, quantised and packed, it is what transformers makes of it."""
    dense, pruned, tuned, rounded = (tmp_path / name for name in ("dense", "pruned", "tuned", "rounded"))
    made.make(variant).save_pretrained(dense)
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
