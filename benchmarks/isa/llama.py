"""llama.cpp and ik_llama.cpp timed by their own programs, in huge pages as ours."""

import json
import os
import re
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.common.pages import huge_share
from benchmarks.isa.cells import IK, PATIENCE, CellError
from benchmarks.isa.work import BATCHES, CONTEXT, PROMPT, STEPS, WHAT

# Weights are read into memory, not mapped, and malloc asks for huge pages as our loader does.
HUGE_PAGES = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}
_IN_MEMORY = {
    "llama-bench": ["-lm", "none"],
    "llama-batched-bench": ["-lm", "none"],
}
_REPACKED = {  # ik_llama.cpp's fastest: weights interleaved while they are loaded, which is not mapped either
    "llama-bench": ["-rtr", "1", "-thp", "1"],
    "llama-batched-bench": ["-rtr", "-thp"],
}
_BATCH_LINE = re.compile(r"^\|" + 8 * r"\s*([\d.]+) \|")  # tokens of a prompt, decoded, batch, …, speed of decoding


@dataclass(frozen=True)
class Build:
    """A folder of llama.cpp's programs."""

    engine: str
    folder: Path

    def program(self, name: str) -> Path:
        return self.folder / name

    def missing(self) -> str | None:
        """Why it cannot be used, or None."""
        for name in _IN_MEMORY:
            if not os.access(self.program(name), os.X_OK):
                page = "docs/results/instruction-sets.md"
                return f"{self.folder} has no {name}; build it as {page} says, or leave {self.engine} out"
        return None

    def command(self, program: str, model: Path, threads: int) -> list[str]:
        options = (_REPACKED if self.engine == IK else _IN_MEMORY)[program]
        return [str(self.program(program)), "-m", str(model), "-t", str(threads), *options]

    def measure(self, model: Path, threads: int) -> dict[str, Any]:
        """Tokens per second as our worker's, and how much lay in huge pages. Raises CellError."""
        alone = self.command("llama-bench", model, threads)
        singles, _, share = run([*alone, "-p", str(PROMPT), "-n", str(STEPS), "-r", "1", "-o", "json"])
        batches, said, other_share = run([
            *self.command("llama-batched-bench", model, threads),
            *("-c", "2048", "-npp", str(CONTEXT), "-ntg", str(STEPS // 2), "-npl", ",".join(map(str, BATCHES))),
        ])  # fmt: skip
        rows = json.loads(singles[singles.index("[") :])
        speeds = parse_singles(rows) | parse_batches(batches + said)  # one writes its table there, one here
        if missing := set(WHAT) - set(speeds):
            raise CellError(f"{self.folder}: no speeds of {', '.join(sorted(missing))} in what its programs print")
        how = " ".join((_REPACKED if self.engine == IK else _IN_MEMORY)["llama-bench"])
        return {
            "version": f"{rows[0]['build_commit']}, llama-bench {how}, {'='.join(*HUGE_PAGES.items())}",
            "huge_pages": min(share, other_share),
            "speeds": speeds,
        }


def run(command: list[str]) -> tuple[str, str, float]:
    """What a program prints and complains of, and how much of it lay in huge pages. Raises CellError if it fails."""
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(
            command, cwd=folder, env=os.environ | HUGE_PAGES, stdout=subprocess.PIPE, stderr=errors, text=True
        )
        share, due = 0.0, time.monotonic() + 2  # looking takes time that is measured: not often
        end = time.monotonic() + PATIENCE
        try:
            while True:
                try:
                    output, _ = process.communicate(timeout=max(0.1, due - time.monotonic()))
                    break
                except subprocess.TimeoutExpired:
                    share, due = max(share, huge_share(process.pid)), time.monotonic() + 4
                    if due > end:
                        raise CellError(f"{Path(command[0]).name} took more than {PATIENCE:.0f} seconds") from None
        finally:
            process.kill()
        errors.seek(0)
        said = errors.read()
        if process.returncode:
            last = [line.strip() for line in said.splitlines() if line.strip()]
            raise CellError(f"{Path(command[0]).name} failed: {last[-1] if last else 'it says nothing'}")
    return output, said, share


def parse_singles(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Of llama-bench's JSON."""
    return {("prefill" if row["n_prompt"] else "decode"): float(row["avg_ts"]) for row in rows}


def parse_batches(output: str) -> dict[str, float]:
    """Of llama-batched-bench's table: the speed of decoding."""
    found = filter(None, map(_BATCH_LINE.match, output.splitlines()))
    return {f"batch {row[3]}": float(row[8]) for row in found}
