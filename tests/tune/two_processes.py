"""Run by test_distributed.py in two processes: fine-tuning with DDP, and masks on a model that FSDP2 shards.

torchrun --nproc-per-node 2 -m tests.tune.two_processes DIRECTORY
"""

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from rich.console import Console
from torch.distributed.checkpoint import load, save
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict, set_optimizer_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from transformers import Trainer, TrainerState

from cutwork.errors import CutworkError
from cutwork.recipe import LoraSettings, Losses, TuneSettings
from cutwork.tune.low_bit import low_bit_adamw
from cutwork.tune.masks import LostZerosError, Masks, sparsity
from cutwork.tune.trainer import SparseTrainer
from cutwork.tune.tune import tune
from tests.torch_models.tiny import cut, llama, sums

SETTINGS = TuneSettings(
    max_steps=5,
    batch_size=8,
    micro_batch_size=2,
    save_every=4,
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
    """Cut off in the middle of the fifth step, then go on from the fourth, inside the second epoch."""
    original, calls = SparseTrainer.training_step, [0]

    def step(self: SparseTrainer, *args: Any) -> torch.Tensor:
        calls[0] += 1
        if calls[0] == 10:
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
    assert (output.with_name(f"{output.name}.work") / "checkpoint-4").is_dir()
    fine_tune(sparse, dense, output, SETTINGS, **options)


def second_is_late() -> None:
    """With its part of a checkpoint, which the first may not call complete before."""
    save_rng_state, save_to_json = Trainer._save_rng_state, TrainerState.save_to_json

    def late(self: Trainer, directory: str) -> None:
        time.sleep(0.5)
        save_rng_state(self, directory)

    def complete(self: TrainerState, file: str) -> None:
        assert (Path(file).parent / "rng_state_1.pth").exists()
        save_to_json(self, file)

    if os.environ["RANK"] == "1":
        Trainer._save_rng_state = late
    TrainerState.save_to_json = complete


LOW_BIT = SETTINGS.model_copy(update={"optimizer": "adamw_torch_8bit", "weights": "bfloat16", "dtype": "auto"})


def weights_of_both_agree(sparse: Path, dense: Path, output: Path) -> None:
    """Rounded at random, and all the same bit for bit alike in both processes, after every step."""
    original, steps = SparseTrainer._after_optimizer, [0]

    def after(self: SparseTrainer) -> None:
        original(self)
        steps[0] += 1
        for name, parameter in self.model.named_parameters():
            others = parameter.detach().clone()
            dist.broadcast(others, 0)
            assert torch.equal(others, parameter), name

    SparseTrainer._after_optimizer = after
    try:
        fine_tune(sparse, dense, output, LOW_BIT)
    finally:
        SparseTrainer._after_optimizer = original
    assert steps[0] >= SETTINGS.max_steps


def check_sharded_masks(scratch: Path, make_optimizer: Callable[[list[Any]], torch.optim.Optimizer]) -> None:
    model = cut(llama(hidden_size=128, intermediate_size=128), 0.7)
    expected = sparsity(model)
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    for block in model.model.layers:
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)
    optimizer = make_optimizer([{"params": list(model.parameters()), "weight_decay": 0.1}])
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
    state = get_optimizer_state_dict(model, optimizer)
    save(state, checkpoint_id=scratch / "shards")
    load(state, checkpoint_id=scratch / "shards")
    set_optimizer_state_dict(model, optimizer, state)
    optimizer.step()
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
    second_is_late()
    for name, settings in RUNS.items():
        fine_tune(root / "sparse", root / "dense", root / f"ddp-{name}", settings)
    interrupted_and_resumed(root / "sparse", root / "dense", root / "ddp-resumed")
    weights_of_both_agree(root / "sparse", root / "dense", root / "ddp-low-bit")
    check_sharded_masks(root, lambda groups: torch.optim.AdamW(groups, lr=1e-2))
    check_sharded_masks(root, lambda groups: low_bit_adamw("adamw_torch_8bit")(groups, lr=1e-2, seed=0))
    if not torch.cuda.is_available():
        try:
            fine_tune(root / "sparse", root / "dense", root / "fsdp", SETTINGS, fsdp=True)
        except CutworkError as error:
            assert "GPUs only" in str(error), error
        else:
            raise AssertionError("asked to share a model among CPUs, which accelerate does not")
    print("both processes agree")
    dist.barrier()
    dist.destroy_process_group()  # its threads would be cut off, and may abort the process as it ends
