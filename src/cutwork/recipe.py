"""The settings of an experiment: one YAML file, one frozen model per stage, every key documented beside its default."""

import itertools
import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

Fraction = Annotated[float, Field(ge=0.0, lt=1.0)]
Positive = Annotated[int, Field(ge=1)]
Seed = Annotated[int, Field(ge=0, lt=1 << 32)]

_PATTERN = r"^(unstructured|adaptive|1x4|4x1|[1-9]\d*:[1-9]\d*)$"


def _pattern(name: Any) -> Any:
    """In the place of pydantic's own sentence, which shows the expression."""
    if isinstance(name, str) and not re.search(_PATTERN, name):
        raise ValueError("a pattern is unstructured, adaptive, 1x4, 4x1 or n:m, as 2:4")
    return name


# "unstructured"; "n:m" KEEPS n of every m along the input; "adaptive": n of 16, chosen for each tile of 16 x 16;
# "1x4" and "4x1" (out x in) zero whole blocks
PatternName = Annotated[str, Field(pattern=_PATTERN), BeforeValidator(_pattern)]
# What may be chosen by name; the command line and the tables of methods derive from these.
Pruner = Literal["magnitude", "wanda", "sparsegpt", "rose", "alps"]  # prune/pruners.py
WITHOUT_HESSIAN: tuple[Pruner, ...] = ("magnitude", "wanda")
Quantizer = Literal["gptq", "rtn", "qat"]
Scheme = Literal["w8a8", "w4a16"]
SchemeOrSkip = Literal["w8a8", "w4a16", "skip"]
Rates = Literal["uniform", "owl"]
TokenWeights = Literal["equal", "answers"]  # of calibration tokens; answers: prune/token_weights.py
Schedule = Literal["linear", "cosine", "constant"]
TorchDType = Literal["auto", "float32", "bfloat16"]
WeightsDType = Literal["float32", "bfloat16"]
FloatDType = Literal["auto", "f32", "bf16"]
HeadDType = Literal["auto", "i8", "i4"]
EmbeddingDType = Literal["auto", "i8"]
Long = Literal["drop", "cut", "error"]  # what becomes of samples that are too long


def later(default: Any) -> Any:
    """A setting that came after the first release: left out of dumps at its default, so that runs begun before go on.

    A run's stages are told by what their settings dump to (see run/stages.py).
    """
    return Field(default, exclude_if=lambda value: value == default)


class Settings(BaseModel):
    """A stage's settings: immutable, no unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    def as_key(self, *include: str) -> dict[str, Any]:
        """What a result depends on: all settings, or some, and the order of patterns on names, as the first counts."""
        dumped = self.model_dump(mode="json", include=set(include) or None)
        orders = {
            name: list(value)
            for name, value in dumped.items()
            if isinstance(value, dict) and len(value) > 1 and any(set("*?[") & set(key) for key in value)
        }
        return {**dumped, "order": orders} if orders else dumped

    def _check_used(self, used: bool, why: str, *names: str) -> None:
        """Raise ValueError for settings that are not `used`, but at their defaults: a recipe may say everything."""
        for name in names:
            if not used and getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f"{name} has no effect: {why}; leave it out")


class Losses(Settings):
    """Weights of the loss L = ce·CE + kl·KL + squarehead·SquareHead (arXiv 2310.06927)."""

    ce: Annotated[float, Field(ge=0)] = 1.0  # cross entropy of the answers' tokens
    kl: Annotated[float, Field(ge=0)] = 0.0  # divergence from what the teacher expects at the same tokens
    # squared distance from the teacher's hidden states, relative to their size: every block, every token
    squarehead: Annotated[float, Field(ge=0)] = 0.0
    temperature: Annotated[float, Field(gt=0)] = 1.0  # of the KL term only

    @model_validator(mode="after")
    def _something_is_learned(self) -> "Losses":
        if not self.ce + self.kl + self.squarehead:
            raise ValueError("at least one of ce, kl and squarehead must be above 0")
        self._check_used(self.kl > 0, "it is of the kl term alone, whose weight is 0", "temperature")
        return self

    @property
    def needs_teacher(self) -> bool:
        """Whether any term compares with a teacher."""
        return self.kl > 0 or self.squarehead > 0


class LoraSettings(Settings):
    """Low-rank adapters of the blocks' linears, masked so that training and merging them keep every zero."""

    rank: Positive = 16  # columns of each of the two factors
    alpha: Annotated[float, Field(gt=0)] = 32.0  # the adapters' product is scaled by alpha / rank
    targets: tuple[str, ...] = ("*",)  # linears (fnmatch patterns on the whole name or its last part)


class Gradual(Settings):
    """More and more zeros during a fine-tuning, by the cubic schedule; what is pruned stays pruned."""

    sparsity: Fraction  # at the end of the schedule, in every linear of the blocks
    method: Pruner = "sparsegpt"
    pattern: Literal["unstructured", "1x4", "4x1"] = "unstructured"  # as in prune
    begin: Annotated[float, Field(ge=0, le=1)] = 0.0  # of the steps
    end: Annotated[float, Field(ge=0, le=1)] = 0.7  # of the steps; the rest recovers
    every: Positive = 20  # optimiser steps
    calibration_samples: Positive = 32  # drawn from the training samples, for all methods but magnitude
    damping: Annotated[float, Field(gt=0)] = 0.01  # of the Hessian's mean diagonal

    @model_validator(mode="after")
    def _goes_together(self) -> "Gradual":
        if self.begin > self.end:
            raise ValueError(f"begin ({self.begin:g}) comes after end ({self.end:g})")
        self._check_used(self.method not in WITHOUT_HESSIAN, f"method {self.method} has no Hessian", "damping")
        self._check_used(self.method != "magnitude", "method magnitude looks at no samples", "calibration_samples")
        return self


class TuneSettings(Settings):
    """One fine-tuning run, dense or sparse: whatever is zero in a linear of a block stays zero when `keep_zeros`."""

    epochs: Annotated[float, Field(gt=0)] = 1.0  # passes over the training samples
    max_steps: int = -1  # optimiser steps; overrides epochs when positive
    learning_rate: Annotated[float, Field(gt=0)] = 1e-4  # at its peak, after the warm-up
    weight_decay: Annotated[float, Field(ge=0)] = 0.0  # of matrices; biases and norms have none
    warmup_steps: Annotated[int, Field(ge=0)] = 20  # at most half of all steps
    schedule: Schedule = "linear"  # after the warm-up: down to 0 in a line or a cosine, or not at all
    batch_size: Positive = 32  # samples per optimiser step
    micro_batch_size: Positive = 8  # samples per forward pass; the rest is gradient accumulation
    packing: bool = later(False)  # those of a forward pass in one row without padding (decoder-only models)
    # 0: no clipping, which is the default with SquareHead, whose gradient is so long that a clip undoes it
    max_grad_norm: Annotated[float, Field(ge=0)] = 1.0
    optimizer: str = "adamw_torch_fused"  # adam, muon, or any name transformers.TrainingArguments(optim=...) knows
    dtype: TorchDType = "auto"  # of the forward pass (autocast)
    # compute what is inside a block again in the backward pass: less memory, about a third more computing
    gradient_checkpointing: bool = False
    losses: Losses = Losses()  # what is learned, and from whom
    keep_zeros: bool = True  # the result is checked; false lets training fill them
    save_every: Positive = 50  # optimiser steps between resumable checkpoints
    seed: Seed = 0  # of the order of samples, dropout, and rounding at random (tune/low_bit.py)
    weights: WeightsDType = later("float32")  # bfloat16: with lora, or an optimizer that rounds them (tune/low_bit.py)
    lora: LoraSettings | None = later(None)  # train adapters only, and merge them
    teacher_dtype: TorchDType = later("auto")  # auto: that of the forward pass
    teacher_device: str = later("auto")  # cpu, cuda:1, …; auto: where the student is
    gradual: Gradual | None = later(None)  # prune while training
    # With task.validation_samples, whose loss is measured whenever a checkpoint is saved:
    keep_best: bool = later(False)  # end with the checkpoint that has the lowest, not with the last one
    patience: Annotated[int, Field(ge=0)] = later(0)  # end after so many without a lower one, with the best; 0: never
    # Trackers by the names of transformers' integrations; () is tensorboard where it is installed, ("none",) none. They
    # change nothing that is made, so that runs begun with others go on.
    report_to: tuple[str, ...] = Field(default=(), exclude=True)

    @model_validator(mode="after")
    def _squarehead_is_not_clipped(self) -> "TuneSettings":
        if self.losses.squarehead and "max_grad_norm" not in self.model_fields_set:
            self.__dict__["max_grad_norm"] = 0.0  # still a default, which goes where other losses are given
        return self

    @model_validator(mode="after")
    def _options_fit_what_is_trained(self) -> "TuneSettings":
        if self.gradual and (self.lora or not self.keep_zeros):
            raise ValueError("gradual trains the weights and holds their zeros; set keep_zeros, and no lora")
        why = "without kl and squarehead there is no teacher"
        self._check_used(self.losses.needs_teacher, why, "teacher_dtype", "teacher_device")
        return self


class PruneSettings(Settings):
    """Pruning of the linears of the blocks; embeddings, output head, norms and biases stay dense."""

    method: Pruner = "alps"  # it keeps most; sparsegpt, which the paper has, takes under a third of its time
    sparsity: Fraction = 0.5  # fraction of zeros in every pruned linear
    calibration_samples: Positive = 128  # drawn from the training samples; magnitude needs none but for owl
    damping: Annotated[float, Field(gt=0)] = 0.01  # of the Hessian's mean diagonal
    block_size: Positive = 128  # columns per block of SparseGPT and ROSE
    seed: Seed = 0  # which samples calibrate, and what is drawn for token_weights
    pattern: PatternName = later("unstructured")
    rates: Rates = later("uniform")  # owl: blocks with more outliers keep more weights
    owl_threshold: Annotated[float, Field(gt=0)] = later(5.0)  # an outlier is this many times the mean score
    owl_spread: Annotated[float, Field(ge=0, lt=0.5)] = later(0.08)  # blocks' rates span twice that
    modules: dict[str, Fraction] = later({})  # rates by name: the first glob that matches wins, 0 leaves dense
    patterns: dict[str, PatternName] = later({})  # instead of `pattern`, likewise by name
    token_weights: TokenWeights = later("equal")  # answers: tokens count as much as the model's answers owe to them
    levels: tuple[Fraction, ...] = later(())  # iterative: rising rates, each followed by the recipe's fine-tuning

    @model_validator(mode="after")
    def _rates_fit_the_pattern(self) -> "PruneSettings":
        if self.levels and not all(low < high for low, high in itertools.pairwise((0.0, *self.levels))):
            raise ValueError("levels must rise from one to the next, as in [0.5, 0.67, 0.75]")
        for pattern in (self.pattern, *self.patterns.values()):
            kept, _, of = pattern.partition(":")
            if of and int(kept) >= int(of):
                raise ValueError(f"pattern {pattern} keeps n of every m weights, so n must be less than m")
        if self.token_weights != "equal" and self.method == "magnitude":
            raise ValueError("token_weights: method magnitude looks at no tokens; leave it out")
        if self.levels and any(":" in pattern for pattern in self.patterns.values()):
            raise ValueError("patterns that keep n of m fix the rate, so levels do not apply; leave one of them out")
        last = (self.sparsity, *self.levels)[-1]
        self._check_used(self.sparsity == last, f"levels end at {last:g}", "sparsity")
        self._check_used(self.method not in WITHOUT_HESSIAN, f"method {self.method} has no Hessian", "damping")
        why = f"method {self.method} does not go by blocks of columns"
        self._check_used(self.method in ("sparsegpt", "rose"), why, "block_size")
        self._check_used(self.rates == "owl", f"rates are {self.rates}", "owl_threshold", "owl_spread")
        if ":" not in self.pattern:
            return self
        n, m = map(int, self.pattern.split(":"))
        if self.levels or self.rates == "owl" or any(self.modules.values()):
            raise ValueError(f"pattern {self.pattern} fixes the rate; levels, owl and modules (but for 0) do not apply")
        if "sparsity" in self.model_fields_set and abs(self.sparsity - (1 - n / m)) > 1e-9:
            raise ValueError(f"pattern {self.pattern} makes {1 - n / m:g} zeros; leave sparsity out or set it to that")
        object.__setattr__(self, "sparsity", 1 - n / m)
        return self

    @property
    def needs_samples(self) -> bool:
        """Whether the method or the rates look at calibration data."""
        return self.method != "magnitude" or self.rates == "owl"

    def at(self, level: float) -> "PruneSettings":
        """The one-shot pruning of one level."""
        return self.model_copy(update={"sparsity": level, "levels": ()})


DEFAULT_IGNORED = ("lm_head",)

SPARSE = TuneSettings(losses=Losses(squarehead=1.0))
QAT = TuneSettings(max_steps=200, learning_rate=1e-5, losses=Losses(squarehead=1.0))


def _over(default: TuneSettings) -> BeforeValidator:
    """Where some settings are given, the others are those of this default, not TuneSettings' own."""
    own = default.model_dump(exclude_unset=True)
    return BeforeValidator(lambda given: own | given if isinstance(given, dict) else given)


class QuantizeSettings(Settings):
    """Weights and activations to fewer bits; zeros stay zeros.

    w8a8: weights int8 per output channel, activations int8 per token at run time. w4a16: weights int4 with a scale per
    group of input columns; activations as they are in transformers, int8 per token in this engine. qat: a short
    fine-tuning that sees the rounding, then rounding.
    """

    # of the blocks' linears, unless overrides say otherwise
    scheme: Scheme = "w8a8"
    method: Quantizer = "gptq"  # rtn rounds to the nearest and needs no samples
    # drawn from the training samples, for gptq and smoothing; qat trains on all of them
    calibration_samples: Positive = 128
    damping: Annotated[float, Field(gt=0)] = 0.01  # as in prune, for gptq
    ignore: tuple[str, ...] = DEFAULT_IGNORED  # modules (fnmatch patterns) kept in higher precision
    seed: Seed = 0  # as in prune; a training by qat has its own
    group_size: Annotated[int, Field(ge=32)] = later(128)  # columns that share a scale in w4a16
    overrides: dict[str, SchemeOrSkip] = later({})  # module patterns; the first that matches wins
    smoothing: Fraction = later(0.0)  # SmoothQuant's strength; 0: none, the paper's is 0.5
    sparsity: Fraction = later(0.0)  # prune to it as well (SparseGPT and GPTQ together); 0: not
    token_weights: TokenWeights = later("equal")  # as in PruneSettings, for GPTQ
    # of a decoder's output head, by GPTQ unless method is rtn; it gets a weight of its own where it is the embedding
    head: SchemeOrSkip = later("skip")
    # of method qat; the teacher is the model itself, unquantised; with w8a8 in float32
    qat: Annotated[TuneSettings, _over(QAT)] = later(QAT)

    @model_validator(mode="after")
    def _options_fit_the_method(self) -> "QuantizeSettings":
        if self.group_size % 32:
            raise ValueError("group_size: kernels read groups of multiples of 32 columns; choose such a number")
        if self.sparsity and self.method != "gptq":
            raise ValueError("sparsity: only method gptq prunes while it quantises")
        if self.token_weights != "equal" and self.method != "gptq":
            raise ValueError(f"token_weights: method {self.method} has no Hessian; leave it out, or take method gptq")
        if self.smoothing and self.method == "qat":
            raise ValueError("smoothing: method qat learns with the outliers as they are; leave it out")
        if not self.qat.keep_zeros or self.qat.lora or self.qat.gradual:
            raise ValueError("qat: whole weights are trained and zeros stay; leave out keep_zeros, lora, gradual")
        if self.qat.weights == "bfloat16":
            raise ValueError("qat: bfloat16 weights are as coarse as the rounding that is learned; leave out weights")
        if self.qat.dtype == "bfloat16" and "w8a8" in self.schemes:
            raise ValueError("qat: bfloat16 is as coarse as the rounding of w8a8; leave out dtype")
        if self.qat.keep_best or self.qat.patience:
            raise ValueError("qat: no validation loss is measured; leave out keep_best and patience")
        hessians = self.method == "gptq" or self._head_after_training
        self._check_used(hessians, f"method {self.method} has no Hessian", "damping")
        self._check_used(self.method == "qat", f"method is {self.method}", "qat")
        int4 = "w4a16" in {*self.schemes, self.head}
        self._check_used(int4, "neither scheme nor overrides nor head say w4a16", "group_size")
        return self

    @property
    def schemes(self) -> set[str]:
        """Those that some linears of blocks may get; "skip" is one."""
        return {self.scheme, *self.overrides.values()}

    @property
    def training(self) -> TuneSettings:
        """What method qat trains with: `qat`, but in float32 where codes are int8, whose rounding is as fine as
        bfloat16's."""
        return self.qat.model_copy(update={"dtype": "float32"}) if "w8a8" in self.schemes else self.qat

    @property
    def needs_samples(self) -> bool:
        """Whether it looks at samples, calibration data or those that are trained on."""
        return self.calibrates or self.method == "qat"

    @property
    def calibrates(self) -> bool:
        """Whether calibration data go through the model, a block at a time or, after method qat, for the head."""
        return self.method == "gptq" or self.smoothing > 0 or self._head_after_training

    @property
    def _head_after_training(self) -> bool:
        return self.method == "qat" and self.head != "skip"


class PackSettings(Settings):
    """How a checkpoint is stored for the engine."""

    dtype: FloatDType = "auto"  # of unquantised weights; auto keeps the checkpoint's
    head: HeadDType = "auto"  # of the int8 models' output head, which is read whole for every token
    embedding: EmbeddingDType = later("auto")  # where the head has a weight of its own; rows of it are looked up


class TaskSettings(Settings):
    """Which task, and how much of it. `options` are the task's own keywords (see cutwork/tasks)."""

    # a task's (tasks/load.py: gsm8k, gsm_symbolic, wmt14-en-de, common_voice, speech, translation, text, jsonl),
    # a file of rows, a folder of recordings, or OWNER/NAME of a dataset of the Hub
    name: str
    train_samples: Positive = 2000  # at most; calibration draws from them, too
    test_samples: Positive = 200  # at most, none of which is trained on
    validation_samples: Annotated[int, Field(ge=0)] = later(0)  # beside those of training, to measure tune's loss on
    seed: Seed = 0  # of tasks that are generated, and of which samples are for validation
    max_length: Positive = 512  # tokens per training sample
    long: Long = later("drop")  # longer ones are left out and counted, cut at their end and counted, or an error
    options: dict[str, Any] = {}  # as train, test, prompt, answer of rows; an unknown one is refused


class CompareSettings(Settings):
    """What is measured at the end."""

    models: tuple[str, ...] = later(())  # which of the packed ones (dense-int8, sparse-int8, …: run/run.py); all
    accuracy_samples: Positive = 200  # test questions that every model is asked; no more than task.test_samples
    max_new_tokens: Positive = 128  # per answer
    num_beams: Positive = later(1)  # of the answers; 1: greedy
    lm_eval: tuple[str, ...] = later(())  # tasks of lm-eval, or YAML files of them, for every model
    lm_eval_limit: Positive | None = later(None)  # questions of each; all
    perplexity_text: Path | None = None  # a UTF-8 file; without it the task's held-out text
    perplexity_tokens: Positive = 16384  # of the text, from its beginning
    prompt_tokens: Positive = 256  # that are read, random ones, when speed is timed
    decode_tokens: Positive = 64  # that are written after them
    repeats: Positive = 5  # rounds, each over all models in turn; speeds are medians
    threads: Annotated[int, Field(ge=0)] = 0  # 0: all CPUs this process may use

    @model_validator(mode="after")
    def _limits_what_is_asked(self) -> "CompareSettings":
        self._check_used(bool(self.lm_eval), "there are no lm_eval tasks to limit", "lm_eval_limit")
        return self


class Recipe(Settings):
    """dense fine-tune → prune → sparse fine-tune → quantise → pack → compare."""

    name: str  # what results and reports call the run
    model: str  # a directory, a name of the Hub (store/resolve.py), or one in store/demo_model.py
    output: Path  # the directory of all stages; cutwork run --output names another
    preview: bool = False  # first, the speed of the model and of one pruned by magnitude: before anything is trained
    task: TaskSettings  # what is trained on, and what models are asked in the end
    teacher: TuneSettings | None = None  # dense fine-tuning; without it the model is its own teacher
    prune: PruneSettings = PruneSettings()  # at once, or by levels
    tune: Annotated[TuneSettings | None, _over(SPARSE)] = SPARSE  # null: what is pruned stays as it is
    # the sparse model and, for comparison, the dense one; null: none is made in fewer bits
    quantize: QuantizeSettings | None = QuantizeSettings()
    pack: PackSettings = PackSettings()  # the quantised models; the others are packed in the dtype of their name
    compare: CompareSettings = CompareSettings()  # what is measured of every packed model

    @model_validator(mode="after")
    def _teacher_learns_from_labels(self) -> "Recipe":
        if self.teacher and self.teacher.losses.needs_teacher:
            raise ValueError("teacher.losses: the dense fine-tuning has no teacher of its own; use only ce")
        if self.teacher and self.teacher.gradual:
            raise ValueError("teacher.gradual: what others learn from and are compared with stays dense; leave it out")
        return self

    @model_validator(mode="after")
    def _levels_are_tuned(self) -> "Recipe":
        if self.prune.levels and not self.tune:
            raise ValueError("prune.levels: what is pruned by levels is tuned after each, so tune must not be null")
        return self

    @model_validator(mode="after")
    def _zeros_grow(self) -> "Recipe":
        gradual, prune = self.tune and self.tune.gradual, self.prune
        if gradual and not (prune.modules or prune.patterns):  # whose share of a model only its shapes say
            made = prune.levels[-1] if prune.levels else prune.sparsity
            if gradual.sparsity < made:
                raise ValueError(
                    f"tune.gradual ends at {gradual.sparsity:g} zeros, and prune has made {made:g} before it; end at "
                    "more, or prune less"
                )
        return self
