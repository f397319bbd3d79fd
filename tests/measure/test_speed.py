"""Speeds of batches and of models that hear, and how long the contexts of measurements are."""

from io import StringIO
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from safetensors.numpy import load_file, save_file

from cutwork.engine.model import Model
from cutwork.engine.weights import huge_pages
from cutwork.errors import CutworkError
from cutwork.measure.context import room, room_for_answers, room_for_inputs
from cutwork.measure.speed import Speed, measure
from cutwork.store.directory import read_config
from cutwork.tasks.rendering import render_prompt
from cutwork.tasks.task import Sample
from tests.tiny_checkpoint import write_tiny_checkpoint
from tests.torch_models.tiny import gpt2, t5, whisper


def test_what_a_batch_decodes_is_counted_where_all_its_sequences_go_on(tmp_path: Path) -> None:
    """Of six prompts of 200 tokens the first ones' answers have begun when the last is read."""
    directory = write_tiny_checkpoint(tmp_path / "tiny")
    with Model.load(directory, threads=1, max_context=240, max_batch=6) as model:
        few = measure({"it": model}, 200, 20, 1, batch=6)["it"]
        one = measure({"it": model}, 16, 20, 1)["it"]
    assert few.decoded == [6 * len(few.step_ms[0])] and 5 <= len(few.step_ms[0]) < 20
    assert one.decoded == [20] and len(one.step_ms[0]) == 20


def test_rounds_go_on_for_as_long_as_was_asked_for(tmp_path: Path) -> None:
    directory = write_tiny_checkpoint(tmp_path / "tiny")
    with Model.load(directory, threads=1) as model:
        brief, long = (measure({"it": model}, 16, 4, 2, seconds=seconds)["it"] for seconds in (0.0, 1.0))
    assert len(brief.first_token_ms) == 2 < len(long.first_token_ms) == len(long.step_ms) == len(long.decoded)


def test_a_batch_that_the_cache_does_not_hold_is_refused(tmp_path: Path) -> None:
    directory = write_tiny_checkpoint(tmp_path / "tiny")
    with (
        Model.load(directory, threads=1, max_context=240, max_batch=6, cache_bytes=1 << 17) as model,
        pytest.raises(CutworkError, match="does not hold 6 sequences of 221 tokens"),
    ):
        measure({"it": model}, 200, 20, 1, batch=6)


def test_a_model_without_finite_logits_ends_the_measurement(tmp_path: Path) -> None:
    directory = write_tiny_checkpoint(tmp_path / "tiny")
    weights = load_file(directory / "model.safetensors")
    save_file({name: np.full_like(w, np.nan) for name, w in weights.items()}, directory / "model.safetensors")
    with Model.load(directory, threads=1) as model, pytest.raises(CutworkError, match="finite"):
        measure({"it": model}, 16, 4, 1)


def test_models_whose_weights_lie_in_other_pages_are_said_not_to_compare(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = write_tiny_checkpoint(tmp_path / "tiny")
    said = Console(file=StringIO(), width=300)
    with Model.load(directory, threads=1) as one, Model.load(directory, threads=1) as two:
        measure({"one": one, "two": two}, 16, 4, 1, console=said)
        assert said.file.getvalue() == ""  # type: ignore[attr-defined]
        monkeypatch.setattr(huge_pages, "available_memory", lambda: 1000)
        with Model.load(directory, threads=1) as last:
            measure({"one": one, "two": two, "last": last}, 16, 4, 1, console=said)
    assert "the weights of last are not in huge pages" in said.file.getvalue()  # type: ignore[attr-defined]


def test_tokens_per_second_are_of_what_was_counted() -> None:
    speed = Speed(4, 8, 2, first_token_ms=[10.0], step_ms=[[5.0, 5.0]], decoded=[3])
    assert speed.decode == pytest.approx(300) and speed.prefill == pytest.approx(800)


def test_what_hears_is_given_silence(tmp_path: Path) -> None:
    whisper().save_pretrained(tmp_path)
    with Model.load(tmp_path, threads=1) as model:
        speed = measure({"it": model}, 16, 4, 1)["it"]
    assert speed.decoded == [4] and speed.prefill > 0


def test_a_context_is_no_longer_than_the_model_was_made_for(tmp_path: Path) -> None:
    model = gpt2()  # whose config calls it n_positions
    model.save_pretrained(tmp_path / "gpt2")
    most = model.config.n_positions
    config = read_config(tmp_path / "gpt2")
    assert (room(config, most + 1), room(config, 7)) == (most, 7)


def test_an_encoder_has_room_for_the_longest_question(tmp_path: Path) -> None:
    directory, model = write_tiny_checkpoint(tmp_path / "tiny"), t5()
    usual = 20
    model.config.n_positions = usual
    model.save_pretrained(directory)
    short, long = Sample("one and one", "2"), Sample("one and one " * 40, "80")
    assert room_for_inputs(directory, [short]) is None
    longest = room_for_inputs(directory, [short, long])
    assert longest is not None and longest > usual
    with Model.load(directory, threads=1, max_input=longest) as loaded:
        assert len(loaded.generate([5] * longest, max_new_tokens=1, ignore_eos=True).tokens) == 1


def test_the_longest_prompt_has_room_for_its_answer(tmp_path: Path) -> None:
    directory = write_tiny_checkpoint(tmp_path / "tiny")
    samples = [Sample("one and one", "2"), Sample("one and one " * 40, "80")]
    context = room_for_answers(directory, samples, 9)
    with Model.load(directory, threads=1, max_context=context) as model:
        prompt = render_prompt(model.tokenizer, samples[1])
        assert len(model.generate(prompt, max_new_tokens=9, ignore_eos=True).tokens) == 9
        assert context - 9 - len(model.encode(prompt)) in (0, 1)
