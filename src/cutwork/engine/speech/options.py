"""How to transcribe: the arguments of `Model.transcribe`, named and preset as in faster-whisper."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from cutwork.engine.check_options import check_options
from cutwork.errors import require

TEMPERATURES = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)


@dataclass(frozen=True)
class TranscribeOptions:
    """The defaults are those of Whisper's own transcription.

    language: a code or an English name; None: detected from the first window. task: "transcribe", or "translate" into
    English. beam_size: hypotheses of the beam search at temperature 0, 1 for greedy. best_of: samples at higher
    temperatures, of which the likeliest is kept. length_penalty, repetition_penalty, no_repeat_ngram_size: as for
    `Model.generate`. temperature: tried one after the other while a window's text repeats itself (it compresses by more
    than compression_ratio_threshold) or is unlikely (log-probability per token below log_prob_threshold).
    no_speech_threshold: a window that is more likely silence than this, and whose text is unlikely, is skipped.
    condition_on_previous_text: show the decoder the text so far, unless it came from a temperature above
    prompt_reset_on_temperature. initial_prompt: text to begin with: names, spelling, style. suppress_blank,
    suppress_tokens: what may not be written (first); -1 stands for the model's own list. without_timestamps: one
    segment per window. max_initial_timestamp: seconds before which the first segment of a window starts.
    word_timestamps: the time of every word as well. max_new_tokens: per window. vad_filter: leave silence out before
    anything else, found as vad_parameters say (see `vad.Silence`). seed: of the samples.
    """

    language: str | None = None
    task: Literal["transcribe", "translate"] = "transcribe"
    beam_size: int = 5
    best_of: int = 5
    length_penalty: float = 1.0
    repetition_penalty: float = 1.0
    no_repeat_ngram_size: int = 0
    temperature: float | Sequence[float] = TEMPERATURES
    compression_ratio_threshold: float | None = 2.4
    log_prob_threshold: float | None = -1.0
    no_speech_threshold: float | None = 0.6
    condition_on_previous_text: bool = True
    prompt_reset_on_temperature: float = 0.5
    initial_prompt: str | None = None
    suppress_blank: bool = True
    suppress_tokens: Sequence[int] | None = (-1,)
    without_timestamps: bool = False
    max_initial_timestamp: float = 1.0
    word_timestamps: bool = False
    max_new_tokens: int | None = None
    vad_filter: bool = False
    vad_parameters: Mapping[str, Any] | None = None
    seed: int | None = None

    def __post_init__(self) -> None:
        checks = {
            f'task must be "transcribe" or "translate", not {self.task!r}': self.task in ("transcribe", "translate"),
            f"beam_size must be from 1 to 64, not {self.beam_size}": 1 <= self.beam_size <= 64,
            f"best_of must be from 1 to 64, not {self.best_of}": 1 <= self.best_of <= 64,
            f"temperature must be numbers from 0 to 2, not {self.temperature}": bool(self.temperatures)
            and all(0 <= t <= 2 for t in self.temperatures),
            f"max_initial_timestamp must be 0 or more, not {self.max_initial_timestamp}": self.max_initial_timestamp
            >= 0,
            f"max_new_tokens must be at least 1, not {self.max_new_tokens}": self.max_new_tokens is None
            or self.max_new_tokens >= 1,
            "word_timestamps needs timestamps; leave without_timestamps out": not (
                self.word_timestamps and self.without_timestamps
            ),
        }
        require(checks)

    @property
    def temperatures(self) -> tuple[float, ...]:
        """One or more, in the order in which they are tried."""
        given = self.temperature
        return (float(given),) if isinstance(given, int | float) else tuple(given)


def options_from(keywords: Mapping[str, Any]) -> TranscribeOptions:
    """Options from keywords; CutworkError for an unknown one."""
    check_options(keywords, TranscribeOptions)
    return TranscribeOptions(**keywords)
