"""What a model answers to a split's questions, every reply kept, and how well it knows the reference answers."""

import math
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from benchmarks.evidence.statistics import packed
from cutwork.engine.model import Model
from cutwork.measure.compare import Measurements
from cutwork.progress import progress_bar
from cutwork.run.stages import Source, key_of, path_of, sample_digest
from cutwork.tasks.rendering import render_answer, render_prompt
from cutwork.tasks.task import Task, is_right

_BATCH = 64  # questions answered together
_LIKELY = 200  # reference answers whose likelihood is measured


def answer(kept: Measurements, source: Source, task: Task, most: int, console: Console) -> dict[str, Any]:
    """A row for a model and a split: how many it has right, which (`answers`, see `unpacked`), and what it wrote.

    most: new tokens of an answer. The replies are in `kept`, as `replies`; `answer_perplexity` is over the tokens of
    the first reference answers alone, the end included.
    """
    key = [key_of(source), sample_digest(task.test), most, "answers"]
    return kept.get(key, lambda: _measured(path_of(source), task, most, console))


def without_replies(row: dict[str, Any]) -> dict[str, Any]:
    """What is committed of a row."""
    return {name: value for name, value in row.items() if name != "replies"}


def _measured(path: Path, task: Task, most: int, console: Console) -> dict[str, Any]:
    with Model.load(path, max_context=512 + most, max_batch=_BATCH) as model:
        prompts = [render_prompt(model.tokenizer, sample) for sample in task.test]
        replies = [""] * len(prompts)
        order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
        with progress_bar(console, transient=True) as progress:
            bar = progress.add_task(f"{path.name}: answering", total=len(prompts))
            for start in range(0, len(order), 4 * _BATCH):
                chosen = order[start : start + 4 * _BATCH]
                for index, reply in zip(
                    chosen, model.generate([prompts[index] for index in chosen], max_new_tokens=most), strict=True
                ):
                    replies[index] = reply.text
                progress.advance(bar, len(chosen))
        right = np.array([is_right(reply, sample.answer) for reply, sample in zip(replies, task.test, strict=True)])
        return {
            "sparsity": model.sparsity,
            "right": int(right.sum()),
            "samples": len(replies),
            "answers": packed(right),
            "answer_perplexity": _answer_perplexity(model, task),
            "memory_bytes": model.memory_bytes["weights"],
            "replies": replies,
        }


def _answer_perplexity(model: Model, task: Task) -> float:
    total, count = 0.0, 0
    for sample in task.test[:_LIKELY]:
        prompt = model.encode(render_prompt(model.tokenizer, sample))
        reference = [*model.encode(render_answer(model.tokenizer, sample.answer)), model.tokenizer.eos_token_id]
        logits = model.logits(prompt + reference)[len(prompt) - 1 : -1].astype(np.float64)
        highest = logits.max(axis=1)
        chosen = logits[np.arange(len(reference)), reference]
        total += float((np.log(np.exp(logits - highest[:, None]).sum(axis=1)) + highest - chosen).sum())
        count += len(reference)
    return math.exp(total / count)
