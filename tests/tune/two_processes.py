"""Run by test_distributed.py in two processes: fine-tuning with DDP, and masks on a model that FSDP2 shards.

torchrun --nproc-per-node 2 -m tests.tune.two_processes DIRECTORY
"""

import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from rich.console import Console
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from cutwork.errors import CutworkError
from cutwork.recipe import LoraSettings, Losses, TuneSettings
from cutwork.tune.masks import LostZerosError, Masks, sparsity
from cutwork.tune.trainer import SparseTrainer
from cutwork.tune.tune import tune
from tests.torch_models.tiny import cut, llama, sums

SETTINGS = TuneSettings(
    max_steps=4,
    batch_size=8,
    micro_batch_size=2,
    save_every=2,
    warmup_steps=1,
    learning_rate=3e-3,
    dtype="float32",
    losses=Losses(squarehead=1.0, kl=0.5),
)
RUNS = {
    "full": SETTINGS,
    "lora": SETTINGS.model_copy(update={"lora": LoraSettings(rank=4), "learning_rate": 1e-2}),
}


def fine_tune(sparse: Path, dense: Path, output: Path, settings: TuneSettings, **options: Any) -> None:
    console = Console(quiet=True)
    tune(sparse, output, settings, sums(24), teacher_dir=dense, max_length=64, console=console, **options)


def interrupted_and_resumed(sparse: Path, dense: Path, output: Path, **options: Any) -> None:
    """Cut off in the middle of the fourth step, then go on from the second, in every process."""
    original, calls = SparseTrainer.training_step, [0]

    def step(self: SparseTrainer, *args: Any) -> torch.Tensor:
        calls[0] += 1
        if calls[0] == 7:
            raise KeyboardInterrupt
        return original(self, *args)

    SparseTrainer.training_step = step
    try:
        fine_tune(sparse, dense, output, SETTINGS, **options)
    except KeyboardInterrupt:
        assert not output.exists()
    finally:
        SparseTrainer.training_step = original
    dist.barrier()
    assert (output.with_name(f"{output.name}.work") / "checkpoint-2").is_dir()
    fine_tune(sparse, dense, output, SETTINGS, **options)


def check_sharded_masks(scratch: Path) -> None:
    model = cut(llama(), 0.7)
    expected = sparsity(model)
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    for block in model.model.layers:
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.1)
    masks = Masks(model)
    weight = model.model.layers[0].mlp.up_proj.weight
    assert isinstance(weight, DTensor)
    assert masks.live["model.layers.0.mlp.up_proj"].numel() == weight.numel() // 2
    for _ in range(2):
        model(input_ids=torch.arange(12)[None]).logits.square().mean().backward()
        masks.mask_gradients()
        optimizer.step()
        optimizer.zero_grad()
        masks.verify()
        masks.mask_weights()
    assert sparsity(model) == expected
    file = scratch / f"masks-{dist.get_rank()}.safetensors"
    masks.save(file)
    again = Masks.load(model, file)
    assert all(torch.equal(again.live[name], mask) for name, mask in masks.live.items())
    with torch.no_grad():
        weight.to_local().fill_(1.0)
    try:
        masks.verify()
    except LostZerosError:
        return
    raise AssertionError("revived weights went unnoticed")


if __name__ == "__main__":
    root = Path(sys.argv[1])
    for name, settings in RUNS.items():
        fine_tune(root / "sparse", root / "dense", root / f"ddp-{name}", settings)
    interrupted_and_resumed(root / "sparse", root / "dense", root / "ddp-resumed")
    check_sharded_masks(root)
    if not torch.cuda.is_available():
        try:
            fine_tune(root / "sparse", root / "dense", root / "fsdp", SETTINGS, fsdp=True)
        except CutworkError as error:
            assert "GPUs only" in str(error), error
        else:
            raise AssertionError("asked to share a model among CPUs, which accelerate does not")
    print("both processes agree")
