"""What a family cannot run is refused in one sentence."""

from importlib import import_module
from pkgutil import iter_modules

import pytest

import tests.architectures
from cutwork.architectures import build_plan
from cutwork.errors import CutworkError
from tests.engine.tiny import SMALL, VARIANTS


def _refused():
    """(its `model_type`, what has to be in the sentence, the change to its config) of each family's REFUSED."""
    for module in iter_modules(tests.architectures.__path__):
        if not module.name.startswith("test_"):
            family = import_module(f"tests.architectures.{module.name}")
            model_type = VARIANTS[next(iter(family.VARIANTS))][0]
            yield from ((model_type, word, change) for word, change in getattr(family, "REFUSED", {}).items())


@pytest.mark.parametrize(("model_type", "word", "change"), _refused())
def test_bad_configs_get_one_sentence(model_type, word, change):
    with pytest.raises(CutworkError, match=word):
        build_plan({**SMALL, "model_type": model_type, **change})


def test_smollm3_shares_its_head_where_a_config_leaves_out_what_is_usual():
    config = {**SMALL, "model_type": "smollm3", "num_hidden_layers": 4}
    config.pop("tie_word_embeddings", None)
    assert "lm_head.weight" not in build_plan(config).weights
    assert "lm_head.weight" in build_plan({**config, "tie_word_embeddings": False}).weights
