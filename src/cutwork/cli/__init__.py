"""The `cutwork` command, one file per subcommand: parse, call, print."""

import errno
import inspect
import io
import logging
import os
import sys
from collections.abc import Callable
from typing import Annotated

import typer

from cutwork import __version__
from cutwork.cli.batch import batch
from cutwork.cli.bench import bench
from cutwork.cli.chat import chat
from cutwork.cli.compress import compress
from cutwork.cli.demo import demo
from cutwork.cli.embed import embed
from cutwork.cli.eval import evaluate
from cutwork.cli.explain import explain
from cutwork.cli.generate import generate
from cutwork.cli.list import list_models
from cutwork.cli.merge import merge
from cutwork.cli.pack import pack
from cutwork.cli.prune import prune
from cutwork.cli.pull import pull
from cutwork.cli.push import push
from cutwork.cli.quantize import quantize
from cutwork.cli.report import report
from cutwork.cli.rm import remove
from cutwork.cli.run import run
from cutwork.cli.serve import serve
from cutwork.cli.transcribe import transcribe
from cutwork.cli.translate import translate
from cutwork.cli.tune import tune
from cutwork.errors import CutworkError
from cutwork.extras import install
from cutwork.interrupts import leave

app = typer.Typer(
    name="cutwork",
    help="Prune a language model, fine-tune what is left, and run it fast on CPUs.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)

# Packages that only some commands need, and the extra of pyproject.toml that brings them.
_EXTRAS = {name: "train" for name in ("accelerate", "datasets", "torch")} | {
    "gguf": "gguf",
    "jiwer": "eval",
    "lm_eval": "lm-eval",
    "matplotlib": "eval",
    "peft": "peft",
    "reasoning_gym": "demo",
    "soundfile": "speech",
    "soxr": "speech",
    "fastapi": "serve",
    "httpx": "serve",
    "llguidance": "serve",
    "prometheus_client": "serve",
    "uvicorn": "serve",
}

# What warns a user of things that only its authors can change: transformers imports torchao where that is installed.
_NOISY = ("torchao", "torch.utils._pytree")

# In what torch says, which has a kind of its own for GPUs only, where there is no memory left.
_OUT_OF_MEMORY = ("out of memory", "DefaultCPUAllocator")

# In what Python and the native module say where the system starts no more threads.
_NO_THREADS = ("start new thread", "refuses to start")

# What is wrong with a path or its disk, not with the program.
_OF_PATHS = (
    errno.ENOSPC, errno.EFBIG, errno.EACCES, errno.EROFS, errno.EPERM, errno.ENAMETOOLONG, errno.EISDIR, errno.ENOTDIR,
    errno.EEXIST, errno.ENOENT, errno.ELOOP,
)  # fmt: skip

_COMMANDS: dict[str, dict[str, Callable[..., None]]] = {
    "The whole path": {"run": run, "compress": compress, "report": report, "demo": demo},
    "Make a sparse model": {"tune": tune, "prune": prune, "merge": merge, "quantize": quantize, "pack": pack},
    "Use a model": {
        "generate": generate,
        "chat": chat,
        "translate": translate,
        "transcribe": transcribe,
        "embed": embed,
        "serve": serve,
        "batch": batch,
    },
    "Models of the Hub": {"pull": pull, "push": push, "list": list_models, "rm": remove},
    "Measure a model": {"eval": evaluate, "bench": bench, "explain": explain},
}


def _flowing(text: str) -> str:
    """A docstring whose paragraphs are as wide as the terminal; of all but the first typer keeps the source's lines."""
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in inspect.cleandoc(text).split("\n\n"))


for panel, commands in _COMMANDS.items():
    for name, command in commands.items():
        app.command(name, help=_flowing(command.__doc__ or ""), rich_help_panel=panel)(command)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"cutwork {__version__}")
        raise typer.Exit


@app.callback(
    epilog="Start with: cutwork chat Qwen/Qwen3-0.6B — every command has --help with an example.",
)
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Options that stand before the command."""


def main() -> None:
    """Run the command line; whatever a user can put right becomes one sentence and a non-zero exit."""
    for noisy in _NOISY:
        logging.getLogger(noisy).setLevel(logging.ERROR)
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:  # closed by who started this
            setattr(sys, name, open(os.devnull, "w" if number else "r", encoding="utf-8"))  # noqa: SIM115
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # models write what a terminal's encoding may lack
    try:
        app()
    except CutworkError as error:
        _fail(str(error))
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in _EXTRAS:
            raise
        _fail(f"this needs {package}, which is not installed; run: {install(_EXTRAS[package])}")
    except KeyboardInterrupt:
        leave()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except RuntimeError as error:
        if any(said in str(error) for said in _OUT_OF_MEMORY):
            _fail(
                "out of memory; lower micro_batch_size or max_length, or set gradient_checkpointing (see cutwork tune)"
            )
        if any(said in str(error) for said in _NO_THREADS):
            _fail(
                "the system starts no more threads: too little memory or too few processes are allowed (see ulimit -a)"
            )
        if "home directory" not in str(error):
            raise
        _fail("a path begins with ~ and the name of nobody who has a home directory here; write it without ~")
    except UnicodeDecodeError:
        _fail("the input is not UTF-8 text; convert it first, as with iconv -f latin1 -t utf-8")
    except MemoryError:
        _fail("out of memory; use a smaller batch, context or model")
    except OSError as error:
        if error.errno not in _OF_PATHS:
            raise
        _fail(f"{os.strerror(error.errno).lower()}: {error.filename or 'output'}")


def _fail(message: str) -> None:
    print(f"error: {message}", file=sys.stderr)
    sys.exit(1)
