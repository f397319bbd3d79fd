"""Encoder-decoder families: the loss is that of the paper's formulas, sample by sample; and what samples become."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from transformers import NllbTokenizer, WhisperFeatureExtractor

from cutwork.errors import CutworkError
from cutwork.recipe import Losses
from cutwork.tasks.task import Sample
from cutwork.torch_models.data import collate, examples
from cutwork.torch_models.model_inputs import EncoderDecoderInputs, SpeechInputs, inputs_of
from tests.tasks.letters import letters
from tests.torch_models.tiny import FAMILIES, cut, gpt2, llama, mpt, opt
from tests.tune.test_trainer import ALL, make


class Bytes:
    """T5's tokenizer, as far as it is asked: bytes, and what ends a text."""

    bos_token_id, eos_token_id = None, 1

    def __call__(self, text: str | None = None, text_target: str | None = None) -> dict[str, list[int]]:
        return {"input_ids": [*(text or text_target or "").encode(), 1]}


class GemmaBytes(Bytes):
    """As Gemma's, which begins texts and does not end them."""

    bos_token_id = 2

    def __call__(self, text: str | None = None, text_target: str | None = None) -> dict[str, list[int]]:
        return {"input_ids": [2, *(text or text_target or "").encode()]}


def reference_loss(student: Any, teacher: Any, data: list[Any], losses: Losses) -> torch.Tensor:
    """The loss of one batch, sample by sample without padding."""
    labels = sum(len(example["labels"]) for example in data)
    ce = kl = torch.zeros(())
    stacks: dict[str, list[list[torch.Tensor]]] = {"encoder": [], "decoder": []}
    for example in data:
        target = torch.tensor([example["labels"]])
        source = (
            {"input_ids": torch.tensor([example["input_ids"]])}
            if "input_ids" in example
            else {"input_features": example["input_features"][None]}
        )
        start = torch.full((1, 1), student.config.decoder_start_token_id)
        inputs = {**source, "decoder_input_ids": torch.cat([start, target[:, :-1]], 1), "output_hidden_states": True}
        ours = student(**inputs)
        with torch.no_grad():
            theirs = teacher(**inputs)
        t = losses.temperature
        ce = ce + torch.nn.functional.cross_entropy(ours.logits[0], target[0], reduction="sum")
        p, q = torch.softmax(theirs.logits[0] / t, -1), torch.softmax(ours.logits[0] / t, -1)
        kl = kl + t * t * (p * (p / q).log()).sum()
        for stack, pairs in stacks.items():
            both = (getattr(outputs, f"{stack}_hidden_states")[1:] for outputs in (ours, theirs))
            pairs.append([torch.stack([((s - f) ** 2).sum(), (f**2).sum()]) for s, f in zip(*both, strict=True)])
    square = torch.zeros(())
    for pairs in stacks.values():
        for layer in zip(*pairs, strict=True):
            distance, energy = torch.stack(layer).sum(0)
            square = square + distance / energy
    return losses.ce * ce / labels + losses.kl * kl / labels + losses.squarehead * square


@pytest.mark.parametrize("family", ["t5", "whisper"])
@pytest.mark.parametrize("micro", [8, 2])
def test_loss_and_gradients_are_those_of_the_paper(tmp_path: Path, family: str, micro: int) -> None:
    model, reference, teacher = FAMILIES[family](), FAMILIES[family](), FAMILIES[family](seed=1).eval()
    trainer = make(
        tmp_path,
        model,
        family=family,
        count=8,
        max_steps=1,
        learning_rate=1.0,
        max_grad_norm=0,
        optim="sgd",
        lr_scheduler_type="constant",
        per_device_train_batch_size=micro,
        gradient_accumulation_steps=8 // micro,
    )
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    expected = reference_loss(reference, teacher, list(trainer.train_dataset), ALL)
    expected.backward()
    trainer.train()
    logged = trainer.state.log_history[0]
    assert logged["loss"] == pytest.approx(expected.item(), rel=1e-5)
    layers = [value for name, value in logged.items() if name.startswith("squarehead/")]
    assert len(layers) == 5
    assert ALL.squarehead * sum(layers) == pytest.approx(logged["squarehead"], rel=1e-5)
    for (name, parameter), other in zip(model.named_parameters(), reference.parameters(), strict=True):
        if other.grad is not None:
            step = before[name] - parameter.detach()
            assert torch.allclose(step, other.grad, rtol=1e-3, atol=3e-6), name


@pytest.mark.parametrize("family", ["t5", "whisper"])
def test_zeros_survive_in_encoder_and_decoder(tmp_path: Path, family: str) -> None:
    model = cut(FAMILIES[family](), 0.7)
    trainer = make(tmp_path, model, family=family, max_steps=4)
    trainer.train()
    trainer.masks.verify()
    assert trainer.state.log_history[0]["sparsity"] == pytest.approx(0.7, abs=0.03)
    assert any("encoder" in name for name in trainer.masks.live)
    assert any("decoder" in name for name in trainer.masks.live)


def test_text_goes_to_the_encoder_and_the_answer_to_the_decoder() -> None:
    tokenizer, family = Bytes(), inputs_of(FAMILIES["t5"]().config)
    made = examples(tokenizer, [Sample("ab", "c"), Sample("d", "efg")], 4, family)
    assert made[0] == {"input_ids": [97, 98, 1], "labels": [99, 1]}
    assert made[1] == {"input_ids": [100, 1], "labels": [101, 102, 103, 1]}
    batch = collate(made)
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 1, 0]]
    assert family.keywords(batch)["decoder_input_ids"].tolist() == [[0, 99, 1, 0], [0, 101, 102, 103]]
    with pytest.raises(CutworkError, match="has 4 tokens, more than"):
        examples(tokenizer, [Sample("d", "efg")], 3, family, "error")
    assert examples(tokenizer, [Sample("abc", "efg")], 3, family, "cut")[0] == {
        "input_ids": [97, 98, 1],
        "labels": [101, 102, 103],
    }
    with pytest.raises(CutworkError, match="not conversations"):
        examples(tokenizer, [Sample("d", "e", turns=({},))], 3, family)
    with pytest.raises(CutworkError, match="'plain text' has no prompt"):
        examples(tokenizer, [Sample("", "plain text")], 99, family)


def test_an_answer_ends_and_begins_once_whatever_the_tokenizer_adds() -> None:
    family = EncoderDecoderInputs(start=2, padding=0)
    [made] = examples(GemmaBytes(), [Sample("ab", "c")], 9, family)
    assert made == {"input_ids": [2, 97, 98], "labels": [99, 1]}
    assert family.keywords(collate([made]))["decoder_input_ids"].tolist() == [[2, 99]]


def test_both_languages_are_told_and_without_them_nothing_is_learned() -> None:
    tokenizer = NllbTokenizer()
    family = EncoderDecoderInputs(start=2, padding=1)

    def said(*languages: str) -> list[list[str]]:
        [made] = examples(tokenizer, [Sample("a", "b", languages=languages)], 9, family)
        return [tokenizer.convert_ids_to_tokens(made[key]) for key in ("input_ids", "labels")]

    with pytest.raises(CutworkError, match=r"--task-option source_language=eng_Latn .* recipe's task\.options"):
        said()
    assert said("fra_Latn", "deu_Latn") == [["fra_Latn", "<unk>", "</s>"], ["deu_Latn", "<unk>", "</s>"]]
    assert said("deu_Latn", "fra_Latn") == [["deu_Latn", "<unk>", "</s>"], ["fra_Latn", "<unk>", "</s>"]]
    with pytest.raises(CutworkError, match="knows no language 'eng'; near to it: eng_Latn"):
        said("eng", "deu_Latn")
    tokenizer.legacy_behaviour = True  # as mBART: the language last, and the answer's starts decoding
    with pytest.raises(CutworkError, match=r"begin with </s>, so it cannot learn to translate into 'fra_Latn'"):
        said("eng_Latn", "fra_Latn")
    with pytest.raises(CutworkError, match="knows no languages"):
        examples(letters(None), [Sample("a", "b", languages=("en", "de"))], 9, family)


def test_samples_with_nothing_in_them_are_counted() -> None:
    tokenizer, family = Bytes(), EncoderDecoderInputs(start=0, padding=0)
    made = examples(tokenizer, [Sample("a", "b"), Sample("", "")], 99, family)
    assert made.counts() == {"samples": 1, "dropped": 1, "cut": 0}
    assert made.changed() == "1 of 2 samples hold nothing to learn: 1 left out"
    assert made.digest() == examples(tokenizer, [Sample("a", "b")], 99, family).digest()


def test_recordings_become_spectrograms_when_asked_for() -> None:
    class Letters:
        language = "en"

        def __call__(self, text: str) -> dict[str, list[int]]:
            return {"input_ids": [1, 40, *range(3, 3 + len(text.strip())), 2]}

    class Processor:
        feature_extractor = WhisperFeatureExtractor(feature_size=8)
        tokenizer = Letters()

    family = inputs_of(FAMILIES["whisper"]().config)
    assert isinstance(family, SpeechInputs)
    sound = np.sin(np.arange(16_000, dtype=np.float32) / 10)
    made = examples(Processor(), [Sample("", "abc", sound), Sample("", "d", 2 * sound)], 10, family)
    batch = collate([made[0], made[1]])
    assert batch["input_features"].shape == (2, 8, 3000)
    assert batch["labels"].tolist() == [[40, 3, 4, 5, 2], [40, 3, 2, -100, -100]]
    assert (
        made.digest() != examples(Processor(), [Sample("", "abc", sound), Sample("", "d", sound)], 10, family).digest()
    )
    with pytest.raises(CutworkError, match="needs recordings"):
        examples(Processor(), [Sample("", "abc")], 10, family)
    few = examples(Processor(), [Sample("", "abcdef", sound), Sample("", "d", sound)], 5, family)
    assert few.counts() == {"samples": 1, "dropped": 1, "cut": 0}
    assert few[0]["labels"] == [40, 3, 2]
    long = Sample("", "of which nobody knows what is heard", np.tile(sound, 31))
    heard = examples(Processor(), [Sample("", "abc", sound), long], 99, family, "cut")
    assert heard.counts() == {"samples": 1, "dropped": 1, "cut": 0}
    assert heard.changed() == "1 of 2 samples are longer than the 30 seconds that the model hears: 1 left out"
    with pytest.raises(CutworkError, match="every sample is longer than the 30 seconds that the model hears; split"):
        examples(Processor(), [long], 99, family)
    with pytest.raises(CutworkError, match=r"transcribed as 'of which nobody .* set task\.long to drop"):
        examples(Processor(), [long], 99, family, "error")


def test_transcripts_with_times_teach_them() -> None:
    class Voice:
        eos_token_id = 2
        known: ClassVar = {"<|notimestamps|>": 40}

        def __init__(self) -> None:
            self.languages: list[str | None] = []
            self.language: str | None = "fr"
            self.task: str | None = None

        def __call__(self, text: str, add_special_tokens: bool = True) -> dict[str, list[int]]:
            ids = list(map(ord, text))
            return {"input_ids": [1, 39, 40, *ids, 2] if add_special_tokens else ids}

        def convert_tokens_to_ids(self, token: str) -> int:
            return self.known[token]

        def set_prefix_tokens(self, language: str | None, task: str | None) -> None:
            if language == "klingon":
                raise ValueError("Unsupported language: klingon")
            self.languages.append(language)
            self.language = language

    processor = SimpleNamespace(tokenizer=Voice())
    family = SpeechInputs(start=1, padding=0)
    assert family.transcript(processor, Sample("de", "ab")) == [39, 40, 32, 97, 98, 2]
    timed = Sample("de", "<|0.00|> ab<|1.50|><|2.00|> c<|30.00|>")
    assert family.transcript(processor, timed) == [39, 41, 32, 97, 98, 116, 141, 32, 99, 1541, 2]
    assert processor.tokenizer.languages == ["de", "de"]
    SpeechInputs(start=1, padding=0, multilingual=False).transcript(processor, Sample("en", "ab"))
    assert processor.tokenizer.languages == ["de", "de"]
    family.transcript(processor, Sample("", "ab"))  # in the language that the tokenizer came with
    assert processor.tokenizer.languages == ["de", "de", "fr"]
    for name in ("German", "de-AT", "DE_de"):
        family.transcript(processor, Sample(name, "ab"))
    assert processor.tokenizer.languages[3:] == ["de"] * 3
    with pytest.raises(CutworkError, match="knows no language 'Klingon'; give its name or code"):
        family.transcript(processor, Sample("Klingon", "ab"))
    with pytest.raises(CutworkError, match=r"the time 31\.00, and Whisper hears 30 seconds"):
        family.transcript(processor, Sample("de", "<|0.00|> ab<|31.00|>"))
    processor.tokenizer = Voice()
    processor.tokenizer.language = None
    with pytest.raises(CutworkError, match="has to be told which is spoken; set the task's option language"):
        family.transcript(processor, Sample("", "ab"))


def test_no_sample_is_longer_than_the_model_has_positions() -> None:
    class Letters:
        language = "en"

        def __call__(self, text: str) -> dict[str, list[int]]:
            return {"input_ids": [1, *range(3, 3 + len(text.strip())), 2]}

    class Processor:
        tokenizer = Letters()

    sound = np.zeros(16, dtype=np.float32)
    heard = [Sample("", "a" * 31, sound), Sample("", "a" * 32, sound)]  # and the end
    made = examples(Processor(), heard, 512, inputs_of(FAMILIES["whisper"]().config))
    assert made.counts() == {"samples": 1, "dropped": 1, "cut": 0}
    assert made.changed() == "1 of 2 samples have more than the model's limit of 32 tokens: 1 left out"
    told = [Sample("", "a" * 100), Sample("a", "a" * 100)]
    for model in (gpt2(), opt(), mpt()):
        made = examples(letters(None), told, 512, inputs_of(model.config), "cut")
        assert [len(each["input_ids"]) for each in made] == [64, 64]
        with pytest.raises(CutworkError, match=r"more than the model's limit of 64; set task\.long to drop or cut"):
            examples(letters(None), told, 512, inputs_of(model.config), "error")
    rotary = inputs_of(llama(max_position_embeddings=64).config)
    assert min(len(each["input_ids"]) for each in examples(letters(None), told, 512, rotary)) == 100


def test_a_first_token_is_no_target_of_a_decoder_alone() -> None:
    made = examples(letters(None), [Sample("", "a"), Sample("", "ab")], 9)
    assert made.counts() == {"samples": 1, "dropped": 1, "cut": 0}


def test_what_is_cut_ends_nowhere() -> None:
    tokenizer = letters(None)
    bot, end = tokenizer.convert_tokens_to_ids(["<bot>", "<end>"])
    cut_behind = Sample("?", "ab<bot>cd")
    whole = examples(tokenizer, [cut_behind], 99)
    length = whole[0]["input_ids"].index(bot) + 1
    assert whole.ends() == {end}
    assert examples(tokenizer, [cut_behind], length, long="cut").ends() == set()
