"""The options of a request: one list, which the settings made of it know in full."""

import re
from dataclasses import fields
from typing import get_type_hints

import numpy as np
import pytest

from cutwork.engine.decoding.beam import Beams
from cutwork.engine.decoding.options import GenerateOptions, each_answer, settings_of
from cutwork.engine.decoding.sampling import Sampling
from cutwork.engine.load_options import LoadOptions, with_defaults
from cutwork.errors import CutworkError

from .test_model import load
from .tiny import byte_level_tokenizer, make

OF_THE_REQUEST = {
    "max_new_tokens",
    "stop",
    "keep_stop",
    "ignore_eos",
    "skip_special_tokens",
    "hidden_tokens",
    "stop_token_ids",
    "priority",
    "client",
    "cache_salt",
    "adapter",
}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    directory = tmp_path_factory.mktemp("model")
    byte_level_tokenizer().save_pretrained(directory)
    with load(make("llama", vocab_size=300), directory, backend="auto") as loaded:
        yield loaded


def test_the_list_is_that_of_the_settings_with_the_same_types():
    listed = get_type_hints(GenerateOptions)
    settings = {field.name for kind in (Sampling, Beams) for field in fields(kind)}
    assert set(listed) == settings | OF_THE_REQUEST
    known = get_type_hints(Sampling) | get_type_hints(Beams)
    assert {name: listed[name] for name in settings} == {name: known[name] for name in settings}


def test_every_load_option_has_a_default():
    assert set(with_defaults({})) == set(LoadOptions.__annotations__)


@pytest.mark.parametrize("make", [with_defaults, settings_of])
def test_unknown_options_are_told_with_those_there_are(make):
    with pytest.raises(CutworkError, match=r"unknown option 'colour'; the options are .*threads|temperature"):
        make({"colour": "red"})


@pytest.mark.parametrize(
    ("make", "name", "value", "kind"),
    [
        (with_defaults, "threads", "2", "whole number"),
        (with_defaults, "max_context", 1.5, "whole number"),
        (settings_of, "temperature", "hot", "number"),
        (settings_of, "max_new_tokens", None, "whole number"),
        (settings_of, "seed", 0.5, "whole number"),
        (each_answer, "num_return_sequences", "3", "whole number"),
    ],
)
def test_what_is_no_number_is_told(make, name, value, kind):
    with pytest.raises(CutworkError, match=f"^{name} must be a {kind}, not {value!r}$"):
        make({name: value})


def test_numbers_may_be_numpys_and_none_where_that_means_something():
    options = {"max_new_tokens": np.int64(3), "temperature": np.float32(0.5), "top_p": 1, "seed": None}
    sampling, _ = settings_of(options)
    assert (sampling.temperature, sampling.top_p, sampling.seed) == (0.5, 1, None)
    loaded = with_defaults({"max_context": None, "threads": np.int32(1)})
    assert loaded["max_context"] is None and loaded["threads"] == 1


def test_draws_differ_in_their_seed_and_nothing_else():
    options = {"temperature": 1.0, "seed": 5, "num_return_sequences": 3, "top_k": 7}
    expected = [options | {"seed": seed, "num_return_sequences": 1} for seed in (5, 6, 7)]
    assert each_answer(options) == expected


UNUSUAL = [None, "5", 5, ["a"], [5], [[5]], [[5, 1.0]], {"5": 1.0}, {5: "a"}, [None], object()]


@pytest.mark.parametrize("name", sorted(get_type_hints(GenerateOptions).keys() - {"constraint"}))
def test_whatever_an_option_is_given_is_answered_or_told(name, model):
    for value in UNUSUAL:
        try:
            model.generate([5, 6], **{"max_new_tokens": 2, "temperature": 0.5, name: value})
        except CutworkError as error:
            assert "\n" not in str(error)


@pytest.mark.parametrize(
    ("name", "value", "kind"),
    [
        ("stop", [5], "a text or a list of texts, not [5]"),
        ("stop_token_ids", None, "a list of whole numbers, not None"),
        ("logit_bias", {"5": 1.0}, "a mapping of whole numbers to numbers, not {'5': 1.0}"),
        ("sequence_bias", [5], "a list of pairs of lists of whole numbers and numbers, not [5]"),
    ],
)
def test_lists_and_mappings_are_told_by_what_they_hold(name, value, kind, model):
    with pytest.raises(CutworkError, match=f"^{re.escape(f'{name} must be {kind}')}$"):
        model.generate([5, 6], **{name: value})


def test_adapters_are_told_by_their_names_and_paths():
    with pytest.raises(CutworkError, match=r"^adapters must be a mapping of texts to texts or paths, not"):
        with_defaults({"adapters": ["a"]})
