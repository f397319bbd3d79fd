"""Scores of lm-eval with our engine beside those with its own `hf` backend, on the same 500 questions of each kind.

    python -m benchmarks.engine.harness out/new-numbers/teacher     # a directory that transformers loads, and chats

The questions are word problems of the evidence's templates: the right number among four is to be likelier than the
others, it is to be found in an answer of the model's own, and their texts are to be read. Both models are in float32,
prompts go through the chat template. Leaves harness.json in results/; needs lm-eval.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path
from random import Random
from typing import Any

from rich.console import Console

from benchmarks.common.results import RESULTS, save
from cutwork.engine.model import Model
from cutwork.tasks.gsm_symbolic import gsm_symbolic
from cutwork.tasks.task import final_number

QUESTIONS = 500
TEMPLATES = [43, 72, 58, 62, 26, 10, 6, 16]
_NAMES = {
    "choice": "the right number of four",
    "answer": "an answer of its own",
    "text": "bits per byte of the questions",
}
_METRICS = {"choice": "acc", "answer": "exact_match,number", "text": "bits_per_byte"}
_TASKS = {
    "choice": """
output_type: multiple_choice
doc_to_text: "{{question}} Give the number alone."
doc_to_choice: "{{choices}}"
doc_to_target: "{{label}}"
metric_list: [{metric: acc}]
""",
    "answer": """
output_type: generate_until
doc_to_text: "{{question}}"
doc_to_target: "{{choices[label]}}"
generation_kwargs: {until: ["\\n\\n"], max_gen_toks: 96, do_sample: false}
filter_list: [{name: number, filter: [{function: regex, regex_pattern: "#### (-?[0-9.,]+)"}, {function: take_first}]}]
metric_list: [{metric: exact_match}]
""",
    "text": """
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{question}}"
metric_list: [{metric: bits_per_byte}]
""",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--questions", type=int, default=QUESTIONS)
    options = parser.parse_args()
    from lm_eval import simple_evaluate

    from cutwork.measure.harness import lm_eval

    console = Console(stderr=True)
    with tempfile.TemporaryDirectory() as home:
        tasks = write_tasks(Path(home), options.questions)
        began = time.perf_counter()
        with Model.load(options.model, max_context=1024, max_batch=16) as model:
            ours, weights = lm_eval(model, tasks, chat=True, console=console), model.memory_bytes["weights"]
        between = time.perf_counter()
        theirs = simple_evaluate(
            model="hf",
            model_args=f"pretrained={options.model},dtype=float32,max_length=1024",
            tasks=tasks,
            device="cpu",
            batch_size=16,
            apply_chat_template=True,
            log_samples=False,
        )["results"]
        seconds = [between - began, time.perf_counter() - between]
    rows = [
        {"task": task, "ours": ours[task][metric], "theirs": theirs[task][_full(metric)]}
        for task, metric in _METRICS.items()
    ]
    content = {"questions": options.questions, "seconds": seconds, "weights": weights, "rows": rows}
    print(table(save(RESULTS / "harness.json", content)))


def write_tasks(home: Path, count: int) -> list[str]:
    """YAML files of the tasks, on the same questions."""
    random, rows = Random(0), []
    for sample in gsm_symbolic(0, count, 4, templates=TEMPLATES).test:
        right = round(final_number(sample.answer) or 0)
        wrong = random.sample([right + step for step in (-10, -3, -2, -1, 1, 2, 3, 10)], 3)
        choices = random.sample([right, *wrong], 4)
        rows.append(
            {"question": sample.prompt, "choices": [f"{number}" for number in choices], "label": choices.index(right)}
        )
    (home / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    source = f"dataset_path: json\ntest_split: test\ndataset_kwargs: {{data_files: {{test: {home}/rows.jsonl}}}}\n"
    for name, text in _TASKS.items():
        (home / f"{name}.yaml").write_text(f"task: {name}\n{source}{text}")
    return [str(home / f"{name}.yaml") for name in _TASKS]


def _full(metric: str) -> str:
    return metric if "," in metric else f"{metric},none"


def table(result: dict[str, Any]) -> str:
    """Both scores of each task, and how far they are apart."""
    lines = ["| asked for | our engine | lm-eval's `hf` | apart |", "|---|--:|--:|--:|"]
    for row in result["rows"]:
        if row["task"] == "text":
            ours, theirs = f"{row['ours']:.4f}", f"{row['theirs']:.4f}"
            apart = f"{abs(row['ours'] / row['theirs'] - 1):.3%}"
        else:
            ours, theirs = f"{row['ours']:.1%}", f"{row['theirs']:.1%}"
            apart = f"{100 * abs(row['ours'] - row['theirs']):.1f} points"
        lines.append(f"| {_NAMES[row['task']]} | {ours} | {theirs} | {apart} |")
    return "\n".join([*lines, "", f"{result['questions']} questions each."])


if __name__ == "__main__":
    main()
