"""Batches: samples as token ids, in an order that depends on the seed and the epoch alone, padded to the longest."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Sampler

from cutwork.audio import HEARD_SECONDS, RATE
from cutwork.errors import CutworkError
from cutwork.recipe import Long
from cutwork.tasks.rendering import IGNORED, special_tokens
from cutwork.tasks.task import Sample
from cutwork.torch_models.model_inputs import DecoderOnlyInputs, Example, ModelInputs

_SPLIT = "split recordings and their transcripts"  # what to do about long ones


class Examples(Sequence[Example]):
    """Samples as a model is trained on them; recordings, which are large, are made into them when asked for.

    `dropped` and `cut` count the samples that were too long, for `max_length` or for the positions that the model has,
    `unheard` the recordings longer than what the model hears, which are left out, since nobody knows how much of their
    transcripts is heard by then, and `empty` those that hold nothing to learn; `given` all that were looked at.
    """

    def __init__(
        self,
        tokenizer: Any,
        samples: Sequence[Sample],
        max_length: int,
        model_inputs: ModelInputs,
        long: Long = "drop",
        most: int | None = None,
    ) -> None:
        self._tokenizer, self._inputs, self.lazy = tokenizer, model_inputs, model_inputs.lazy
        self.given, self.dropped, self.cut, self.empty, self.unheard = 0, 0, 0, 0, 0
        positions = model_inputs.positions or max_length
        self.max_length = min(positions, max_length)
        self._told, self._advice = f"task.max_length = {max_length}", "raise it, or set task.long to"
        if positions < max_length:
            self._told, self._advice = f"the model's limit of {positions}", "set task.long to"
        self._samples: list[Sample] = []
        self._tokens: list[Example] = []
        self._whole: list[Example] = []  # those of them that were not cut
        for sample in samples:
            if len(self._samples) == most:
                break
            self.given += 1
            if sample.audio is not None and len(sample.audio) > HEARD_SECONDS * RATE:
                self._count_unheard(sample, long)
                continue
            tokens = None if sample.is_empty else model_inputs.tokens(tokenizer, sample)
            if tokens is None or not self._learns(tokens):
                self.empty += 1
            elif (fitting := self._fitting(sample, tokens, long)) is not None:
                self._samples.append(sample)
                self._tokens.append(fitting)
                self._whole += [tokens] if fitting is tokens else []
        if not self._tokens:
            what = "holds nothing to learn" if self.empty == len(samples) else "is too long or holds nothing to learn"
            if self.unheard == len(samples):
                what = f"is longer than the {HEARD_SECONDS} seconds that the model hears; {_SPLIT}"
            elif not self.empty and not self.unheard:
                advice = f"{self._advice} cut" if long == "drop" else "nothing of any answer is within them; allow more"
                what = f"has more than {self._told} tokens; {advice}"
            raise CutworkError(f"every sample {what}")
        # Of what varies: a spectrogram's length does not.
        texts = (len(sample.answer) for sample in self._samples)
        self.lengths = list(texts) if self.lazy else [len(tokens["input_ids"]) for tokens in self._tokens]

    def _count_unheard(self, sample: Sample, long: Long) -> None:
        """Of a recording that is too long to be heard whole."""
        if long == "error":
            raise CutworkError(
                f"a recording is longer than the {HEARD_SECONDS} seconds that the model hears: the one that is "
                f"transcribed as {sample.answer[:60]!r}; {_SPLIT}, or set task.long to drop"
            )
        self.unheard += 1

    def _fitting(self, sample: Sample, tokens: Example, long: Long) -> Example | None:
        """What is written of a sample, cut if it must be; None if it is to be left out."""
        length = max(map(len, tokens.values()))
        if length <= self.max_length:
            return tokens
        if not sample.prompt and sample.audio is None:
            long = "cut"  # plain text has no end that is needed
        if long == "error":
            raise CutworkError(
                f"a sample has {length} tokens, more than {self._told}; {self._advice} drop or cut, "
                f"for the sample that begins {(sample.prompt + sample.answer)[:60]!r}"
            )
        if long == "cut":
            tokens = self._inputs.cut(tokens, self.max_length)
            if self._learns(tokens):
                self.cut += 1
                return tokens
        self.dropped += 1
        return None

    def _learns(self, tokens: Example) -> bool:
        """Whether anything of a sample is learned; a decoder-only model has nothing to tell the first token by."""
        first = 1 if isinstance(self._inputs, DecoderOnlyInputs) else 0
        return any(label != IGNORED for label in tokens["labels"][first:])

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, index: Any) -> Any:
        return self._inputs.example(self._tokenizer, self._samples[index], self._tokens[index])

    def counts(self) -> dict[str, int]:
        """How many samples there are, and what became of those that were too long."""
        return {"samples": len(self), "dropped": self.dropped + self.empty + self.unheard, "cut": self.cut}

    def changed(self) -> str:
        """What became of samples that could not be taken as they are, in a sentence; nothing if all could."""
        parts = [f"{n} {what}" for n, what in ((self.dropped, "left out"), (self.cut, "cut")) if n]
        longer, told = self.dropped + self.cut, []
        if longer:
            told.append(f"have more than {self._told} tokens: {', '.join(parts)}")
        if self.unheard:
            told.append(f"are longer than the {HEARD_SECONDS} seconds that the model hears: {self.unheard} left out")
        if self.empty:
            told.append(f"hold nothing to learn: {self.empty} left out")
        counts = [count for count in (longer, self.unheard, self.empty) if count]
        return "; ".join(f"{n} of {self.given} samples {what}" for n, what in zip(counts, told, strict=True))

    def ends(self) -> frozenset[int]:
        """The special tokens with which what a decoder-only model learns whole ends: there it will stop."""
        if not isinstance(self._inputs, DecoderOnlyInputs):
            return frozenset()
        last = {next(label for label in reversed(each["labels"]) if label != IGNORED) for each in self._whole}
        return frozenset(last & special_tokens(self._tokenizer).keys())

    def digest(self) -> str:
        """A short hash of all examples; of their samples too where these are made when asked for."""
        if not self.lazy:
            return hashlib.sha256(json.dumps(self._tokens).encode()).hexdigest()[:16]
        whole = hashlib.sha256()
        for sample in self._samples:
            whole.update(json.dumps(sample.texts()).encode())
            whole.update(sample.audio.tobytes() if sample.audio is not None else b"")
        whole.update(json.dumps(self._tokens).encode())
        return whole.hexdigest()[:16]


def examples(
    tokenizer: Any,
    samples: Sequence[Sample],
    max_length: int,
    model_inputs: ModelInputs | None = None,
    long: Long = "drop",
    most: int | None = None,
) -> Examples:
    """Samples as the examples of a kind of model, decoder-only by default: `input_ids`, `labels`, ….

    Those of more than `max_length` tokens are left out, cut at their end or an error, as `long` says; plain text is
    always cut. With `most`, so many of the first that are not left out. Raises CutworkError if none is left.
    """
    if not samples:
        raise CutworkError("the task has no training samples")
    return Examples(tokenizer, samples, max_length, model_inputs or DecoderOnlyInputs(), long, most)


def collate(batch: Sequence[Example]) -> dict[str, Tensor]:
    """Token ids and labels as int64 tensors [B, T], T being the longest example's length; padded on the right.

    The padding's token id is 0 and never matters: it is masked, and in decoders behind every real token. Spectrograms
    become one float32 tensor [B, mels, frames].
    """

    def padded(key: str, value: int) -> Tensor:
        length = max(len(example[key]) for example in batch)
        return torch.tensor([example[key] + [value] * (length - len(example[key])) for example in batch])

    result = {"labels": padded("labels", IGNORED)}
    if "input_features" in batch[0]:
        return {"input_features": torch.stack([torch.as_tensor(e["input_features"]) for e in batch]), **result}
    lengths = torch.tensor([len(example["input_ids"]) for example in batch])
    types = {"token_type_ids": padded("token_type_ids", 0)} if "token_type_ids" in batch[0] else {}
    mask = (torch.arange(int(lengths.max())) < lengths[:, None]).long()
    return {"input_ids": padded("input_ids", 0), **types, **result, "attention_mask": mask}


class StepSampler(Sampler[int]):
    """Shuffles samples into optimiser steps, and sorts each step by length so that its micro-batches pad little.

    Steps remain unbiased random draws, unlike with lengths grouped across steps. On GSM8K in steps of 32 and
    micro-batches of 8, 14% of the tokens are padding, with micro-batches of 4 6%, where unsorted ones of 8 have 33%
    and a fixed length of 512, 64%; of course nothing is gained where a step is one micro-batch. The order is a function
    of `(seed, epoch)`, so a resumed run skips exactly what was seen.
    """

    def __init__(self, lengths: Sequence[int], step_size: int, seed: int) -> None:
        self.lengths, self.step_size, self.seed = lengths, step_size, seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order the next iteration gives."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        order = torch.randperm(len(self.lengths), generator=generator).tolist()
        for start in range(0, len(order), self.step_size):
            yield from sorted(order[start : start + self.step_size], key=lambda i: -self.lengths[i])
