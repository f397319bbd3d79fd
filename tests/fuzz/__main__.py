"""Damage model directories for a time, and say which of them ended otherwise than they may.

    python -m tests.fuzz --seconds 600                 # prints where it went on from, and the seeds of findings
    python -m tests.fuzz --seed 4711 --cases 1         # one again, with all it wrote
    python -m tests.fuzz --only packed- --files .safetensors,cutwork.json

`make fuzz` does this with the installed module and under sanitizers. Exits with 1 if there were findings.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from pathlib import Path


def main() -> int:
    """Make what is to be damaged, once; then case after case."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--cases", type=int, default=1 << 60)
    parser.add_argument("--seed", type=int, help="of the first case; the others follow it")
    parser.add_argument("--only", default="", help="how the names of the models begin that are damaged, with commas")
    parser.add_argument("--files", default="", help="how the names of the files end that are damaged, with commas")
    parser.add_argument("--counts", type=Path, help="a JSON file for how many cases of each model ended how")
    parser.add_argument("--bases", type=Path, default=Path("build/fuzz"), help="where the whole models are kept")
    options = parser.parse_args()
    os.environ |= {"CUTWORK_COSTS": "default", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}
    if not options.bases.is_dir():  # in a process without sanitizers, since it imports torch
        environment = {key: value for key, value in os.environ.items() if key not in ("LD_PRELOAD", "PYTHONPATH")}
        command = [sys.executable, "-m", "tests.fuzz.bases", options.bases]
        subprocess.run(command, check=True, env=environment, stderr=subprocess.DEVNULL)
    from .attempt import SANITIZED, attempt

    first = options.seed if options.seed is not None else random.randrange(1 << 40)
    print(f"models damaged {'under sanitizers ' if SANITIZED else ''}from seed {first} on", flush=True)
    ends: defaultdict[str, Counter[str]] = defaultdict(Counter)
    began = time.monotonic()
    seed = first
    with tempfile.TemporaryDirectory() as work:
        while seed < first + options.cases and time.monotonic() < began + options.seconds:
            outcome = attempt(options.bases, seed, Path(work), options.only, options.files)
            ends[outcome.base][outcome.end] += 1
            if outcome.finding or options.cases == 1:
                last = outcome.output if options.cases == 1 else "".join(outcome.output.splitlines()[-1:])
                print(f"seed {seed}: {outcome.end}: {outcome.base}, {outcome.done}\n  {last}", flush=True)
            seed += 1
    if options.counts:
        options.counts.write_text(json.dumps(ends))
    total = sum(ends.values(), Counter())
    counted = ", ".join(f"{count} {end}" for end, count in total.most_common())
    print(f"{total.total()} damaged models: {counted}; go on with --seed {seed}")
    return int(bool(set(total) - {"ok", "refused"}))


if __name__ == "__main__":
    raise SystemExit(main())
