"""What a run says before it starts: two examples with what is learned marked, memory and time."""

import io
from pathlib import Path

import pytest
import torch
from rich.console import Console

from cutwork.errors import CutworkError
from cutwork.recipe import LoraSettings, Losses, TuneSettings
from cutwork.tasks.task import Sample
from cutwork.torch_models.data import examples
from cutwork.torch_models.model_inputs import inputs_of
from cutwork.tune.console import show_examples, show_layers
from cutwork.tune.estimate import _OVERHEAD, Estimate, estimate
from cutwork.tune.tune import tune
from tests.tiny_checkpoint import write_tiny_checkpoint
from tests.torch_models.tiny import FAMILIES, llama, random_examples, sums

SETTINGS = TuneSettings(losses=Losses(squarehead=1.0, kl=0.5))


def guess(
    family: str, settings: TuneSettings = SETTINGS, *, micro_batch: int = 4, shards: int = 1, attention: str = "eager"
) -> Estimate:
    model, data = FAMILIES[family](), random_examples(8, family=family)
    return estimate(
        model.config,
        data,
        settings,
        bfloat16=False,
        attention=attention,
        device=torch.device("cpu"),
        steps=10,
        micro_batch=micro_batch,
        accumulation=2,
        shards=shards,
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_memory_is_counted_for_every_family(family: str) -> None:
    weights = sum(parameter.numel() for parameter in FAMILIES[family]().parameters())
    found = guess(family).memory
    assert found["weights"] == 4 * weights
    assert found["optimiser"] == 2 * found["gradients"]
    assert 0.98 * found["weights"] < found["gradients"] <= found["weights"]  # Whisper's positions are fixed
    assert found["teacher"] > 4 * weights
    doubled = guess(family, micro_batch=8).memory["activations"]
    assert doubled == pytest.approx(2 * found["activations"], rel=0.2)
    less = guess(family, SETTINGS.model_copy(update={"gradient_checkpointing": True})).memory
    assert less["activations"] < 0.7 * found["activations"]


def test_what_the_settings_spare() -> None:
    whole = guess("llama").memory
    adapters = guess("llama", SETTINGS.model_copy(update={"lora": LoraSettings(rank=1)})).memory
    assert adapters["optimiser"] < 0.2 * whole["optimiser"]
    assert guess("llama", SETTINGS.model_copy(update={"losses": Losses()})).memory["teacher"] == 0
    assert guess("llama", SETTINGS.model_copy(update={"optimizer": "sgd"})).memory["optimiser"] == 0
    assert guess("llama", shards=2).memory["weights"] == whole["weights"] // 2


def test_time_is_that_of_products_and_of_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    def seconds(product: float, byte: float, settings: TuneSettings = SETTINGS) -> float:
        monkeypatch.setattr("cutwork.tune.estimate.matmul_seconds", lambda *_: product)
        monkeypatch.setattr("cutwork.tune.estimate.copy_seconds", lambda *_: byte)
        return guess("llama", settings).seconds

    products, memory = seconds(1e-9, 0.0), seconds(0.0, 1e-9)
    assert min(products, memory) > 0
    assert seconds(1e-9, 1e-9) == pytest.approx(products + memory)
    weights = guess("llama").memory["weights"]
    spared = memory - seconds(0.0, 1e-9, SETTINGS.model_copy(update={"optimizer": "sgd"}))
    assert spared == pytest.approx(_OVERHEAD * 10 * 2 * 2 * weights * 1e-9, rel=0.05)  # moments, read and written


def test_activations_are_those_that_autograd_keeps() -> None:
    model, data = llama(), random_examples(8)
    longest = max(data, key=lambda example: len(example["input_ids"]))
    ids = torch.tensor([longest["input_ids"]] * 4)
    own, kept = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}, {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda saved: saved):
        hidden = model.model(input_ids=ids, use_cache=False).last_hidden_state
        count = 4 * sum(label != -100 for label in longest["labels"][1:])
        logits = model.lm_head(hidden.flatten(0, 1)[:count])
        torch.nn.functional.cross_entropy(logits, torch.zeros(count, dtype=torch.long)).backward()
    counted = guess("llama", TuneSettings(), attention="sdpa").memory["activations"]
    assert counted == pytest.approx(sum(kept.values()), rel=0.1)


@pytest.mark.parametrize("family", ["t5", "whisper"])
def test_what_cannot_be_packed_is_refused_before_it_is_loaded(family: str) -> None:
    with pytest.raises(CutworkError, match="packing is for models without an encoder; leave it out"):
        guess(family, SETTINGS.model_copy(update={"packing": True}))


def test_what_may_not_fit_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dense = write_tiny_checkpoint(tmp_path / "dense")

    def told(free: float, *, glibc: bool) -> str:
        monkeypatch.setattr("cutwork.tune.tune.available_memory", lambda: int(free))
        monkeypatch.setattr("cutwork.tune.malloc._is_glibc", lambda: glibc)
        console = Console(file=io.StringIO(), width=1000)
        result = tune(dense, tmp_path / "out", TuneSettings(), sums(4), max_length=64, dry_run=True, console=console)
        memory.append(sum(result["estimate"]["memory"].values()))
        assert isinstance(console.file, io.StringIO)
        return console.file.getvalue()

    memory: list[int] = []
    told(1e12, glibc=True)
    needed = memory[0]
    assert "are free" not in told(2 * needed, glibc=True)
    assert "LD_PRELOAD" in told(1.5 * needed, glibc=True)
    assert "are free" not in told(1.5 * needed, glibc=False)
    assert "--micro-batch-size" in told(0.5 * needed, glibc=False)


def test_a_dry_run_shows_two_examples_and_leaves_nothing(tmp_path: Path) -> None:
    dense = write_tiny_checkpoint(tmp_path / "dense")
    shown = io.StringIO()
    console = Console(file=shown, width=200)
    samples = sums(20)
    result = tune(dense, tmp_path / "out", TuneSettings(), samples, max_length=64, dry_run=True, console=console)
    text = shown.getvalue()
    for sample in samples[:2]:
        assert f"<user>{sample.prompt}<bot>«{sample.answer}<end>»" in text
    assert "example 3" not in text
    assert "estimate: " in text
    assert result["estimate"]["steps"] == 1
    assert [path.name for path in tmp_path.iterdir()] == ["dense"]


def test_plain_text_is_shown_once() -> None:
    class Bytes:
        def decode(self, ids: list[int]) -> str:
            return bytes(ids).decode()

    shown, ids = io.StringIO(), list(b"Once upon a time.")
    show_examples(Console(file=shown, width=200), Bytes(), [{"input_ids": ids, "labels": list(ids)}])
    assert shown.getvalue() == "example 1: 17 tokens, 17 learned\n«Once upon a time.»\n"


def test_prompts_of_the_encoder_are_shown_before_the_answer(capsys: pytest.CaptureFixture[str]) -> None:
    class Bytes:
        bos_token_id, eos_token_id = None, ord("!")

        def __call__(self, text: str | None = None, text_target: str | None = None) -> dict[str, list[int]]:
            return {"input_ids": [*(text or text_target or "").encode()]}

        def decode(self, ids: list[int]) -> str:
            return bytes(ids).decode()

    data = examples(Bytes(), [Sample("hello", "salut")], 9, inputs_of(FAMILIES["t5"]().config))
    show_examples(Console(), Bytes(), data)
    assert "hello«salut!»" in capsys.readouterr().out


def test_the_layer_that_lags_comes_first() -> None:
    shown = io.StringIO()
    lines = [{"squarehead/decoder.0": 0.5 / i, "squarehead/decoder.1": 2.0 / i, "loss": 1.0} for i in range(1, 9)]
    show_layers(Console(file=shown, width=80), lines)
    [_, _, first, second] = [line for line in shown.getvalue().splitlines() if line.strip()]
    assert first.split() == ["decoder.1", "1.5000", "0.2679"]
    assert second.split()[0] == "decoder.0"
    shown.truncate(0)
    show_layers(Console(file=shown), [{"loss": 1.0}])
    assert not shown.getvalue().strip("\0")


def test_deepspeed_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dense = write_tiny_checkpoint(tmp_path / "dense")
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    with pytest.raises(CutworkError, match="DeepSpeed is not supported; launch with FSDP2 or DDP"):
        tune(dense, tmp_path / "out", TuneSettings(), sums(4), console=Console(quiet=True))
    monkeypatch.delenv("ACCELERATE_USE_DEEPSPEED")
    with pytest.raises(CutworkError, match="--fsdp shares one model among several processes"):
        tune(dense, tmp_path / "out", TuneSettings(), sums(4), fsdp=True, console=Console(quiet=True))
