"""A recipe as it is read: one YAML file, with what is asked for in the place of its own settings."""

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from cutwork.errors import CutworkError
from cutwork.recipe import Recipe


class _Loader(yaml.SafeLoader):
    """Refuses a key that stands twice in a mapping, of which PyYAML, against YAML, lets the last one count."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node: yaml.MappingNode = super().compose_mapping_node(anchor)  # type: ignore[no-untyped-call]
        lines: dict[str, int] = {}
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                line = key.start_mark.line + 1
                if key.value in lines:
                    raise yaml.YAMLError(f"'{key.value}' stands twice, in lines {lines[key.value]} and {line}")
                lines[key.value] = line
        return node


def load_recipe(path: Path, changes: Sequence[str] = ()) -> Recipe:
    """Read and check a recipe; `changes` are settings that come in the place of its own, as "prune.sparsity=0.6".

    Raises CutworkError, naming the key and the nearest valid one, for anything that is not a valid recipe.
    """
    if not path.is_file():
        problem = f"{path} is a directory, no recipe" if path.is_dir() else f"no recipe at {path}"
        raise CutworkError(f"{problem}; the sources have some in recipes/")
    try:
        data = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise CutworkError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(data, dict):
        raise CutworkError(f"{path} is not a recipe: expected a mapping of settings at the top level")
    for change in changes:
        _change(data, change)
    try:
        return Recipe.model_validate(data)
    except ValidationError as error:
        raise CutworkError(f"{path}: {_explain(error)}") from None


def _change(data: dict[str, Any], change: str) -> None:
    """Put KEY=VALUE, the key's parts joined by dots and the value in YAML, into a recipe as it was read."""
    key, equals, text = change.partition("=")
    *parents, last = key.split(".")
    if not equals or not all([*parents, last]):
        raise CutworkError(f"--set {change}: expected KEY=VALUE, as in prune.sparsity=0.6")
    try:
        value = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError):
        value = text
    if ":" in text and isinstance(value, int | float):
        value = text  # a pattern, 2:4, and not 2 minutes and 4 seconds
    section = data
    for parent in parents:
        if not isinstance(section.get(parent), dict):
            section[parent] = {}  # it may have been null, or left out
        section = section[parent]
    section[last] = value


def _explain(error: ValidationError) -> str:
    """The first problem of a recipe as one clause, with a did-you-mean for unknown keys."""
    problem = error.errors()[0]
    *parents, key = problem["loc"] or ("recipe",)
    where = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        known = _keys(parents)
        near = difflib.get_close_matches(str(key), known, n=1)
        hint = f"did you mean '{near[0]}'?" if near else f"known keys: {', '.join(known)}"
        return f"unknown key '{where}'; {hint}"
    if problem["type"] == "missing":
        return f"key '{where}' is missing"
    message = problem["msg"].removeprefix("Value error, ")
    if "pattern" in where and isinstance(problem["input"], int | float):
        message = 'without quotes YAML takes n:m for minutes and seconds; quote it, as in "4:16"'
    return f"{where}: {message[0].lower()}{message[1:]} (got {problem['input']!r})" if where else message


def _keys(parents: list[Any]) -> list[str]:
    """The valid keys of the settings model found by walking `parents` from the recipe."""
    model: type[BaseModel] = Recipe
    for part in parents:
        field = model.model_fields.get(str(part))
        annotation = field.annotation if field else None
        candidates = [annotation, *getattr(annotation, "__args__", ())]
        model = next((c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel)), model)
    return list(model.model_fields)
