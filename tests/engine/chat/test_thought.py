"""Thoughts end within their budget, and a grammar holds after them."""

import numpy as np
import pytest

from cutwork.engine.chat.thought import Thought

MARKS = ("<think>", "</think>")
SIZE = 256  # every byte is a token


class Only:
    """A constraint to a text."""

    def __init__(self, text):
        self.left = list(text.encode())

    def allowed(self):
        mask = np.zeros(SIZE, bool)
        mask[self.left[:1]] = True
        return mask

    def accept(self, token):
        assert token == self.left.pop(0)

    def copy(self):
        other = Only("")
        other.left = list(self.left)
        return other


def make(**options):
    given = {"thinking": True, "budget": None, "then": None, "vocabulary": SIZE, **options}
    return Thought(MARKS, lambda text: list(text.encode()), lambda ids: bytes(ids).decode(errors="replace"), **given)


def run(thought, wished, length=60):
    """What comes out if the model wishes these bytes, and `.` for ever afterwards."""
    answer, wishes = b"", iter(wished.encode())
    for _ in range(length):
        allowed = thought.allowed()
        if not allowed.any():
            break
        wish = next(wishes, ord("."))
        token = wish if allowed[wish] else int(np.flatnonzero(allowed)[0])
        thought.accept(token)
        answer += bytes([token])
    return answer.decode()


def test_a_thought_that_is_too_long_is_closed():
    assert run(make(budget=5), "abcdefgh", 20) == "abcde\n</think>\n\n...."
    assert run(make(budget=0), "", 14) == "\n</think>\n\n..."


def test_one_that_ends_by_itself_is_left_alone():
    assert run(make(budget=20), "abc</think>" + "x" * 30, 41) == "abc</think>" + "x" * 30


def test_it_counts_from_the_opening_that_the_model_writes():
    assert run(make(budget=3, thinking=False), "<think>abcdef", 23) == "<think>abc\n</think>\n\n.."
    assert run(make(budget=3, thinking=False), "Hello, I do not think.", 22) == "Hello, I do not think."


def test_a_grammar_holds_after_the_thought():
    assert run(make(then=Only("{}")), "hm</think>") == "hm</think>{}"
    assert run(make(then=Only("{}"), budget=2), "hmhm") == "hm\n</think>\n\n{}"
    assert run(make(then=Only("{}"), thinking=False), "{}") == "{}"


def test_with_a_grammar_a_model_may_think_where_one_token_opens_a_thought():
    def encode(text):
        return [0] if text == "<think>" else list(text.encode())

    def decode(ids):
        return "".join("<think>" if i == 0 else chr(i) for i in ids)

    given = {"thinking": False, "budget": None, "vocabulary": SIZE}
    thought = Thought(MARKS, encode, decode, then=Only("{}"), **given)
    assert run(thought, "\0hm</think>{}") == "\0hm</think>{}"
    assert set(np.flatnonzero(Thought(MARKS, encode, decode, then=Only("{}"), **given).allowed())) == {0, ord("{")}


@pytest.mark.parametrize("after", range(14))
def test_copies_go_their_own_way(after):
    thought = make(budget=3, then=Only("{}"))
    begun = run(thought, "abc", after)
    copy = thought.copy()
    rest = run(thought, "abc"[after:])
    assert run(copy, "abc"[after:]) == rest and begun + rest == "abc\n</think>\n\n{}"
