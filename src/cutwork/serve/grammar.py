"""Answers that must be JSON, or follow a regex, a list of choices or a grammar: the tokens that may come next, by
llguidance."""

import json
import re
import subprocess
import sys
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from cutwork.engine.chat.formats import CallFormat, ForcedCall
from cutwork.engine.model import Model
from cutwork.errors import CutworkError
from cutwork.serve import grammar_trial
from cutwork.serve.http.errors import ApiError
from cutwork.serve.http.json_body import depth
from cutwork.serve.limits import Limits

TRIAL_SECONDS = 5.0  # in which a grammar is compiled, or refused; 2,500 properties take half a second
SCHEMA_ITEMS = 20_000  # of the parser, in one step: what 2,500 properties need
GRAMMAR_ITEMS = 2_000  # a tenth of that for what clients write themselves, which may be read in many ways at once
REMEMBERED = 16  # grammars, of those used last
_COMPACT = {"x-guidance": {"whitespace_flexible": False}}
_DEFINITIONS = ("$defs", "definitions")

Callee = tuple[str, dict[str, Any] | None]
"""A function that a model may call: its name and the schema of its parameters."""
Kind = Literal["json", "regex", "choice", "grammar"]
NAMES: dict[Kind, str] = {"json": "JSON schema", "regex": "regex", "choice": "list of choices", "grammar": "grammar"}


@dataclass(frozen=True)
class Form:
    """What an answer has to be: by its kind a JSON schema, a regex as Rust's, a list of texts, or a grammar of Lark or
    llama.cpp (GBNF). field: the request's, where it was given."""

    kind: Kind
    what: Any
    field: str


class Grammars:
    """Compiles grammars for one model's vocabulary; the vocabulary is read on first use."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self._lock = threading.Lock()
        self._tokenizer: Any = None
        self._compiled: OrderedDict[tuple[Kind, str], Matcher] = OrderedDict()

    def answer(self, form: Form, limits: Limits) -> "Matcher":
        """A constraint to answers of this form; the JSON schema {} allows every JSON value.

        Raises ApiError (400) for one that is invalid, too large, too deep or too complex.
        """
        from llguidance import LLMatcher

        try:
            if form.kind == "json":
                text = schema_text(form.what, limits, form.field)
                grammar = LLMatcher.grammar_from_json_schema(text, defaults={"whitespace_flexible": False})
                return self._matcher(grammar, form.field)
            text = json.dumps(form.what) if form.kind == "choice" else form.what
            if len(text.encode()) > limits.schema_bytes:
                raise ValueError(f"it has more than {limits.schema_bytes} bytes")
        except ValueError as error:
            raise ApiError(400, f"the {NAMES[form.kind]} is invalid: {_line(error)}", param=form.field) from None
        return self._matcher(text, form.field, form.kind)

    def tool_call(
        self,
        functions: Sequence[Callee],
        written: CallFormat | None,
        limits: Limits,
        otherwise: Form | None = None,
    ) -> "Matcher":
        """A constraint to one call of one of these functions, as the model writes calls, or to what is JSON of the form
        `otherwise`, if there is one.

        Raises ApiError (400) for a schema that is invalid, too large or too deep, or if it is not known how the model
        writes calls, or not in JSON.
        """
        forced = written.forced if written else None
        if forced is None:
            raise ApiError(400, "this model's calls cannot be required; leave tool_choice out", param="tool_choice")
        for _, parameters in functions:
            schema_text(parameters or {}, limits, "tools")
        answers = [f"call{place}" for place in range(len(functions))]
        lines = ["%llguidance {}", f"start: {' | '.join(answers if otherwise is None else ['answer', *answers])}"]
        if otherwise is not None:
            schema_text(otherwise.what, limits, otherwise.field)
            lines.append(f"answer: %json {json.dumps(otherwise.what | _COMPACT)}")
        for place, (name, parameters) in enumerate(functions):
            opening, closing = self._literal(forced.opening.replace("{name}", name)), self._literal(forced.closing)
            document = _document(forced, name, parameters or {"type": "object"})
            lines += [f"call{place}: {opening} document{place} {closing}", f"document{place}: %json {document}"]
        return self._matcher("\n".join([*lines, ""]), "tools")

    def _literal(self, text: str) -> str:
        """A text in the grammar, its special tokens by their numbers: as text they are something else.

        Special is what llguidance takes for that: Qwen's <tool_call> too, which its tokenizer calls a plain one.
        """
        vocabulary = self._vocabulary()
        added = self._model.tokenizer.added_tokens_decoder
        special = {str(token): i for i, token in added.items() if vocabulary.is_special_token(i)}
        pieces = re.split("(" + "|".join(map(re.escape, special)) + ")", text) if special else [text]
        return " ".join(f"<[{special[p]}]>" if p in special else json.dumps(p) for p in pieces if p)

    def _matcher(self, text: str, field: str, kind: Kind = "json") -> "Matcher":
        """What a client wrote, or of the kind json a grammar that was made of it, as a constraint."""
        from llguidance import LLMatcher

        with self._lock:
            known = self._compiled.get((kind, text))
            if known is not None:
                self._compiled.move_to_end((kind, text))
                return known.copy()
        vocabulary = self._vocabulary()
        items = SCHEMA_ITEMS if kind == "json" else GRAMMAR_ITEMS
        grammar, wrong = _tried(text, "llguidance" if kind == "json" else kind, vocabulary.vocab_size, items)
        if not wrong:
            bounds = grammar_trial.bounds(items)
            matcher = LLMatcher(vocabulary, grammar, limits=bounds, log_level=0)
            wrong = grammar_trial.unsupported(matcher)
        if wrong:
            raise ApiError(400, f"the {NAMES[kind]} is {_line(wrong)}", param=field)
        compiled = Matcher(matcher, self._model.plan.vocabulary, NAMES[kind])
        with self._lock:
            self._compiled[kind, text] = compiled
            if len(self._compiled) > REMEMBERED:
                self._compiled.popitem(last=False)
        return compiled.copy()

    def _vocabulary(self) -> Any:
        """The model's tokens as llguidance has them."""
        with self._lock:
            if self._tokenizer is None:
                if self._model.tokenizer is None:
                    raise CutworkError("answers of a given form need a tokenizer, and this model has none")
                self._tokenizer = tokenizer_of_bytes(self._model)
            return self._tokenizer


def _tried(text: str, written: str, vocabulary: int, items: int) -> tuple[str, str]:
    """The grammar that a text written in one of llguidance's formats is, and what it cannot be, "" if it can be
    followed."""
    command = [sys.executable, "-P", grammar_trial.__file__, written, str(vocabulary), str(items)]
    try:
        found = subprocess.check_output(command, input=text.encode(), stderr=subprocess.DEVNULL, timeout=TRIAL_SECONDS)
        grammar, wrong = json.loads(found)
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired, ValueError):  # or it ended without a word
        return "", "too complex to be followed"
    return grammar, wrong


def tokenizer_of_bytes(model: Model) -> Any:
    """llguidance's view of a model's tokenizer, which knows the bytes that each token stands for."""
    from llguidance import hf

    vocabulary = max(model.plan.vocabulary, len(model.tokenizer))
    return hf.from_tokenizer(model.tokenizer, n_vocab=vocabulary, eos_token=sorted(model.stop_tokens) or None)


class Matcher:
    """The state of one answer (`cutwork.engine.decoding.sampling.Constraint`)."""

    def __init__(self, matcher: Any, vocabulary: int, name: str) -> None:
        self._matcher, self._vocabulary, self._name = matcher, vocabulary, name

    def copy(self) -> "Matcher":
        """The same state, on its own from here."""
        return Matcher(self._matcher.deep_copy(), self._vocabulary, self._name)

    def allowed(self) -> np.ndarray:
        """Which tokens may come next, bool [V]."""
        bits = np.frombuffer(self._matcher.compute_bitmask(), np.uint8)
        if self._matcher.is_error():
            reason = str(self._matcher.get_error()).strip().partition("\n")[0][:200]
            raise CutworkError(f"the {self._name} cannot be followed any further: {reason}")
        mask = np.unpackbits(bits, bitorder="little")[: self._vocabulary].astype(bool)
        return np.pad(mask, (0, self._vocabulary - len(mask)))

    def accept(self, token: int) -> None:
        """Note the token that was chosen."""
        self._matcher.consume_token(token)


def schema_text(schema: dict[str, Any], limits: Limits, field: str) -> str:
    """A JSON schema as text. Raises ApiError (400) if it is too large or too deep."""
    text = json.dumps(schema) if depth(schema, limits.schema_depth) <= limits.schema_depth else None
    if text is None or len(text) > limits.schema_bytes:
        raise ApiError(
            400,
            f"the JSON schema is too large: at most {limits.schema_bytes} bytes and {limits.schema_depth} levels",
            param=field,
        )
    return text


def _document(forced: ForcedCall, name: str, parameters: dict[str, Any]) -> str:
    """The schema of a call's JSON. What the parameters refer to by its place is found where that is in the whole."""
    schema = parameters
    if not forced.named:
        moved = _moved(parameters, f"#/properties/{forced.arguments}")
        definitions = {key: moved.pop(key) for key in _DEFINITIONS if key in moved}
        schema = {
            **definitions,
            "type": "object",
            "properties": {"name": {"const": name}, forced.arguments: moved},
            "required": ["name", forced.arguments],
            "additionalProperties": False,
        }
    return json.dumps(schema | _COMPACT)


def _moved(schema: Any, root: str) -> Any:
    """A schema whose root will be at another place, but for its definitions."""
    if isinstance(schema, list):
        return [_moved(entry, root) for entry in schema]
    if not isinstance(schema, dict):
        return schema
    moved = {key: _moved(value, root) for key, value in schema.items()}
    place = schema.get("$ref")
    if isinstance(place, str) and place.startswith("#") and place.split("/")[1:2] not in [[d] for d in _DEFINITIONS]:
        moved["$ref"] = root + place[1:]
    return moved


def _line(error: object) -> str:
    return " ".join(str(error).partition("<backtrace>")[0].removesuffix("<non-verbose/>").split())[:300]
