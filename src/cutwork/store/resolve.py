"""Where a model that is named by a path, by a name of our own or by one of the Hub lies on this disk."""

from pathlib import Path

from cutwork.errors import CutworkError
from cutwork.store import demo_model, hub
from cutwork.store.gguf import checkpoint_of

HUB = "hf:"  # before a name: of the Hub, whatever lies here
# What people call the directories that models are written to; whoever has such a name on the Hub is not meant by it.
_FOLDERS = frozenset(("build", "checkpoint", "checkpoints", "data", "model", "models", "out", "output", "outputs",
                      "packed", "results", "run", "runs", "tmp"))  # fmt: skip


def resolve(name_or_path: str | Path, codes: bool = False) -> Path:
    """The local directory of a model: a path, a name that `demo_model` knows, or one of the Hub (downloaded).

    A GGUF file becomes a checkpoint in the cache; codes: with the 4-bit codes for which the engine has kernels, and not
    the floats they stand for.

    A name of the Hub is `hf:OWNER/NAME`, or `OWNER/NAME` where no directory can be meant by that; `@REVISION` after it
    names a branch, tag or commit. Only weights in
    safetensors, JSON and tokenizer files are downloaded. Raises CutworkError if there is no such model or the Hub
    cannot be reached.
    """
    path = Path(name_or_path).expanduser()
    if path.suffix == ".gguf" and path.is_file():
        return checkpoint_of(path, codes)
    if path.exists():
        return path
    name = str(name_or_path)
    if name in demo_model.NAMES:
        return Path(demo_model.fetch(name))
    if path.suffix == ".gguf" and not name.startswith(HUB):
        raise CutworkError(f"there is no file {path}; check the path, or fetch it with `hf download OWNER/NAME FILE`")
    of_hub, _, revision = name.removeprefix(HUB).partition("@")
    if isinstance(name_or_path, Path) or not hub.is_name(of_hub):
        raise CutworkError(f"no model directory at {path}")
    if not name.startswith(HUB) and _may_be_here(of_hub):
        raise CutworkError(f"no model directory at {path}; for the Hugging Face Hub's model write {HUB}{name}")
    return hub.download(of_hub, revision or None)


def hub_name(name: str) -> str | None:
    """What a model that `resolve` was given is called on the Hub; None if it is a directory here."""
    if name in demo_model.NAMES:
        return demo_model.hub_name(name)
    of_hub = name.removeprefix(HUB).partition("@")[0]
    local = not name.startswith(HUB) and (Path(name).expanduser().exists() or _may_be_here(of_hub))
    return of_hub if hub.is_name(of_hub) and not local else None


def _may_be_here(name: str) -> bool:
    """Whether a directory may be meant by what could be a name of the Hub."""
    owner, slash, _ = name.partition("/")
    return not slash or owner.lower() in _FOLDERS or Path(owner).is_dir()
