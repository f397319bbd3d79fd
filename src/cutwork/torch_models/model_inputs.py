"""How each kind of model is fed, which tokens of a batch a loss looks at, and which outputs: one class a kind."""

import re
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor

from cutwork.architectures import find, kind_of
from cutwork.architectures.architecture import Architecture
from cutwork.audio import HEARD_SECONDS, RATE, SECONDS_PER_TIME
from cutwork.audio.languages import language_code
from cutwork.errors import CutworkError
from cutwork.tasks.rendering import IGNORED, render
from cutwork.tasks.task import Sample

Batch = dict[str, Any]
Example = dict[str, Any]
ENGLISH_VOCABULARY = 51_864  # tokens of the Whispers that know English only
TIMESTAMP = re.compile(r"<\|(\d+\.\d\d)\|>")  # as Whisper's tokenizer writes its tokens for them


@dataclass(frozen=True)
class Features:
    """Hidden states that SquareHead compares: one [B, T, D] per block of a stack, and the tokens [B, T] that count."""

    stack: str
    hidden: tuple[Tensor, ...]
    mask: Tensor


class ModelInputs(Protocol):
    """How a kind of model is fed and called, and which of its outputs are learned from."""

    lazy: ClassVar[bool]  # whether examples are too large to be kept
    counted: ClassVar[tuple[str, ...]]  # what of a batch counts as tokens

    @property
    def positions(self) -> int | None:
        """Tokens that the model has a place for; None if any number."""

    def tokens(self, tokenizer: Any, sample: Sample) -> Example:
        """What of a sample is written, as lists of token ids: labels, and the input unless it is heard.

        Raises CutworkError for a sample of another kind.
        """

    def cut(self, tokens: Example, max_length: int) -> Example:
        """The beginning of what is written, no list longer than that."""

    def example(self, tokenizer: Any, sample: Sample, tokens: Example) -> Example:
        """A sample as a model takes it, with what is written of it and what is heard."""

    def keywords(self, batch: Batch) -> Batch:
        """The keywords of the model's forward pass."""

    def label_rows(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Positions [B, T] (bool) of the output head's input whose logits are wanted, and their targets [N]."""

    def features(self, outputs: Any, batch: Batch) -> list[Features]:
        """The groups of hidden states to compare with the teacher's."""


@dataclass(frozen=True)
class DecoderOnlyInputs:
    """Llama, GPT, OPT, MPT, …: position t predicts token t+1; batches are padded on the right."""

    positions: int | None = None
    lazy: ClassVar[bool] = False
    counted: ClassVar[tuple[str, ...]] = ("input_ids",)

    def tokens(self, tokenizer: Any, sample: Sample) -> Example:
        """Prompt and answer, or a conversation, in one sequence; only answers are learned."""
        ids, labels = render(tokenizer, sample)
        return {"input_ids": ids, "labels": labels}

    def cut(self, tokens: Example, max_length: int) -> Example:
        """The first tokens."""
        return {key: ids[:max_length] for key, ids in tokens.items()}

    def example(self, tokenizer: Any, sample: Sample, tokens: Example) -> Example:
        """The tokens are all."""
        return tokens

    def keywords(self, batch: Batch) -> Batch:
        """Only the ids: behind a causal mask no real token sees the padding to its right, and the fast path is free.

        And the positions of samples that share a row.
        """
        packed = {key: batch[key] for key in ("position_ids",) if key in batch}
        return {"input_ids": batch["input_ids"], **packed, "use_cache": False}

    def label_rows(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Every position whose next token is a label."""
        targets = torch.full_like(batch["labels"], IGNORED)
        targets[:, :-1] = batch["labels"][:, 1:]
        rows = targets != IGNORED
        return rows, targets[rows]

    def features(self, outputs: Any, batch: Batch) -> list[Features]:
        """Outputs of every block (the last after the final norm), at prompt and answer alike."""
        return [Features("decoder", tuple(outputs.hidden_states[1:]), batch["attention_mask"])]


@dataclass(frozen=True)
class EncoderInputs:
    """BERT and the like: a text, or a pair of texts, of which hidden states are made, and nothing is predicted.

    They are learned from a teacher's hidden states alone.
    """

    positions: int | None = None
    lazy: ClassVar[bool] = False
    counted: ClassVar[tuple[str, ...]] = ("input_ids",)

    def tokens(self, tokenizer: Any, sample: Sample) -> Example:
        """Prompt and answer as a pair, or what there is of them; with the types of their tokens if these have any."""
        if sample.turns:
            raise CutworkError("an encoder learns from texts or pairs of texts, not conversations")
        texts = [text for text in (sample.prompt, sample.answer) if text]
        found = tokenizer(*texts)
        types = {key: found[key] for key in ("token_type_ids",) if key in found}
        return {"input_ids": found["input_ids"], "labels": list(found["input_ids"]), **types}

    def cut(self, tokens: Example, max_length: int) -> Example:
        """The first tokens, and the last."""
        return {key: [*ids[: max_length - 1], ids[-1]] for key, ids in tokens.items()}

    def example(self, tokenizer: Any, sample: Sample, tokens: Example) -> Example:
        """The tokens are all."""
        return tokens

    def keywords(self, batch: Batch) -> Batch:
        """The ids, their types if they have any, and which are real."""
        return {key: batch[key] for key in ("input_ids", "token_type_ids", "attention_mask") if key in batch}

    def label_rows(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Every real token counts, as a row without a target worth the name."""
        rows = batch["labels"] != IGNORED
        return rows, batch["labels"][rows]

    def features(self, outputs: Any, batch: Batch) -> list[Features]:
        """Outputs of every block, at the real tokens."""
        return [Features("encoder", tuple(outputs.hidden_states[1:]), batch["attention_mask"])]


@dataclass(frozen=True)
class EncoderDecoderInputs:
    """T5 and the like: the prompt goes to the encoder, the decoder sees the labels one place to the right.

    Position t of the decoder predicts label t, so nothing is shifted when logits are compared.
    """

    start: int  # the decoder's first token
    padding: int
    positions: int | None = None
    lazy: ClassVar[bool] = False
    counted: ClassVar[tuple[str, ...]] = ("input_ids", "labels")

    def tokens(self, tokenizer: Any, sample: Sample) -> Example:
        """Prompt and answer apart, each ended as the tokenizer ends a text."""
        if sample.turns:
            raise CutworkError("a model with an encoder learns from rows of a prompt and an answer, not conversations")
        if not sample.prompt:
            raise CutworkError(
                "a model with an encoder learns from rows of a prompt and an answer, and "
                f"{sample.answer[:60]!r} has no prompt"
            )
        _tell_languages(tokenizer, sample)
        ids, labels = tokenizer(sample.prompt)["input_ids"], tokenizer(text_target=sample.answer)["input_ids"]
        if labels and labels[0] == self.start == tokenizer.bos_token_id:  # Gemma's; the decoder is given it anyway
            labels = labels[1:]
        if tokenizer.eos_token_id not in labels:
            labels = [*labels, tokenizer.eos_token_id]
        if sample.languages and labels[-1] not in (tokenizer.eos_token_id, self.start):  # mBART's: it starts decoding
            start = tokenizer.convert_ids_to_tokens(self.start)
            raise CutworkError(
                f"this model's answers begin with {start}, so it cannot learn to translate into "
                f"{sample.languages[1]!r}; set decoder_start_token_id in its config.json to that language's token"
            )
        return {"input_ids": ids, "labels": labels}

    def cut(self, tokens: Example, max_length: int) -> Example:
        """The first tokens; the encoder's still end as they did."""
        return {
            key: [*ids[: max_length - 1], ids[-1]] if key == "input_ids" and len(ids) > max_length else ids[:max_length]
            for key, ids in tokens.items()
        }

    def example(self, tokenizer: Any, sample: Sample, tokens: Example) -> Example:
        """The tokens are all."""
        return tokens

    def keywords(self, batch: Batch) -> Batch:
        """The encoder's ids and mask, and the decoder's ids."""
        return {
            "input_ids": batch["input_ids"],
            "attention_mask": batch["attention_mask"],
            "decoder_input_ids": self._shifted(batch["labels"]),
            "use_cache": False,
        }

    def label_rows(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Every position that has a label."""
        rows = batch["labels"] != IGNORED
        return rows, batch["labels"][rows]

    def features(self, outputs: Any, batch: Batch) -> list[Features]:
        """Outputs of every encoder block at the source's tokens, and of every decoder block at the labels."""
        return [
            Features("encoder", tuple(outputs.encoder_hidden_states[1:]), self._source_mask(outputs, batch)),
            Features("decoder", tuple(outputs.decoder_hidden_states[1:]), batch["labels"] != IGNORED),
        ]

    def _source_mask(self, outputs: Any, batch: Batch) -> Tensor:
        mask: Tensor = batch["attention_mask"]
        return mask

    def _shifted(self, labels: Tensor) -> Tensor:
        shifted = labels.new_full(labels.shape, self.start)
        shifted[:, 1:] = labels[:, :-1]
        return shifted.masked_fill(shifted == IGNORED, self.padding)


def _tell_languages(tokenizer: Any, sample: Sample) -> None:
    """Let a tokenizer of many languages write those of a sample; without the answer's it takes the prompt's for both.

    Raises CutworkError if it does not know them, or if the sample has none.
    """
    if not sample.languages:
        if getattr(tokenizer, "tgt_lang", "") is None:
            raise CutworkError(
                "this model translates between many languages and has to be told which: with --task-option "
                "source_language=eng_Latn --task-option target_language=deu_Latn beside a file of rows, or in a "
                "recipe's task.options"
            )
        return
    if not hasattr(tokenizer, "tgt_lang"):
        raise CutworkError("this model's tokenizer knows no languages; leave out source_language and target_language")
    if (tokenizer.src_lang, tokenizer.tgt_lang) == sample.languages:
        return
    special = {*tokenizer.all_special_tokens, *tokenizer.get_added_vocab()}
    for language in sample.languages:
        if not {language, f"__{language}__"} & special:
            near = sorted(token.strip("_") for token in special if token.strip("_").startswith(language[:2]))
            known = f"; near to it: {', '.join(near[:8])}" if near else ""
            raise CutworkError(f"this model's tokenizer knows no language {language!r}{known}")
    tokenizer.src_lang, tokenizer.tgt_lang = sample.languages


_OWN = "own_prefix"  # attribute of a speech model's tokenizer: the language and task that it was loaded with


@dataclass(frozen=True)
class SpeechInputs(EncoderDecoderInputs):
    """Whisper: the encoder hears 30 seconds, silence included; every one of its frames counts."""

    multilingual: bool = True  # or English only, without tokens for languages and tasks
    lazy: ClassVar[bool] = True
    counted: ClassVar[tuple[str, ...]] = ("labels",)

    def tokens(self, tokenizer: Any, sample: Sample) -> Example:
        """The transcript."""
        if sample.audio is None:
            raise CutworkError(f"a speech model needs recordings, and the sample {sample.answer[:60]!r} has none")
        return {"labels": self.transcript(tokenizer, sample)}

    def example(self, tokenizer: Any, sample: Sample, tokens: Example) -> Example:
        """The recording's spectrogram [mels, frames] and its transcript; the prompt is the language's name or code.

        `tokenizer` is the model's processor.
        """
        spectrogram = tokenizer.feature_extractor(sample.audio, sampling_rate=RATE)["input_features"][0]
        return {"input_features": spectrogram, **tokens}

    def transcript(self, tokenizer: Any, sample: Sample) -> list[int]:
        """The token ids that the decoder learns to write, without the first, which it is given.

        As in Whisper's training, the first word has a space before it; a transcript in which times are written as
        <|1.50|>, around each segment, teaches them.
        """
        voice = tokenizer.tokenizer
        if self.multilingual and sample.prompt:
            vars(voice).setdefault(_OWN, (getattr(voice, "language", None), getattr(voice, "task", None)))
            try:
                voice.set_prefix_tokens(language=language_code(sample.prompt), task="transcribe")
            except ValueError:
                raise CutworkError(
                    f"Whisper knows no language {sample.prompt!r}; give its name or code, as German or de"
                ) from None
        elif self.multilingual and _OWN in vars(voice):  # the sample before had a language
            voice.language, voice.task = language, task = getattr(voice, _OWN)
            voice.set_prefix_tokens(language=language, task=task)  # for which None says nothing
        if self.multilingual and not sample.prompt and not getattr(voice, "language", None):
            raise CutworkError(
                "this Whisper knows many languages and has to be told which is spoken; set the task's option language, "
                "as en, or give the recordings a column of that name"
            )
        text, *timed = TIMESTAMP.split(sample.answer)
        labels: list[int] = voice(f" {text.strip()}" if text.strip() else "")["input_ids"]
        if timed:
            without_times = voice.convert_tokens_to_ids("<|notimestamps|>")
            labels = [token for token in labels[:-1] if token != without_times]
            for time, text in zip(timed[::2], timed[1::2], strict=True):
                if float(time) > HEARD_SECONDS:
                    raise CutworkError(f"a transcript has the time {time}, and Whisper hears {HEARD_SECONDS} seconds")
                labels.append(without_times + 1 + round(float(time) / SECONDS_PER_TIME))
                labels += voice(text, add_special_tokens=False)["input_ids"]
            labels.append(voice.eos_token_id)
        return labels[1:] if labels[0] == self.start else labels

    def keywords(self, batch: Batch) -> Batch:
        """The spectrograms and the decoder's ids."""
        return {
            "input_features": batch["input_features"],
            "decoder_input_ids": self._shifted(batch["labels"]),
            "use_cache": False,
        }

    def _source_mask(self, outputs: Any, batch: Batch) -> Tensor:
        frames = outputs.encoder_hidden_states[-1]
        return torch.ones(frames.shape[:2], dtype=torch.long, device=frames.device)


def inputs_of(config: Any) -> ModelInputs:
    """How a model is fed, by its Hugging Face configuration; CutworkError for one whose decoder has no first token."""
    said = config.to_dict()
    kind, family = kind_of(said), find(said)
    positions = _positions(config, family)
    if kind in ("text", "embedding"):
        return DecoderOnlyInputs(positions) if kind == "text" else EncoderInputs(positions)
    keys = family.start if family else ("decoder_start_token_id",)
    start = next((said[key] for key in keys if said.get(key) is not None), None)
    if start is None:
        raise CutworkError(f"the config of this {config.model_type} has no decoder_start_token_id; set it")
    padding = start if config.pad_token_id is None else config.pad_token_id
    if kind == "speech":
        return SpeechInputs(start, padding, positions, multilingual=config.vocab_size != ENGLISH_VOCABULARY)
    return EncoderDecoderInputs(start, padding, positions)


def _positions(config: Any, family: Architecture | None) -> int | None:
    """How many tokens have a place in a table of positions; None where places are rotary, and go on behind what a model
    was made for."""
    if getattr(config, "rope_parameters", None):
        return None
    if family:
        return family.context(config.to_dict()).most
    most = getattr(config, "max_position_embeddings", None)
    return most if isinstance(most, int) and most > 1 else None
