"""A loaded model as the decoder that transcription talks to."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cutwork.audio import read_audio
from cutwork.engine.decoding.options import GenerateOptions
from cutwork.engine.decoding.requests import Generation
from cutwork.engine.encoder import EncodedInput
from cutwork.engine.protocols import Answers
from cutwork.engine.speech.decoder import Answer, Process, Search
from cutwork.engine.speech.options import TranscribeOptions
from cutwork.engine.speech.spectrogram import Spectrogram
from cutwork.engine.speech.transcribe import Transcription, TranscriptionProgress
from cutwork.engine.speech.vocabulary import vocabulary_of
from cutwork.errors import CutworkError

Audio = str | Path | bytes | np.ndarray


def open_transcription(
    model: Answers,
    audio: Audio,
    options: TranscribeOptions,
    *,
    progress: TranscriptionProgress | None = None,
    stopped: Callable[[], bool] | None = None,
) -> Transcription:
    """See `Model.transcribe`. `stopped` is asked before every step of the decoder, and now and then
    while silence is looked for; it raises `Stopped` if so."""
    if model.tokenizer is None:
        raise CutworkError(f"{model.path} has no tokenizer, so nothing can be transcribed")
    vocabulary = vocabulary_of(model.path, model.config, model.tokenizer)
    assert model.encoder is not None
    tokens = int(model.config["vocab_size"])
    if beyond := [token for token in options.suppress_tokens or () if token >= tokens]:
        raise CutworkError(f"suppress_tokens: there is no token {beyond[0]}; there are {tokens}")
    decoder = ModelDecoder(model, stopped)
    return Transcription(
        decoder,
        model.tokenizer,
        vocabulary,
        Spectrogram.of_model(model.path, model.encoder.mels),
        _sound(audio),
        options,
        window=model.encoder.frames * int(model.config["max_source_positions"]),
        context=model.max_context,
        progress=progress,
        pause=decoder.check,
    )


def _sound(audio: Audio) -> np.ndarray:
    if isinstance(audio, bytes):
        return read_audio(audio)
    if not isinstance(audio, np.ndarray):
        return read_audio(Path(audio).expanduser())
    if audio.ndim != 1 or not np.issubdtype(audio.dtype, np.floating) or not len(audio):
        raise CutworkError("audio in an array must be mono floats at 16 kHz, of shape [samples]")
    if not np.isfinite(audio).all():
        raise CutworkError("the audio has values that are not finite")
    return audio.astype(np.float32, copy=False)


class Stopped(CutworkError):
    """Whoever wanted the transcript has gone."""


class ModelDecoder:
    """`stopped` is asked before every step; where it says so, `Stopped` is raised."""

    def __init__(self, model: Answers, stopped: Callable[[], bool] | None = None) -> None:
        self._model, self._stopped = model, stopped

    def encode(self, spectrogram: np.ndarray) -> EncodedInput:
        """A handle of a window, float32 [mels, frames]."""
        return self._model.encode_input(spectrogram)

    def logits(self, memory: EncodedInput, prompt: Sequence[int]) -> np.ndarray:
        """Logits float32 [V] after a prompt."""
        return np.asarray(self._model.logits(prompt, memory, first=len(prompt) - 1)[-1])

    def attention(
        self, memory: EncodedInput, tokens: Sequence[int], heads: Sequence[tuple[int, int]]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Cross attention float32 [heads, tokens, frames / 2] and logits float32 [tokens, V]."""
        return self._model.cross_attention(tokens, memory, heads)

    def answer(self, memory: EncodedInput, prompt: Sequence[int], search: Search, process: Process) -> Answer:
        """The best answer found: of a beam search, or of as many samples at a time as asked for."""
        room = self._model.max_context - len(prompt)
        options: GenerateOptions = {
            "max_new_tokens": min(search.max_new_tokens or room, room),
            "repetition_penalty": search.repetition_penalty,
            "no_repeat_ngram_size": search.no_repeat_ngram_size,
        }
        if search.beams > 1:
            options |= {"num_beams": search.beams, "length_penalty": search.length_penalty}
            [generation] = self._model.respond(memory, prompt, [{**options, "logits_processor": process}], self.check)
            assert generation.score is not None
            total = generation.score * len(generation.tokens) ** search.length_penalty
            return Answer(self._text(generation), total / len(generation.tokens))
        options["temperature"] = search.temperature
        recorders = [_Recorder(process) for _ in range(search.samples)]
        several: list[GenerateOptions] = [
            {**options, "logits_processor": recorder, "seed": None if search.seed is None else search.seed + number}
            for number, recorder in enumerate(recorders)
        ]
        generations = self._model.respond(memory, prompt, several, self.check)
        answers = [
            Answer(self._text(generation), recorder.total(generation.tokens) / (len(self._text(generation)) + 1))
            for generation, recorder in zip(generations, recorders, strict=True)
        ]
        return max(answers, key=lambda answer: answer.average)

    def check(self) -> None:
        """Raise `Stopped` if it is to end."""
        if self._stopped and self._stopped():
            raise Stopped("the transcription was stopped")

    def _text(self, generation: Generation) -> list[int]:
        tokens = generation.tokens
        return tokens[:-1] if tokens and tokens[-1] in self._model.stop_tokens else tokens


class _Recorder:
    """Adds up the log-probabilities of what was chosen, under the scores as `process` left them."""

    def __init__(self, process: Process) -> None:
        self._process, self._sum, self._last = process, 0.0, np.empty(0, np.float32)

    def __call__(self, scores: np.ndarray, answer: Sequence[int]) -> None:
        self._add(answer)
        self._process(scores, answer)
        self._last = scores

    def total(self, tokens: Sequence[int]) -> float:
        """The sum, once all of an answer is known."""
        self._add(tokens)
        return self._sum

    def _add(self, tokens: Sequence[int]) -> None:
        if len(self._last) and tokens:
            peak: Any = self._last.max()
            self._sum += float(self._last[tokens[-1]] - peak - np.log(np.exp(self._last - peak).sum()))
            self._last = self._last[:0]
