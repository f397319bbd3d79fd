"""What zeros cost an encoder of sentences, in one shot and after it learns its dense self's hidden states again.

    python -m benchmarks.embedding.quality --model DIR --gsm8k DIR --text FILE     # an hour of two cores; resumes

Retrieval that needs no labels: a question of GSM8K's test finds its worked solution among those of all of them, and the
first sentence of a paragraph of the second half of a text (WikiText) finds the rest of it among the rests of all.
Questions, solutions and paragraphs of the training split and of the first half calibrate the pruner, ALPS, and are what
is learned from, by SquareHead alone. nDCG at 10, of which 100 is best, and what is lost against the dense model in
float32 with its 95% interval over questions. Models are int8, the very files that `benchmarks.embedding.speed` times if
it is given the same `--work` and the trained checkpoints there. Leaves embedding_quality.json in results/.
"""

import argparse
import re
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from benchmarks.common.provenance import ROOT
from benchmarks.common.results import RESULTS, save
from benchmarks.embedding.variants import PATTERNS, packed
from benchmarks.evidence.statistics import paired_bootstrap
from cutwork.engine.model import Model
from cutwork.prune.prune import prune
from cutwork.recipe import Losses, PruneSettings, TuneSettings
from cutwork.tasks.gsm8k import gsm8k
from cutwork.tasks.task import Sample
from cutwork.tune.tune import tune

_SENTENCE = re.compile(r"(?<=[^ .] [.?!]) ")  # WikiText's tokens stand apart
_BEST = 10
Pairs = list[tuple[str, str]]


def paragraphs(file: Path) -> list[str]:
    """Those of a text in WikiText's form that have two sentences at least."""
    lines = (line.strip() for line in file.read_text(encoding="utf-8").split("\n"))
    return [line for line in lines if line and not line.startswith("=") and len(_SENTENCE.split(line)) > 1]


def ndcg(queries: NDArray[np.float32], documents: NDArray[np.float32]) -> NDArray[np.float64]:
    """At 10, by query [n], of vectors [n, width] of which the document with the query's number is the right one, which
    comes after those that are as near. Raises ValueError for vectors that are not finite."""
    scores = queries @ documents.T
    if not np.isfinite(scores).all():
        raise ValueError("the vectors are not finite")
    rank = (scores >= np.diag(scores)[:, None]).sum(axis=1) - 1
    return np.where(rank < _BEST, 1 / np.log2(rank + 2.0), 0.0)


def asked(path: Path, sets: dict[str, Pairs], threads: int) -> dict[str, NDArray[np.float64]]:
    """nDCG by query of every set."""
    with Model.load(path, threads=threads) as model:
        return {
            name: ndcg(*(model.embed([pair[side] for pair in pairs], normalize=True) for side in (0, 1)))
            for name, pairs in sets.items()
        }


def checkpoints(
    model: Path, work: Path, texts: list[Sample], options: argparse.Namespace, console: Console
) -> dict[str, tuple[Path, Path]]:
    """By pattern, (pruned in one shot, trained), plain checkpoints; made once, resumed where they were interrupted."""
    found = {}
    for name, pattern in PATTERNS.items():
        if pattern is None:
            continue
        folder = name.strip("%").replace(":", "of")
        pruned, trained = work / f"alps-{folder}", work / f"trained-{folder}"
        fixed = {"pattern": pattern} if isinstance(pattern, str) else {"sparsity": pattern}
        how = PruneSettings.model_validate({"method": "alps", "calibration_samples": 256, **fixed})
        if not pruned.exists():
            prune(model, pruned, how, texts, max_length=options.max_length, long="cut", console=console)
        settings = TuneSettings(
            max_steps=options.steps,
            learning_rate=options.learning_rate,
            warmup_steps=options.steps // 10,
            batch_size=16,
            micro_batch_size=16,
            save_every=20,
            losses=Losses(ce=0, squarehead=1),
        )
        length = options.max_length
        tune(pruned, trained, settings, texts, teacher_dir=model, max_length=length, long="cut", console=console)
        found[name] = pruned, trained
    return found


def row(name: str, found: dict[str, NDArray[np.float64]], dense: dict[str, NDArray[np.float64]]) -> dict[str, Any]:
    """nDCG by set, and what is lost."""
    cells = {}
    for kind, values in found.items():
        lost = [100 * value for value in paired_bootstrap(dense[kind][None], values[None])]
        cells[kind] = {"ndcg": 100 * float(values.mean()), "lost": lost[0], "low": lost[1], "high": lost[2]}
    return {"model": name, **cells}


def table(result: dict[str, Any]) -> str:
    """By model."""
    kinds = list(result["queries"])
    heads = " | ".join(f"{kind}, nDCG@10 | lost" for kind in kinds)
    lines = [f"| model | {heads} |", "|---" + "|--:|--:" * len(kinds) + "|"]
    for each in result["rows"]:
        cells = []
        for kind in kinds:
            cell = each[kind]
            lost = f"{cell['lost']:.1f} ({cell['low']:.1f} to {cell['high']:.1f})"
            cells.append(f"{cell['ndcg']:.1f} | {'–' if each is result['rows'][0] else lost}")
        lines.append(f"| {each['model']} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Prune, train, ask, write, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="a dense checkpoint of sentence-transformers'")
    parser.add_argument("--gsm8k", type=Path, required=True, help="the folder of its train.jsonl and test.jsonl")
    parser.add_argument("--text", type=Path, required=True, help="WikiText's test split, or another text in its form")
    parser.add_argument("--steps", type=int, default=200, help="of 16 texts")
    parser.add_argument("--learning-rate", type=float, default=5e-4)
    parser.add_argument("--max-length", type=int, default=128)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--work", type=Path, default=ROOT / "build" / "embedding")
    parser.add_argument("--output", type=Path, default=RESULTS / "embedding_quality.json")
    options = parser.parse_args()

    console, task = Console(stderr=True), gsm8k(7_500, 1_400, directory=str(options.gsm8k))
    lines = paragraphs(options.text)
    middle = len(lines) // 2
    texts = [text for sample in task.train for text in (sample.prompt, sample.answer)] + lines[:middle]
    np.random.default_rng(0).shuffle(texts)
    sets = {
        "gsm8k": [(sample.prompt, sample.answer) for sample in task.test],
        "wikitext": [(parts[0], " ".join(parts[1:])) for parts in map(_SENTENCE.split, lines[middle:])],
    }
    made = checkpoints(options.model, options.work, [Sample("", text) for text in texts], options, console)
    dense = asked(options.model, sets, options.threads)
    rows = [row("dense, float32", dense, dense)]
    one_shot = packed(options.model, options.work / "one-shot", {k: v[0] for k, v in made.items()}, console)
    trained = packed(options.model, options.work, {k: v[1] for k, v in made.items()}, console)
    for kind, models in (("in one shot", one_shot), ("trained", trained)):
        for name, path in models.items():
            if name not in made and kind != "trained":
                continue
            label = f"{name}, {kind}, int8" if name in made else "dense, int8"
            rows.append(row(label, asked(path, sets, options.threads), dense))
    about = {"steps": options.steps, "learning_rate": options.learning_rate, "texts": len(texts)}
    queries = {kind: len(pairs) for kind, pairs in sets.items()}
    print(table(save(options.output, {**about, "queries": queries, "rows": rows}, threads=options.threads)))


if __name__ == "__main__":
    main()
