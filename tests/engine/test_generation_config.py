"""What models say of their answers is read from generation_config.json, and from the config where that says nothing."""

import json
from types import SimpleNamespace

import pytest

from cutwork.engine.generation_config import generation_settings, start_tokens, stop_tokens, usual_rules
from cutwork.errors import CutworkError


@pytest.mark.parametrize(
    ("generation", "expected"),
    [
        ({"eos_token_id": [5, 6]}, {5, 6, 2}),
        ({"eos_token_id": 7}, {7, 2}),
        ({"eos_token_id": [300, True, -1, "4"]}, {2}),
        ({}, {3, 2}),
        (None, {3, 2}),
        ([], {3, 2}),
    ],
)
def test_where_a_text_ends(generation, expected, tmp_path):
    if generation is not None:
        (tmp_path / "generation_config.json").write_text(json.dumps(generation))
    settings = generation_settings(tmp_path, {"eos_token_id": 3})
    assert stop_tokens(settings, SimpleNamespace(eos_token_id=2), 300) == expected


def test_how_an_answer_begins():
    keys = ("decoder_start_token_id", "bos_token_id")
    assert start_tokens({"decoder_start_token_id": 5, "bos_token_id": 1}, keys, 300) == [5]
    assert start_tokens({"decoder_start_token_id": None, "bos_token_id": 1}, keys, 300) == [1]
    with pytest.raises(CutworkError, match="decoder_start_token_id 300 is not in"):
        start_tokens({"decoder_start_token_id": 300}, keys, 300)
    with pytest.raises(CutworkError, match="names a decoder_start_token_id"):
        start_tokens({"decoder_start_token_id": True}, keys, 300)


def test_what_is_so_of_every_text(tmp_path):
    config = {"bad_words_ids": [[7]], "forced_eos_token_id": 2}
    assert usual_rules(config, 300, answers=True) == {"suppress_tokens": [7], "forced_eos_token_id": 2}
    said = {"bad_words_ids": [[5], [6, 7], ["x"], [300]], "forced_bos_token_id": 4, "forced_eos_token_id": None}
    (tmp_path / "generation_config.json").write_text(json.dumps(said))
    settings = generation_settings(tmp_path, config)
    assert usual_rules(settings, 300, answers=True) == {"suppress_tokens": [5], "forced_bos_token_id": 4}
    assert usual_rules(settings, 300, answers=False) == {"suppress_tokens": [5]}
    assert usual_rules({"bad_words_ids": 7, "forced_bos_token_id": 300}, 300, answers=True) == {}
