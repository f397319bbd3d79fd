"""Models with an encoder of text, end to end on tiny random ones: logits and text equal transformers'."""

import json
import shutil

import pytest

from tests import bart_tiny
from tests.architectures import test_t5
from tests.engine.tiny import relative
from tests.text_to_text import ANSWER, INPUTS, load, save, torch_logits, written

MODELS = [(made, variant) for made in (test_t5, bart_tiny) for variant in made.VARIANTS]


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
    said = {"bad_words_ids": [[plain[2]], [plain[0], 9]], "forced_bos_token_id": 7, "forced_eos_token_id": 2}
    settings = json.loads((tmp_path / "generation_config.json").read_text()) | said
    (tmp_path / "generation_config.json").write_text(json.dumps(settings))
    expected = written(hf, INPUTS[3], 12, **(said | {"bad_words_ids": [[plain[2]]]}))
    with load(tmp_path) as model:
        assert model.generate(INPUTS[3], max_new_tokens=12, ignore_eos=True).tokens == expected
        options = {"suppress_tokens": [], "forced_bos_token_id": None, "forced_eos_token_id": None}
        assert model.generate(INPUTS[3], max_new_tokens=12, ignore_eos=True, **options).tokens == plain
