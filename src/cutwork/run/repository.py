"""A finished run as a repository of the Hub: plain weights, packed models, and the card that is their evidence."""

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml

from cutwork.errors import CutworkError
from cutwork.measure.report.card import card
from cutwork.measure.report.results import load_results
from cutwork.pack.manifest import read_manifest
from cutwork.run.run import VARIANTS
from cutwork.run.stages import read_state
from cutwork.store.directory import model_files
from cutwork.store.fingerprint import digest
from cutwork.store.resolve import hub_name


def repository(run: Path, name: str, dense: str, sparse: str) -> dict[str, Path | bytes]:
    """What a repository called `name` holds, by its path there: files of the run's directory, and what is made of them.

    At the top the fine-tuned sparse checkpoint, which transformers loads; in `packed` the run's packed models `dense`
    and `sparse`, for the engine and `cutwork demo`. Raises CutworkError if the run is not finished, has no such models,
    or they have been made anew since they were measured.
    """
    results = load_results(run)
    if "settings" not in results:
        raise CutworkError(
            f"{run} was measured by an older cutwork; remove its results.json and finish it again: cutwork run RECIPE"
        )
    settings = results["settings"]
    for packed in (dense, sparse):
        if packed not in results["made"] or not (run / "packed" / packed).is_dir():
            raise CutworkError(f"{run} has no packed model '{packed}'; it has {', '.join(results['made'])}")
    if not VARIANTS[sparse][0].startswith("sparse"):
        raise CutworkError(f"'{sparse}' is no model that was pruned and fine-tuned; give one of sparse-…")
    if not settings["tune"]:
        raise CutworkError(f"{run} fine-tuned nothing, as its recipe has no 'tune', so there is no model to push")
    levels = settings["prune"].get("levels", ())
    checkpoint = f"sparse-{len(levels)}" if levels else "sparse"
    now = read_state(run)
    if not all(now.get(f"packed/{packed}") == results["made"][packed] for packed in (dense, sparse)):
        raise CutworkError(
            f"the models of {run} were made anew after they were measured; finish it: cutwork run RECIPE"
        )
    base = hub_name(settings["model"])
    results = _without_places(results)
    settings = results["settings"] | {"output": f"out/{Path(settings['name']).name}"}
    files: dict[str, Path | bytes] = {
        file.relative_to(run / checkpoint).as_posix(): file for file in model_files(run / checkpoint)
    }
    for packed in (dense, sparse):
        files |= {f"packed/{packed}/{file.name}": file for file in sorted((run / "packed" / packed).iterdir())}
    manifest = read_manifest(run / "packed" / sparse)
    files["recipe.yaml"] = yaml.safe_dump(settings, sort_keys=False, allow_unicode=True).encode()
    files["results.json"] = (json.dumps(results, indent=1) + "\n").encode()
    files["README.md"] = card(name, base, results, sparse, manifest, digest(settings)).encode()
    return files


def _without_places(found: Any) -> Any:
    """Results or settings with the names of files and directories instead of where they lie here, which is nobody's
    business."""
    if isinstance(found, dict):
        return {key: _without_places(value) for key, value in found.items()}
    if isinstance(found, (list, tuple)):
        return [_without_places(value) for value in found]
    if isinstance(found, str) and "/" in found:
        path = Path(found).expanduser()
        with suppress(OSError):
            return path.name if path.is_absolute() or path.exists() else found
    return found
