"""A checkpoint opened for surgery in place: the model's weights are the mapped file, so no model has to fit in memory.

Built without weights, then pointed at the files. What is written to a block's linear is written to its file; the
system's page cache decides how much of it is in memory.
"""

import functools
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from torch import Tensor, nn

from cutwork import architectures
from cutwork.errors import CutworkError
from cutwork.store.checkpoint import open_checkpoint, write_checkpoint
from cutwork.store.directory import check_plain, copy_side_files, read_config
from cutwork.store.safetensors import Tensors, open_tensors
from cutwork.torch_models.blocks import block_lists, check_linear, linears
from cutwork.torch_models.load import SAVE_BY_OWN_NAMES, empty_model, load_config, refuse_headless, without_pooler
from cutwork.torch_models.precision import wants_bfloat16

_OTHER_NAMES = f"or keeps it under another name than this version of transformers; {SAVE_BY_OWN_NAMES}"
_DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "F64": torch.float64}


def copy_checkpoint(source: Path, destination: Path) -> None:
    """Copy a plain checkpoint's weights, configuration, tokenizer and other small files into a directory."""
    check_plain(source)
    stored = open_checkpoint(source)
    if not isinstance(stored, Tensors):
        write_checkpoint(stored, read_config(source), destination)
    else:
        for file in [*stored.paths, source / "config.json", *source.glob("model.safetensors.index.json")]:
            shutil.copyfile(file, destination / file.name)
    copy_side_files(source, destination)


class MappedModel:
    """The model of a checkpoint directory whose files it changes.

    `model` is usable as a whole for modules outside of its blocks; a block computes only while it is `resident`.
    float16, which CPUs compute slowly, is computed in float32, and linears of several dtypes in one that holds them
    all. Raises CutworkError for unusable directories, which it names as `called`.
    """

    def __init__(self, directory: Path, called: Path | None = None) -> None:
        called = called or directory
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        tensors = open_tensors(directory, writable=True)
        with init_empty_weights(include_buffers=False):
            self.model: Any = empty_model(load_config(directory))
        check_linear(self.model)
        state = _state(self.model, tensors, called)
        stacks = block_lists(self.model)
        inside = tuple(f"{stack}." for stack in stacks)
        named = (
            f"{stack}.{i}.{name}.weight"
            for stack in stacks
            for i, block in enumerate(stacks[stack])
            for name, _ in _linears(block)
        )
        stored = {state[name].dtype for name in named if name in state}
        if not stored:
            raise CutworkError(f"{called} has no weight of a block, {_OTHER_NAMES}")
        # What is written back must be what was read, where nothing was pruned.
        dtype = functools.reduce(torch.promote_types, stored)
        slow = dtype == torch.float16 or (dtype == torch.bfloat16 and not wants_bfloat16("auto", self.device))
        self.dtype = torch.float32 if slow else dtype
        for name, tensor in state.items():
            if tensor.is_floating_point() and not name.startswith(inside):
                state[name] = tensor.to(self.device, self.dtype)
        self.model.load_state_dict(state, strict=False, assign=True)
        self.model.tie_weights()
        _compute_missing(self.model)
        self.model.requires_grad_(False)
        missing = [name for name, parameter in self.model.named_parameters() if parameter.is_meta]
        if missing := without_pooler(self.model, missing):
            refuse_headless(self.model, missing, called)
            raise CutworkError(f"{called} has no weight '{missing[0]}', {_OTHER_NAMES}")
        for buffer_name, buffer in list(self.model.named_buffers()):
            module = self.model.get_submodule(buffer_name.rpartition(".")[0])
            module._buffers[buffer_name.rpartition(".")[2]] = buffer.to(self.device)

    @contextmanager
    def resident(self, block: nn.Module) -> Iterator[None]:
        """Let a block compute, on the device and in the model's dtype; its linears' weights are then written back."""
        homes: list[tuple[nn.Parameter, Tensor]] = []
        for parameter in block.parameters():
            homes.append((parameter, parameter.data))
            parameter.data = parameter.data.to(self.device, self.dtype)
        written = {id(linear.weight) for _, linear in _linears(block)}
        yield
        for parameter, home in homes:
            if id(parameter) in written and parameter.data_ptr() != home.data_ptr():
                home.copy_(parameter.data)
            parameter.data = home


def _linears(block: nn.Module) -> list[tuple[str, Any]]:
    return list(linears(block))


def _compute_missing(model: Any) -> None:
    """Fill what checkpoints leave out since transformers computes it, as Marian's positions."""
    computed = [re.compile(pattern) for pattern in model._keys_to_ignore_on_load_missing or ()]
    for name, parameter in list(model.named_parameters()):
        if parameter.is_meta and any(pattern.search(name) for pattern in computed):
            module = model.get_submodule(name.rpartition(".")[0])
            module.to_empty(device="cpu", recurse=False)
            model._init_weights(module)


def _state(model: Any, tensors: Tensors, directory: Path) -> dict[str, Tensor]:
    """The stored tensors by the names that the model has for them."""
    prefix = f"{model.base_model_prefix}."
    family = architectures.find(model.config.to_dict())
    renamed = {family.plan_name(key): key for key in tensors} if family else {}
    state = {}
    for name in model.state_dict():
        # Checkpoints of a bare base model lack its prefix.
        keys = (name, name.removeprefix(prefix), prefix + name)
        stored = next((key for key in keys if key in tensors), renamed.get(name))
        if stored is None:
            continue
        kind, shape = tensors.describe(stored)
        expected = model.state_dict()[name]
        if shape != tuple(expected.shape):
            raise CutworkError(
                f"{directory}: '{stored}' is {list(shape)}, and config.json wants {list(expected.shape)}"
            )
        if expected.is_floating_point() and kind not in _DTYPES:
            raise CutworkError(f"{directory} stores '{stored}' as {kind}; use the unquantised checkpoint")
        flat = torch.from_numpy(tensors[stored].array)
        state[name] = flat.view(_DTYPES[kind]) if kind in _DTYPES else flat
    return state
