"""Compiles and links the native module for macOS and Windows with zig, which brings their system headers: nothing runs.

    pip install ziglang
    python -m tests.native.cross [aarch64-macos x86_64-macos x86_64-windows-gnu]
    python -m tests.native.cross --check aarch64-macos    # only what the compiler says: types differ from Linux's

Python's headers are this system's, on Windows with a pyconfig.h of its own; the functions of Python that are missing
are taken to be in its DLL. Leaves build/cross/TARGET/_native.so or .pyd.
"""

import argparse
import json
import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).parents[2]
TARGETS = ("aarch64-macos", "x86_64-macos", "x86_64-windows-gnu")
ONLY_LINUX = ("-mtls-dialect=gnu2",)  # nanobind's
ZIG = [sys.executable, "-m", "ziglang"]
# What Python's own pyconfig.h for 64-bit Windows says that its headers and nanobind ask for.
WINDOWS_CONFIG = """
#pragma once
#include <io.h>
#define MS_WIN32
#define MS_WIN64
#define MS_WINDOWS
#define NT_THREADS
#define Py_ENABLE_SHARED 1
#define HAVE_DECLSPEC_DLL
#define SIZEOF_VOID_P 8
#define SIZEOF_SIZE_T 8
#define SIZEOF_TIME_T 8
#define SIZEOF_WCHAR_T 2
#define SIZEOF_SHORT 2
#define SIZEOF_INT 4
#define SIZEOF_LONG 4
#define SIZEOF_LONG_LONG 8
#define SIZEOF_FLOAT 4
#define SIZEOF_DOUBLE 8
#define ALIGNOF_LONG 4
#define ALIGNOF_SIZE_T 8
#define PLATFORM "win32"
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("targets", nargs="*", default=TARGETS)
    parser.add_argument("--check", action="store_true", help="compile only, link and keep nothing")
    options = parser.parse_args()
    for target in options.targets:
        if options.check:
            check(target)
        print(f"{target}: {'compiles' if options.check else build(target)}")


def check(target: str) -> None:
    """Compile every source, hardly optimised, and keep nothing; one that does not compile ends the process."""
    folder, commands = commands_for(target)
    with tempfile.TemporaryDirectory() as kept:

        def checked(number: int, command: list[str]) -> None:
            options = ["-O1" if word == "-O3" else word for word in command[1:]]
            options[options.index("-o") + 1] = f"{kept}/{number}.o"
            done = subprocess.run([*ZIG, "c++", "-target", target, *options], cwd=folder, check=False)
            if done.returncode:
                sys.exit(f"{target}: {command[-1]} does not compile")

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            list(pool.map(checked, range(len(commands)), commands))


def build(target: str) -> Path:
    """The module for a target."""
    folder, commands = commands_for(target)

    def compiled(command: list[str]) -> Path:
        output = folder / command[command.index("-o") + 1]
        if not output.exists() or output.stat().st_mtime < Path(command[-1]).stat().st_mtime:
            output.parent.mkdir(parents=True, exist_ok=True)
            done = subprocess.run([*ZIG, "c++", "-target", target, *command[1:]], cwd=folder, check=False)
            if done.returncode:
                output.unlink(missing_ok=True)
                sys.exit(f"{target}: {command[-1]} does not compile")
        return output

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        objects = list(pool.map(compiled, commands))
    if "windows" in target:
        return link(target, [*objects, python_library(folder, objects)], folder / "_native.pyd")
    return link(target, [*objects, "-undefined", "dynamic_lookup"], folder / "_native.so")


def commands_for(target: str) -> tuple[Path, list[list[str]]]:
    """The folder of a target, and what compiles each source into it."""
    folder = ROOT / "build" / "cross" / target
    is_arm = target.startswith("aarch64")
    options = [f"-DCUTWORK_X86={'OFF' if is_arm else 'ON'}", f"-DCUTWORK_NEON={'ON' if is_arm else 'OFF'}"]
    python = [f"-DPython_EXECUTABLE={sys.executable}", f"-DPython_ROOT_DIR={sys.prefix}"]
    configure = ["cmake", "-S", ROOT, "-B", folder, "-G", "Ninja", "-DCMAKE_BUILD_TYPE=Release", *options, *python]
    subprocess.run(configure, check=True, capture_output=True)
    entries = json.loads((folder / "compile_commands.json").read_text())
    commands = [shlex.split(entry["command"]) for entry in entries]
    commands = [[for_zig(word) for word in command if word not in ONLY_LINUX] for command in commands]
    if "windows" in target:
        headers, own = sysconfig.get_path("include"), folder / "python"
        shutil.copytree(headers, own, dirs_exist_ok=True)
        (own / "pyconfig.h").write_text(WINDOWS_CONFIG)
        commands = [[str(own) if word == headers else word for word in command] for command in commands]
    return folder, commands


def for_zig(word: str) -> str:
    """What compilers call -march, zig calls a processor with features."""
    return word.replace("-march=armv8.2-a", "-mcpu=generic+v8_2a")


def link(target: str, parts: list[str | Path], output: Path) -> Path:
    subprocess.run([*ZIG, "c++", "-target", target, "-shared", "-s", *parts, "-o", output], check=True)
    return output


def python_library(folder: Path, objects: list[Path]) -> Path:
    """An import library with the names of Python that the objects lack."""
    done = subprocess.run(["nm", "--undefined-only", *objects], check=True, capture_output=True, text=True)
    words = {line.split()[-1] for line in done.stdout.splitlines() if " U " in line}
    names = {word.removeprefix("__imp_") for word in words}
    python = sorted(name for name in names if name.startswith(("Py", "_Py")))
    definition, library = folder / "python.def", folder / "libpython.a"
    definition.write_text("\n".join(["LIBRARY python3.dll", "EXPORTS", *python]))
    subprocess.run([*ZIG, "dlltool", "-d", definition, "-l", library, "-m", "i386:x86-64"], check=True)
    return library


if __name__ == "__main__":
    main()
