"""Speech to train and test Whisper on, read aloud by machines, and real recordings held out for testing.

    python -m benchmarks.speech.data data/speech --english gsm8k/train.jsonl --real librivox --flite \\
        --recorded en=LJSpeech-1.1

Leaves train/, test/ and real/, each a folder of recordings with metadata.jsonl, as the task `speech` takes them.
Sentences come from a JSONL file of questions (English, `--field` names the column) and a JSON file of English-German
pairs (`--pairs`); no sentence is in two splits. About seven fill a recording, each by a reader, voice, speed and pitch
drawn anew, in rooms and noise; every second transcript of train/ holds their times. Everything but the reading models'
own chance follows from `--seed`. `--real` is a folder of .wav files with a Sphinx transcription (`<s> words </s>
(file)`), resampled only.

espeak-ng always reads. Its voices are made of formulas, and what is tuned on those alone forgets how people sound:
`--flite` and each voice of `--piper` (github.com/OHF-Voice/piper1-gpl; pip install piper-tts) read as many sentences as
it, `--kokoro` (pip install kokoro-onnx) a third of that. Better are people: `--recorded LANGUAGE=FOLDER`, a corpus of
sentences laid out as LJ Speech is (metadata.csv with `name|text`, wavs/name.wav), adds windows of all its sentences to
train/ but of a tenth, which goes to real/ as recorded. With `--held-out NAME LANGUAGE FOLDER`, other such corpora, of
books or readers that are not in the first, go to NAME/ as recorded, and all of what is `--recorded` is for training.
"""

import argparse
import json
import os
import re
import shutil
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import islice
from multiprocessing import Pool as make_pool
from multiprocessing import current_process
from multiprocessing.pool import Pool
from pathlib import Path
from random import Random

import numpy as np
import soundfile
import soxr
from rich.console import Console
from rich.progress import track

from benchmarks.speech import readers
from benchmarks.speech.readers import Reader
from cutwork.audio import RATE, read_audio

SPOKEN = re.compile(r"[\w ,.'?!äöüÄÖÜß-]+")  # symbols are read in too many ways
SENTENCE = re.compile(r"(?<=[.?!]) +(?=[A-ZÄÖÜ])")
WORDS = range(4, 19)
SECONDS = 29.5  # at most in a recording: what Whisper hears at a time, all of it used
PAUSES = (0.2, 0.9)  # seconds between sentences
SLOWEST = 1.14  # how much longer a sentence can become
MOST = 12  # sentences for a recording; about seven fit


def sentences(texts: Iterable[str]) -> list[str]:
    """Different sentences that can be read in one breath, in their order."""
    found = (part.strip() for text in texts for part in SENTENCE.split(text))
    return list(dict.fromkeys(part for part in found if SPOKEN.fullmatch(part) and len(part.split()) in WORDS))


def english(path: Path, field: str) -> list[str]:
    with path.open(encoding="utf-8") as lines:
        return sentences(json.loads(line)[field] for line in lines)


def german(path: Path) -> list[str]:
    return sentences(pair[1] for pair in json.loads(path.read_text(encoding="utf-8")))


@dataclass(frozen=True)
class Window:
    """What a recording is made of: sentences, of which as many are read as fit, and the seed of its chance.

    `sounds`, where given, are the sentences spoken by people; `plain` leaves out all that alters a sound.
    """

    file: Path
    language: str
    texts: tuple[str, ...]
    timed: bool
    seed: str
    sounds: tuple[Path, ...] = ()
    plain: bool = False


_readers: dict[str, list[Reader]] = {}  # of this process, by language; models are loaded once


def prepare(flite: bool, voices: Sequence[Path], kokoro: Sequence[Path]) -> None:
    """Loads the readers of a worker, which gets one core: onnxruntime has as many threads as it sees cores."""
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[current_process()._identity[0] % len(cores)]})
    for language in readers.ESPEAK:
        _readers[language] = [readers.espeak(language)]
    if flite:
        _readers["en"].append(readers.flite)
    for voice in voices:
        language, reader = readers.piper(voice)
        _readers.setdefault(language, []).append(reader)
    if kokoro:
        _readers["en"] = [*3 * _readers["en"], readers.kokoro(*kokoro)]  # slow


def record(window: Window) -> dict[str, str]:
    """Reads sentences with pauses between them, as many as fit in 30 seconds, and writes the recording.

    Each has a reader, voice, speed and pitch of its own, the whole a room and noise. Returns its line of metadata, the
    transcript with times if `timed`.
    """
    draw = Random(window.seed)
    parts, said, position = [], [], 0.0
    for number, text in enumerate(window.texts):
        if window.sounds:
            sound = read_audio(window.sounds[number])
        else:
            sound = draw.choice(_readers[window.language])(text, draw)
        if not window.plain:
            stretched = soxr.resample(sound, RATE * draw.uniform(0.88, SLOWEST), RATE)
            sound = np.trim_zeros(stretched) * draw.uniform(0.3, 1.0)
        end = position + sound.size / RATE
        if end > SECONDS:
            break
        said.append(
            f"<|{round(position / 0.02) * 0.02:.2f}|> {text}<|{round(end / 0.02) * 0.02:.2f}|>"
            if window.timed
            else text
        )
        parts += [sound, np.zeros(round(draw.uniform(*PAUSES) * RATE), np.float32)]
        position = end + parts[-1].size / RATE
    sound = np.concatenate(parts)
    chance = np.random.default_rng(draw.getrandbits(32))
    if not window.plain:
        if draw.random() < 0.5:
            sound = in_a_room(sound, draw.uniform(0.05, 0.5), draw.uniform(0.1, 0.6), chance)
        sound = sound + chance.standard_normal(sound.size) * 10 ** draw.uniform(-4, -2)
    soundfile.write(window.file, np.clip(sound, -1, 1), RATE)
    text = ("" if window.timed else " ").join(said)
    return {"file_name": window.file.name, "text": text, "language": window.language}


def in_a_room(sound: np.ndarray, seconds: float, share: float, chance: np.random.Generator) -> np.ndarray:
    """A sound with its echo: noise that decays by 60 dB in `seconds`, `share` of the power."""
    echo = chance.standard_normal(round(seconds * RATE)) * 10 ** (-3 * np.linspace(0, 1, round(seconds * RATE)))
    echo *= np.sqrt(share / (1 - share)) / np.linalg.norm(echo)
    echo[0] += 1
    length = sound.size + echo.size - 1
    return np.fft.irfft(np.fft.rfft(sound, length) * np.fft.rfft(echo, length), length)[: sound.size] * (1 - share)


def read_windows(folder: Path, texts: dict[str, Iterator[str]], count: int, draw: Random, timed: float) -> list[Window]:
    """`count` windows to be read aloud, the languages in turn; the fraction `timed` has times."""
    windows = []
    for number in range(count):
        language = list(texts)[number % len(texts)]
        mine = tuple(islice(texts[language], MOST))
        if len(mine) < MOST:
            sys.exit("there are not enough sentences; give more text or ask for less")
        seed = f"{folder.name} {draw.getrandbits(64)}"
        windows.append(Window(folder / f"{number:05d}.flac", language, mine, draw.random() < timed, seed))
    return windows


def corpus(folder: Path) -> list[tuple[Path, str, float]]:
    """(recording, sentence, seconds) of a corpus laid out as LJ Speech is, its folder of recordings of any name."""
    listing = folder / "metadata.csv"
    if not listing.is_file():
        sys.exit(f"{folder} has no metadata.csv of lines `name|text`")
    sounds = {file.stem: file for file in sorted(folder.glob("*/*")) if file.suffix in (".wav", ".flac", ".ogg")}
    lines = [line.split("|") for line in listing.read_text(encoding="utf-8").splitlines()]
    found = [(sounds[line[0]], line[1]) for line in lines if len(line) > 1 and line[0] in sounds]
    if not found:
        sys.exit(f"none of the names in {listing} is a .wav, .flac or .ogg in a folder beside it")
    timed = [(file, text, soundfile.info(file).duration) for file, text in found]
    return [row for row in timed if SLOWEST * row[2] <= SECONDS]


def spoken_windows(
    folder: Path, language: str, spoken: list[tuple[Path, str, float]], draw: Random, timed: float, plain: bool
) -> list[Window]:
    """Windows of all sentences that people spoke, in their order, each window as full as is sure to fit."""
    windows: list[Window] = []
    slowest = 1.0 if plain else SLOWEST
    start = 0
    while start < len(spoken):
        end, seconds = start, 0.0
        while end < len(spoken) and seconds + slowest * spoken[end][2] <= SECONDS:
            seconds += slowest * spoken[end][2] + PAUSES[1]
            end += 1
        files, texts, _ = zip(*spoken[start:end], strict=True)
        name = f"{language}-{Path(files[0]).stem}.flac"
        seed = f"{folder.name} {draw.getrandbits(64)}"
        windows.append(Window(folder / name, language, texts, draw.random() < timed, seed, files, plain))
        start = end
    return windows


def make_split(folder: Path, windows: list[Window], pool: Pool) -> None:
    """A folder of recordings with their transcripts."""
    folder.mkdir(parents=True)
    with (folder / "metadata.jsonl").open("w", encoding="utf-8") as metadata:
        shown = f"reading {folder.name}"
        for line in track(pool.imap(record, windows), shown, len(windows), console=Console(stderr=True)):
            metadata.write(json.dumps(line) + "\n")


def copy_real(source: Path, folder: Path) -> None:
    """Adds recordings with a Sphinx transcription, at 16 kHz."""
    folder.mkdir(parents=True, exist_ok=True)
    transcript = next(iter(sorted(source.glob("*transcription*"))), None)
    if transcript is None:
        sys.exit(f"{source} has no file *transcription*")
    with (folder / "metadata.jsonl").open("a", encoding="utf-8") as metadata:
        for text, name in re.findall(r"<s> (.*?) </s> \((.*?)\)", transcript.read_text(encoding="utf-8")):
            soundfile.write(folder / f"{name}.flac", read_audio(source / f"{name}.wav"), RATE)
            metadata.write(json.dumps({"file_name": f"{name}.flac", "text": text, "language": "en"}) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path)
    parser.add_argument("--english", type=Path, required=True, help="a JSONL file of texts")
    parser.add_argument("--field", default="question", help="its column")
    parser.add_argument("--pairs", type=Path, help="a JSON list of [English, German] pairs: half is German then")
    parser.add_argument("--flite", action="store_true", help="flite reads English too")
    parser.add_argument("--piper", type=Path, nargs="+", default=[], metavar="VOICE.onnx", help="so do these voices")
    parser.add_argument("--kokoro", type=Path, nargs=2, default=[], metavar=("MODEL.onnx", "VOICES"), help="and this")
    parser.add_argument("--recorded", nargs="+", default=[], metavar="LANGUAGE=FOLDER", help="sentences people spoke")
    parser.add_argument(
        "--held-out",
        nargs=3,
        action="append",
        default=[],
        metavar=("NAME", "LANGUAGE", "FOLDER"),
        help="and to test on",
    )
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="processes that read")
    parser.add_argument("--real", type=Path, help="a folder of recordings to test on")
    parser.add_argument("--train", type=int, default=320, help="recordings of up to 30 seconds")
    parser.add_argument("--test", type=int, default=16)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    for program in ["espeak-ng", *(["flite"] if options.flite else [])]:
        if shutil.which(program) is None:
            sys.exit(f"{program} is not installed; it comes with most distributions: apt-get install {program}")

    for package, module, files in (
        ("piper-tts", "piper", options.piper),
        ("kokoro-onnx", "kokoro_onnx", options.kokoro),
    ):
        if files and find_spec(module) is None:  # a worker that cannot start is started again and again
            sys.exit(f"{package} is not installed: pip install {package}")
        for file in files:
            if not file.is_file():
                sys.exit(f"there is no file {file}")

    draw = Random(options.seed)
    sources = {"en": english(options.english, options.field)}
    if options.pairs:
        sources["de"] = german(options.pairs)
    for language in sources.values():
        draw.shuffle(language)
    texts = {language: iter(found) for language, found in sources.items()}
    loaded = (options.flite, options.piper, options.kokoro)
    test = read_windows(options.output / "test", texts, options.test, draw, 0.0)
    train = read_windows(options.output / "train", texts, options.train, draw, 0.5)
    real: list[Window] = []
    languages = ", ".join(readers.ESPEAK)
    for given in options.recorded:
        language, _, folder = given.partition("=")
        if language not in readers.ESPEAK or not folder:
            sys.exit(f"--recorded {given}: expected LANGUAGE=FOLDER with one of the languages {languages}")
        spoken = corpus(Path(folder))
        kept = len(spoken) - (0 if options.held_out else len(spoken) // 10)
        train += spoken_windows(options.output / "train", language, spoken[:kept], draw, 0.5, plain=False)
        real += spoken_windows(options.output / "real", language, spoken[kept:], draw, 0.0, plain=True)
    splits = {"test": test, "train": train, "real": real}
    for name, language, folder in options.held_out:
        if language not in readers.ESPEAK:
            sys.exit(f"--held-out {name} {language} {folder}: the languages are {languages}")
        file = options.output / name
        windows = spoken_windows(file, language, corpus(Path(folder)), draw, 0.0, plain=True)
        splits[name] = [*splits.get(name, []), *windows]
    draw.shuffle(train)  # a task takes the first ones
    with make_pool(options.jobs, prepare, loaded) as pool:
        for split, windows in splits.items():
            if windows:
                make_split(options.output / split, windows, pool)
    if options.real:
        copy_real(options.real, options.output / "real")


if __name__ == "__main__":
    main()
