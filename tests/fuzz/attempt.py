"""What is done with a damaged model, in a process of its own: any end but success or CutworkError is a finding."""

import os
import random
import resource
import shutil
import signal
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from transformers import AutoConfig, AutoTokenizer, PreTrainedTokenizerFast  # here, so that not every child does it

from cutwork.engine.model import Model
from cutwork.errors import CutworkError
from cutwork.pack.pack import pack
from cutwork.pack.restore import restore
from cutwork.store.directory import kind_of
from cutwork.store.resolve import resolve
from tests.child import ended

from .damage import damage

_ = AutoConfig, AutoTokenizer, PreTrainedTokenizerFast
SECONDS = 60.0  # of a case; the slowest take three
MEMORY = 8 << 30  # bytes of address space beyond what the process has
SANITIZED = "asan" in os.environ.get("LD_PRELOAD", "")  # which takes terabytes of it
OK, REFUSED = 0, 3


@dataclass(frozen=True)
class Outcome:
    """How a case ended: "ok", "refused", or what must not be; and what it wrote."""

    end: str
    base: str
    done: str
    output: str

    @property
    def finding(self) -> bool:
        """Whether this must not be."""
        return self.end not in ("ok", "refused")


def attempt(bases: Path, seed: int, work: Path, only: str = "", files: str = "") -> Outcome:
    """The case of a seed: a base that begins with `only`, or one of several between commas, damaged and used.

    The file that is damaged has a name that ends with `files`, or one of several.
    """
    rng = random.Random(seed)
    base = rng.choice(sorted(path.name for path in bases.iterdir() if path.name.startswith(tuple(only.split(",")))))
    model = work / "model"
    os.environ["CUTWORK_HOME"] = str(work / "home")  # where checkpoints made of GGUF files would pile up
    for old in (model, work / "made", work / "home"):
        shutil.rmtree(old, ignore_errors=True)
    shutil.copytree(bases / base, model)
    done = damage(model, rng, files)
    path = next(model.glob("*.gguf"), model)
    use = (lambda: pack_or_restore(path, work / "made")) if rng.random() < 0.25 else lambda: run(path, rng)
    log = work / "log"
    status = _in_process(use, log)
    ends = {OK: "ok", REFUSED: "refused", 1: "another exception", -signal.SIGKILL: "killed, or too slow"}
    return Outcome(ends.get(status, f"status {status}"), base, done, log.read_text(errors="replace"))


def run(path: Path, rng: random.Random) -> None:
    """Load a model and do with it what models are for."""
    options = {
        "threads": rng.choice((1, 1, 2)),
        "reorder_weights": rng.random() < 0.3,
        "huge_pages": rng.random() < 0.8,
    }
    with Model.load(path, max_batch=4, cache_bytes=1 << 25, **options) as model:  # type: ignore[arg-type]
        if model.config.get("model_type") == "whisper":
            sound = np.sin(np.arange(16000, dtype=np.float32) / 6)
            model.transcribe(sound, beam_size=rng.choice((1, 2)), word_timestamps=rng.random() < 0.5)
            return
        prompt = "the quick brown fox" if model.tokenizer else [3, 4, 5, 6]
        model.generate(prompt, max_new_tokens=4, min_new_tokens=1)
        model.generate(prompt, max_new_tokens=3, temperature=0.8, top_p=0.9, seed=1, logprobs=2)
        model.generate([3, 4, 5] * 15, max_new_tokens=3, num_beams=2)
        if model.encoder:
            model.translate("the fox", num_beams=3, max_new_tokens=3)
            return
        list(model.token_logprobs([3, 4, 5, 6], 2))
        if getattr(model.tokenizer, "chat_template", None):
            model.chat([{"role": "user", "content": "hi"}], max_new_tokens=2, stop=["zq"])


def pack_or_restore(path: Path, output: Path) -> None:
    """Make a packed model of a checkpoint, or the reverse."""
    path = resolve(path)
    if kind_of(path) == "packed":
        restore(path, output)
    else:
        pack(path, output)


def _in_process(use: Callable[[], None], log: Path) -> int:
    """The exit status of a child that does it, or minus the signal that ended it."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(out, 1)
            os.dup2(out, 2)
            if not SANITIZED:
                pages = int(Path("/proc/self/statm").read_text().split()[0])
                limit = pages * resource.getpagesize() + MEMORY
                resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            use()
            status = OK
        except CutworkError as error:
            status = REFUSED if "\n" not in str(error) else 1
            traceback.print_exc()
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    return ended(child, SECONDS)
