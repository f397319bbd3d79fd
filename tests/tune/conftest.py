"""Models to start from, and what an undisturbed run makes of them."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from cutwork.torch_models.load import load_model
from tests.tiny_checkpoint import write_tiny_checkpoint
from tests.torch_models.tiny import cut
from tests.tune.runs import run


@pytest.fixture(scope="package")
def dense(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_checkpoint(tmp_path_factory.mktemp("models") / "dense", seed=0)


@pytest.fixture(scope="package")
def sparse(dense: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("models") / "sparse"
    torch.manual_seed(0)
    shutil.copytree(dense, directory)
    cut(load_model(dense, torch.float32), 0.6).save_pretrained(directory)
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps({**config, "attention_dropout": 0.1}))
    (directory / "generation_config.json").write_text('{"temperature": 0.5, "do_sample": false}')
    return directory


@pytest.fixture(scope="package")
def uninterrupted(sparse: Path, dense: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("out") / "tuned"
    run(sparse, output, dense)
    return output
