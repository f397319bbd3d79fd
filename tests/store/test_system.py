"""What Windows lacks is not needed to write, read and run a model: those parts of Python are taken away here."""

import subprocess
import sys
from pathlib import Path

TAKE_AWAY = """
import mmap, os, sys
from cutwork.store import system
system.POSIX = False
sys.modules["fcntl"] = sys.modules["resource"] = None
del os.fork, os.register_at_fork
for name in [name for name in vars(mmap) if name.startswith(("MAP_", "MADV_", "PROT_"))]:
    delattr(mmap, name)
"""
USE = """
from dataclasses import replace
from pathlib import Path
from benchmarks.common.random_llama import write_packed
from benchmarks.common.shapes import SHAPES
from cutwork import Model
from cutwork.store.journal import Journal
from cutwork.store.lock import only_process

folder = Path(sys.argv[1])
shape = replace(SHAPES["1.1b"], hidden=64, layers=1, heads=2, kv_heads=1, mlp=64, vocabulary=32)
write_packed(folder / "model", shape, "int8", 0.5)
with Model.load(folder / "model") as model:
    assert len(model.generate([1, 2, 3], max_new_tokens=4, ignore_eos=True).tokens) == 4
with only_process(folder / "lock", "taken"), Journal(folder / "out", "key") as journal:
    journal.add(1)
    journal.finish()
import cutwork.cli
print(sorted(path.name for path in folder.iterdir()))
"""


def test_files_and_models_work_without(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", TAKE_AWAY + USE, tmp_path], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "['model', 'out']\n"
