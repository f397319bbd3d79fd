"""Interrupt the commands that write, at random, and say what must not be.

    python -m tests.interrupted kills --count 500      # kill -9; prints where to go on from
    python -m tests.interrupted pairs --count 40       # two processes at the same output
    python -m tests.interrupted disks --count 60       # full disks; needs the rights to mount a tmpfs
    python -m tests.interrupted kills --seed 4711 --trials 1

A trial is told by its seed and kind; in one of kills there may be several. Exits with 1 if there were findings.
"""

import argparse
import os
import random
import shutil
import sys
import time
from collections import Counter
from pathlib import Path

_COUNTED = {"kills": "killed", "pairs": "twice", "disks": "full"}


def main() -> int:
    """Make what is run, once; then trial after trial."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=list(_COUNTED))
    parser.add_argument("--count", type=int, default=1 << 30, help="of kills, pairs or full disks")
    parser.add_argument("--trials", type=int, default=1 << 30)
    parser.add_argument("--seconds", type=float, default=float("inf"))
    parser.add_argument("--seed", type=int, help="of the first trial; the others follow it")
    parser.add_argument("--only", help="one command")
    parser.add_argument("--work", type=Path, default=Path("build/interrupted"), help="where models and data are kept")
    options = parser.parse_args()
    os.environ |= {"CUTWORK_COSTS": "default", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}
    os.environ |= {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    work = options.work.resolve()
    from .commands import FOLDER, make_commands, read_commands
    from .trials import Trial, WrongError

    if not (work / "commands.json").is_file():
        make_commands(work, options.only)
    commands = read_commands(work)
    names = [options.only] if options.only else sorted(commands)
    if not set(names) <= commands.keys():
        sys.exit(f"{work} was made for {', '.join(commands)} only; remove it")
    first = options.seed if options.seed is not None else random.randrange(1 << 40)
    began, seed, wrong = time.monotonic(), first, 0
    done: Counter[str] = Counter()
    folder = work / FOLDER
    while (
        seed < first + options.trials
        and time.monotonic() < began + options.seconds
        and sum(count for what, count in done.items() if _COUNTED[options.kind] in what) < options.count
    ):
        rng = random.Random(seed)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        trial = Trial(work, folder, commands[rng.choice(names)], rng)
        try:
            {"kills": trial.kills, "pairs": trial.pair, "disks": trial.full_disk}[options.kind]()
        except WrongError as error:
            wrong += 1
            print(f"seed {seed}: {error}", flush=True)
        done += trial.done
        seed += 1
    counted = ", ".join(f"{count} × {what}" for what, count in sorted(done.items()))
    print(f"{seed - first} trials, {wrong} wrong: {counted}; go on with --seed {seed}", flush=True)
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
