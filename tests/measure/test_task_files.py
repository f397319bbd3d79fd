"""What a task of lm-eval asks, wherever that lies."""

from pathlib import Path

import pytest

from cutwork.measure.task_files import contents_of_tasks
from cutwork.store.fingerprint import digest


def test_a_task_is_known_by_all_that_it_is_made_of(tmp_path: Path) -> None:
    rows, more, task = (tmp_path / name for name in ("rows.jsonl", "more/1.jsonl", "task.yaml"))
    others = ("base.yaml", "own/functions.py")
    files = [rows, more, *(tmp_path / name for name in others)]
    for file in files:
        file.parent.mkdir(exist_ok=True)
        file.write_text("{}")
    (tmp_path / "base.yaml").write_text("include: task.yaml\nprocess_docs: !function own.functions.process\n")
    data = f"{{test: {rows}, train: ['{more.parent}/*.jsonl', 'hf://elsewhere/rows.jsonl']}}"
    task.write_text(f"task: t\ninclude: [base.yaml]\ndataset_path: json\ndataset_kwargs: {{data_files: {data}}}\n")
    known = [contents_of_tasks([str(task)])]
    for file in [*files, task]:
        file.write_text(file.read_text() + "\n")
        known.append(contents_of_tasks([str(task)]))
    assert len(set(map(tuple, known))) == len(known)
    (tmp_path / "notes.txt").write_text("not of the task")
    assert contents_of_tasks([str(task)]) == known[-1]


@pytest.mark.parametrize(
    "text", ["task: t\ndataset_path: openai/gsm8k\nmetric_list: [{metric: !function os.nope}]\n", ""]
)
def test_a_task_whose_data_lie_elsewhere_is_known_as_before(text: str, tmp_path: Path) -> None:
    (tmp_path / "task.yaml").write_text(text)
    assert contents_of_tasks(["gsm8k", str(tmp_path / "task.yaml")]) == ["gsm8k", digest(text)]
