"""Tasks of EleutherAI's lm-evaluation-harness (lm-eval), answered by the engine in this process."""

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jinja2 import TemplateError
from lm_eval import simple_evaluate
from lm_eval.api.model import TemplateLM
from lm_eval.tasks import TaskManager
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
from rich.console import Console

from cutwork.errors import CutworkError
from cutwork.progress import progress_bar

if TYPE_CHECKING:
    from cutwork.engine.model import Model

_BATCH = 32  # answers written together
_NEW_TOKENS = 256  # of an answer where the task does not say, as lm-eval has it
_SAMPLING = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty")  # called alike there and here


class EngineLM(TemplateLM):
    """A decoder-only model as lm-eval asks models: log-likelihoods of continuations and of whole texts, and answers.

    Texts become tokens as lm-eval's own `hf` models make them. Raises CutworkError for a model of another kind or one
    without a tokenizer, and for settings of generation that the engine does not know.
    """

    def __init__(self, model: "Model", console: Console | None = None) -> None:
        super().__init__()
        if model.architecture.kind != "text" or model.tokenizer is None:
            raise CutworkError("lm-eval's tasks are for decoder-only models with a tokenizer")
        self.model, self.tokenizer, self._console = model, model.tokenizer, console
        self.max_length = model.max_context

    @property
    def eot_token_id(self) -> int:
        """The token that ends a text."""
        return int(self.tokenizer.eos_token_id)

    @property
    def prefix_token_id(self) -> int:
        """What a text without a context begins with."""
        bos = self.tokenizer.bos_token_id
        return self.eot_token_id if bos is None else int(bos)

    @property
    def tokenizer_name(self) -> str:
        """What tells this tokenizer from others in lm-eval's caches."""
        return str(self.model.path).replace("/", "__")

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
        """Token ids of a text; a beginning that it already has is not put before it again."""
        if add_special_tokens is None:
            add_special_tokens = not string.startswith(self.tokenizer.decode([self.prefix_token_id]))
        return list(self.tokenizer.encode(string, add_special_tokens=add_special_tokens))

    def apply_chat_template(self, chat_history: Sequence[Mapping[str, str]], add_generation_prompt: bool = True) -> str:
        """The prompt of a conversation; without `add_generation_prompt` its last turn is left open."""
        how = {"add_generation_prompt": add_generation_prompt, "continue_final_message": not add_generation_prompt}
        whole = list(chat_history)
        unled = [turn for turn in whole if turn["role"] != "system"]  # tried next, as by lm-eval's `hf`
        refusal = ""
        for turns in (whole, unled):
            try:
                return str(self.tokenizer.apply_chat_template(turns, tokenize=False, **how))
            except TemplateError as error:
                refusal = str(error)
        raise CutworkError(f"the model's chat template refuses what lm-eval asks: {refusal}")

    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[tuple[str, str], list[int], list[int]]], **_: Any
    ) -> list[tuple[float, bool]]:
        """Of each continuation after its context, both token ids: log-probability, and whether it is the likeliest."""
        found: dict[int, tuple[float, bool]] = {}
        asked: dict[tuple[int, ...], list[tuple[int, int, int]]] = {}  # by all tokens but the last
        for i, (_texts, context, continuation) in enumerate(requests):
            *before, last = [*context, *continuation][-(self.max_length + 1) :]
            first = len(before) + 1 - len(continuation)
            if first < 1:
                raise CutworkError(f"a continuation of {len(continuation)} tokens exceeds the context; raise it")
            asked.setdefault(tuple(before), []).append((i, first, last))
        with progress_bar(self._console, transient=True) as progress:
            for tokens, several in progress.track(asked.items(), description="lm-eval: reading"):
                if len(several) > 1 and all(first == len(tokens) for _, first, _ in several):
                    # Choices of one token each, as A to D: what comes before is read once.
                    logprobs, likeliest = self._next(tokens)
                    found |= {i: (float(logprobs[last]), last == likeliest) for i, _, last in several}
                else:
                    found |= {i: self._score([*tokens, last], first) for i, first, last in several}
        return [found[i] for i in range(len(requests))]

    def _score(self, tokens: Sequence[int], first: int) -> tuple[float, bool]:
        """Of the tokens from the place `first` on: log-probability, and whether they are the likeliest.

        One more than the context holds may be given, as lm-eval has it: the last is predicted and never read.
        """
        total, likeliest = 0.0, True
        read = tokens[: self.max_length]
        if first < len(read):
            for part in self.model.token_logprobs(read, 1, first=first):
                for entry in part:
                    assert entry is not None
                    total += entry.logprob
                    likeliest &= entry.top[0][0] == entry.token
        if len(read) < len(tokens):  # read again: the rows of a whole context are too many to keep for the last
            logprobs, best = self._next(read)
            total += float(logprobs[tokens[-1]])
            likeliest &= best == tokens[-1]
        return total, likeliest

    def _next(self, tokens: Sequence[int]) -> tuple[np.ndarray, int]:
        """Log-probabilities float64 [vocabulary] of the token after these, and the likeliest."""
        [row] = self.model.logits(tokens, first=len(tokens) - 1).astype(np.float64)
        return row - np.logaddexp.reduce(row), int(row.argmax())

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
        """Log-probability of each text, every token predicted once, in windows as long as the context."""
        found = []
        with progress_bar(self._console, transient=True) as progress:
            for request in progress.track(requests, description="lm-eval: reading"):
                windows = get_rolling_token_windows(
                    token_list=self.tok_encode(request.args[0]),
                    prefix_token=self.prefix_token_id,
                    max_seq_len=self.max_length,
                    context_len=1,
                )
                parts = [make_disjoint_window(window) for window in windows]
                found.append(sum(self._score([*context, *wanted], len(context))[0] for context, wanted in parts))
        return found

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """An answer to each prompt, up to a string in `until`; prompts that are too long lose their beginning."""
        answers = [""] * len(requests)
        added = self.tokenizer.added_tokens_decoder.items()
        special = {str(token): number for number, token in added if token.special}
        options = [_options(request.args[1], special) for request in requests]
        prompts = [self.tok_encode(request.args[0]) for request in requests]
        order = sorted(range(len(requests)), key=lambda i: (repr(options[i]), -len(prompts[i])))
        with progress_bar(self._console, transient=True) as progress:
            bar = progress.add_task("lm-eval: answering", total=len(requests))
            while order:
                same = [i for i in order[:_BATCH] if options[i] == options[order[0]]]
                order = order[len(same) :]
                room = self.max_length - options[same[0]]["max_new_tokens"]
                if room < 1:
                    raise CutworkError(f"answers of {options[same[0]]['max_new_tokens']} tokens exceed the context")
                replies = self.model.generate([prompts[i][-room:] for i in same], **options[same[0]])
                for i, reply in zip(same, replies, strict=True):
                    answers[i] = reply.text
                progress.advance(bar, len(same))
        return answers


def _options(given: Mapping[str, Any], special: Mapping[str, int]) -> dict[str, Any]:
    """The engine's options of lm-eval's settings of generation.

    What it calls an end may be a special token, which is in no text that the engine gives.
    """
    settings = dict(given)
    until = settings.pop("until", None) or []
    most = [settings.pop(name, None) for name in ("max_gen_toks", "max_new_tokens", "max_tokens")]
    sampled = settings.pop("do_sample", settings.get("temperature", 0) > 0)
    chosen = {name: settings.pop(name) for name in _SAMPLING if name in settings}
    if settings:
        raise CutworkError(f"lm-eval's settings of generation {', '.join(settings)} are not known here")
    if not sampled:
        chosen = {name: value for name, value in chosen.items() if name == "repetition_penalty"}
    stop = [until] if isinstance(until, str) else list(until)
    return {
        "stop": stop,
        "stop_token_ids": [special[text] for text in stop if text in special],
        "max_new_tokens": next((int(number) for number in most if number), _NEW_TOKENS),
        "temperature": 1.0 if sampled else 0.0,
        **chosen,
    }


def check_tasks(tasks: Sequence[str]) -> None:
    """Raise CutworkError for tasks that lm-eval does not have, whose data it cannot get, or that do not make a prompt
    of the first row."""
    with _told_in_a_sentence():
        manager = TaskManager()
        for name in tasks:
            if name not in manager.task_index and not Path(name).is_file():
                raise CutworkError(f"lm-eval has no task '{name}'; `lm-eval ls tasks` lists them, or give a YAML file")
        for task in manager.load(list(tasks))["tasks"].values():
            task.set_fewshot_seed(0)
            task.build_all_requests(limit=1)


@contextmanager
def _told_in_a_sentence() -> Iterator[None]:
    """Make a CutworkError of whatever lm-eval raises, and keep what it prints out of our output, which may be JSON."""
    try:
        with redirect_stdout(sys.stderr):
            yield
    except CutworkError:
        raise
    except ImportError as error:  # of what some tasks alone need
        raise CutworkError(f"lm-eval's tasks need more packages: {error}; install what is missing") from None
    except (OSError, RuntimeError) as error:  # the Hub's transports raise what is one; datasets refuses scripts so
        raise CutworkError(f"lm-eval could not load its data: {_line(error)}") from None
    except Exception as error:  # of a YAML file, its templates, or rows that are not what they take
        problem = f"{type(error).__name__}: {_line(error)}"
        raise CutworkError(f"lm-eval cannot ask its tasks so ({problem}); mend them, or leave them out") from error


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]


def lm_eval(
    model: "Model",
    tasks: Sequence[str],
    *,
    limit: int | None = None,
    fewshot: int | None = None,
    chat: bool = False,
    console: Console | None = None,
) -> dict[str, dict[str, float]]:
    """What lm-eval finds of a model: by task (a name or the path of a YAML file) its metrics and their standard errors.

    limit: questions of each task at most. fewshot: worked examples in the prompt, where the task is not to decide.
    chat: prompts through the model's chat template. Raises CutworkError for tasks that cannot be asked, see
    `check_tasks`.
    """
    asked = EngineLM(model, console)
    if chat and not asked.tokenizer.chat_template:
        raise CutworkError("this model has no chat template; ask without --chat-template")
    with _told_in_a_sentence():
        found = simple_evaluate(
            model=asked,
            tasks=list(tasks),
            task_manager=TaskManager(),
            limit=limit,
            num_fewshot=fewshot,
            apply_chat_template=chat,
            log_samples=False,
        )
    results: dict[str, dict[str, float]] = {}
    for name, metrics in found["results"].items():
        results[name] = {}
        for metric, value in metrics.items():
            with suppress(TypeError, ValueError):
                results[name][metric.removesuffix(",none")] = float(value)
    return results
