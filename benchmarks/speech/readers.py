"""Programs and models that read a sentence aloud: espeak-ng, flite, Piper's voices, Kokoro."""

import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from random import Random

import numpy as np
import soxr

from cutwork.audio import RATE, read_audio

Reader = Callable[[str, Random], np.ndarray]
"""A sentence and how to draw voice and speed -> mono float32 at 16 kHz."""

ESPEAK = {
    "en": ("en-us", "en-gb", "en-gb-x-rp", "en-gb-scotland", "en-us-nyc", "en-029"),
    "de": ("de",),
}
VARIANTS = ("", "+m1", "+m3", "+m4", "+m7", "+f2", "+f3", "+f4", "+Annie", "+Andy", "+Michael", "+linda")
FLITE = ("awb", "kal16", "rms", "slt")


def espeak(language: str) -> Reader:
    """espeak-ng: many voices, all made of formulas."""

    def read(text: str, draw: Random) -> np.ndarray:
        voice = draw.choice(ESPEAK[language]) + draw.choice(VARIANTS)
        speed, pitch, gap = draw.randint(140, 200), draw.randint(30, 70), draw.randint(0, 3)
        said = ["-v", voice, "-s", str(speed), "-p", str(pitch), "-g", str(gap)]
        return _run(["espeak-ng", *said], ["--", text], "-w")

    return read


def flite(text: str, draw: Random) -> np.ndarray:
    """Flite: English voices made of recordings of people."""
    stretch = f"duration_stretch={draw.uniform(0.85, 1.2):.2f}"
    return _run(["flite", "-voice", draw.choice(FLITE), "--setf", stretch], ["-t", text], "-o")


def piper(path: Path) -> tuple[str, Reader]:
    """The language and reader of a Piper voice (a .onnx file with its .onnx.json), a VITS; needs `piper-tts`."""
    from piper import PiperVoice, SynthesisConfig

    voice = PiperVoice.load(str(path))

    def read(text: str, draw: Random) -> np.ndarray:
        how = SynthesisConfig(
            speaker_id=draw.randrange(voice.config.num_speakers) if voice.config.num_speakers > 1 else None,
            length_scale=draw.uniform(0.85, 1.2),
            noise_scale=draw.uniform(0.4, 0.9),
            noise_w_scale=draw.uniform(0.5, 1.0),
        )
        sound = np.concatenate([chunk.audio_float_array for chunk in voice.synthesize(text, how)])
        return _resampled(sound, voice.config.sample_rate)

    return voice.config.espeak_voice[:2], read


def kokoro(model: Path, voices: Path) -> Reader:
    """English by Kokoro-82M and whatever voices there are for it; needs `kokoro-onnx`."""
    from kokoro_onnx import Kokoro

    speaker = Kokoro(str(model), str(voices))
    names = sorted(speaker.get_voices())

    def read(text: str, draw: Random) -> np.ndarray:
        sound, rate = speaker.create(text, voice=draw.choice(names), speed=draw.uniform(0.85, 1.2), lang="en-us")
        return _resampled(sound, rate)

    return read


def _run(command: list[str], text: list[str], output: str) -> np.ndarray:
    with tempfile.NamedTemporaryFile(suffix=".wav") as file:
        subprocess.run([*command, output, file.name, *text], check=True)
        return read_audio(Path(file.name))


def _resampled(sound: np.ndarray, rate: float) -> np.ndarray:
    return soxr.resample(sound.astype(np.float32), rate, RATE)
