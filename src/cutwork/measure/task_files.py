"""What a task of lm-eval that a YAML file describes is made of, beside what comes from elsewhere."""

import hashlib
from collections.abc import Iterator, Sequence
from glob import glob
from pathlib import Path

import yaml

from cutwork.store.fingerprint import digest

_DATA = ("data_files", "data_dir", "dataset_path")  # keys that may name files; what they name on the Hub is not here


def contents_of_tasks(names: Sequence[str]) -> list[str]:
    """Tasks of lm-eval as what they ask: a YAML file by its contents and those of the local files that it includes,
    calls functions of or takes data from, others by their names."""
    return [_contents(Path(name)) if Path(name).is_file() else name for name in names]


def _contents(task: Path) -> str:
    text = task.read_text(encoding="utf-8")
    others = [_hash(file) for file in dict.fromkeys(_others(task, {task.resolve()}))]
    return digest([text, *others]) if others else digest(text)


def _hash(file: Path) -> str:
    with file.open("rb") as source:
        return hashlib.file_digest(source, "sha256").hexdigest()


def _others(task: Path, seen: set[Path]) -> Iterator[Path]:
    """The files that a YAML file names, and those of what it includes, but for the YAML files `seen` before."""

    def named(node: yaml.Node, key: str) -> Iterator[Path]:
        if isinstance(node, yaml.MappingNode):
            for name, value in node.value:
                yield from named(value, name.value if name.value in ("include", *_DATA) else key)
        elif isinstance(node, yaml.SequenceNode):
            for each in node.value:
                yield from named(each, key)
        elif node.tag == "!function":  # a module beside the YAML file, or one that is installed
            module, _, _ = str(node.value).rpartition(".")
            yield task.parent / f"{module.replace('.', '/')}.py"
        elif key == "include":
            included = task.parent / node.value
            if included.is_file() and included.resolve() not in seen:
                seen.add(included.resolve())
                yield included
                yield from _others(included, seen)
        elif key:
            for path in map(Path, sorted(glob(node.value, recursive=True))):
                yield from sorted(path.rglob("*")) if path.is_dir() else [path]

    # Composed, not loaded: that would need what the functions are in.
    root = yaml.compose(task.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
    if root is not None:
        yield from (file for file in named(root, "") if file.is_file())
