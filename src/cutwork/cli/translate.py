"""`cutwork translate`: texts or files of sentences from one language to another."""

import json
import sys
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from cutwork.cli.console import waits_for
from cutwork.cli.loading import ModelArgument, loads_model
from cutwork.cli.options import Overwrite
from cutwork.errors import CutworkError, reason
from cutwork.progress import progress_bar
from cutwork.store.directory import read_config
from cutwork.store.fingerprint import fingerprint
from cutwork.store.journal import Journal, refuse_existing

if TYPE_CHECKING:
    from cutwork.engine.load_options import LoadOptions
    from cutwork.engine.model import Model
    from cutwork.engine.processes import ModelProcesses
    from cutwork.engine.translation import TranslateOptions


@loads_model("draft", "draft_tokens", batches=True)
def translate(
    model: ModelArgument,
    loading: "LoadOptions",
    text: Annotated[
        list[str] | None, typer.Argument(help="Texts to translate; none: standard input, by lines.")
    ] = None,
    file: Annotated[Path | None, typer.Option("--file", "-f", help="A UTF-8 file, one sentence a line.")] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write the translations here, by lines.")
    ] = None,
    num_beams: Annotated[
        int | None,
        typer.Option(min=1, max=64, help="Hypotheses kept at a time; 1: greedy; default: as the model says, or 5."),
    ] = None,
    length_penalty: Annotated[
        float | None,
        typer.Option(help="Above 0 favours long translations, below 0 short; default: as the model says, or 1."),
    ] = None,
    no_repeat_ngram_size: Annotated[
        int | None, typer.Option(min=0, help="No run of so many tokens twice; 0: any; default: as the model says.")
    ] = None,
    max_new_tokens: Annotated[
        int | None, typer.Option("--max-new-tokens", "-n", min=1, help="Default: three times the text's, and 32.")
    ] = None,
    prefix: Annotated[
        str | None, typer.Option(help="Put before each text; default: what the model's config says.")
    ] = None,
    source: Annotated[
        str | None, typer.Option(help="The texts' language, of models with many: eng_Latn, en_XX.")
    ] = None,
    target: Annotated[str | None, typer.Option(help="The language to translate to: deu_Latn, de_DE, de.")] = None,
    max_batch: Annotated[int, typer.Option(min=1, max=1024, help="Sequences computed together, beams included.")] = 64,
    workers: Annotated[
        int,
        typer.Option(
            min=1,
            max=1024,
            help="Processes that share the texts and the threads, each with the model in memory and a batch of its "
            "own: as many as cores are quickest for many texts and a small model.",
        ),
    ] = 1,
    overwrite: Overwrite = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Write JSON instead of text, to --output if that is given.")
    ] = False,
) -> None:
    """Translate with T5 or another encoder-decoder. Lines stay lines; empty ones stay empty.

    With --output the same command goes on where it was interrupted.

    Example: [bold]cutwork translate google-t5/t5-small "How are you?" --prefix "translate English to German: "[/bold]

    Example: [bold]cutwork translate facebook/nllb-200-1.3B "Hello." --source eng_Latn --target deu_Latn[/bold]

    Example: [bold]cutwork translate out/packed --file news.en --output news.de --num-beams 5 --workers 8[/bold]
    """
    texts = _texts(text, file)
    if output:
        refuse_existing(output, overwrite, file)
    elif overwrite:
        raise CutworkError("--overwrite is for --output alone; give that, too, or leave it out")
    if num_beams == 1 and length_penalty is not None:
        raise CutworkError("--length-penalty is for beam search; give --num-beams above 1, or leave it out")
    options: TranslateOptions = {"prefix": prefix, "source": source, "target": target}
    if length_penalty is not None:
        options["length_penalty"] = length_penalty
    if no_repeat_ngram_size is not None:
        options["no_repeat_ngram_size"] = no_repeat_ngram_size
    if max_new_tokens:
        options["max_new_tokens"] = max_new_tokens
    console = Console(stderr=True)
    with ExitStack() as stack:
        loaded = _load(model, min(workers, len(texts)), loading | {"max_batch": max(max_batch, num_beams or 1)})
        stack.callback(loaded.close)
        # Said here, so that what goes on later does so with as many, whatever its --max-batch is.
        options["num_beams"] = num_beams or _usual_beams(loaded.path, max_batch)
        key = [fingerprint(loaded.path), texts, options, loaded.loaded_with]
        journal = stack.enter_context(Journal(output, key, waits=waits_for(console, output))) if output else None
        done: dict[int, dict[str, Any]] = dict(journal.entries) if journal else {}
        if done:
            console.print(
                f"{len(done)} of {len(texts)} are translated already", highlight=False, markup=False, soft_wrap=True
            )
        todo = [i for i in range(len(texts)) if i not in done]
        with progress_bar(console, transient=True) as bar:
            task = bar.add_task("translating", total=len(texts), completed=len(done))

            def progress(finished: Mapping[int, Any]) -> None:
                rows = {
                    todo[i]: {
                        "source": texts[todo[i]],
                        "translation": result.text,
                        "score": result.score,
                        "tokens": len(result.tokens),
                        "finish_reason": result.finish_reason,
                    }
                    for i, result in finished.items()
                }
                done.update(rows)
                if journal:
                    journal.add(*rows.items())
                bar.update(task, completed=len(done))

            loaded.translate([texts[i] for i in todo], progress=progress, **options)
        rows = [done[i] for i in range(len(texts))]
        written = json.dumps(rows, ensure_ascii=False, indent=1) if as_json else "\n".join(_line(row) for row in rows)
        if journal:
            journal.finish(written + "\n")
            cut = sum(row["finish_reason"] == "length" for row in rows)
            more = f"; {cut} were cut off by --max-new-tokens" if cut else ""
            console.print(f"{len(rows)} translations: {output}{more}", highlight=False, markup=False, soft_wrap=True)
        else:
            print(written)


def _load(model: str, workers: int, loading: "LoadOptions") -> "Model | ModelProcesses":
    if workers > 1:
        from cutwork.engine.processes import ModelProcesses

        return ModelProcesses(model, workers, **loading)
    from cutwork.engine.model import Model

    return Model.load(model, **loading)


def _usual_beams(path: Path, most: int) -> int:
    from cutwork.engine.generation_config import generation_settings, usual_beams
    from cutwork.engine.translation import NUM_BEAMS

    return usual_beams(generation_settings(path, read_config(path)), NUM_BEAMS, most)


def _line(row: Mapping[str, Any]) -> str:
    return " ".join(str(row["translation"]).split("\n"))


def _texts(arguments: list[str] | None, file: Path | None) -> list[str]:
    if file and arguments:
        raise CutworkError("give texts either as arguments or with --file, not both")
    if arguments:
        texts = list(arguments)
    elif file:
        try:
            texts = _lines(file.read_text(encoding="utf-8-sig"))
        except (OSError, UnicodeDecodeError) as error:
            raise CutworkError(f"cannot read texts from {file}: {reason(error)}") from None
    elif sys.stdin.isatty():
        raise CutworkError("nothing to translate; give a text, --file or lines on standard input")
    else:
        texts = _lines(sys.stdin.read())
    if not any(text.strip() for text in texts):
        raise CutworkError("there is nothing to translate: all is empty")
    return texts


def _lines(content: str) -> list[str]:
    """Lines as other tools count them: str.splitlines also cuts at form feeds and the like."""
    return [line.removesuffix("\r") for line in content.removesuffix("\n").split("\n")]
