"""Moments of 8 and 4 bits and weights in bfloat16: as good as float32 ones, and no zero is lost."""

from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, LlamaConfig

from cutwork.errors import CutworkError
from cutwork.quantize.quantize import quantize
from cutwork.recipe import Gradual, LoraSettings, Losses, QuantizeSettings, TuneSettings
from cutwork.torch_models.blocks import block_linears
from cutwork.torch_models.load import load_model
from cutwork.tune import low_bit
from cutwork.tune.console import read_log
from cutwork.tune.estimate import estimate
from cutwork.tune.low_bit import low_bit_adamw
from cutwork.tune.masks import sparsity
from cutwork.tune.optimizer_state import state_bytes
from cutwork.tune.optimizers import own_optimizer
from cutwork.tune.student_and_teacher import store_as
from cutwork.tune.trainer import SparseTrainer
from cutwork.tune.tune import tune
from tests.tiny_checkpoint import write_tiny_checkpoint
from tests.torch_models.tiny import FAMILIES, cut, llama, random_examples, sums, weights
from tests.tune.test_trainer import make

pytest.importorskip("torchao")

QUIET = Console(quiet=True)
SETTINGS = TuneSettings(
    max_steps=6,
    batch_size=8,
    micro_batch_size=4,
    save_every=2,
    warmup_steps=1,
    learning_rate=3e-3,
    optimizer="adamw_torch_8bit",
    weights="bfloat16",
    losses=Losses(squarehead=1.0, kl=0.5),
)


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_checkpoint(tmp_path_factory.mktemp("models") / "dense")


@pytest.fixture(scope="module")
def sparse(dense: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = write_tiny_checkpoint(tmp_path_factory.mktemp("models") / "sparse")
    torch.manual_seed(0)
    cut(load_model(dense, torch.float32), 0.6).save_pretrained(directory)
    return directory


def changed(**changes: Any) -> TuneSettings:
    return SETTINGS.model_copy(update=changes)


def run(sparse: Path, output: Path, dense: Path, settings: TuneSettings = SETTINGS) -> dict[str, Any]:
    return tune(sparse, output, settings, sums(24), teacher_dir=dense, max_length=64, console=QUIET)


def bytes_of(value: Any) -> int:
    """What a tensor keeps, and those it consists of."""
    if hasattr(value, "__tensor_flatten__"):
        return sum(getattr(value, name).nbytes for name in value.__tensor_flatten__()[0])
    return value.nbytes if isinstance(value, Tensor) and value.ndim else 0


OPTIMIZERS = ("adam", "adamw_torch", "sgd", "adafactor", "muon", "rmsprop", "adagrad", *low_bit.LOW_BIT)


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("numbers", ["float32", "bfloat16"])
def test_the_estimate_is_what_weights_gradients_and_optimiser_really_take(
    name: str, numbers: Any, tmp_path: Path
) -> None:
    if numbers == "bfloat16" and name not in low_bit.LOW_BIT:
        pytest.skip("refused")
    model, data = llama(hidden_size=128, intermediate_size=192), random_examples(8)
    settings = TuneSettings(optimizer=name, weights=numbers)
    size = {"steps": 3, "micro_batch": 8, "accumulation": 1, "shards": 1}
    where = {"attention": "eager", "device": torch.device("cpu"), "bfloat16": numbers == "bfloat16"}
    expected = estimate(model.config, data, settings, **where, **size).memory
    store_as(model, numbers)
    options = {"own_optimizer": name} if own_optimizer(name, model, 1e-3) else {"optim": name}
    trainer = make(tmp_path, model, Losses(), max_steps=1, max_grad_norm=0, **options)
    trainer.bfloat16 = where["bfloat16"]
    gradients = []
    trainer._check_hooks = lambda: gradients.extend(p.grad.nbytes for p in model.parameters())
    trainer.train()
    assert expected["weights"] == sum(parameter.nbytes for parameter in model.parameters())
    assert expected["gradients"] == sum(gradients[: len(list(model.parameters()))])
    found = sum(bytes_of(value) for state in trainer.optimizer.state.values() for value in state.values())
    assert expected["optimiser"] == found == state_bytes(name, model)


SEVEN = LlamaConfig(
    vocab_size=32000, hidden_size=4096, intermediate_size=11008, num_hidden_layers=32, num_attention_heads=32
)


def test_seven_billion_weights_and_their_teacher_fit_a_card_of_80_gb() -> None:
    def gigabytes(**changes: Any) -> float:
        settings = TuneSettings(gradient_checkpointing=True, losses=Losses(squarehead=1.0), **changes)
        size = {"steps": 1, "micro_batch": 4, "accumulation": 1, "shards": 1}
        where = {"attention": "sdpa", "device": torch.device("cpu"), "bfloat16": True}
        data = random_examples(1)
        data[0] = {name: value * 40 for name, value in data[0].items()}
        return sum(estimate(SEVEN, data, settings, **where, **size).memory.values()) / 1e9

    assert gigabytes() > 130
    assert gigabytes(optimizer="adamw_torch_8bit") > 80
    assert gigabytes(optimizer="adamw_torch_8bit", weights="bfloat16") < 75
    assert gigabytes(lora=LoraSettings(), weights="bfloat16") < 50


@pytest.mark.parametrize("name", low_bit.LOW_BIT)
def test_it_learns_as_float32_does(name: str, dense: Path, tmp_path: Path) -> None:
    common = {"max_steps": 40, "learning_rate": 5e-3, "losses": Losses(), "batch_size": 16, "micro_batch_size": 16}
    runs = {
        "whole": changed(optimizer="adamw_torch", weights="float32", dtype="float32", **common),
        "moments": changed(optimizer=name, weights="float32", dtype="float32", **common),
        "both": changed(optimizer=name, **common),
    }
    losses = {}
    for label, settings in runs.items():
        tune(dense, tmp_path / label, settings, sums(64), max_length=64, console=QUIET)
        lines = read_log(tmp_path / label / "tune-log.jsonl")
        losses[label] = sum(line["loss"] for line in lines[-5:]) / 5
    assert losses["whole"] < 0.5 * lines[0]["loss"]
    assert losses["moments"] == pytest.approx(losses["whole"], rel=0.1)
    assert losses["both"] == pytest.approx(losses["whole"], rel=0.1)


def test_steps_too_small_for_bfloat16_are_taken_on_average() -> None:
    weight = nn.Parameter(torch.ones(64, 64, dtype=torch.bfloat16))
    optimizer = low_bit_adamw("adamw_torch_8bit")([{"params": [weight]}], lr=1e-4, seed=0)
    for _ in range(50):  # each a fortieth of what is next to 1
        weight.grad = torch.ones_like(weight)
        optimizer.step()
    assert weight.detach().float().mean().item() == pytest.approx(1 - 50e-4, abs=5e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_zeros_survive_in_every_family(family: str, tmp_path: Path) -> None:
    model = cut(FAMILIES[family](), 0.7)
    store_as(model, "bfloat16")
    before = sparsity(model)
    losses = Losses(squarehead=1.0)
    trainer = make(
        tmp_path, model, losses, family=family, own_optimizer="adamw_torch_8bit", weight_decay=0.1, max_grad_norm=0.3
    )
    trainer.bfloat16 = True
    trainer.train()
    trainer.masks.verify()
    assert sparsity(model) == pytest.approx(before, abs=1e-3)
    assert {p.dtype for linear in block_linears(model).values() for p in [linear.weight]} == {torch.bfloat16}


def interrupt_at(monkeypatch: pytest.MonkeyPatch, micro_batch: int) -> None:
    original, calls = SparseTrainer.training_step, [0]

    def step(self: SparseTrainer, *args: Any) -> Tensor:
        calls[0] += 1
        if calls[0] == micro_batch:
            raise KeyboardInterrupt
        return original(self, *args)

    monkeypatch.setattr(SparseTrainer, "training_step", step)


WAYS = {
    "8 bits": SETTINGS,
    "4 bits": changed(optimizer="adamw_torch_4bit"),
    "float32 weights": changed(weights="float32"),
    "adapters": changed(lora=LoraSettings(rank=4), optimizer="adamw_torch", learning_rate=1e-2),
    "checkpointing": changed(gradient_checkpointing=True),
}


@pytest.mark.parametrize("way", WAYS)
def test_no_zero_is_lost_and_resumed_equals_uninterrupted_bit_for_bit(
    way: str, sparse: Path, dense: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = WAYS[way]
    report = run(sparse, tmp_path / "straight", dense, settings)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        interrupt_at(patch, 8)  # in the fourth step
        run(sparse, tmp_path / "resumed", dense, settings)
    torch.manual_seed(999)
    run(sparse, tmp_path / "resumed", dense, settings)
    before, straight, resumed = weights(sparse), weights(tmp_path / "straight"), weights(tmp_path / "resumed")
    for name, weight in before.items():
        assert torch.equal(straight[name], resumed[name]), name
        assert straight[name].dtype == getattr(torch, settings.weights), name
        if "proj" in name:
            assert (straight[name][weight == 0] == 0).all(), name
            moved = straight[name][weight != 0].float() != weight[weight != 0].bfloat16().float()
            assert moved.float().mean() > 0.5, name
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "straight")
    assert model.dtype == getattr(torch, settings.weights)
    assert report["sparsity"] == sparsity(model)


@pytest.mark.parametrize("method", ["magnitude", "sparsegpt"])
def test_zeros_grow_in_bfloat16(method: str, dense: Path, tmp_path: Path) -> None:
    looks = {} if method == "magnitude" else {"calibration_samples": 4}
    gradual = Gradual.model_validate({"sparsity": 0.7, "method": method, "every": 2, **looks})
    report = run(dense, tmp_path / "out", dense, changed(gradual=gradual))
    assert list(report["sparsity"].values()) == pytest.approx([0.7] * len(report["sparsity"]), abs=1e-2)


def test_quantisation_is_learned_with_moments_of_8_bits_and_weights_in_float32(sparse: Path, tmp_path: Path) -> None:
    qat = changed(weights="float32", dtype="float32", losses=Losses(squarehead=1.0))
    quantize(sparse, tmp_path / "out", QuantizeSettings(method="qat", qat=qat), sums(24), console=QUIET)
    found = weights(tmp_path / "out")
    for name, weight in weights(sparse).items():
        if "proj" in name:
            assert (found[name][weight == 0] == 0).all(), name
    with pytest.raises(ValueError, match="bfloat16 weights are as coarse"):
        QuantizeSettings(method="qat", qat=TuneSettings(weights="bfloat16").model_dump())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"optimizer": "adamw_torch"}, "lose small steps; set optimizer to adamw_torch_8bit"),
        ({"dtype": "float32"}, "multiplied in bfloat16; leave out dtype float32"),
        ({"optimizer": "galore_adamw"}, "lose small steps"),
        ({"optimizer": "galore_adamw", "weights": "float32"}, "optimizer galore_adamw: .*galore_torch"),
    ],
)
def test_what_cannot_be_is_one_sentence(
    changes: dict[str, Any], message: str, sparse: Path, dense: Path, tmp_path: Path
) -> None:
    with pytest.raises(CutworkError, match=message):
        run(sparse, tmp_path / "tuned", dense, changed(**changes))
    assert list(tmp_path.iterdir()) == []


def test_shared_weights_in_bfloat16_are_refused(
    sparse: Path, dense: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(CutworkError, match="with FSDP leave them float32"):
        run(sparse, tmp_path / "tuned", dense)


def test_without_torchao_it_says_how_to_get_it(
    sparse: Path, dense: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(low_bit, "is_torchao_available", lambda: False)
    with pytest.raises(CutworkError, match=r'needs torchao; install it with: pip install "torchao>='):
        run(sparse, tmp_path / "tuned", dense)
    assert list(tmp_path.iterdir()) == []


def test_without_a_compiler_it_says_what_is_missing() -> None:
    weight = nn.Parameter(torch.ones(64, 64))
    weight.grad = torch.ones_like(weight)
    optimizer = low_bit_adamw("adamw_torch_8bit")([{"params": [weight]}], lr=1e-4, seed=0)
    with (
        torch.compiler.set_stance("default"),
        torch._inductor.config.patch({"cpp.cxx": (None, "/nowhere/g++"), "force_disable_caches": True}),
        pytest.raises(CutworkError, match=r"could not compile optimizer adamw_torch_8bit .*install a C\+\+"),
    ):
        optimizer.step()
    assert (weight == 1).all()


@pytest.mark.slow
def test_compiled_it_does_the_same() -> None:
    found = []
    for stance in ("force_eager", "default"):
        weight = nn.Parameter(torch.linspace(-1, 1, 4096).view(64, 64))
        optimizer = low_bit_adamw("adamw_torch_8bit")([{"params": [weight]}], lr=1e-2, seed=0)
        with torch.compiler.set_stance(stance):
            for step in range(3):
                weight.grad = torch.linspace(1, -1, 4096).view(64, 64) * (step + 1)
                optimizer.step()
        found.append(weight.detach().clone())
    assert torch.allclose(*found, atol=1e-5)
