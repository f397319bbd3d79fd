"""Speech to train and test Whisper on, read aloud by espeak-ng and flite, and real recordings held out for testing.

    python benchmarks/whisper_data.py data/speech --english gsm8k/train.jsonl --real librivox --flite

Leaves train/, test/ and real/, each a folder of recordings with metadata.jsonl, as the task `speech` takes them.
Sentences come from a JSONL file of questions (English, `--field` names the column) and a JSON file of English-German
pairs (`--pairs`); no sentence is in two splits. About seven fill a recording, each with a voice, speed and pitch drawn
anew; every second transcript of train/ holds their times. Everything follows from `--seed`. `--real` is a folder of
.wav files with a Sphinx transcription (`<s> words </s> (file)`), resampled only. `--flite` has it read half of the
English: its voices are made of recordings of people, espeak-ng's of formulas, and what is tuned on those alone forgets
how people sound.
"""

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from random import Random

import numpy as np
import soundfile

from cutwork.audio import RATE, read_audio

VOICES = {
    "en": ("en-us", "en-gb", "en-gb-x-rp", "en-gb-scotland", "en-us-nyc", "en-029"),
    "de": ("de",),
}
FLITE = ("awb", "kal16", "rms", "slt")
VARIANTS = ("", "+m1", "+m3", "+m4", "+m7", "+f2", "+f3", "+f4", "+Annie", "+Andy", "+Michael", "+linda")
SPOKEN = re.compile(r"[\w ,.'?!äöüÄÖÜß-]+")  # symbols are read in too many ways
SENTENCE = re.compile(r"(?<=[.?!]) +(?=[A-ZÄÖÜ])")
WORDS = range(4, 19)
SECONDS = 29.5  # at most in a recording: what Whisper hears at a time, all of it used


def sentences(texts: Iterable[str]) -> list[str]:
    """Different sentences that can be read in one breath, in their order."""
    found = (part.strip() for text in texts for part in SENTENCE.split(text))
    return list(dict.fromkeys(part for part in found if SPOKEN.fullmatch(part) and len(part.split()) in WORDS))


def english(path: Path, field: str) -> list[str]:
    with path.open(encoding="utf-8") as lines:
        return sentences(json.loads(line)[field] for line in lines)


def german(path: Path) -> list[str]:
    return sentences(pair[1] for pair in json.loads(path.read_text(encoding="utf-8")))


def speak(text: str, language: str, draw: Random, flite: bool) -> np.ndarray:
    """A text read by a voice drawn anew, at 16 kHz."""
    with tempfile.NamedTemporaryFile(suffix=".wav") as file:
        if flite and language == "en" and draw.random() < 0.5:
            stretch = f"duration_stretch={draw.uniform(0.85, 1.2):.2f}"
            command = ["flite", "-voice", draw.choice(FLITE), "--setf", stretch, "-t", text, "-o", file.name]
        else:
            voice = draw.choice(VOICES[language]) + draw.choice(VARIANTS)
            speed, pitch, gap = draw.randint(140, 200), draw.randint(30, 70), draw.randint(0, 3)
            said = ["-v", voice, "-s", str(speed), "-p", str(pitch), "-g", str(gap), "-w", file.name]
            command = ["espeak-ng", *said, "--", text]
        subprocess.run(command, check=True)
        return read_audio(Path(file.name)) * draw.uniform(0.3, 1.0)


def window(texts: Iterator[str], language: str, draw: Random, timed: bool, flite: bool) -> tuple[np.ndarray, str]:
    """Sentences with pauses between them, as many as fit in 30 seconds, and their transcript, with times if `timed`."""
    parts, said, position = [], [], 0.0
    for text in texts:
        sound = np.trim_zeros(speak(text, language, draw, flite))
        if position + sound.size / RATE > SECONDS:
            break
        start, end = position, position + sound.size / RATE
        said.append(f"<|{round(start / 0.02) * 0.02:.2f}|> {text}<|{round(end / 0.02) * 0.02:.2f}|>" if timed else text)
        parts += [sound, np.zeros(round(draw.uniform(0.2, 0.9) * RATE), np.float32)]
        position += (sound.size + parts[-1].size) / RATE
    sound = np.concatenate(parts)
    noise = np.random.default_rng(draw.getrandbits(32)).standard_normal(sound.size) * 10 ** draw.uniform(-4, -2)
    return np.clip(sound + noise, -1, 1), ("" if timed else " ").join(said)


def make_split(
    folder: Path, texts: dict[str, Iterator[str]], count: int, draw: Random, timed: float, flite: bool
) -> None:
    """`count` windows, the languages in turn, as a folder of recordings; the fraction `timed` has times."""
    folder.mkdir(parents=True)
    with (folder / "metadata.jsonl").open("w", encoding="utf-8") as metadata:
        for number in range(count):
            language = list(texts)[number % len(texts)]
            sound, text = window(texts[language], language, draw, draw.random() < timed, flite)
            file = folder / f"{number:05d}.flac"
            soundfile.write(file, sound, RATE)
            metadata.write(json.dumps({"file_name": file.name, "text": text, "language": language}) + "\n")


def copy_real(source: Path, folder: Path) -> None:
    """Recordings with a Sphinx transcription, at 16 kHz."""
    folder.mkdir(parents=True)
    transcript = next(iter(sorted(source.glob("*transcription*"))), None)
    if transcript is None:
        sys.exit(f"{source} has no file *transcription*")
    with (folder / "metadata.jsonl").open("w", encoding="utf-8") as metadata:
        for text, name in re.findall(r"<s> (.*?) </s> \((.*?)\)", transcript.read_text(encoding="utf-8")):
            soundfile.write(folder / f"{name}.flac", read_audio(source / f"{name}.wav"), RATE)
            metadata.write(json.dumps({"file_name": f"{name}.flac", "text": text, "language": "en"}) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path)
    parser.add_argument("--english", type=Path, required=True, help="a JSONL file of texts")
    parser.add_argument("--field", default="question", help="its column")
    parser.add_argument("--pairs", type=Path, help="a JSON list of [English, German] pairs: half is German then")
    parser.add_argument("--flite", action="store_true", help="half of the English read by flite")
    parser.add_argument("--real", type=Path, help="a folder of recordings to test on")
    parser.add_argument("--train", type=int, default=320, help="recordings of up to 30 seconds")
    parser.add_argument("--test", type=int, default=16)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    for program in ["espeak-ng", *(["flite"] if options.flite else [])]:
        if shutil.which(program) is None:
            sys.exit(f"{program} is not installed; it comes with most distributions: apt-get install {program}")

    draw = Random(options.seed)
    sources = {"en": english(options.english, options.field)}
    if options.pairs:
        sources["de"] = german(options.pairs)
    for language in sources.values():
        draw.shuffle(language)
    texts = {language: iter(found) for language, found in sources.items()}
    try:
        make_split(options.output / "test", texts, options.test, draw, 0.0, options.flite)
        make_split(options.output / "train", texts, options.train, draw, 0.5, options.flite)
    except ValueError:
        sys.exit("there are not enough sentences; give more text or ask for less")
    if options.real:
        copy_real(options.real, options.output / "real")


if __name__ == "__main__":
    main()
