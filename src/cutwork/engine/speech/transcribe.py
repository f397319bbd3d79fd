"""Long-form transcription: windows of 30 seconds, each beginning where the last whole segment ended.

Times, prompts and the seek follow transformers' long-form generation; repetitions, doubts and silence are dealt with as
Whisper's authors do (arXiv 2212.04356, section 4.5).
"""

import math
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from cutwork.audio import RATE, SECONDS_PER_TIME
from cutwork.engine.decoding.logits import log_softmax
from cutwork.engine.speech.decoder import Answer, Decoder, Search
from cutwork.engine.speech.options import TranscribeOptions
from cutwork.engine.speech.segments import Segment, Transcript, split
from cutwork.engine.speech.spectrogram import Spectrogram
from cutwork.engine.speech.timestamp_rules import TimestampRules
from cutwork.engine.speech.vad import Silence, spoken
from cutwork.engine.speech.vocabulary import Vocabulary
from cutwork.engine.speech.words import Aligner
from cutwork.errors import CutworkError, check_text

TranscriptionProgress = Callable[[float, float], None]  # (seconds done, seconds in all)


@dataclass(frozen=True)
class Outcome:
    """The answer kept for a window, and how it was found."""

    answer: Answer
    temperature: float
    ratio: float
    no_speech: float | None


class Transcription:
    """One recording on its way to text: iterate over it to get segments as they are found, or ask for the `result`.

    sound: mono float32 at 16 kHz. window: frames that the encoder hears at a time. context: tokens that fit the
    decoder. tokenizer: Hugging Face's, for text only. pause: called now and then before there are segments.
    """

    def __init__(
        self,
        decoder: Decoder,
        tokenizer: Any,
        vocabulary: Vocabulary,
        spectrogram: Spectrogram,
        sound: np.ndarray,
        options: TranscribeOptions,
        *,
        window: int,
        context: int,
        progress: TranscriptionProgress | None = None,
        pause: Callable[[], object] = lambda: None,
    ) -> None:
        self._decoder, self._tokenizer, self._vocabulary, self._options = decoder, tokenizer, vocabulary, options
        self._window, self._context, self._progress = window, context, progress
        self.duration = len(sound) / RATE
        silence = Silence.of(options.vad_parameters)
        self._spoken = spoken(sound, silence, pause) if options.vad_filter else None
        sound = self._spoken.sound if self._spoken else sound
        self.heard = len(sound) / RATE
        self._memory: tuple[int, Any] | None = None
        whole = window * spectrogram.hop
        self._frames = spectrogram.frames(sound) if len(sound) > whole else -(-len(sound) // spectrogram.hop)
        # Up to a window, silence is heard after the recording; a longer one is heard as it is, as by transformers.
        self._picture = spectrogram(np.pad(sound, (0, whole - len(sound))) if len(sound) < whole else sound)
        self.language, self.language_probabilities = self._find_language()
        self._prompt = vocabulary.prompt(self.language, options.task, times=not options.without_timestamps)
        self._seek = 0
        self._history: list[int] = []
        if options.initial_prompt:
            check_text(options.initial_prompt, "initial_prompt")
            self._history = self._ids(f" {options.initial_prompt.strip()}")
            if any(token >= vocabulary.end for token in self._history):
                raise CutworkError("initial_prompt holds one of the model's special tokens, such as <|endoftext|>")
        self._segments: list[Segment] = []
        if options.word_timestamps:
            self._aligner = Aligner(decoder, tokenizer, vocabulary, self.language)

    def result(self) -> Transcript:
        """The whole transcript; transcribes what has not been yet."""
        for _ in self:
            pass
        return Transcript(
            text="".join(segment.text for segment in self._segments).strip(),
            segments=self._segments,
            language=self.language,
            language_probability=dict(self.language_probabilities).get(self.language),
            duration=round(self.duration, 3),
            duration_after_vad=round(self.heard, 3),
            all_language_probs=self.language_probabilities,
        )

    def __iter__(self) -> Iterator[Segment]:
        """Transcribes on from where it was left; segments are given once."""
        while self._seek < self._frames:
            frames = min(self._window, self._frames - self._seek)
            advance, segments = self._hear(self._seek, frames)
            self._seek += advance
            if self._progress:
                self._progress(min(self._seek, self._frames) / 100, self._frames / 100)
            yield from segments

    def _hear(self, seek: int, frames: int) -> tuple[int, list[Segment]]:
        """Transcribe the window at frame `seek`: how far to go on, and its segments."""
        options = self._options
        memory = self._encode_at(seek)
        prompt = self._with_history()
        outcome = self._look(memory, prompt)
        if self._is_silence(outcome):
            return frames, []
        slices, advance = split(outcome.answer.tokens, self._vocabulary, frames)
        segments: list[Segment] = []
        for part in slices:
            text = self._text(self._vocabulary.text(part.tokens))
            if not text.strip():
                continue
            segments.append(
                Segment(
                    id=len(self._segments) + len(segments),
                    seek=seek,
                    start=round(seek / 100 + part.start, 2),
                    end=round(seek / 100 + part.end, 2),
                    text=text,
                    tokens=part.tokens,
                    temperature=outcome.temperature,
                    avg_logprob=outcome.answer.average,
                    compression_ratio=outcome.ratio,
                    no_speech_prob=outcome.no_speech,
                )
            )
        if options.condition_on_previous_text and outcome.temperature <= options.prompt_reset_on_temperature:
            self._history += [token for part in slices for token in part.tokens]
        else:
            self._history = []
        if options.word_timestamps:
            segments = self._aligner.add_words(memory, segments, self._prompt, seek / 100, frames)
        if self._spoken:
            segments = [self._spoken.restore_segment(segment) for segment in segments]
        self._segments += segments
        return advance, segments

    def _encode_at(self, seek: int) -> Any:
        """The memory of the window at frame `seek`; the last one is kept."""
        if self._memory is None or self._memory[0] != seek:
            picture = self._picture[:, seek : seek + self._window]
            picture = np.pad(picture, ((0, 0), (0, self._window - picture.shape[1])))
            self._memory = (seek, self._decoder.encode(picture))
        return self._memory[1]

    def _with_history(self) -> list[int]:
        """The prompt, behind what was said before, as much as fits half of the decoder's context."""
        before = self._history[-(self._context // 2 - 1) :]
        return [self._vocabulary.previous, *before, *self._prompt] if before else list(self._prompt)

    def _look(self, memory: Any, prompt: list[int]) -> Outcome:
        """Try one temperature after the other until the answer is neither repetitive nor unlikely."""
        options = self._options
        no_speech = self._silence(memory, prompt) if options.no_speech_threshold is not None else None
        tried: list[Outcome] = []
        for temperature in options.temperatures:
            answer = self._decoder.answer(memory, prompt, self._search(temperature), self._rules())
            ratio = compression_ratio(self._text(self._vocabulary.text(answer.tokens)))
            tried.append(Outcome(answer, temperature, ratio, no_speech))
            unlikely = self._is_unlikely(answer)
            if (unlikely and self._is_silence(tried[-1])) or not (unlikely or self._repeats(tried[-1])):
                return tried[-1]
        best = max([o for o in tried if not self._repeats(o)] or tried, key=lambda outcome: outcome.answer.average)
        return replace(best, temperature=options.temperatures[-1])

    def _search(self, temperature: float) -> Search:
        o = self._options
        return Search(
            temperature=temperature,
            beams=1 if temperature else o.beam_size,
            samples=o.best_of if temperature else 1,
            length_penalty=o.length_penalty,
            repetition_penalty=o.repetition_penalty,
            no_repeat_ngram_size=o.no_repeat_ngram_size,
            max_new_tokens=o.max_new_tokens,
            seed=o.seed,
        )

    def _rules(self) -> TimestampRules:
        o, v = self._options, self._vocabulary
        latest = o.max_initial_timestamp
        named = [token for token in o.suppress_tokens or () if token >= 0]
        # The model's own list holds as it is, as in transformers; any other is completed, as in faster-whisper.
        usual = v.suppressed if -1 in (o.suppress_tokens or ()) else v.never
        return TimestampRules(
            v,
            suppressed=[*named, *usual],
            blank=not o.suppress_blank,
            times=not o.without_timestamps,
            last_first_time=None if latest == math.inf else round(latest / SECONDS_PER_TIME),
        )

    def _repeats(self, outcome: Outcome) -> bool:
        threshold = self._options.compression_ratio_threshold
        return threshold is not None and outcome.ratio > threshold

    def _is_unlikely(self, answer: Answer) -> bool:
        threshold = self._options.log_prob_threshold
        return threshold is not None and answer.average < threshold

    def _is_silence(self, outcome: Outcome) -> bool:
        threshold = self._options.no_speech_threshold
        if threshold is None or outcome.no_speech is None or outcome.no_speech <= threshold:
            return False
        return self._options.log_prob_threshold is None or self._is_unlikely(outcome.answer)

    def _silence(self, memory: Any, prompt: list[int]) -> float:
        """The probability that nobody speaks, which stands after the token that starts a transcript."""
        start = len(prompt) - len(self._prompt) + 1
        return float(np.exp(log_softmax(self._decoder.logits(memory, prompt[:start]))[self._vocabulary.no_speech]))

    def _find_language(self) -> tuple[str, list[tuple[str, float]]]:
        """The language given, or the likeliest of the first window with all languages' probabilities."""
        v = self._vocabulary
        if self._options.language or not v.multilingual:
            return v.language(self._options.language), []
        logits = self._decoder.logits(self._encode_at(0), [v.start])
        codes, ids = list(v.languages), list(v.languages.values())
        probabilities = np.exp(log_softmax(logits[ids]))
        ranked = sorted(zip(codes, map(float, probabilities), strict=True), key=lambda pair: -pair[1])
        return ranked[0][0], ranked

    def _ids(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids

    def _text(self, tokens: list[int]) -> str:
        return str(self._tokenizer.decode(tokens, clean_up_tokenization_spaces=False))


def compression_ratio(text: str) -> float:
    """How much shorter zlib makes a text: large for one that repeats itself."""
    raw = text.encode()
    return len(raw) / len(zlib.compress(raw))
