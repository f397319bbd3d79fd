"""A finished run as a repository of the Hub: plain weights, packed models, and the card that is their evidence."""

import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml

from cutwork.errors import CutworkError
from cutwork.measure.report.model_card import model_card
from cutwork.measure.report.results import load_results
from cutwork.pack.manifest import read_manifest
from cutwork.run.run import VARIANTS
from cutwork.run.stages import read_state
from cutwork.store.directory import model_files
from cutwork.store.examples import FILE as EXAMPLES
from cutwork.store.fingerprint import digest
from cutwork.store.json_file import read_json
from cutwork.store.resolve import hub_name
from cutwork.tasks.load import TASKS

_PLACES = ("train", "test", "directory")  # options of tasks that name files


def repository(run: Path, name: str, dense: str, sparse: str, *, examples: bool = False) -> dict[str, Path | bytes]:
    """What a repository called `name` holds, by its path there: files of the run's directory, and what is made of them.

    At the top the fine-tuned sparse checkpoint, which transformers loads; in `packed` the run's packed models `dense`
    and `sparse`, for the engine and `cutwork demo`; with `examples` also what they keep of the task's questions. Raises
    CutworkError if the run is not finished, has no such models, or they have been made anew since they were measured.
    """
    results = load_results(run)
    if "settings" not in results:
        raise CutworkError(
            f"{run} was measured by an older cutwork; remove its results.json and finish it again: cutwork run RECIPE"
        )
    settings = results["settings"]
    there = [name for name in results["made"] if (run / "packed" / name).is_dir()]
    for packed in (dense, sparse):
        if packed not in there:
            raise CutworkError(f"{run} has no packed model '{packed}'; it has {', '.join(there) or 'none'}")
    if not VARIANTS[sparse][0].startswith("sparse"):
        raise CutworkError(f"'{sparse}' is no model that was pruned and fine-tuned; give one of sparse-…")
    if not settings["tune"]:
        raise CutworkError(f"{run} fine-tuned nothing, as its recipe has no 'tune', so there is no model to push")
    levels = settings["prune"].get("levels", ())
    checkpoint = f"sparse-{len(levels)}" if levels else "sparse"
    now = read_state(run)
    tuned = results.get("from", {}).get(checkpoint, now.get(checkpoint))  # earlier results do not say
    made = {f"packed/{packed}": results["made"][packed] for packed in (dense, sparse)} | {checkpoint: tuned}
    if not (run / checkpoint).is_dir() or any(now.get(name) != key for name, key in made.items()):
        raise CutworkError(
            f"the models of {run} were made anew after they were measured; finish it: cutwork run RECIPE"
        )
    base = hub_name(settings["model"])
    settings, names = _without_places(settings, base)
    results = {**results, "settings": settings, "task": names.get(results["task"], results["task"])}
    files: dict[str, Path | bytes] = {
        file.relative_to(run / checkpoint).as_posix(): file for file in model_files(run / checkpoint)
    }
    for packed in (dense, sparse):
        kept = [file for file in sorted((run / "packed" / packed).iterdir()) if examples or file.name != EXAMPLES]
        files |= {f"packed/{packed}/{file.name}": file for file in kept}
    manifest = read_manifest(run / "packed" / sparse)
    files["recipe.yaml"] = yaml.safe_dump(settings, sort_keys=False, allow_unicode=True).encode()
    files["results.json"] = (json.dumps(results, indent=1) + "\n").encode()
    has = {
        "template": _has_template(run / checkpoint),
        "examples": f"packed/{sparse}/{EXAMPLES}" in files,
    }
    files["README.md"] = model_card(name, base, results, sparse, manifest, digest(settings), **has).encode()
    return files


def _has_template(model: Path) -> bool:
    """Whether a model's tokenizer has a template for chats: a file of its own or, as it once was, a setting."""
    if (model / "chat_template.jinja").is_file():
        return True
    settings = model / "tokenizer_config.json"
    return settings.is_file() and bool(read_json(settings).get("chat_template"))


def _without_places(settings: dict[str, Any], base: str | None) -> tuple[dict[str, Any], dict[str, str]]:
    """Settings that do not say where files lie here, which is nobody's business, but how they lie to each other; and
    what became of each that did."""
    task, compare = settings["task"], settings["compare"]
    options = task.get("options") or {}
    asked = tuple(compare.get("lm_eval") or ())
    # Tasks, ours and lm-eval's, are that whatever else is called so here.
    own = [] if task["name"] in TASKS else [task["name"]]
    files = [name for name in asked if Path(name).is_file() or Path(name).is_absolute()]
    given = [*own, *(options.get(key) for key in _PLACES), compare.get("perplexity_text"), *files]
    here = {text: place for text in given if isinstance(text, str) and (place := _place(text))}
    root = os.path.commonpath([place.parent for place in here.values()]) if here else ""
    names = {text: f"./{place.relative_to(root).as_posix()}" for text, place in here.items()}

    def named(value: Any) -> Any:
        return names.get(value, value) if isinstance(value, str) else value

    found = {
        **settings,
        "model": settings["model"] if base else Path(settings["model"]).name,
        "output": f"out/{Path(settings['name']).name}",
        "task": {**task, "name": named(task["name"])},
        "compare": {**compare, "perplexity_text": named(compare.get("perplexity_text"))},
    }
    if options:
        found["task"]["options"] = {key: named(value) if key in _PLACES else value for key, value in options.items()}
    if asked:
        found["compare"]["lm_eval"] = [named(name) for name in asked]
    return found, names


def _place(text: str) -> Path | None:
    """Where a file or directory of this name lies, or would lie; None for what is none here, such as a task's name."""
    with suppress(OSError, RuntimeError, ValueError):
        path = Path(text).expanduser()
        if path.is_absolute() or ".." in path.parts or path.exists():
            return Path(os.path.abspath(path))
    return None
