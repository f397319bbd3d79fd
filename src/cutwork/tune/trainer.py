"""The trainer: transformers' own loop, with a loss that can follow a teacher and zeros that stay zeros.

One optimiser step runs in this order: `get_batch_samples` draws its micro-batches, counts label tokens and asks the
teacher; `training_step` does forward and backward for each; after the last one the gradients are masked, then
clipped and checked (`_get_grad_norm`); the optimiser steps; its hook masks the weights.
"""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, NoReturn

import torch
import transformers
from torch import Tensor, nn
from torch.utils.data import Sampler
from transformers.trainer_callback import PrinterCallback

from cutwork.errors import CutworkError
from cutwork.recipe import Losses
from cutwork.torch_models.data import StepSampler, collate
from cutwork.torch_models.model_inputs import Batch, EncoderInputs, inputs_of
from cutwork.torch_models.packing import collate_packed
from cutwork.tune.checkpoints import has_ended, last_checkpoint
from cutwork.tune.gradual import Schedule
from cutwork.tune.losses import cross_entropy, kl_divergence, squarehead, teacher_energy
from cutwork.tune.masks import Masks, local
from cutwork.tune.optimizers import own_optimizer
from cutwork.tune.resumable_trainer import ResumableTrainer
from cutwork.tune.student_and_teacher import check_teacher

# Overrides that transformers has to have called whenever the optimiser has stepped. It calls them by name and would go
# on without a word if it called them otherwise, without masks, teacher or the order in which runs resume.
_HOOKS = {
    "_run_epoch",
    "_get_train_sampler",
    "create_optimizer",
    "get_batch_samples",
    "compute_loss",
    "training_step",
    "_get_grad_norm",
}
_ONCE = {"_run_epoch", "_get_train_sampler", "create_optimizer"}  # the others in every step


@dataclass(frozen=True)
class Totals:
    """What the losses of one optimiser step are divided by, over all micro-batches and processes."""

    labels: Tensor  # label tokens
    energy: list[Tensor]  # per group of features: teacher_energy [layers]


class SparseTrainer(ResumableTrainer):
    """Fine-tunes with CE + KL + SquareHead while the zeros of the blocks' linears stay zero."""

    def __init__(
        self,
        *,
        losses: Losses,
        teacher: nn.Module | None,
        bfloat16: bool,
        keep_zeros: bool,
        packing: bool = False,
        own_optimizer: str = "",
        schedule: Schedule | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(data_collator=collate_packed if packing else collate, **kwargs)
        self.remove_callback(PrinterCallback)
        self.loss_is_scaled_for_ga = True
        if self.is_fsdp_enabled and self.accelerator.state.fsdp_plugin.fsdp_version == 1:
            raise CutworkError("FSDP version 1 flattens weights, so masks are lost; set fsdp_version: 2 for accelerate")
        self.losses = losses
        self.teacher = teacher.eval() if teacher is not None else None
        self.bfloat16 = bfloat16
        self.keep_zeros = keep_zeros
        self.own_optimizer = own_optimizer  # instead of args.optim
        self.schedule = schedule  # of zeros that change
        self.model_inputs = inputs_of(self.model.config)
        self._predicts = not isinstance(self.model_inputs, EncoderInputs)
        self.masks: Masks | None = None
        self.resumed_from: Path | None = None
        self._had_ended = False  # the run that is resumed
        self._sampler: StepSampler | None = None
        self.tokens = 0  # trained on since this process began, padding included
        self._called: set[str] = set()  # of _HOOKS, in this optimiser step
        self._terms: dict[str, Tensor] = {}  # sums of the weighted loss terms since the last log
        check_teacher(losses, teacher)
        if schedule is not None and self.is_fsdp_enabled:
            raise CutworkError("zeros that change while training need whole weights; use one process or DDP, not FSDP")

    # ---- data ----

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler[int]:
        self._called.add("_get_train_sampler")
        dataset = self.train_dataset if train_dataset is None else train_dataset
        micro_batches = self.args.gradient_accumulation_steps * self.args.world_size
        self._sampler = StepSampler(dataset.lengths, self._train_batch_size * micro_batches, self.args.seed)
        return self._sampler

    def get_batch_samples(
        self, epoch_iterator: Iterator[Batch], num_batches: int, device: torch.device
    ) -> tuple[list[Batch], Totals]:
        """The micro-batches of one optimiser step, each with what the teacher makes of it, and their totals.

        The teacher comes first because SquareHead divides by its energy over the whole step. Its hidden states are
        kept until their micro-batch is done: batch tokens × layers × width numbers.
        """
        self._called = self._called & _ONCE | {"get_batch_samples"}  # the first of a step
        if self.schedule is not None and (masks := self._current_masks()) is not None:
            self.masks = self.schedule.before_step(self.model, masks, self.state.global_step, self.state.max_steps)
        batches = [dict(self._prepare_inputs(batch)) for batch in islice(epoch_iterator, num_batches)]
        labels = sum(self.model_inputs.label_rows(batch)[0].sum() for batch in batches)
        energy: list[Tensor] = []
        if self.teacher is not None and self.losses.needs_teacher:
            for batch in batches:
                batch["teacher"] = self._ask_teacher(batch)
            per_batch = [
                [teacher_energy(group.hidden, group.mask).to(device) for group in batch["teacher"]["features"]]
                for batch in batches
            ]
            energy = [self._sum_over_processes(torch.stack(group).sum(0)) for group in zip(*per_batch, strict=True)]
        return batches, Totals(self._sum_over_processes(torch.as_tensor(labels, device=device)), energy)

    def _ask_teacher(self, batch: Batch) -> Batch:
        """The teacher's features and logits of a batch, in its own dtype and where it is."""
        assert self.teacher is not None
        weight = next(self.teacher.parameters())
        batch = {key: value.to(weight.device) for key, value in batch.items()}
        rows, _ = self.model_inputs.label_rows(batch)
        wanted = rows if self.losses.kl > 0 else torch.zeros_like(rows)
        autocast = torch.autocast(weight.device.type, torch.bfloat16, enabled=weight.dtype == torch.bfloat16)
        with torch.no_grad(), autocast:
            outputs = self._forward(self.teacher, self.teacher, batch, wanted)
        features = self.model_inputs.features(outputs, batch) if self.losses.squarehead > 0 else []
        return {"features": features, "logits": self._logits(outputs)}

    def _sum_over_processes(self, value: Tensor) -> Tensor:
        summed = self.accelerator.reduce(value, reduction="sum")
        assert isinstance(summed, Tensor)
        return summed

    # ---- one epoch ----

    def _run_epoch(self, *args: Any, epoch: int, **kwargs: Any) -> None:
        """An epoch, unless the resumed run had ended: transformers asks for that only after a step."""
        self._called.add("_run_epoch")
        if self._had_ended:
            return
        if self._sampler is not None:  # which accelerate does not reach where a resumed epoch is shared by processes
            self._sampler.set_epoch(epoch)
        super()._run_epoch(*args, epoch=epoch, **kwargs)

    # ---- one micro-batch ----

    def training_step(self, model: nn.Module, inputs: Batch, num_items_in_batch: Any = None) -> Tensor:
        """Forward and backward of one micro-batch; masks the gradients after the last one of an optimiser step."""
        masks = self._current_masks()
        loss = super().training_step(model, inputs, num_items_in_batch)
        inputs.pop("teacher", None)  # its memory is not needed any more
        self.tokens += sum(inputs[key].numel() for key in self.model_inputs.counted)
        self._stop_unless_finite(loss, "the loss")
        if self.accelerator.sync_gradients:
            self._called.add("training_step")
            if masks is not None:
                masks.mask_gradients()
        return loss

    def compute_loss(
        self, model: nn.Module, inputs: Batch, return_outputs: bool = False, num_items_in_batch: Totals | None = None
    ) -> Any:
        """ce·CE + kl·KL + squarehead·SquareHead of one micro-batch, as its share of the optimiser step's loss."""
        assert num_items_in_batch is not None
        self._called.add("compute_loss")
        totals, weights = num_items_in_batch, self.losses
        rows, targets = self.model_inputs.label_rows(inputs)
        with self._autocast():
            outputs = self._forward(model, self.accelerator.unwrap_model(model), inputs, rows)
        logits = self._logits(outputs)
        terms = {}
        if weights.ce > 0:
            terms["ce"] = weights.ce * cross_entropy(logits, targets, totals.labels)
        if weights.kl > 0:
            teacher = inputs["teacher"]["logits"].to(logits.device)
            terms["kl"] = weights.kl * kl_divergence(logits, teacher, weights.temperature, totals.labels)
        if weights.squarehead > 0:
            groups = zip(
                self.model_inputs.features(outputs, inputs), inputs["teacher"]["features"], totals.energy, strict=True
            )
            layers = {
                student.stack: squarehead(student.hidden, _beside(student.hidden, teacher.hidden), student.mask, energy)
                for student, teacher, energy in groups
            }
            terms["squarehead"] = weights.squarehead * sum(per_layer.sum() for per_layer in layers.values())
            self._count({f"squarehead/{stack}": per_layer for stack, per_layer in layers.items()})
        self._count(terms)
        # Data-parallel wrappers average gradients over processes, while ours are shares of one sum.
        loss = sum(terms.values()) * self.accelerator.num_processes
        return (loss, outputs) if return_outputs else loss

    def _count(self, terms: dict[str, Tensor]) -> None:
        for name, term in terms.items():
            self._terms[name] = self._terms.get(name, torch.zeros_like(term)) + term.detach()

    def _forward(self, model: Any, unwrapped: Any, batch: Batch, rows: Tensor) -> Any:
        """Run a model with logits [1, N, vocabulary] at the N chosen rows only: the head is a fifth of the work."""
        head = unwrapped.get_output_embeddings() if self._predicts else None
        with _head_sees(head, rows) if head is not None else nullcontext():
            return model(**self.model_inputs.keywords(batch), output_hidden_states=self.losses.squarehead > 0)

    def _logits(self, outputs: Any) -> Tensor:
        """Those at the chosen rows [N, vocabulary]; none of a model that predicts no tokens."""
        logits: Tensor = outputs.logits[0] if self._predicts else torch.empty(0)
        return logits

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.args.device.type, torch.bfloat16, enabled=self.bfloat16)

    # ---- one optimiser step ----

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """The optimiser of the settings, followed by the masks."""
        self._called.add("create_optimizer")
        own = own_optimizer(self.own_optimizer, self.model, self.args.learning_rate, self.args.seed)
        if own is not None:
            self.optimizer_cls_and_kwargs = own
        optimizer = super().create_optimizer() if model is None else super().create_optimizer(model)
        optimizer.register_step_post_hook(lambda *_: self._after_optimizer())
        return optimizer

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """At most half of the steps warm up: a short training would else end before it has begun."""
        self.args.warmup_steps = min(self.args.warmup_steps, num_training_steps // 2)
        return super().create_scheduler(num_training_steps, optimizer)

    def _after_optimizer(self) -> None:
        self._check_hooks()  # maybe twice in a step: torch also calls hooks after the step of an optimiser's base class
        if self.masks is not None:
            self.masks.mask_weights()

    def _check_hooks(self) -> None:
        """Raise CutworkError if this version of transformers trains without calling what the method depends on."""
        if missing := sorted(_HOOKS - self._called):
            raise CutworkError(
                f"transformers {transformers.__version__} trains without calling {', '.join(missing)}, so neither zeros"
                " nor losses would be right; install the version that Cutwork's pyproject.toml asks for, or report this"
            )

    def _get_grad_norm(self, model: nn.Module, grad_norm: Any = None) -> Any:
        """The gradient norm before clipping; the last point at which a divergence can be kept out of the weights."""
        self._called.add("_get_grad_norm")
        norm = super()._get_grad_norm(model, grad_norm=grad_norm)
        self._stop_unless_finite(norm, "the gradient norm")
        if self.losses.ce > 0 and float(norm) == 0:  # a blown-up model saturates: its loss stays finite, and constant
            self._stop("the gradient norm became exactly 0")
        return norm

    def _stop_unless_finite(self, value: Any, what: str, step: int | None = None) -> None:
        value = torch.as_tensor(value)
        if not torch.isfinite(value).all():
            self._stop(f"{what} became {value.item()}", step)

    def _stop(self, what: str, step: int | None = None) -> NoReturn:
        step = self.state.global_step + 1 if step is None else step  # those done are counted, not the one under way
        checkpoint = self.last_checkpoint
        rest = f"the last good checkpoint is {checkpoint}" if checkpoint else "nothing was saved yet"
        raise CutworkError(
            f"{what} at step {step}, so training diverged: lower learning_rate "
            f"(now {self.args.learning_rate:g}) or raise warmup_steps (now {self.args.warmup_steps:g}); {rest}"
        )

    # ---- validation ----

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        """The cross entropy per label token of the validation samples, whatever is trained for.

        The processes share the micro-batches; one that has none left joins in the others' forward pass all the same,
        which a sharded model needs.
        """
        data, size = self.eval_dataset, self._train_batch_size
        order = sorted(range(len(data)), key=data.lengths.__getitem__)
        parts = [order[start : start + size] for start in range(0, len(order), size)]
        sums = torch.zeros(2, device=self.args.device)  # of losses, of labels
        self.model.eval()
        for first in range(0, len(parts), self.args.world_size):
            mine = first + self.args.process_index
            batch = self._prepare_inputs(collate([data[i] for i in parts[min(mine, len(parts) - 1)]]))
            rows, targets = self.model_inputs.label_rows(batch)
            with torch.no_grad(), self._autocast():
                outputs = self._forward(self.model, self.model, batch, rows)
            if mine < len(parts):
                sums += torch.stack([cross_entropy(outputs.logits[0], targets, 1), rows.sum()])
        self.model.train()
        total, labels = self._sum_over_processes(sums).tolist()
        metrics = {"eval_loss": total / labels}
        self.log(metrics)
        self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    # ---- logs and checkpoints ----

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Add the loss terms, averaged over the steps since the last log, and the fraction of weights held at zero.

        `squarehead/decoder.3` is the unweighted part of that block: which layer lags behind the teacher.
        """
        if "loss" in logs and self._terms:
            steps = max(1, self.args.logging_steps)
            for name, term in self._terms.items():
                mean = self._sum_over_processes(term) / steps
                logs |= (
                    {f"{name}.{i}": value for i, value in enumerate(mean.tolist())}
                    if mean.ndim
                    else {name: mean.item()}
                )
            self._terms.clear()
            logs["sparsity"] = self.masks.sparsity if self.masks else 0.0
        super().log(logs, *args, **kwargs)

    @property
    def last_checkpoint(self) -> Path | None:
        """The newest complete checkpoint of this run."""
        return last_checkpoint(Path(self.args.output_dir))

    def _mask_file(self, directory: Path) -> Path:
        shard = f"-{self.args.process_index}" if self.is_fsdp_enabled else ""
        return directory / f"masks{shard}.safetensors"

    def _current_masks(self) -> Masks | None:
        """The masks; made, or those of a resumed run loaded, when they are first asked for."""
        if self.masks is None and self.keep_zeros:
            resumed = self.resumed_from
            self.masks = Masks.load(self.model, self._mask_file(resumed)) if resumed else Masks(self.model)
        return self.masks

    def train(self, resume_from_checkpoint: Any = None, *args: Any, **kwargs: Any) -> Any:
        """Train; the masks of a resumed run are those that were saved, and are checked."""
        self.resumed_from = Path(resume_from_checkpoint) if resume_from_checkpoint else None
        self._had_ended = self.resumed_from is not None and has_ended(self.resumed_from)
        output = super().train(resume_from_checkpoint, *args, **kwargs)
        if "create_optimizer" not in self._called:  # then nothing has looked after a step either
            self._check_hooks()
        return output

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """A checkpoint as it stands, with the masks: no weight is infinite, no zero has been lost."""
        for name, parameter in self.model.named_parameters():
            self._stop_unless_finite(local(parameter.detach()).sum(), name, self.state.global_step)
        if self.masks is not None and (self.is_fsdp_enabled or self.args.should_save):
            self.masks.verify()
            directory = Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"
            directory.mkdir(parents=True, exist_ok=True)
            self.masks.save(self._mask_file(directory))
        super()._save_checkpoint(model, trial)


def _beside(tensors: tuple[Tensor, ...], others: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """`others`, each on the device of its tensor."""
    return tuple(other.to(tensor.device) for tensor, other in zip(tensors, others, strict=True))


@contextmanager
def _head_sees(head: nn.Module, rows: Tensor) -> Iterator[None]:
    """Let an output head compute only the rows [B, T] (bool) of its input [B, T, D], as one sequence [1, N, D]."""

    def select(_: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (inputs[0][rows][None], *inputs[1:])

    handle = head.register_forward_pre_hook(select)
    try:
        yield
    finally:
        handle.remove()
