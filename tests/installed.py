"""What somebody does who has installed Cutwork, and neither torch nor the sources: `python tests/installed.py`.

Runs by itself, with the Python that Cutwork is installed in: packs a tiny random model with zeros, and has every
instruction set of this processor and the NumPy reference write the same.
"""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # for `benchmarks`; `cutwork` is not there

import cutwork
from benchmarks.common.random_llama import write_checkpoint
from benchmarks.common.shapes import SHAPES
from cutwork import _native

COMMAND = shutil.which("cutwork", path=sysconfig.get_path("scripts"))
TEMPLATE = "{{ messages[-1].content }}"


def main() -> None:
    assert Path(cutwork.__file__).is_relative_to(sysconfig.get_path("platlib")), cutwork.__file__
    assert importlib.util.find_spec("torch") is None, "torch is here, so this says nothing about being without"
    print(f"cutwork {cutwork.__version__}, {_native.__file__}, {', '.join(_native.isas())}")
    with tempfile.TemporaryDirectory() as scratch:
        checkpoint, packed = Path(scratch) / "int8", Path(scratch) / "packed"
        shape = replace(SHAPES["1.1b"], hidden=256, layers=2, heads=4, kv_heads=2, mlp=512, vocabulary=512)
        write_checkpoint(checkpoint, shape, "int8", sparsity=0.75)
        settings = json.loads((checkpoint / "tokenizer_config.json").read_text())
        (checkpoint / "tokenizer_config.json").write_text(json.dumps(settings | {"chat_template": TEMPLATE}))

        assert "Use a model" in run("--help")
        run("pack", checkpoint, packed)
        assert "q_proj" in run("explain", packed)
        # Of a cache in bfloat16 some processors round queries to that, too.
        generate = ("generate", packed, "t5", "-n", "16", "--cache-dtype", "f32")
        expected = run(*generate, CUTWORK_REFERENCE="1")
        start = time.perf_counter()
        assert run(*generate) == expected
        print(f"from the command to an answer of 16 tokens: {time.perf_counter() - start:.1f} s")
        for isa in _native.isas():
            assert run(*generate, CUTWORK_ISA=isa) == expected, isa
        assert run("chat", packed, "-n", "16", "--temperature", "0", typed="t5\n/exit\n").strip()
    print("all of it works")


def run(*arguments: str | Path, typed: str = "", **environment: str) -> str:
    """What `cutwork` writes."""
    command = [str(COMMAND), *map(str, arguments)]
    done = subprocess.run(
        command,
        input=typed,
        env={**os.environ, "CUTWORK_COSTS": "default", "PYTHONUTF8": "1", **environment},
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=False,
    )
    assert done.returncode == 0, (command, done.stdout, done.stderr)
    assert "PyTorch" not in done.stderr, done.stderr
    return done.stdout


if __name__ == "__main__":
    main()
