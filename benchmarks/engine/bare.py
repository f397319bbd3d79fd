"""From a wheel to the first word where nothing is: a Debian that debootstrap has just made, with Python alone.

    python -m benchmarks.engine.bare dist/cutwork-*.whl MODEL      # as root, with debootstrap; some minutes

What README.md tells a new user, timed; MODEL is a directory that the engine runs. Leaves bare.json in results/.
"""

import argparse
import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.common.results import RESULTS, save

PACKAGES = "python3,python3-venv,ca-certificates"
COMPILERS = "gcc g++ cc c++ clang make pip"
CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")  # those of this machine, whose mirrors may have their own
QUESTION = b"A box holds 3 apples and a bag 4. How many apples are there?\n"


class Tree:
    """A directory that commands take for the whole machine."""

    def __init__(self, root: Path) -> None:
        self.root = root
        kept = {name: value for name, value in os.environ.items() if name.startswith("PIP_") or "proxy" in name.lower()}
        self._environment = {**kept, "HOME": "/root", "PATH": "/root/env/bin:/usr/bin:/bin"}

    def start(self, *command: str) -> subprocess.Popen[bytes]:
        """A command in /root, with pipes for what it reads and writes."""
        inside = ["/usr/sbin/chroot", str(self.root), "sh", "-c", 'cd /root && exec "$@"', "sh", *command]
        pipe = subprocess.PIPE
        return subprocess.Popen(inside, env=self._environment, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL)

    def seconds(self, *command: str) -> float:
        """How long a command takes that has to succeed."""
        start = time.perf_counter()
        process = self.start(*command)
        process.communicate()
        if process.returncode:
            raise SystemExit(f"{' '.join(command)} ended with {process.returncode}")
        return time.perf_counter() - start

    def first_word(self, *command: str) -> float:
        """Seconds from a command to the first character of its answer to QUESTION."""
        start = time.perf_counter()
        process = self.start(*command)
        assert process.stdin and process.stdout
        process.stdin.write(QUESTION)
        process.stdin.close()
        if not process.stdout.read(1):
            raise SystemExit(f"{' '.join(command)} answered nothing")
        taken = time.perf_counter() - start
        process.stdout.read()
        process.wait()
        return taken


def make(root: Path, suite: str, wheel: Path, model: Path) -> Tree:
    """The tree with the wheel and the model in /root, and nothing that compiles."""
    subprocess.run(
        ["debootstrap", "--variant=minbase", f"--include={PACKAGES}", suite, str(root)],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    for file in (CERTIFICATES, Path("/etc/resolv.conf")):
        shutil.copyfile(file, root / file.relative_to("/"))
    shutil.copy(wheel, root / "root")
    shutil.copytree(model, root / "root" / "model")
    tree = Tree(root)
    found, _ = tree.start("sh", "-c", f"for name in {COMPILERS}; do command -v $name; done").communicate()
    if found:
        raise SystemExit(f"not bare: {found.decode().split()}")
    return tree


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("wheel", type=Path)
    parser.add_argument("model", type=Path)
    parser.add_argument("--suite", default="trixie", help="of Debian")
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    scratch = Path(tempfile.mkdtemp())
    try:
        content = measure(scratch / "tree", options.suite, options.wheel.resolve(), options.model.resolve())
    finally:  # debootstrap, if it is interrupted, leaves /proc and /sys mounted there
        subprocess.run(["rm", "-rf", "--one-file-system", str(scratch)], check=False)
    print(table(save(options.results / "bare.json", content)))


def measure(root: Path, suite: str, wheel: Path, model: Path) -> dict[str, Any]:
    """Make the tree and time every command in it."""
    tree = make(root, suite, wheel, model)
    chat = ("cutwork", "chat", "model", "-n", "32")
    seconds = {
        "python3 -m venv env": tree.seconds("python3", "-m", "venv", "env"),
        "pip install cutwork-*.whl": tree.seconds("pip", "install", "--quiet", wheel.name),
        "cutwork chat, the first word": tree.first_word(*chat),
        "the same again": tree.first_word(*chat),
        "pip install 'cutwork[serve]'": tree.seconds("pip", "install", "--quiet", "cutwork[serve]"),
    }
    installed, _ = tree.start("du", "-sm", "env").communicate()
    return {
        "suite": suite,
        "wheel": wheel.name,
        "megabytes": int(installed.split()[0]),
        "load": os.getloadavg()[1],
        "seconds": seconds,
    }


def table(result: dict[str, Any]) -> str:
    """Seconds of each command, in order."""
    lines = [f"| in a bare Debian {result['suite']} | seconds |", "|---|--:|"]
    lines += [f"| `{name}` | {taken:.0f} |" for name, taken in result["seconds"].items()]
    busy = f"Beside it {result['load']:.0f} other processes wanted the processor on average."
    return "\n".join([*lines, "", f"`{result['wheel']}`; {result['megabytes']} MB in `env`. {busy}"])


if __name__ == "__main__":
    main()
