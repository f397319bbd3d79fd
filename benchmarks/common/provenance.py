"""Where a result comes from: which code, on which processor, with which settings, when."""

import hashlib
import platform
import subprocess
import sys
import time
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import cutwork
from cutwork import _native
from cutwork.machine import processor

ROOT = Path(__file__).resolve().parents[2]
HUGE_PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled")
PACKAGES = ("numpy", "torch", "transformers", "tokenizers", "safetensors")


def provenance(threads: int | None = None, versions: dict[str, str] | None = None) -> dict[str, Any]:
    """What is written beside every result.

    threads: how many computed, where one number can be given. versions: of the peers that took part.
    """
    chip = processor()
    return {
        **code(),
        "build": build(),
        "processor": {
            "name": chip.name,
            "vendor": chip.vendor,
            "family": chip.family,
            "model": chip.model,
            "generation": chip.generation,
        },
        "cpus": _native.default_threads(),
        "isa": _native.isa(),
        "huge_pages": huge_pages_setting(),
        "kernel": f"{platform.system()} {platform.release().partition('-')[0]}",
        "threads": threads,
        "versions": {"python": platform.python_version(), **_packages(), **(versions or {})},
        "command": command(),
        "date": time.strftime("%Y-%m-%d %H:%M:%S"),
    }


def code() -> dict[str, Any]:
    """The commit that is checked out, and whether the tree is as it was committed; results themselves do not count."""
    commit = _git("rev-parse", "HEAD")
    changed = _git("status", "--porcelain", "--", ":!benchmarks/results", ":!docs", ":!README.md")
    return {"commit": commit, "clean": None if commit is None else not changed}


@cache
def build() -> str:
    """Cutwork's version with a hash of the code that runs in the engine, Python and native."""
    package = Path(cutwork.__file__).parent
    folders = ("architectures", "engine", "pack", "plan", "store")
    files = [Path(_native.__file__), *(file for name in folders for file in sorted(package.glob(f"{name}/**/*.py")))]
    digest = hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()
    return f"{cutwork.__version__}+{digest[:8]}"


def command() -> list[str]:
    """How this process was started, without what tells of the machine's folders."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    module = spec.name.removesuffix(".__main__") if spec else Path(sys.argv[0]).name
    return ["python", "-m", module, *(_without_home(argument) for argument in sys.argv[1:])]


def llama_cpp(build: Path | None) -> dict[str, str]:
    """What a build of llama.cpp says of itself; nothing without one."""
    if build is None:
        return {}
    done = subprocess.run([build / "bin" / "llama-server", "--version"], capture_output=True, text=True, check=True)
    return {"llama.cpp": " ".join((done.stdout + done.stderr).split())}


def huge_pages_setting() -> str:
    """Whether the system gives memory huge pages: "always", "madvise" (to who asks), "never", "" if it does not say."""
    try:
        said = HUGE_PAGES.read_text()
    except OSError:
        return ""
    return said.partition("[")[2].partition("]")[0]


def _without_home(argument: str) -> str:
    for folder in (ROOT, Path.cwd()):
        argument = argument.replace(f"{folder}/", "")
    name, equals, value = ("", "", argument) if Path(argument).is_absolute() else argument.rpartition("=")
    return f"{name}{equals}{Path(value).name}" if Path(value).is_absolute() else argument


def _packages() -> dict[str, str]:
    found = {}
    for name in ("cutwork", *PACKAGES):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()
