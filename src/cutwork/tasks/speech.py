"""Recordings and their transcripts: Common Voice, or any folder of audio with a file of transcripts."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from cutwork.audio import read_audio
from cutwork.errors import CutworkError
from cutwork.tasks.table import rows
from cutwork.tasks.task import Sample, Task

_LISTINGS = ("metadata", "transcripts")


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
    (also below `clips`, as Common Voice has it), and `transcript`. `language` is what the decoder is told. Recordings
    without a transcript are left out of the test, and of training where tokens are made. Raises CutworkError for what
    cannot be read.
    """
    parts: list[tuple[Sample, ...]] = []
    for split, count in (("train", train_samples), ("test", test_samples)):
        if not count:
            parts.append(())
            continue
        folders, where = [Path(directory), Path(directory) / "clips"], f"{directory}, {split}"
        recordings = _recordings(_transcripts(Path(directory), split), folders, where, audio, transcript, language)
        parts.append(_first(recordings, count, for_training=not parts))
    return Task("common_voice", *parts, metric="speech")


def speech(
    train_samples: int,
    test_samples: int,
    *,
    directory: str,
    train: str = "train",
    test: str = "test",
    audio: str = "file_name",
    transcript: str = "text",
    language: str = "",
) -> Task:
    """The first recordings of a folder of audio with a file of transcripts, as Hugging Face's audiofolder has it.

    `directory` holds the folders `train` (none is no error) and `test`, or is itself the recordings to test on. In
    each, metadata.jsonl, metadata.csv, metadata.tsv, transcripts.jsonl, … names in the column `audio` any file that
    libsndfile reads and gives its `transcript`; a column `language` tells the decoder the language, which is otherwise
    `language`: a code or a name, none for English-only models. Recordings without a transcript are left out as in
    `common_voice`. Raises CutworkError for what cannot be read.
    """
    root = Path(directory).expanduser()
    parts: list[tuple[Sample, ...]] = []
    for split, count in ((train, train_samples), (test, test_samples)):
        folder = root / split
        if not folder.is_dir() and split == test and _listing(root):
            folder = root
        if not count or (not folder.is_dir() and split == train):
            parts.append(())
            continue
        listing = _listing(folder)
        if listing is None:
            names = " or ".join(f"{stem}.jsonl" for stem in _LISTINGS)
            raise CutworkError(f"{folder} has no {names} (or .csv, .tsv) that gives the transcripts of its recordings")
        recordings = _recordings(rows(str(listing)), [folder], str(listing), audio, transcript, language)
        parts.append(_first(recordings, count, for_training=not parts))
    return Task("speech", *parts, metric="speech")


def _first(recordings: Iterable[Sample], count: int, for_training: bool) -> tuple[Sample, ...]:
    """The first samples; empty ones too if they are for training, which counts what it leaves out."""
    return tuple(islice((sample for sample in recordings if for_training or not sample.is_empty), count))


def _recordings(
    transcripts: Iterable[Mapping[str, Any]],
    folders: Sequence[Path],
    where: str,
    audio: str,
    transcript: str,
    language: str,
) -> Iterator[Sample]:
    for number, row in enumerate(transcripts, 1):
        name, text = row.get(audio), row.get(transcript, 0)
        if not isinstance(name, str) or not isinstance(text, str | None):
            raise CutworkError(f"{where}, row {number}: expected '{audio}' and '{transcript}'")
        if not text or not text.strip():  # nothing is said
            yield Sample("", "")
            continue
        place = next((folder / name for folder in folders if (folder / name).is_file()), None)
        if place is None:
            raise CutworkError(f"{where}, row {number}: there is no recording {name}")
        yield Sample(row.get("language") or language, text, audio=read_audio(place))


def _listing(folder: Path) -> Path | None:
    """The file of transcripts in a folder."""
    names = (f"{stem}{suffix}" for stem in _LISTINGS for suffix in (".jsonl", ".csv", ".tsv"))
    return next((folder / name for name in names if (folder / name).is_file()), None)


def _transcripts(directory: Path, split: str) -> Iterable[Mapping[str, Any]]:
    for suffix in (".tsv", ".csv", ".jsonl"):
        file = directory / f"{split}{suffix}"
        if file.is_file():
            return rows(str(file), quotes=False)  # Common Voice writes a text's quotes as they are
    raise CutworkError(f"{directory} has no {split}.tsv, {split}.csv or {split}.jsonl with the transcripts")
