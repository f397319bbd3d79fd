"""Tool calls, as far as a model's own template writes them: <tool_call>{"name": …, "arguments": …}</tool_call>."""

import json
from dataclasses import dataclass, field
from typing import Any

from cutwork.serve.answer import identifier

OPEN, CLOSE = "<tool_call>", "</tool_call>"


@dataclass
class ToolCalls:
    """Splits an answer, piece by piece, into what is said and the calls that are made."""

    calls: list[dict[str, Any]] = field(default_factory=list)
    _held: str = ""
    _inside: bool = False

    def push(self, text: str) -> str:
        """The part of the text so far that is certainly said, not called."""
        self._held += text
        said = ""
        while True:
            mark = CLOSE if self._inside else OPEN
            at = self._held.find(mark)
            if at < 0:
                break
            before, self._held = self._held[:at], self._held[at + len(mark) :]
            if self._inside:
                said += self._call(before)
            else:
                said += before
            self._inside = not self._inside
        if self._inside:
            return said
        held_back = next((n for n in range(len(OPEN) - 1, 0, -1) if self._held.endswith(OPEN[:n])), 0)
        cut = len(self._held) - held_back
        said, self._held = said + self._held[:cut], self._held[cut:]
        return said

    def flush(self) -> str:
        """The rest at the end of the answer; a call without its end counts if it is whole."""
        rest, self._held = self._held, ""
        return self._call(rest) if self._inside else rest

    def _call(self, text: str) -> str:
        """Note a call; text that is none is said."""
        try:
            call = json.loads(text)
            name, arguments = call["name"], call.get("arguments", call.get("parameters", {}))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return f"{OPEN}{text}{CLOSE}" if text.strip() else ""
        if not isinstance(name, str):
            return f"{OPEN}{text}{CLOSE}"
        written = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
        self.calls.append(
            {"id": identifier("call"), "type": "function", "function": {"name": name, "arguments": written}}
        )
        return ""
