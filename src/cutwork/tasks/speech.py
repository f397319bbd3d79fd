"""Recordings and their transcripts: Common Voice, or any folder of audio with a file of transcripts."""

from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from cutwork.errors import CutworkError
from cutwork.tasks.table import rows
from cutwork.tasks.task import Sample, Task

RATE = 16_000  # hertz, of what speech models hear


def common_voice(
    train_samples: int,
    test_samples: int,
    *,
    directory: str,
    language: str = "hi",
    audio: str = "path",
    transcript: str = "sentence",
) -> Task:
    """The first recordings of a folder such as Common Voice's for one language (commonvoice.mozilla.org).

    `directory` holds train and test as .tsv, .csv or .jsonl files of rows with the columns `audio`, a file's name
    (also below `clips`, as Common Voice has it), and `transcript`. `language` is what the decoder is told. Raises
    CutworkError for what cannot be read.
    """
    parts = []
    for split, count in (("train", train_samples), ("test", test_samples)):
        found = _recordings(Path(directory), split, audio, transcript)
        samples = (Sample(language, text, audio=sound) for sound, text in islice(found, count))
        parts.append(tuple(samples))
    return Task("common_voice", *parts)


def read_audio(path: Path) -> np.ndarray:
    """A recording as mono float32 at 16 kHz, whatever it is stored as; CutworkError if it cannot be read."""
    try:
        import soundfile
        import soxr
    except ImportError:
        raise CutworkError("recordings need soundfile and soxr; install: pip install 'cutwork[train]'") from None
    try:
        sound, rate = soundfile.read(path, dtype="float32", always_2d=True)
    except (OSError, RuntimeError) as error:
        raise CutworkError(f"cannot read the recording {path}: {error}") from None
    mono = sound.mean(axis=1)
    resampled: np.ndarray = mono if rate == RATE else soxr.resample(mono, rate, RATE)
    return resampled.astype(np.float32, copy=False)


def _recordings(directory: Path, split: str, audio: str, transcript: str) -> Iterator[tuple[np.ndarray, str]]:
    for number, row in enumerate(_transcripts(directory, split), 1):
        name, text = row.get(audio), row.get(transcript)
        if not isinstance(name, str) or not isinstance(text, str) or not text:
            raise CutworkError(f"{directory}, {split}, row {number}: expected '{audio}' and '{transcript}'")
        place = next((folder / name for folder in (directory, directory / "clips") if (folder / name).is_file()), None)
        if place is None:
            raise CutworkError(f"{directory}, {split}, row {number}: there is no recording {name}")
        yield read_audio(place), text


def _transcripts(directory: Path, split: str) -> Iterable[Mapping[str, Any]]:
    for suffix in (".tsv", ".csv", ".jsonl"):
        file = directory / f"{split}{suffix}"
        if file.is_file():
            return rows(str(file))
    raise CutworkError(f"{directory} has no {split}.tsv, {split}.csv or {split}.jsonl with the transcripts")
