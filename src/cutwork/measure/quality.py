"""How many of a task's held-out questions a model answers right, and how well."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from rich.console import Console

from cutwork.errors import CutworkError
from cutwork.extras import install
from cutwork.progress import progress_bar
from cutwork.tasks.rendering import render_prompt
from cutwork.tasks.task import MARK, Sample, Task, is_right
from cutwork.tasks.translation import translation_quality
from cutwork.tasks.wer import error_rates

if TYPE_CHECKING:
    from cutwork.engine.decoding.options import GenerateOptions
    from cutwork.engine.model import Model

_BATCH = 32  # questions answered together


def together(num_beams: int) -> int:
    """Sequences that a model which answers questions is loaded for; each question takes `num_beams` of them."""
    return max(16, 4 * num_beams)


@dataclass(frozen=True)
class Score:
    """Exact-match accuracy, and by name what else the task is measured by."""

    right: int
    samples: int
    quality: dict[str, float] = field(default_factory=dict)

    @property
    def accuracy(self) -> float:
        """The fraction of right answers."""
        return self.right / self.samples


def judged_anew(samples: Sequence[Sample]) -> list[str]:
    """What tells measurements of answers to these samples, where they are kept, from those that were judged otherwise:
    by the last number, or by none behind £ or €."""
    return ["first number, of any currency"] if any(MARK in sample.answer for sample in samples) else []


def check_measurable(task: Task) -> None:
    """Raise CutworkError if what the task is measured by is not installed, before anything is answered."""
    needed = {"translation": "sacrebleu", "speech": "jiwer"}.get(task.metric)
    if needed and not find_spec(needed):
        raise CutworkError(f"what is measured in the end needs {needed}; install it with: {install('eval')}")


def accuracy(
    model: "Model",
    task: Task,
    *,
    max_new_tokens: int = 256,
    num_beams: int = 1,
    samples: int | None = None,
    console: Console | None = None,
) -> Score:
    """Answers, greedy or by a beam search, to the first `samples` (default: all) questions of `task.test`, counted.

    Translations get BLEU and chrF as well, transcripts of recordings an error rate of words, or of characters where
    these are counted. Shows a progress bar on `console`, standard error by default. Raises CutworkError if the task has
    no questions.
    """
    questions = task.test[:samples]
    if not questions:
        raise CutworkError(f"task {task.name} has no test questions")
    texts = replies(model, task.name, questions, max_new_tokens=max_new_tokens, num_beams=num_beams, console=console)
    answers = [sample.answer for sample in questions]
    right = sum(map(is_right, texts, answers))
    quality: dict[str, float] = {}
    if task.metric == "translation":
        quality = translation_quality(texts, answers)
    elif task.metric == "speech":
        quality = error_rates(questions, texts, model.path)
    return Score(right, len(questions), quality)


def replies(
    model: "Model",
    name: str,
    questions: Sequence[Sample],
    *,
    max_new_tokens: int = 256,
    num_beams: int = 1,
    console: Console | None = None,
) -> list[str]:
    """What a model answers to each of some questions of the task called `name`; options as for `accuracy`.

    Questions that leave a decoder's context no room for the longest answer lose their beginning, as lm-eval has it, but
    keep half of the context; their number is said on `console`.
    """
    # Batches of about equal length waste the least.
    order = sorted(range(len(questions)), key=lambda i: len(questions[i].prompt))
    texts, shortened = [""] * len(questions), 0
    with progress_bar(console, transient=True) as progress:
        bar = progress.add_task(f"{name}: answering", total=len(questions))
        for start in range(0, len(order), _BATCH):
            some = order[start : start + _BATCH]
            answers, cut = _answers(model, [questions[i] for i in some], max_new_tokens, num_beams)
            for i, text in zip(some, answers, strict=True):
                texts[i] = text
            shortened += cut
            progress.advance(bar, len(some))
    if shortened:
        (console or Console(stderr=True)).print(
            f"{name}: {shortened} of {len(questions)} questions leave no room for an answer of {max_new_tokens} tokens "
            f"in the context of {model.max_context}; they were asked without their beginning",
            highlight=False,
        )
    return texts


def prompt_tokens(model: "Model", sample: Sample) -> list[int]:
    """What a model is given of a question, with special tokens where training (`tasks.rendering.render`) adds them."""
    encoder = model.architecture.kind != "text"
    text = render_prompt(model.tokenizer, sample, encoder=encoder)
    return model.encode(text, special=encoder or not model.tokenizer.chat_template)


def _answers(model: "Model", batch: Sequence[Sample], max_new_tokens: int, num_beams: int) -> tuple[list[str], int]:
    """Answers to samples, all heard or all read, and how many of these were cut to fit the context."""
    if batch[0].audio is not None:
        options: dict[str, Any] = {"beam_size": num_beams, "temperature": 0.0, "max_new_tokens": max_new_tokens}
        heard = [model.transcribe(sample.audio, language=sample.prompt or None, **options) for sample in batch]
        return [transcript.text for transcript in heard], 0
    if batch[0].languages:
        source, target = batch[0].languages
        limits: GenerateOptions = {"max_new_tokens": max_new_tokens, "num_beams": num_beams}
        texts = [sample.prompt for sample in batch]
        translated = model.translate(texts, prefix="", source=source, target=target, **limits)
        return [reply.text for reply in translated], 0
    encoder = model.architecture.kind != "text"
    prompts = [prompt_tokens(model, sample) for sample in batch]
    room = max(model.max_context - max_new_tokens, model.max_context // 2, 1)
    full = [] if encoder else [i for i, prompt in enumerate(prompts) if len(prompt) > room]
    for i in full:
        prompts[i] = prompts[i][-room:]
    written = model.generate(prompts, max_new_tokens=max_new_tokens, num_beams=num_beams)
    return [reply.text for reply in written], len(full)
