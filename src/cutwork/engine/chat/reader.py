"""An answer as it comes, told apart: what is thought, what is called, what is said."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from transformers.utils.chat_parsing import ResponseParser

from cutwork.engine.chat.formats import ANSWER, THOUGHT_FIELDS, AnswerFormat

LONGEST_CALL = 1 << 18  # characters; what is longer is said
NEXT_LINE = re.compile(r"\)[ \t\r]*\n\s*(?=[A-Za-z_])")  # between calls in Python; no string has a line end
WHOLE = ("json", "xml-inline", "kv-lines", "python-call-list")  # what is parsed once all of it is there


@dataclass(frozen=True)
class Part:
    """A part of an answer: some text that is said or thought, or a whole call: its `name`, and `text`, its arguments as
    JSON."""

    kind: Literal["content", "reasoning", "call"]
    text: str
    name: str = ""


class AnswerReader:
    """Splits one answer. However it is cut into pieces, the parts add up to the same.

    White space beside a mark is neither said nor thought. What has the marks of a call but is none is said.

    prompt: what the answer continues; it may end within a thought. begun: what it holds of the answer. tools: as the
    template got them, none if nothing is a call. thoughts: whether they are told apart, or said as they are written.
    """

    def __init__(
        self,
        form: AnswerFormat,
        prompt: str,
        tools: Sequence[Mapping[str, Any]] | None = None,
        *,
        thoughts: bool = True,
        begun: str = "",
    ) -> None:
        template = form.response_template(thoughts=thoughts, calls=bool(tools))
        self._parser: _Regions | None = None
        self._known = None if form.calls is None or form.calls.marked or form.template else _names(tools or ())
        self._held = ""  # white space, which is said only if text follows
        self._fresh = False  # nothing was said since the last mark
        if template is not None:
            self._whole = {name for name, field in template["fields"].items() if field.get("content") in WHOLE}
            prefix = prompt if form.template is not None else begun
            if form.template is None and not begun and thoughts and form.thought and form.thinks(prompt):
                prefix, self._fresh = form.thought[0], True
            first = form.thought[0] if form.thought and form.template is None else ""
            lines = form.template is None and form.calls is not None and form.calls.lines
            self._parser = _Regions(template, first, lines, prefix=prefix, tools=list(tools or ()))

    @property
    def thinking(self) -> bool:
        """Whether a thought has begun and not ended."""
        return self._parser is not None and self._parser.region in THOUGHT_FIELDS

    def feed(self, text: str) -> list[Part]:
        """The parts that are certain after this text."""
        if self._parser is None:
            return [Part("content", text)] if text else []
        return _joined(self._parts(self._parser.feed(text)))

    def finish(self) -> list[Part]:
        """The rest, at the end of the answer; a call without its closing mark counts if it is whole."""
        if self._parser is None:
            return []
        parts = list(self._parts(self._parser.finalize()[1]))
        if self._held and not self._fresh:
            parts.append(Part("content", self._held))
        return _joined(iter(parts))

    def _parts(self, events: list[dict[str, Any]]) -> Iterator[Part]:
        for event in events:
            field, happened = event["field"], event["type"]
            thought = field in THOUGHT_FIELDS
            if field in self._whole:
                if happened == "region_close":
                    calls = self._calls(event)
                    if calls:
                        self._mark()
                    yield from calls or self._text("content", event["raw"])
            elif happened == "region_chunk":
                yield from self._text("reasoning" if thought else "content", event["text"])
            elif thought or field == ANSWER:
                self._mark()

    def _calls(self, event: dict[str, Any]) -> list[Part]:
        if len(event["raw"]) > LONGEST_CALL:
            return []
        calls = _calls(event["value"])
        known = self._known is None or all(call.name in self._known for call in calls)
        return calls if known else []

    def _text(self, kind: Literal["content", "reasoning"], text: str) -> Iterator[Part]:
        text = self._held + text
        said = text.rstrip()
        self._held = text[len(said) :]
        if self._fresh:
            said = said.lstrip()
        if said:
            self._fresh = False
            yield Part(kind, said)

    def _mark(self) -> None:
        self._held, self._fresh = "", True


class _Regions(ResponseParser):
    """transformers' parser, which gives the text of a region with its end, and goes on where that is none of its kind.

    first: a mark that begins a thought at the beginning only; further on it is what the answer tells of. "" if there is
    none such. lines: whether calls stand one a line; the parser knows them in a list.
    The methods replaced are not public; `tests/engine/chat` holds what is expected of them.
    """

    _began = 0
    _body: str

    def __init__(self, template: Mapping[str, Any], first: str, lines: bool, **options: Any) -> None:
        self._first, self._over, self._lines = first, False, lines
        super().__init__(dict(template), **options)

    def _watchlist(self) -> list[tuple[str, Any]]:
        watch: list[tuple[str, Any]] = super()._watchlist()
        if self._current in THOUGHT_FIELDS:
            return watch
        if self._first and not self._over:
            begun = self._buffer.lstrip()
            could = begun.startswith(self._first) or self._first.startswith(begun)
            self._over = bool(self._buffer[: self._pos].strip()) or not could
        return [each for each in watch if each[1].name not in THOUGHT_FIELDS] if self._over else watch

    @property
    def region(self) -> str | None:
        """What the text belongs to that comes next."""
        current: str | None = self._current
        return current

    def _open_explicit(self, events: list[dict[str, Any]], field: Any, m: Any) -> None:
        self._began = m.start()
        super()._open_explicit(events, field, m)

    def _close_current(self, events: list[dict[str, Any]]) -> None:
        if self._current is None or not self._opened:
            super()._close_current(events)
            return
        field, raw = self._current, self._buffer[self._began : self._pos]
        if self._lines and field == "tool_calls":
            self._body = f"[{NEXT_LINE.sub('), ', self._body)}]"
        try:
            super()._close_current(events)
        except Exception:  # what a model wrote, and what its own template makes of that, can be anything
            events.append({"type": "region_close", "field": field, "value": None})
            self._reset_to_implicit()
        events[-1]["raw"] = raw


def _names(tools: Sequence[Mapping[str, Any]]) -> set[str]:
    return {str(tool.get("function", tool).get("name")) for tool in tools}


def _calls(value: Any) -> list[Part]:
    """The calls that a region's value holds; none if any of it is none."""
    calls = []
    for entry in value if isinstance(value, list) else [value]:
        call = entry.get("function", entry) if isinstance(entry, dict) else None
        if not isinstance(call, dict) or not isinstance(call.get("name"), str) or not call["name"]:
            return []
        arguments = call.get("arguments", call.get("parameters", {}))
        try:
            text = arguments if isinstance(arguments, str) else _written(arguments)
        except (ValueError, RecursionError):
            return []
        calls.append(Part("call", _whole(text), _whole(call["name"])))
    return calls


def _written(arguments: Any) -> str:
    return json.dumps({} if arguments is None else arguments, ensure_ascii=False, allow_nan=False)


def _whole(text: str) -> str:
    """A text without half characters, which JSON can write, and which are none."""
    return text.encode(errors="replace").decode()


def _joined(parts: Iterator[Part]) -> list[Part]:
    """Neighbours of one kind as one."""
    joined: list[Part] = []
    for part in parts:
        if joined and part.kind == joined[-1].kind != "call":
            joined[-1] = Part(part.kind, joined[-1].text + part.text)
        else:
            joined.append(part)
    return joined
