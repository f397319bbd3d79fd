"""Two processes give what one gives, and sharded weights keep their zeros."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import torch

import cutwork
from cutwork.train.load import load_model
from tests.tiny_checkpoint import write_tiny_checkpoint
from tests.train.tiny import cut, weights
from tests.train.two_processes import fine_tune

ROOT = Path(__file__).parents[2]
LAUNCH = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")


def test_two_processes_equal_one(tmp_path: Path) -> None:
    dense = write_tiny_checkpoint(tmp_path / "dense")
    shutil.copytree(dense, tmp_path / "sparse")
    torch.manual_seed(0)
    cut(load_model(dense, torch.float32), 0.6).save_pretrained(tmp_path / "sparse")
    fine_tune(tmp_path / "sparse", dense, tmp_path / "one")
    path = os.pathsep.join([str(ROOT), str(Path(cutwork.__file__).parents[1])])
    launched = subprocess.run(
        [sys.executable, *LAUNCH, "-m", "tests.train.two_processes", str(tmp_path)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert launched.returncode == 0, launched.stderr[-3000:]
    assert launched.stdout.count("both processes agree") == 2
    one, two = weights(tmp_path / "one"), weights(tmp_path / "two")
    for name, weight in one.items():
        assert torch.allclose(weight, two[name], atol=1e-6), name
        assert torch.equal(weight == 0, two[name] == 0), name
