"""Two processes give what one gives (DDP), every zero stays, and masks hold on shards (FSDP2).

Whole runs with FSDP2 need GPUs: accelerate shares a model among these alone.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import cutwork
from cutwork.torch_models.load import load_model
from tests.tiny_checkpoint import write_tiny_checkpoint
from tests.torch_models.tiny import cut, weights
from tests.tune.two_processes import RUNS, fine_tune

ROOT = Path(__file__).parents[2]
LAUNCH = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the dense model, the sparse one, and what one process makes of it."""
    root = tmp_path_factory.mktemp("distributed")
    dense = write_tiny_checkpoint(root / "dense")
    shutil.copytree(dense, root / "sparse")
    torch.manual_seed(0)
    cut(load_model(dense, torch.float32), 0.6).save_pretrained(root / "sparse")
    for name, settings in RUNS.items():
        fine_tune(root / "sparse", dense, root / f"one-{name}", settings)
    return root


def losses(directory: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (directory / "tune-log.jsonl").read_text().splitlines()]


def test_two_processes_equal_one(models: Path) -> None:
    path = os.pathsep.join([str(ROOT), str(Path(cutwork.__file__).parents[1])])
    launched = subprocess.run(
        [sys.executable, *LAUNCH, "-m", "tests.tune.two_processes", str(models)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert launched.returncode == 0, launched.stderr[-3000:]
    assert launched.stdout.count("both processes agree") == 2
    zeros = {name: weight == 0 for name, weight in weights(models / "sparse").items() if "proj" in name}
    for run in RUNS:
        one, two = weights(models / f"one-{run}"), weights(models / f"ddp-{run}")
        assert losses(models / f"ddp-{run}") == pytest.approx(losses(models / f"one-{run}"), rel=1e-5)
        assert one.keys() == two.keys()
        for name, weight in one.items():
            assert torch.allclose(weight, two[name], atol=1e-5), name
            if name in zeros:
                assert torch.equal(two[name] == 0, zeros[name]), name
    low_bit = weights(models / "ddp-low-bit")
    assert all(torch.equal(low_bit[name] == 0, pruned) for name, pruned in zeros.items())
    straight, resumed = weights(models / "ddp-full"), weights(models / "ddp-resumed")
    assert all(torch.equal(straight[name], resumed[name]) for name in straight)
