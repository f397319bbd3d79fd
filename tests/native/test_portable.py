"""The scalar build, which ARM gets, compiles from sources without anything of x86."""

import json
import shlex
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def test_the_build_for_other_processors_compiles(tmp_path: Path) -> None:
    if not (ROOT / "CMakeLists.txt").exists():
        pytest.skip("needs the sources")
    options = [
        "-DCUTWORK_X86=OFF",
        "-DCUTWORK_NEON=OFF",
        f"-DPython_EXECUTABLE={sys.executable}",
        f"-DPython_ROOT_DIR={sys.prefix}",
    ]
    configure = [Path(sys.executable).with_name("cmake"), "-S", ROOT, "-B", tmp_path, *options]
    subprocess.run(configure, check=True, capture_output=True)
    commands = [
        [*shlex.split(entry["command"]), "-fsyntax-only", "-Werror"]
        for entry in json.loads((tmp_path / "compile_commands.json").read_text())
        if Path(entry["file"]).is_relative_to(ROOT / "native") and "bindings" not in entry["file"]
    ]
    assert any("sets/scalar.cpp" in option for command in commands for option in command)
    assert not any("-mavx" in option for command in commands for option in command)

    def errors(command: list[str]) -> str:
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False).stderr

    with ThreadPoolExecutor(2) as pool:
        assert not "".join(pool.map(errors, commands))
