"""llguidance at work for `grammar`, a program of its own: whether a grammar can be followed is found out where nobody
else is.

A grammar is a client's program. With some hundred patterns that must all hold, or definitions a thousand deep,
llguidance takes minutes, gigabytes, or the whole process with it, before its own bounds are reached; nothing prevents
that but an end of the process. Its conversion of llama.cpp's grammars looks for what they are by a regex that takes
the square of a run of line feeds, and lets no other thread go on meanwhile.

Reads a text; writes [the grammar it is, what that is if it cannot be followed, else ""] as JSON. Arguments: how the
text is written, as `llguidance.grammar_from` calls it, tokens of the vocabulary, `items`.
"""

import json
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

MEMORY = 512 << 20  # bytes of address space beyond what the process begins with; of 2,500 properties a tenth
STACK = 1 << 20  # bytes, an eighth of what threads have as a rule: what fits here fits where the grammar is followed
BYTES = 256


def bounds(items: int) -> Any:
    """llguidance's own bounds. items: of its parser, in one step."""
    from llguidance import LLParserLimits

    return LLParserLimits(
        max_grammar_size=100_000,  # symbols
        max_lexer_states=50_000,  # one to two kB each
        initial_lexer_fuel=200_000,  # for `(((a{100}){100}){100})`, a tenth of a second and 50 MB
        step_max_items=items,
        verbose_errors=False,
    )


class _Bytes:
    """As many tokens as a model's, of which the first stand for a byte each and the others for nothing."""

    is_tokenizer_wrapper = True
    bos_token_id = None

    def __init__(self, count: int) -> None:
        special = b"\xff<|end|>"  # which begins like this for llguidance
        self.tokens = [*(bytes([byte]) for byte in range(BYTES)), special, *[b""] * (count - BYTES - 1)]
        self.eos_token_id = BYTES
        self.special_token_ids = [BYTES]

    def __call__(self, text: str | bytes) -> list[int]:
        return list(text if isinstance(text, bytes) else text.encode())


def unsupported(matcher: Any) -> str:
    """What a grammar is that cannot be compiled, "" if it can."""
    wrong = matcher.get_error()
    return f"not supported: {wrong}" if wrong else ""


def main() -> None:
    """Convert the grammar, compile it and take its first step."""
    from llguidance import LLMatcher, LLTokenizer, grammar_from

    written: Any = sys.argv[1]
    vocabulary, items = map(int, sys.argv[2:])
    text = sys.stdin.buffer.read().decode()
    _limit_memory()
    grammar = ""
    try:
        grammar = grammar_from(written, text)
    except ValueError as error:
        wrong = f"invalid: {error}"
    else:
        tokenizer: Any = _Bytes(vocabulary)
        matcher = LLMatcher(LLTokenizer(tokenizer), grammar, limits=bounds(items), log_level=0)
        wrong = unsupported(matcher)
        if not wrong:
            matcher.compute_bitmask()
            wrong = "not supported: no answer can begin as it says" if matcher.is_error() else ""
    json.dump([grammar, wrong], sys.stdout)


def _limit_memory() -> None:
    """As far as the system can."""
    with suppress(ImportError, OSError, ValueError):
        import resource

        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limit = pages * resource.getpagesize() + MEMORY
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


if __name__ == "__main__":
    threading.stack_size(STACK)
    deep = threading.Thread(target=main)
    deep.start()
    deep.join()
