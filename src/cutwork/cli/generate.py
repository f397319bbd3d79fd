"""`cutwork generate`: continue a prompt."""

import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console
from rich.text import Text

from cutwork.cli.console import print_json
from cutwork.cli.loading import (
    AdapterOption,
    ModelArgument,
    check_writes_text,
    loads_model,
    tell_layouts,
    with_adapter,
    with_draft,
)
from cutwork.cli.options import Json, MinP, RepetitionPenalty, Seed, Temperature, TopK, TopP, given
from cutwork.errors import CutworkError, reason

if TYPE_CHECKING:
    from cutwork.engine.decoding.options import GenerateOptions
    from cutwork.engine.load_options import LoadOptions
    from cutwork.engine.model import Model


@loads_model()
def generate(
    model: ModelArgument,
    loading: "LoadOptions",
    prompt: Annotated[list[str] | None, typer.Argument(help="One or more prompts; none: standard input.")] = None,
    max_new_tokens: Annotated[int, typer.Option("--max-new-tokens", "-n", min=1, help="Tokens to add at most.")] = 128,
    temperature: Temperature = 0.0,
    top_k: TopK = 0,
    top_p: TopP = 1.0,
    min_p: MinP = 0.0,
    repetition_penalty: RepetitionPenalty = None,
    seed: Seed = None,
    num_return_sequences: Annotated[int, typer.Option(min=1, help="Answers per prompt.")] = 1,
    num_beams: Annotated[int, typer.Option(min=1, max=64, help="Above 1: beam search.")] = 1,
    length_penalty: Annotated[
        float | None, typer.Option(help="Beam search: above 0 favours long answers; default: as the model says, or 1.")
    ] = None,
    early_stopping: Annotated[
        Literal["false", "true", "never"] | None,
        typer.Option(help="Beam search: when to end, as in transformers; default: as the model says, or false."),
    ] = None,
    num_beam_groups: Annotated[int, typer.Option(min=1, help="Beam search: groups kept apart.")] = 1,
    diversity_penalty: Annotated[float, typer.Option(min=0, help="Beam search: how far apart.")] = 0.0,
    no_repeat_ngram_size: Annotated[
        int | None, typer.Option(min=0, help="No run of so many tokens twice; 0: any; default: as the model says.")
    ] = None,
    min_new_tokens: Annotated[
        int | None, typer.Option(min=0, help="Tokens to add at least; default: as the model says.")
    ] = None,
    suppress_tokens: Annotated[
        list[int] | None, typer.Option("--suppress-token", help="Never this token id; may be given several times.")
    ] = None,
    stop: Annotated[list[str] | None, typer.Option(help="Stop before this text; may be given several times.")] = None,
    adapter: AdapterOption = None,
    use_chat_template: Annotated[
        bool,
        typer.Option(
            "--chat-template", help="Ask as tune and eval do: by the model's chat template, or else 'Question: …'."
        ),
    ] = False,
    file: Annotated[Path | None, typer.Option("--file", "-f", help="Read prompts from this file, one a line.")] = None,
    as_json: Json = False,
) -> None:
    """Generate text. Several prompts run as one batch.

    Example: [bold]cutwork generate out/packed "Ann has 3 apples and buys 4 more." --chat-template -n 64[/bold]

    [bold]cutwork generate out/packed "Once" --num-beams 5 --num-return-sequences 3 --no-repeat-ngram-size 3[/bold]

    [bold]cutwork generate out/dense "Once" --draft out/packed/sparse-int8 --json[/bold]
    """
    from cutwork.engine.model import Model

    if num_beams == 1:
        for option, value in (
            ("--length-penalty", length_penalty),
            ("--early-stopping", early_stopping),
            ("--diversity-penalty", diversity_penalty or None),
        ):
            if value is not None:
                raise CutworkError(f"{option} is for beam search; give --num-beams above 1, too, or leave it out")
    if min_new_tokens is not None and min_new_tokens > max_new_tokens:
        raise CutworkError(f"--min-new-tokens {min_new_tokens} is more than --max-new-tokens {max_new_tokens}")
    endings: dict[str, bool | Literal["never"]] = {"false": False, "true": True, "never": "never"}
    prompts = _prompts(prompt, file)
    options: GenerateOptions = {
        "max_new_tokens": max_new_tokens,
        "seed": seed,
        "stop": stop or [],
        "num_return_sequences": num_return_sequences,
        "num_beams": num_beams,
        "num_beam_groups": num_beam_groups,
        "diversity_penalty": diversity_penalty,
    }
    options |= given(
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        min_p=min_p,
        repetition_penalty=repetition_penalty,
        length_penalty=length_penalty,
    )
    if early_stopping is not None:
        options["early_stopping"] = endings[early_stopping]
    if no_repeat_ngram_size is not None:
        options["no_repeat_ngram_size"] = no_repeat_ngram_size
    if min_new_tokens is not None:
        options["min_new_tokens"] = min_new_tokens
    if suppress_tokens:
        options["suppress_tokens"] = suppress_tokens
    each = max(num_return_sequences, num_beams)
    loading = loading | {"max_batch": max(each, min(16, each * len(prompts)))}
    with Model.load(model, **with_adapter(with_draft(loading, model), adapter)) as loaded:
        check_writes_text(loaded)
        if not as_json:
            tell_layouts(model, loaded)
        asked: list[str | list[int]] = [_question(loaded, p) for p in prompts] if use_chat_template else [*prompts]
        if len(prompts) * num_return_sequences == 1 and not as_json:
            for piece in loaded.generate(asked[0], stream=True, **options):
                sys.stdout.write(piece)
                sys.stdout.flush()
            print()
            return
        results = loaded.generate(asked, **options)
    if as_json:
        rates = [{"decode_speed": result.decode_speed, "acceptance": result.acceptance} for result in results]
        dicts = [asdict(result) | rate for result, rate in zip(results, rates, strict=True)]
        print_json(dicts)
        return
    console = Console()
    for text, result in zip(prompts, results, strict=True):
        console.rule(Text(text if len(text) < 80 else text[:77] + "…"), align="left")
        for answer in [result, *result.alternatives]:
            if answer.score is not None:
                console.print(f"[dim]score {answer.score:.4f}[/dim]")
            print(answer.text)
            if result.alternatives:
                print()


def _question(model: "Model", prompt: str) -> list[int]:
    """What the model is given of a question; where it has no chat template, in the words of its training."""
    from cutwork.measure.quality import prompt_tokens
    from cutwork.tasks.task import Sample

    if model.tokenizer is None or model.tokenizer.chat_template:
        return model.encode(model.render_chat([{"role": "user", "content": prompt}]), special=False)
    return prompt_tokens(model, Sample(prompt, ""))


def _prompts(arguments: list[str] | None, file: Path | None) -> list[str]:
    if file:
        if arguments:
            raise CutworkError("give prompts either as arguments or with --file, not both")
        try:
            lines = file.read_text(encoding="utf-8-sig").split("\n")
        except (OSError, UnicodeDecodeError) as error:
            raise CutworkError(f"cannot read prompts from {file}: {reason(error)}") from None
        prompts = [line for line in lines if line.strip()]
    elif arguments:
        prompts = list(arguments)
    elif sys.stdin.isatty():
        raise CutworkError("no prompt; give it as an argument, with --file or on standard input")
    else:
        prompts = [sys.stdin.read().removesuffix("\n").removesuffix("\r")]  # as `echo` ends a text
    if not prompts or not all(prompts):
        raise CutworkError("the prompt is empty")
    return prompts
