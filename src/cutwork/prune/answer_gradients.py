"""What the likelihood of a model's own answers owes to the outputs of its linears: their gradients at every token.

The gradient is that of the Fisher information: of tokens that the model itself would say where it answers. A prompt's
tokens have one, too, by what answers see of them.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from rich.console import Console
from torch import Tensor, nn

from cutwork.progress import progress_bar
from cutwork.prune.input_statistics import real_tokens
from cutwork.torch_models.blocks import block_linears
from cutwork.torch_models.model_inputs import inputs_of

# (name, inputs [T, in], gradients at inputs [T, in], gradients at outputs [T, out]), float32, of a batch's real tokens
Learn = Callable[[str, Tensor, Tensor, Tensor], None]


def answer_gradients(
    model: Any, batches: Sequence[dict[str, Tensor]], learn: Learn, console: Console, description: str, seed: int = 0
) -> tuple[int, dict[str, str]]:
    """Tell the gradients of every linear of the blocks of a decoder-only model, which stays as it is.

    `batches` are collated examples, best of few tokens each: the activations and logits of one are in memory. A
    square of a gradient is an estimate, for one draw of what would be said. Returns how many tokens of answers there
    were, and the first of the linears that each shares its input with, by name.
    """
    linears = block_linears(model)
    watch = _Watch({linear: name for name, linear in linears.items()}, learn)
    inputs, device, answers = inputs_of(model.config), next(model.parameters()).device, 0
    random = torch.Generator(device).manual_seed(seed)
    model.eval()
    with _only_activations_have_gradients(model), ExitStack() as hooks, progress_bar(console) as progress:
        for linear in linears.values():
            hooks.callback(linear.register_forward_pre_hook(watch.see).remove)
            hooks.callback(linear.register_full_backward_hook(watch.learn).remove)
        for stored in progress.track(batches, description=description):
            batch = {key: value.to(device) for key, value in stored.items()}
            watch.mask = batch["attention_mask"].bool()
            rows, _ = inputs.label_rows(batch)
            answers += int(rows.sum())
            likelihood(model(**inputs.keywords(batch)).logits[rows].float(), random).backward()
    return answers, watch.leaders


def likelihood(logits: Tensor, random: torch.Generator) -> Tensor:
    """A number whose gradient g has the Fisher information of tokens with such logits [T, vocabulary] as E[g gᵀ].

    Where the model is certain, what it would say has hardly a gradient, and what has one is hardly ever said: so a
    token is drawn by its probability times its gradient's length in logits, squared, and weighed by what that changes.
    With signs at random no two tokens' gradients add up.
    """
    of_all = logits.log_softmax(-1)
    p = of_all.detach().exp()
    drawn_by = p * (1 - 2 * p + p.square().sum(-1, keepdim=True)).clamp_min(torch.finfo(p.dtype).tiny)
    said = torch.multinomial(drawn_by, 1, generator=random)
    weights = (p.gather(1, said) / drawn_by.gather(1, said) * drawn_by.sum(-1, keepdim=True)).sqrt()
    signs = 2 * torch.randint(2, said.shape, generator=random, device=said.device) - 1
    return (signs * weights * of_all.gather(1, said)).sum()


class _Watch:
    """Linears' inputs on the way forward, until their gradients come on the way back."""

    def __init__(self, names: dict[nn.Module, str], learn: Learn) -> None:
        self.mask: Tensor | None = None
        self.leaders: dict[str, str] = {}
        self._names, self._learn = names, learn
        self._inputs: dict[nn.Module, Tensor] = {}
        self._last: tuple[str, Tensor] | None = None

    def see(self, linear: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        name, x = self._names[linear], inputs[0]
        if self._last is None or self._last[1] is not x:
            self._last = name, x
        self.leaders[name] = self._last[0]
        self._inputs[linear] = x.detach()

    def learn(self, linear: nn.Module, of_inputs: tuple[Tensor, ...], of_outputs: tuple[Tensor, ...]) -> None:
        tensors = (self._inputs.pop(linear), of_inputs[0], of_outputs[0])
        self._learn(self._names[linear], *(real_tokens(each, self.mask) for each in tensors))


@contextmanager
def _only_activations_have_gradients(model: Any) -> Iterator[None]:
    wanted = {parameter: parameter.requires_grad for parameter in model.parameters()}
    model.requires_grad_(False)
    begin = model.get_input_embeddings().register_forward_hook(lambda _, __, output: output.requires_grad_())
    try:
        with torch.enable_grad():
            yield
    finally:
        begin.remove()
        for parameter, had in wanted.items():
            parameter.requires_grad_(had)
