"""The import rules of docs/architecture.md."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import cutwork

ROOT = Path(cutwork.__file__).parent
LIGHT = ("engine", "pack", "checkpoint", "legacy", "safetensors_file")  # never import torch
EVERYWHERE = {
    "__version__",
    "audio",
    "errors",
    "files",
    "machine",
    "recipe",
    "pretrained",
    "safetensors_file",
    "legacy",
}
ALLOWED = {
    "engine": {"engine", "pack", "checkpoint"},
    "pack": {"pack", "checkpoint"},
    "checkpoint": {"checkpoint"},
    "safetensors_file": {"checkpoint"},
    "legacy": set(),
    "train": {"train", "tasks", "checkpoint"},
    "quantize": {"quantize", "train", "tasks", "checkpoint"},
    "tasks": {"tasks"},
}


def imports(part: str) -> list[tuple[Path, str]]:
    """(file, imported module) of a package or module of cutwork, also inside functions; not what only types need."""
    files = sorted((ROOT / part).rglob("*.py")) or [ROOT / f"{part}.py"]
    found = []
    for file in files:
        tree = ast.parse(file.read_text())
        for_types = {
            node
            for branch in ast.walk(tree)
            if isinstance(branch, ast.If) and ast.unparse(branch.test) == "TYPE_CHECKING"
            for statement in branch.body
            for node in ast.walk(statement)
        }
        for node in set(ast.walk(tree)) - for_types:
            if isinstance(node, ast.Import):
                found += [(file, alias.name) for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module:
                names = [f"cutwork.{alias.name}" for alias in node.names] if node.module == "cutwork" else [node.module]
                found += [(file, name) for name in names]
    return found


@pytest.mark.parametrize("part", sorted(ALLOWED))
def test_imports_go_down_the_list(part: str) -> None:
    for file, name in imports(part):
        package, _, rest = name.partition(".")
        if package != "cutwork":
            continue
        target = rest.split(".")[0]
        assert target in ALLOWED[part] | EVERYWHERE | {"_native"}, f"{file.relative_to(ROOT)} imports {name}"


@pytest.mark.parametrize("part", LIGHT)
def test_the_engine_side_never_names_torch(part: str) -> None:
    heavy = {"torch", "accelerate", "datasets", "compressed_tensors"}
    assert not [f"{file.name}: {name}" for file, name in imports(part) if name.split(".")[0] in heavy]


def test_importing_the_engine_side_does_not_load_torch() -> None:
    modules = ["cutwork", "cutwork.cli"]
    for part in LIGHT:
        for file in sorted((ROOT / part).rglob("*.py")) or [ROOT / f"{part}.py"]:
            modules.append(".".join(("cutwork", *file.relative_to(ROOT).with_suffix("").parts)))
    code = f"import importlib, sys\nfor m in {modules!r}: importlib.import_module(m)\nprint('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "False"
