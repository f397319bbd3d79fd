"""`cutwork embed`: a file of texts into vectors."""

import base64
import io
import json
import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from cutwork.cli.console import waits_for
from cutwork.cli.loading import ModelArgument, loads_model
from cutwork.cli.options import Json, Overwrite
from cutwork.errors import CutworkError, check_text, reason
from cutwork.progress import progress_bar
from cutwork.store.fingerprint import fingerprint
from cutwork.store.journal import Journal, refuse_existing

if TYPE_CHECKING:
    import numpy as np

    from cutwork.engine.embedding.embedder import EmbedOptions
    from cutwork.engine.load_options import LoadOptions
    from cutwork.engine.model import Model

CHUNK = 4096  # texts whose lengths are sorted together


@loads_model("draft", "draft_tokens", "cache_dtype", batches=True)
def embed(
    model: ModelArgument,
    loading: "LoadOptions",
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE", help="JSONL of texts, or of objects with one in a field; any other ending: a text a line."
        ),
    ],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="A .npy of float32 \\[texts, width], or a .jsonl; none: JSONL is printed."),
    ] = None,
    field: Annotated[str, typer.Option(help="The field of JSONL's objects that holds the text.")] = "text",
    prompt_name: Annotated[
        str | None, typer.Option(help="One of the model's own prompts, such as query, before each text.")
    ] = None,
    prompt: Annotated[str | None, typer.Option(help="A text before each, instead of the model's prompt.")] = None,
    pooling: Annotated[
        str | None, typer.Option(help="cls, mean, max, lasttoken, …; default: what the model's files say, else mean.")
    ] = None,
    normalize: Annotated[
        bool | None,
        typer.Option("--normalize/--no-normalize", help="To length 1, or not; default: what the model's files say."),
    ] = None,
    dimensions: Annotated[
        int | None, typer.Option(min=1, help="Only so many numbers, of models that were trained for it.")
    ] = None,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Vectors of texts, by an encoder or another model whose files say how, as sentence-transformers writes them.

    Texts of any length; what exceeds the model's length is cut. With --output the same command goes on where it was
    interrupted.

    Example: [bold]cutwork embed sentence-transformers/all-MiniLM-L6-v2 texts.jsonl -o vectors.npy[/bold]

    Example: [bold]cutwork embed out/packed questions.txt -o questions.jsonl --prompt-name query[/bold]
    """
    if output and output.suffix not in (".npy", ".jsonl"):
        raise CutworkError(f"{output} must end in .npy or .jsonl, which says what is written")
    if output:
        refuse_existing(output, overwrite, file)
    elif overwrite:
        raise CutworkError("--overwrite is for --output alone; give that, too, or leave it out")
    if prompt is not None and prompt_name is not None:
        raise CutworkError("give either --prompt or --prompt-name, not both")
    texts, ids, lines = read_texts(file, field)
    from cutwork.engine.model import Model

    options: EmbedOptions = {
        "prompt_name": prompt_name,
        "prompt": prompt,
        "pooling": pooling,
        "normalize": normalize,
        "dimensions": dimensions,
    }
    console = Console(stderr=True)
    with ExitStack() as stack:
        loaded = stack.enter_context(Model.load(model, **loading))
        loaded.embed([], **options)  # what is wrong with the options is told at once
        if (empty := _first_empty(loaded, texts, options)) is not None:
            raise CutworkError(f"{file}, line {lines[empty]} is empty, and no vector is made of nothing; leave it out")
        key = [fingerprint(loaded.path), texts, options, loaded.loaded_with, loaded.max_context]
        journal = stack.enter_context(Journal(output, key, waits=waits_for(console, output))) if output else None
        done: dict[int, str] = dict(journal.entries) if journal else {}
        resumed = len(done)
        if resumed:
            console.print(
                f"{resumed} of {len(texts)} are embedded already", highlight=False, markup=False, soft_wrap=True
            )
        todo = [i for i in range(len(texts)) if i not in done]
        began = time.perf_counter()
        with progress_bar(console, transient=True) as bar:
            task = bar.add_task("embedding", total=len(texts), completed=resumed)
            for start in range(0, len(todo), CHUNK):
                part = todo[start : start + CHUNK]

                def progress(vectors: "Mapping[int, np.ndarray]", part: list[int] = part) -> None:
                    rows = {part[i]: base64.b64encode(vector.tobytes()).decode() for i, vector in vectors.items()}
                    done.update(rows)
                    if journal:
                        journal.add(*rows.items())
                    bar.update(task, completed=len(done))

                loaded.embed([texts[i] for i in part], progress=progress, **options)
        seconds = time.perf_counter() - began
        vectors = [done[i] for i in range(len(texts))]
        if journal and output:
            journal.finish(_npy(vectors) if output.suffix == ".npy" else _jsonl(_rows(vectors, ids)))
    if not output:
        rows = _rows(vectors, ids)
        print(json.dumps(rows, ensure_ascii=False) + "\n" if as_json else _jsonl(rows), end="")
        return
    if as_json:
        width = len(base64.b64decode(vectors[0])) // 4
        print(json.dumps({"texts": len(texts), "resumed": resumed, "width": width, "seconds": round(seconds, 3)}))
    else:
        console.print(
            f"{len(texts)} vectors in {seconds:.1f} s: {output}", highlight=False, markup=False, soft_wrap=True
        )


def _first_empty(model: "Model", texts: list[str], options: "EmbedOptions") -> int | None:
    """The first text of which the model reads no token at all, neither a special one nor a prompt's, if there is one.

    What is not blank has tokens.
    """
    assert model.embedder
    blank = [i for i, text in enumerate(texts) if not text.strip()]
    before = model.embedder.prompt(options)
    tokens = model.embedder.reader.read([before + texts[i] for i in blank]) if blank else []
    return next((i for i, found in zip(blank, tokens, strict=True) if not len(found)), None)


def read_texts(file: Path, field: str) -> tuple[list[str], list[Any], list[int]]:
    """The texts of a file, what their rows say is their `id` (None if they do not), and in which lines they are.

    CutworkError names a line.
    """
    try:
        lines = file.read_text(encoding="utf-8-sig").removesuffix("\n").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise CutworkError(f"cannot read texts from {file}: {reason(error)}") from None
    if file.suffix != ".jsonl":
        lines = [line.removesuffix("\r") for line in lines]
        texts, ids, numbers = lines, [None] * len(lines), list(range(1, len(lines) + 1))
    else:
        rows = {number: _row(file, number, line, field) for number, line in enumerate(lines, 1) if line.strip()}
        texts, ids, numbers = [text for text, _ in rows.values()], [name for _, name in rows.values()], list(rows)
    if not any(texts):
        raise CutworkError(f"{file} holds no texts")
    return texts, ids, numbers


def _row(file: Path, number: int, line: str, field: str) -> tuple[str, Any]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        raise CutworkError(f"{file}, line {number} is not JSON") from None
    text = row.get(field) if isinstance(row, dict) else row
    if not isinstance(text, str):
        raise CutworkError(f"{file}, line {number} has no text in the field {field!r}; name another with --field")
    check_text(text, f"{file}, line {number}")
    return text, row.get("id") if isinstance(row, dict) else None


def _npy(vectors: list[str]) -> bytes:
    import numpy as np

    file = io.BytesIO()
    np.save(file, np.frombuffer(b"".join(map(base64.b64decode, vectors)), np.float32).reshape(len(vectors), -1))
    return file.getvalue()


def _rows(vectors: list[str], ids: list[Any]) -> list[dict[str, Any]]:
    import numpy as np

    rows = []
    for index, (vector, name) in enumerate(zip(vectors, ids, strict=True)):
        numbers = [float(f"{number:.9g}") for number in np.frombuffer(base64.b64decode(vector), np.float32).tolist()]
        rows.append({"index": index, **({} if name is None else {"id": name}), "embedding": numbers})
    return rows


def _jsonl(rows: list[dict[str, Any]]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
