"""The log-mel spectrogram that Whisper hears, as transformers' WhisperFeatureExtractor computes it."""

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from cutwork.audio import RATE
from cutwork.errors import CutworkError

_CHUNK = 6000  # frames transformed at a time, so that an hour of sound needs little memory


@dataclass(frozen=True)
class Spectrogram:
    """How a recording becomes a picture: `mels` bands of frames `hop` samples apart, each of `size` samples."""

    mels: int = 80
    size: int = 400
    hop: int = 160

    @classmethod
    def of_model(cls, path: Path, mels: int) -> "Spectrogram":
        """As a model directory's preprocessor_config.json says, if it is there; CutworkError if it does not fit."""
        file = path / "preprocessor_config.json"
        if not file.is_file():
            return cls(mels)
        try:
            settings = json.loads(file.read_text(encoding="utf-8"))
            found = cls(settings.get("feature_size", mels), settings.get("n_fft", 400), settings.get("hop_length", 160))
        except (OSError, ValueError, AttributeError) as error:
            raise CutworkError(f"cannot read {file}: {error}") from None
        if found != cls(mels) or settings.get("sampling_rate", RATE) != RATE:
            raise CutworkError(f"{file} asks for features that a Whisper of {mels} mel bands does not hear")
        return found

    def frames(self, sound: np.ndarray) -> int:
        """How many frames a recording gives."""
        return len(sound) // self.hop

    def __call__(self, sound: np.ndarray) -> np.ndarray:
        """The spectrogram float32 [mels, frames] of a recording, mono float32 at 16 kHz.

        Decibels are counted from the loudest place of the whole recording, as transformers does.
        """
        padded = np.pad(sound.astype(np.float32, copy=False), self.size // 2, mode="reflect")
        windows = np.lib.stride_tricks.sliding_window_view(padded, self.size)[:: self.hop][: self.frames(sound)]
        picture = np.empty((self.mels, len(windows)), np.float32)
        for start in range(0, len(windows), _CHUNK):
            waves = np.fft.rfft(windows[start : start + _CHUNK] * self._hann)
            energy = (waves.real**2 + waves.imag**2).astype(np.float32)
            picture[:, start : start + _CHUNK] = self._bands @ energy.T
        np.log10(np.maximum(picture, 1e-10, out=picture), out=picture)
        np.maximum(picture, picture.max() - 8.0, out=picture)
        picture += 4.0  # in place: an hour has hundreds of megabytes
        picture /= 4.0
        return picture

    @cached_property
    def _hann(self) -> np.ndarray:
        return (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(self.size) / self.size)).astype(np.float32)

    @cached_property
    def _bands(self) -> np.ndarray:
        """The triangular filters [mels, size / 2 + 1]."""
        from transformers.audio_utils import mel_filter_bank

        bank = mel_filter_bank(self.size // 2 + 1, self.mels, 0.0, RATE / 2, RATE, norm="slaney", mel_scale="slaney")
        return np.ascontiguousarray(bank.T, np.float32)
