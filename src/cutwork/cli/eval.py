"""`cutwork eval`: accuracy on a task, or perplexity of a text."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from cutwork.cli.console import print_json
from cutwork.cli.loading import AdapterOption, ModelArgument, loads_model, with_adapter, with_draft
from cutwork.cli.options import Json
from cutwork.cli.training import TaskOptionsOption, settings_of, task_options
from cutwork.errors import CutworkError

if TYPE_CHECKING:
    from cutwork.engine.load_options import LoadOptions
    from cutwork.recipe import TaskSettings
    from cutwork.tasks.task import Task

_WINDOW, _ANSWER = 1024, 256  # tokens


@loads_model(batches=True)
def evaluate(
    model: ModelArgument,
    loading: "LoadOptions",
    adapter: AdapterOption = None,
    task: Annotated[
        str | None,
        typer.Option(
            help="A task (gsm8k, wmt14-en-de, …), OWNER/NAME of a dataset of the Hub, a folder of recordings, or a "
            "JSONL, JSON, CSV, TSV or Parquet file of prompt and answer, messages, or source and target."
        ),
    ] = None,
    task_option: TaskOptionsOption = None,
    recipe: Annotated[Path | None, typer.Option(help="Take the task and its options from this recipe.")] = None,
    text: Annotated[Path | None, typer.Option(help="A UTF-8 text file: measure its perplexity.")] = None,
    lm_eval: Annotated[
        str | None,
        typer.Option(
            metavar="TASKS", help="Tasks of lm-eval, with commas (hellaswag,gsm8k,ifeval), or YAML files of them."
        ),
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Questions of each task of lm-eval.  \\[default: all]")
    ] = None,
    num_fewshot: Annotated[
        int | None, typer.Option(min=0, help="Worked examples before them.  \\[default: as the task says]")
    ] = None,
    chat_template: Annotated[
        bool, typer.Option("--chat-template", help="Ask them through the model's chat template.")
    ] = False,
    samples: Annotated[
        int | None, typer.Option(min=1, help="Test samples of the task.  \\[default: 200, or the recipe's]")
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(
            help="Seed of tasks that are generated; other seeds draw some of the questions again that 0 trains on.  "
            "\\[default: 0, or the recipe's]"
        ),
    ] = None,
    max_new_tokens: Annotated[int | None, typer.Option(min=1, help="Tokens per answer.  \\[default: 256]")] = None,
    num_beams: Annotated[
        int | None, typer.Option(min=1, max=64, help="Hypotheses kept at a time; 1: greedy.  \\[default: 1]")
    ] = None,
    max_tokens: Annotated[int | None, typer.Option(min=2, help="Measure only the text's first tokens.")] = None,
    window: Annotated[
        int | None,
        typer.Option(min=2, help=f"Tokens per perplexity window; a run's report has 512.  \\[default: {_WINDOW}]"),
    ] = None,
    as_json: Json = False,
) -> None:
    """Measure how good a model is: exact-match accuracy of a task, perplexity of a text, or both.

    Translations (wmt14-en-de, or rows of source and target) get BLEU and chrF as well. Tasks of lm-eval, which is
    installed with pip install lm-eval, are answered by the engine and scored as everywhere.

    Example: [bold]cutwork eval out/smollm2-gsm/packed/sparse-int8 --recipe recipes/smollm2-gsm.yaml[/bold]

    Example: [bold]cutwork eval HuggingFaceTB/SmolLM2-135M-Instruct --text wiki.txt[/bold]

    Example: [bold]cutwork eval out/packed --lm-eval hellaswag,arc_easy --limit 500[/bold]
    """
    from cutwork.engine.model import Model
    from cutwork.measure.context import room_for_inputs
    from cutwork.measure.quality import accuracy, check_measurable, together
    from cutwork.store.resolve import resolve
    from cutwork.tasks.load import load_task
    from cutwork.tasks.perplexity import read_text

    if not (task or recipe or text or lm_eval):
        raise CutworkError("nothing to measure; give --task, --recipe, --text or --lm-eval")
    if task and recipe:
        raise CutworkError("give either --task or --recipe, not both")
    for option, given, wanted, there in (
        ("--limit", limit, "--lm-eval", lm_eval),
        ("--num-fewshot", num_fewshot, "--lm-eval", lm_eval),
        ("--chat-template", chat_template or None, "--lm-eval", lm_eval),
        ("--samples", samples, "--task or --recipe", task or recipe),
        ("--seed", seed, "--task or --recipe", task or recipe),
        ("--task-option", task_option, "--task", task),
        ("--max-new-tokens", max_new_tokens, "--task or --recipe", task or recipe),
        ("--num-beams", num_beams, "--task or --recipe", task or recipe),
        ("--max-tokens", max_tokens, "--text", text),
        ("--window", window, "--text", text),
    ):
        if given is not None and not there:
            raise CutworkError(f"{option} is for {wanted} alone; give that too, or leave it out")
    settings = _settings(task, task_option, recipe, samples, seed)
    content = read_text(text) if text else None
    tasks = [] if lm_eval is None else _tasks_of_lm_eval(lm_eval)
    console = Console(stderr=True)
    data = None
    if settings:
        data = _of_recipe(settings, samples, seed, console) if recipe else load_task(_test_of(settings))
        check_measurable(data)
        loading |= {"max_input": room_for_inputs(resolve(model, codes=True), data.test)}
    beams = num_beams or 1
    loading |= {"max_batch": together(beams)}
    results: dict[str, Any] = {"model": model}
    with Model.load(model, **with_adapter(with_draft(loading, model), adapter)) as loaded:
        loaded.check_writes()
        if content is not None and loaded.encoder:
            raise CutworkError("--text is for models without an encoder, whose next token it asks for; give --task")
        found = {}
        if tasks:  # first, as what some of them need is known only now
            from cutwork.measure.harness import lm_eval as ask

            found = ask(loaded, tasks, limit=limit, fewshot=num_fewshot, chat=chat_template, console=console)
        if settings and data:
            score = accuracy(loaded, data, max_new_tokens=max_new_tokens or _ANSWER, num_beams=beams, console=console)
            results |= {
                "task": settings.name,
                "accuracy": score.accuracy,
                "right": score.right,
                "samples": score.samples,
                **score.quality,
            }
        if content is not None:
            measured = loaded.perplexity(content, window=window or _WINDOW, max_tokens=max_tokens)
            results |= {"text": str(text), "perplexity": measured.perplexity, "tokens": measured.tokens}
        if tasks:
            results["lm_eval"] = found
    if as_json:
        print_json(results)
    else:
        _print(results)


def _settings(
    task: str | None, task_option: list[str] | None, recipe: Path | None, samples: int | None, seed: int | None
) -> "TaskSettings | None":
    """What is asked, by a task or a recipe; CutworkError for questions that tune trains on."""
    from cutwork.recipe import TaskSettings
    from cutwork.recipe_file import load_recipe
    from cutwork.tasks.load import LEFT_TO_EVAL, one_stream

    if recipe:
        return load_recipe(recipe).task
    if not task:
        return None
    options = task_options(task_option)
    if samples and samples > LEFT_TO_EVAL and one_stream(task, options):
        raise CutworkError(
            f"--samples {samples}: of {task}, what comes after {LEFT_TO_EVAL} is what tune trains on; ask for fewer"
        )
    return settings_of(TaskSettings, name=task, options=options, test_samples=samples or 200, seed=seed or 0)


def _tasks_of_lm_eval(names: str) -> list[str]:
    """The names, looked at before anything is answered."""
    from cutwork.measure.harness import check_tasks

    tasks = [name.strip() for name in names.split(",") if name.strip()]
    if not tasks:
        raise CutworkError("--lm-eval names no task; give some, as in hellaswag,gsm8k")
    check_tasks(tasks)
    return tasks


def _test_of(settings: "TaskSettings") -> "TaskSettings":
    """A task's test alone: what it trains on is not read, and need not be there."""
    return settings.model_copy(update={"train_samples": 0, "validation_samples": 0})


def _of_recipe(settings: "TaskSettings", samples: int | None, seed: int | None, console: Console) -> "Task":
    """A recipe's task with other questions than its own or fewer, none of which it trains or validates with."""
    from cutwork.tasks.load import load_task

    given = {"test_samples": samples, "seed": seed}
    asked = {key: value for key, value in given.items() if value is not None}
    chosen = _test_of(settings.model_copy(update=asked))
    found = load_task(chosen)
    if chosen.test_samples <= settings.test_samples and chosen.seed == settings.seed:
        return found
    own = load_task(settings)
    known = {question for sample in (*own.train, *own.validation) for question, _ in sample.exchanges()}
    test = tuple(sample for sample in found.test if sample.asked() not in known)
    if not test:
        raise CutworkError("the recipe trains on all that is asked for; leave out --samples and --seed")
    if left_out := len(found.test) - len(test):
        console.print(
            f"{settings.name}: {left_out} of {len(found.test)} questions are left out, as the recipe trains on them",
            highlight=False,
        )
    return replace(found, test=test)


def _print(results: dict[str, Any]) -> None:
    from cutwork.tasks.task import LABELS

    for task, metrics in results.get("lm_eval", {}).items():
        for name, value in metrics.items():
            error = metrics.get(f"{name}_stderr", metrics.get(name.replace(",", "_stderr,", 1)))
            if "_stderr" not in name and name not in ("alias", "sample_len"):
                print(f"{task}: {name} {value:.4g}" + (f" ± {error:.2g}" if error else ""))
    if "accuracy" in results:
        task, right, samples = results["task"], results["right"], results["samples"]
        print(f"{task}: accuracy {results['accuracy']:.1%} ({right} of {samples} right)")
        for name, label in LABELS.items():
            if name in results:
                print(f"{task}: {label} {results[name]:.1f}")
    if "perplexity" in results:
        print(f"{results['text']}: perplexity {results['perplexity']:.3f} over {results['tokens']} tokens")
