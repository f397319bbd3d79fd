"""What models say of their answers is read from generation_config.json, and from the config where that says nothing."""

import json
from types import SimpleNamespace

import pytest

from cutwork.engine.generation_config import generation_settings, start_tokens, stop_tokens, usual_rules
from cutwork.engine.model import Model
from cutwork.errors import CutworkError

from .tiny import make, torch


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
    assert usual_rules({"bad_words_ids": [[5], [2], [3]], "eos_token_id": [2, 3]}, 300, answers=False) == {
        "suppress_tokens": [5]
    }
    assert usual_rules({"bad_words_ids": 7, "forced_bos_token_id": 300}, 300, answers=True) == {}


def test_what_is_not_written_follows_the_file_alone_where_there_is_one(tmp_path):
    config = {"model_type": "llama", "no_repeat_ngram_size": 3, "suppress_tokens": [4], "min_new_tokens": 2}
    assert usual_rules(generation_settings(tmp_path, config), 300, answers=False) == {
        "no_repeat_ngram_size": 3,
        "suppress_tokens": [4],
        "min_new_tokens": 2,
    }
    said = {
        "suppress_tokens": [9, 300, "x"],
        "begin_suppress_tokens": [8, True],
        "forced_eos_token_id": [7, 6],
        "min_new_tokens": True,
        "bad_words_ids": [[5]],
    }
    (tmp_path / "generation_config.json").write_text(json.dumps(said))
    expected = {"suppress_tokens": [5, 9], "begin_suppress_tokens": [8], "forced_eos_token_id": 6}
    assert usual_rules(generation_settings(tmp_path, config), 300, answers=False) == expected
    whisper = config | {"model_type": "whisper", "is_encoder_decoder": True, "num_mel_bins": 80}
    settings = generation_settings(tmp_path, whisper)
    assert usual_rules(settings, 300, answers=True) == {"suppress_tokens": [5], "forced_eos_token_id": 6}


def test_answers_follow_the_rules_of_the_file_as_those_of_transformers_do(tmp_path):
    model = make("llama", vocab_size=300)
    ids = list(range(5, 15))
    [plain] = model.generate(torch.tensor([ids]), max_new_tokens=12, do_sample=False)[:, len(ids) :].tolist()
    rules = {"suppress_tokens": [plain[2]], "begin_suppress_tokens": [plain[0]], "no_repeat_ngram_size": 2}
    model.generation_config.update(**rules, min_new_tokens=6, eos_token_id=plain[1])
    model.save_pretrained(tmp_path)
    [expected] = model.generate(torch.tensor([ids]), max_new_tokens=12, do_sample=False)[:, len(ids) :].tolist()
    with Model.load(tmp_path, threads=1, cache_bytes=1 << 22) as loaded:
        assert loaded.generate(ids, max_new_tokens=12).tokens == expected != plain


def test_the_least_length_of_an_answer_counts_the_token_that_starts_it() -> None:
    config = {"model_type": "bart", "min_length": 56}
    assert usual_rules(config, 100, answers=True) == {"min_new_tokens": 55}
    assert usual_rules(config | {"min_new_tokens": 3}, 100, answers=True) == {"min_new_tokens": 3}
    assert usual_rules(config | {"model_type": "llama"}, 100, answers=False) == {}
