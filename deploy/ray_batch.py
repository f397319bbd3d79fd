"""`cutwork batch` over many machines: Ray Data hands out the lines, every worker answers with a model of its own.

    pip install '.[serve,ray]'        # in a clone
    python deploy/ray_batch.py /models/packed questions.jsonl answers.jsonl --threads 4 --workers 8

The model's directory must be on every machine. Lines and answers are in OpenAI's batch format.
"""

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import ray

from cutwork import Model
from cutwork.serve.batch import read_requests, run_batch
from cutwork.store.atomic import write_atomically


class Answers:
    """A worker: loads the model once, then answers batches of lines."""

    def __init__(self, model: str, threads: int, max_batch: int) -> None:
        self.name = Path(model).resolve().name
        self.model = Model.load(model, threads=threads, max_batch=max_batch, reorder_weights=None)  # as the command

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """{"answer": a line for each line of {"line": …}}."""
        with tempfile.TemporaryDirectory() as work:
            source, output = Path(work) / "in.jsonl", Path(work) / "out.jsonl"
            source.write_text("\n".join(batch["line"]) + "\n", encoding="utf-8")
            run_batch({self.name: self.model}, source, output, progress=lambda *_: None)
            return {"answer": output.read_text(encoding="utf-8").removesuffix("\n").split("\n")}


def main() -> None:
    """Read, answer, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("source", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--threads", type=int, default=2, help="of each worker")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--max-batch", type=int, default=32)
    options = parser.parse_args()
    requests = read_requests(options.source)
    lines = [
        {"line": json.dumps({"custom_id": name, "method": "POST", **request})} for name, request in requests.items()
    ]
    answers = ray.data.from_items(lines, override_num_blocks=4 * options.workers).map_batches(
        Answers,
        fn_constructor_args=(options.model, options.threads, options.max_batch),
        batch_size=8 * options.max_batch,
        num_cpus=options.threads,
        compute=ray.data.ActorPoolStrategy(size=options.workers),
    )
    write_atomically(options.output, "".join(f"{row['answer']}\n" for row in answers.iter_rows()))


if __name__ == "__main__":
    main()
