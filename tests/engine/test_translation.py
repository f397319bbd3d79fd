"""Translation: the same as transformers' beam search text by text, whatever the order and the lengths."""

import json
from pathlib import Path
from typing import Any

import pytest

from cutwork.engine.model import Model
from cutwork.engine.translation import check_translates, translation_prefix
from cutwork.errors import CutworkError
from tests.architectures.test_t5 import make
from tests.engine.tiny import torch
from tests.text_to_text import load, save

TEXTS = ["a short one", "", "one that is a good deal longer than the first", "b", "in the middle", "   "]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    made = make("v1.1")
    made.generation_config.update(eos_token_id=2)
    directory = save(made, tmp_path_factory.mktemp("translation"))
    config = json.loads((directory / "config.json").read_text())
    config["task_specific_params"] = {"summarization": {"prefix": "sum: "}, "translation_en_to_de": {"prefix": "to: "}}
    (directory / "config.json").write_text(json.dumps(config))
    with load(directory, max_batch=6) as loaded:
        yield made, loaded


@pytest.mark.parametrize("num_beams", [1, 3])
def test_every_text_is_translated_as_alone(model, num_beams: int) -> None:
    reference, engine = model
    calls: list[int] = []
    results = engine.translate(
        TEXTS, num_beams=num_beams, max_new_tokens=12, progress=lambda done: calls.append(len(done))
    )
    assert sum(calls) == len(TEXTS)
    for text, result in zip(TEXTS, results, strict=True):
        if not text.strip():
            assert result.text == "" and result.tokens == []
            continue
        ids = torch.tensor([engine.encode(f"to: {text}")])
        expected = reference.generate(ids, num_beams=num_beams, max_new_tokens=12, do_sample=False)[0, 1:].tolist()
        assert result.tokens == [token for token in expected if token != 0] or result.tokens == expected, text
    assert engine.translate(TEXTS[0], num_beams=num_beams, max_new_tokens=12).tokens == results[0].tokens


@pytest.mark.parametrize("texts", [3, None, [None], ["a", 3], [[5, 6]], b"text"])
def test_what_is_no_text_is_told(model, texts: Any) -> None:
    with pytest.raises(CutworkError, match=r"^expected (texts to translate|a text or a list), not "):
        model[1].translate(texts)


def test_a_prefix_can_be_given_and_lengths_have_a_default(model) -> None:
    _, engine = model
    [plain] = engine.translate(["b"], prefix="", num_beams=2)
    assert plain.prompt_tokens == len(engine.encode("b"))
    assert len(plain.tokens) <= 3 * plain.prompt_tokens + 32


def test_the_longest_text_makes_no_other_longer(model) -> None:
    _, engine = model
    texts = ["a", "one that is a good deal longer than the first " * 3]
    for text, result in zip(texts, engine.translate(texts, num_beams=1, ignore_eos=True), strict=True):
        assert len(result.tokens) == min(3 * len(engine.encode(f"to: {text}")) + 32, engine.max_context - 1)
        assert result.tokens == engine.translate(text, num_beams=1, ignore_eos=True).tokens


def test_there_are_no_more_beams_than_fit(model, tmp_path: Path) -> None:
    made, _ = model
    with load(save(made, tmp_path), max_batch=2) as engine:
        assert engine.translate("b", max_new_tokens=4).score is not None


def test_a_model_may_say_how_it_is_searched(tmp_path: Path) -> None:
    made = make("v1.1")
    searches = {"num_beams": 2, "length_penalty": 2.0, "early_stopping": True, "eos_token_id": list(range(2, 60))}
    made.generation_config.update(**searches)
    texts = ["a short one", "b", "in the middle", "one that is a good deal longer than the first"]
    with load(save(made, tmp_path), max_batch=6) as engine:
        assert engine.usual_beams == 2
        for text in texts:
            ids = torch.tensor([engine.encode(text)])

            def theirs(ids: Any = ids, **options: Any) -> list[int]:
                found = made.generate(ids, max_new_tokens=12, **options)[0, 1:].tolist()
                return [token for token in found if token != 0]

            assert engine.translate(text, max_new_tokens=12).tokens == theirs()
            other = {"num_beams": 4, "length_penalty": -1.0, "early_stopping": False}
            assert engine.translate(text, max_new_tokens=12, **other).tokens == theirs(**other)


def test_a_model_is_searched_with_no_more_beams_than_fit(tmp_path: Path) -> None:
    made = make("v1.0")
    made.generation_config.update(num_beams=6)
    with load(save(made, tmp_path), max_batch=3) as engine:
        assert engine.usual_beams == 3
        expected = engine.translate("a short one", max_new_tokens=6, num_beams=3).tokens
        assert engine.translate("a short one", max_new_tokens=6).tokens == expected


def test_a_text_too_long_is_named_before_anything_is_translated(tmp_path: Path) -> None:
    directory = save(make("v1.0"), tmp_path)
    with load(directory, max_input=24) as engine:
        done: list[object] = []
        with pytest.raises(
            CutworkError, match=r"begins with '.+' has \d+ tokens, but this model reads at most 24; split it"
        ):
            engine.translate(["short", "long " * 20], num_beams=1, progress=done.append)
        assert not done


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"model_type": "llama"}, "a llama does not translate texts; use generate"),
        ({"model_type": "whisper", "is_encoder_decoder": True, "num_mel_bins": 80}, "use transcribe"),
    ],
)
def test_other_models_are_refused(config: dict, message: str) -> None:
    with pytest.raises(CutworkError, match=message):
        check_translates(config)


def test_several_translations_need_a_choice() -> None:
    tasks = {f"translation_en_to_{to}": {"prefix": f"translate English to {to}: "} for to in ("German", "French")}
    with pytest.raises(CutworkError, match=r"choose by its prefix: 'translate English to French: ', 'translate"):
        translation_prefix({"task_specific_params": tasks})
    assert translation_prefix({"task_specific_params": None}) == ""
    assert translation_prefix({}) == ""


def test_the_model_refuses_too(tmp_path: Path) -> None:
    from tests.tiny_checkpoint import write_tiny_checkpoint

    with (
        Model.load(write_tiny_checkpoint(tmp_path / "llama"), threads=1) as engine,
        pytest.raises(CutworkError, match="does not translate"),
    ):
        engine.translate("Hello")
