"""The import rules of docs/architecture.md, for every package."""

import ast
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

import cutwork
from cutwork.architectures import ARCHITECTURES

ROOT = Path(cutwork.__file__).parent
LIGHT = ("store", "audio", "plan", "architectures", "pack", "engine")  # never import torch
FOR_ALL = {"__version__", "errors", "extras", "interrupts", "machine", "progress", "recipe", "recipe_file"}
# What each package may import beside itself.
ALLOWED = {
    "store": set(),
    "audio": {"store"},
    "plan": set(),
    "architectures": {"plan"},
    "pack": {"store", "architectures"},
    "engine": {"store", "audio", "plan", "architectures", "pack"},
    "tasks": {"audio"},
    "torch_models": {"store", "audio", "architectures", "tasks"},
    "prune": {"store", "architectures", "tasks", "torch_models"},
    "tune": {"store", "tasks", "torch_models", "prune"},
    "quantize": {"store", "architectures", "pack", "tasks", "torch_models", "prune", "tune"},
    "measure": {"store", "architectures", "pack", "tasks", "engine"},
    "run": {"store", "architectures", "tasks", "torch_models", "prune", "tune", "quantize", "pack", "measure"},
    "serve": {"store", "audio", "engine"},
    "compress": {
        *("store", "architectures", "tasks", "torch_models", "prune", "tune", "quantize", "pack", "engine", "measure"),
        *("plan", "run"),
    },
    "cli": {
        *("store", "tasks", "torch_models", "prune", "tune", "quantize", "pack", "engine", "measure", "run", "serve"),
        "compress",
    },
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
        assert target in ALLOWED[part] | FOR_ALL | {part, "_native"}, f"{file.relative_to(ROOT)} imports {name}"


def test_every_package_has_a_rule() -> None:
    assert {path.parent.name for path in ROOT.glob("*/__init__.py")} == set(ALLOWED)


def test_no_module_imports_itself_by_a_detour() -> None:
    """Facades apart: what a package's `__init__` imports for its users, its modules do not import from there."""
    files = {_module(file): file for file in ROOT.rglob("*.py")}
    graph = {name: {target for target in _targets(file, files) if target != name} for name, file in files.items()}
    graph["cutwork"] = graph["cutwork.cli"] = set()
    assert _circle(graph) is None


def _module(file: Path) -> str:
    parts = ("cutwork", *file.relative_to(ROOT).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _targets(file: Path, files: Mapping[str, Path]) -> Iterator[str]:
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and (node.module, node.level) != ("__future__", 0):
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                yield full if full in files else node.module


def _circle(graph: Mapping[str, set[str]]) -> list[str] | None:
    done: set[str] = set()

    def visit(name: str, way: list[str]) -> list[str] | None:
        if name in way:
            return [*way[way.index(name) :], name]
        if name in done:
            return None
        found = next(filter(None, (visit(target, [*way, name]) for target in sorted(graph.get(name, ())))), None)
        done.add(name)
        return found

    return next(filter(None, (visit(name, []) for name in sorted(graph))), None)


def test_only_an_architecture_names_its_family() -> None:
    """Everybody else asks its record. Transcription is Whisper's own, and GGUF has families of its own."""
    names = {*ARCHITECTURES, "num_mel_bins"}
    own = (ROOT / "architectures", ROOT / "engine" / "speech", ROOT / "store" / "gguf")
    for file in sorted(ROOT.rglob("*.py")):
        if any(file == path or path in file.parents for path in own):
            continue
        texts = {node.value for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.Constant)}
        assert not names & texts, f"{file.relative_to(ROOT)} names {sorted(names & texts)}"


@pytest.mark.parametrize("part", LIGHT)
def test_the_engine_side_never_names_torch(part: str) -> None:
    heavy = {"torch", "accelerate", "datasets", "compressed_tensors"}
    found = [(file, name) for file, name in imports(part) if name.split(".")[0] in heavy]
    assert not found


def test_importing_the_engine_side_does_not_load_torch() -> None:
    modules = ["cutwork", "cutwork.cli"]
    for part in LIGHT:
        for file in sorted((ROOT / part).rglob("*.py")) or [ROOT / f"{part}.py"]:
            modules.append(_module(file))
    code = f"import importlib, sys\nfor m in {modules!r}: importlib.import_module(m)\nprint('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "False"
