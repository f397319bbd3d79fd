"""What models say of their answers is read from generation_config.json, and from the config where that says nothing."""

import json
import math
from types import SimpleNamespace

import pytest

from cutwork.engine.decoding.options import settings_of
from cutwork.engine.generation_config import (
    generation_settings,
    start_tokens,
    stop_tokens,
    unheeded,
    usual_beams,
    usual_rules,
    usual_sampling,
)
from cutwork.engine.model import Model
from cutwork.errors import CutworkError

from ..text_to_text import INPUTS, load, save, written
from . import bart_tiny
from .tiny import make, torch, transformers


@pytest.mark.parametrize(
    ("generation", "expected"),
    [
        ({"eos_token_id": [5, 6]}, {5, 6, 2}),
        ({"eos_token_id": 7}, {7, 2}),
        ({"eos_token_id": [300, True, -1, "4"]}, {2}),
        ({}, {3, 2}),
        (None, {3, 2}),
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
    both = {"suppress_tokens": [5], "sequence_bias": [([6, 7], -math.inf)]}
    assert usual_rules(settings, 300, answers=True) == both | {"forced_bos_token_id": 4}
    assert usual_rules(settings, 300, answers=False) == both
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


def test_the_least_length_counts_the_prompt_and_holds_where_min_new_tokens_is_not_given() -> None:
    for config in ({"model_type": "bart", "min_length": 56}, {"model_type": "llama", "min_length": 56}):
        assert usual_rules(config, 100, answers=True) == {"min_length": 56}
        for tokens in (0, 3):
            sampling, _ = settings_of(usual_rules(config | {"min_new_tokens": tokens}, 100, answers=True))
            assert (sampling.min_length, sampling.min_new_tokens) == (0, tokens)


def greedy(model, ids, **options) -> list[int]:
    [answer] = model.generate(torch.tensor([ids]), max_new_tokens=24, pad_token_id=0, do_sample=False, **options)
    return answer[len(ids) :].tolist()


OBEYED = {
    "repetition_penalty": 1.5,
    "min_length": 22,
    "min_new_tokens": 18,
    "bad_words_ids": lambda plain: [plain[2:4], plain[6:9]],
    "sequence_bias": lambda plain: [[[plain[0]], -9.0], [plain[1:3], -50.0], [[7, 8, 9], 5.0]],
    "no_repeat_ngram_size": 2,
    "suppress_tokens": lambda plain: plain[4:6],
    "begin_suppress_tokens": lambda plain: plain[:1],
    "forced_eos_token_id": 9,
}
TOLD = {
    "num_beams": 2,
    "num_beam_groups": 2,
    "diversity_penalty": 0.5,
    "num_return_sequences": 2,
    "penalty_alpha": 0.6,
    "typical_p": 0.2,
    "epsilon_cutoff": 0.1,
    "eta_cutoff": 0.1,
    "top_h": 0.4,
    "encoder_repetition_penalty": 1.5,
    "encoder_no_repeat_ngram_size": 1,
    "guidance_scale": 1.5,
    "exponential_decay_length_penalty": [2, 3.0],
    "stop_strings": ["a"],
    "watermarking_config": {"bias": 2.5},
    "force_words_ids": [[5]],
    "constraints": ["one"],
    "dola_layers": "high",
    "token_healing": True,
    "max_time": 1.0,
    "temperature": 3.0,
    "top_p": 0.0,
    "repetition_penalty": 20.0,
    "length_penalty": 9.0,
}
NONE_SUCH = {"temperature", "top_p", "repetition_penalty", "length_penalty"}  # with these values
DRAWN = {"typical_p", "epsilon_cutoff", "eta_cutoff", "top_h", "temperature", "top_p"}
# Lengths and draws are the caller's, the rest says nothing of which tokens are written, or is another's to read.
APART = {
    *("max_length", "max_new_tokens", "do_sample", "top_k", "min_p", "early_stopping", "renormalize_logits"),
    *("forced_bos_token_id", "pad_token_id", "bos_token_id", "eos_token_id", "decoder_start_token_id"),
    *("use_mtp", "use_cache", "cache_implementation", "cache_config", "max_cache_len", "remove_invalid_values"),
    *("output_attentions", "output_hidden_states", "output_scores", "output_logits", "return_dict_in_generate"),
    *("is_assistant", "num_assistant_tokens", "num_assistant_tokens_schedule", "assistant_confidence_threshold"),
    *("prompt_lookup_num_tokens", "max_matching_ngram_size", "assistant_early_exit", "assistant_lookbehind"),
    *("target_lookbehind", "assistant_ensemble_weight", "speculation_type", "compile_config", "disable_compile"),
    *("continuous_batching_config", "low_memory", "prefill_chunk_size", "_from_model_config", "transformers_version"),
}


def test_every_setting_of_transformers_is_obeyed_told_or_known_to_be_apart() -> None:
    assert set(transformers.GenerationConfig().__dict__) <= OBEYED.keys() | TOLD.keys() | APART


@pytest.mark.parametrize("name", OBEYED)
def test_what_a_model_says_of_every_text_holds_as_in_transformers(name, tmp_path) -> None:
    model = make("llama", vocab_size=300)
    ids = list(range(5, 15))
    plain = greedy(model, ids)
    value = OBEYED[name](plain) if callable(OBEYED[name]) else OBEYED[name]
    model.generation_config.update(eos_token_id=[plain[3], plain[9]], **{name: value})
    model.save_pretrained(tmp_path)
    expected = greedy(model, ids)
    with Model.load(tmp_path, threads=1, cache_bytes=1 << 22, cache_dtype="f32") as loaded:
        assert loaded.generate(ids, max_new_tokens=24).tokens == expected != plain[:4]
        searched = loaded.generate(ids, max_new_tokens=24, num_beams=3).tokens
    assert searched == _unpadded(greedy(model, ids, num_beams=3))


@pytest.mark.parametrize("more", [{}, {"do_sample": False}, {"do_sample": True, "temperature": 0.7}])
def test_a_penalty_holds_whether_or_not_tokens_are_drawn(more, tmp_path) -> None:
    model = make("llama", vocab_size=300)
    model.generation_config.update(repetition_penalty=1.5, **more)
    model.save_pretrained(tmp_path)
    ids = list(range(5, 15))
    with Model.load(tmp_path, threads=1, cache_bytes=1 << 22, cache_dtype="f32") as loaded:
        assert loaded.generate(ids, max_new_tokens=24).tokens == greedy(model, ids)
        free = loaded.generate(ids, max_new_tokens=24, repetition_penalty=1.0).tokens
        assert free == greedy(model, ids, repetition_penalty=1.0) != greedy(model, ids)
        assert loaded.usual_sampling == ({"temperature": 0.7} if "temperature" in more else {})


def _unpadded(tokens: list[int]) -> list[int]:
    while tokens[-1] == 0:
        tokens = tokens[:-1]
    return tokens


@pytest.mark.parametrize("name", TOLD)
def test_what_is_not_obeyed_is_told(name) -> None:
    said = {"model_type": "llama", "do_sample": True, name: TOLD[name]}
    told = [f"{name} {TOLD[name]}" if name in NONE_SUCH else name]
    assert unheeded(said, answers=False) == told
    assert unheeded(said | {"do_sample": False}, answers=False) == ([] if name in DRAWN else told)
    assert unheeded(said, answers=True) == ([] if name == "num_beams" else told)
    assert unheeded(said | {"model_type": "whisper"}, answers=True) == []


def test_one_warning_names_what_has_no_effect(tmp_path, caplog) -> None:
    make("llama").save_pretrained(tmp_path)
    said = {"guidance_scale": 1.5, "stop_strings": ["a"], "typical_p": 1.0, "num_beams": 1, "top_k": 50}
    (tmp_path / "generation_config.json").write_text(json.dumps(said))
    with Model.load(tmp_path, threads=1, cache_bytes=1 << 22):
        assert [record.message for record in caplog.records] == [
            f"{tmp_path}: generation_config.json says guidance_scale, stop_strings, which has no effect here"
        ]


@pytest.mark.parametrize("ends", ["a", [3, "b"], {}])
def test_an_end_that_is_no_token_is_told(ends: object) -> None:
    assert unheeded({"model_type": "llama", "eos_token_id": ends}, answers=False) == [f"eos_token_id {ends!r}"]
    for fine in (None, 0, 3, [3, 4]):
        assert not unheeded({"model_type": "llama", "eos_token_id": fine}, answers=False)


def test_a_damaged_one_is_refused_as_what_ends_answers_may_stand_there(tmp_path) -> None:
    make("llama").save_pretrained(tmp_path)
    for text, told in (("{", "is not valid JSON"), ("[]", "must hold a JSON object")):
        (tmp_path / "generation_config.json").write_text(text)
        with pytest.raises(CutworkError, match=f"generation_config.json {told}"):
            Model.load(tmp_path, threads=1, cache_bytes=1 << 22)


def test_of_a_config_beside_a_generation_config_nothing_is_ruled(tmp_path) -> None:
    made = bart_tiny.make("bart")
    made.generation_config.update(eos_token_id=2)
    directory = save(made, tmp_path)
    config = json.loads((directory / "config.json").read_text())
    alone = {"forced_bos_token_id": 7, "forced_eos_token_id": 2, "bad_words_ids": [[38]], "renormalize_logits": True}
    alone |= {"temperature": 0.5, "top_p": 0.5, "repetition_penalty": 2.0, "num_beams": 3, "length_penalty": 2.0}
    (directory / "config.json").write_text(json.dumps(config | alone))
    settings = generation_settings(directory, config | alone)
    assert usual_rules(settings, 300, answers=True) == {} == usual_sampling(settings)
    assert usual_beams(settings, 5, 64) == 5
    with load(directory) as loaded:
        found = loaded.generate(INPUTS[3], max_new_tokens=8).tokens
    assert found == written(made, INPUTS[3], 8, min_new_tokens=None)
