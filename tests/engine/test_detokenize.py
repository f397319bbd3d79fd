"""Text comes out in whole characters, complete, and without stop strings."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cutwork.engine.decoding.detokenize import Detokenizer, StopStrings

from .tiny import byte_level_tokenizer, sentencepiece_tokenizer

TOKENIZERS = {"byte_level": byte_level_tokenizer(), "sentencepiece": sentencepiece_tokenizer()}
TEXTS = [
    "the theatre",
    "naïve café",
    "🙂🙃🙂 emoji 👩‍👩‍👧 family",
    "日本語 the 語",
    " two  spaces ",
    "\n\ttabs\n",
    "é🙂",
]


def plain(tokenizer, tokens):
    return tokenizer.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False)


@pytest.mark.parametrize("kind", TOKENIZERS)
@pytest.mark.parametrize("text", TEXTS)
def test_pieces_are_whole_and_join_to_the_text(kind, text):
    tokenizer = TOKENIZERS[kind]
    tokens = tokenizer.encode(text, add_special_tokens=False)
    stream = Detokenizer(tokenizer)
    pieces = [stream.push(token) for token in tokens]
    assert all("\ufffd" not in piece for piece in pieces)
    assert "".join(pieces) + stream.flush() == plain(tokenizer, tokens)


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_an_emoji_appears_with_its_last_byte(kind):
    tokenizer = TOKENIZERS[kind]
    tokens = tokenizer.encode("🙂", add_special_tokens=False)
    stream = Detokenizer(tokenizer)
    pieces = [stream.push(token) for token in tokens]
    assert "".join(pieces[:-1]).strip() == ""
    assert pieces[-1] == "🙂"


@pytest.mark.parametrize("kind", TOKENIZERS)
@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_any_valid_text_survives(kind, data):
    tokenizer = TOKENIZERS[kind]
    text = data.draw(
        st.text(st.characters(exclude_categories=("Cs",)), max_size=20).filter(lambda t: "\ufffd" not in t)
    )
    tokens = tokenizer.encode(text, add_special_tokens=False)
    stream = Detokenizer(tokenizer)
    assert "".join(stream.push(token) for token in tokens) + stream.flush() == plain(tokenizer, tokens)


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_the_space_after_the_prompt_is_kept(kind):
    tokenizer = TOKENIZERS[kind]
    prompt, answer = (tokenizer.encode(text, add_special_tokens=False) for text in ("hello", "hello the"))
    stream = Detokenizer(tokenizer, prompt)
    assert "".join(stream.push(token) for token in answer[len(prompt) :]) == " the"


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_a_prompt_that_ends_in_emoji_is_continued(kind):
    tokenizer = TOKENIZERS[kind]
    prompt, both = (tokenizer.encode(text, add_special_tokens=False) for text in ("the 👩\u200d", "the 👩\u200d👧 🙂"))
    stream = Detokenizer(tokenizer, prompt)
    assert "".join(stream.push(token) for token in both[len(prompt) :]) == "👧 🙂"


def test_bytes_that_never_become_a_character_do_not_block_the_rest():
    tokenizer = TOKENIZERS["byte_level"]
    lead = tokenizer.encode("🙂", add_special_tokens=False)[0]
    stream = Detokenizer(tokenizer)
    pieces = [stream.push(token) for token in [lead] * 20 + tokenizer.encode("ok", add_special_tokens=False)]
    assert "".join(pieces) == "\ufffd" * 20 + "ok"
    assert stream.push(lead) == ""
    assert stream.flush() == ""


def test_tokens_that_are_left_out_do_not_cut_a_character():
    tokenizer = TOKENIZERS["byte_level"]
    for count in range(12):
        stream = Detokenizer(tokenizer)
        tokens = [1] * count + tokenizer.encode("🙂!", add_special_tokens=False)
        assert "".join(stream.push(token) for token in tokens) == "🙂!"


def test_special_tokens_are_left_out_unless_wanted():
    tokenizer = TOKENIZERS["byte_level"]
    tokens = [1, *tokenizer.encode("the", add_special_tokens=False), 2, 2, *[1] * 30]
    stream = Detokenizer(tokenizer)
    assert "".join(stream.push(token) for token in tokens) == "the"
    shown = Detokenizer(tokenizer, skip_special_tokens=False)
    assert "".join(shown.push(token) for token in tokens[:5]).startswith("<s>the</s>")


@pytest.mark.parametrize(
    ("stop", "pieces", "expected", "stopped"),
    [
        (["END"], ["abE", "N", "D rest"], "ab", True),
        (["END"], ["abE", "N", "x"], "abENx", False),
        (["END"], ["EEN", "D"], "E", True),
        (["aab"], ["a", "a", "a", "b"], "a", True),
        (["\n\n", "Q:"], ["x\n", "Q:", "y"], "x\n", True),
        (["long stop", "st"], ["a long ", "stall"], "a long ", True),
        ([], ["a", "b"], "ab", False),
        ([""], ["a"], "a", False),
        (["END"], ["xEN"], "xEN", False),
    ],
)
def test_stop_strings(stop, pieces, expected, stopped):
    stream = StopStrings(stop)
    out = []
    for piece in pieces:
        out.append(stream.push(piece))
        shown = "".join(out)
        assert expected.startswith(shown)  # nothing is shown that is taken back later
    assert "".join(out) + stream.flush() == expected
    assert stream.stopped is stopped


def test_stop_strings_may_be_kept():
    stream = StopStrings(["END"], keep=True)
    assert [stream.push(piece) for piece in ("abE", "N", "D rest", "more")] == ["ab", "", "END", ""]
    assert stream.flush() == "" and stream.found == "END"


@given(st.text("ab", max_size=30), st.lists(st.text("ab", min_size=1, max_size=4), max_size=3), st.data())
def test_stop_strings_cut_where_a_search_would(text, stop, data):
    cut = min((at for at in (text.find(s) for s in stop) if at >= 0), default=len(text))
    stream, out, rest = StopStrings(stop), "", text
    while rest:
        size = data.draw(st.integers(1, len(rest)))
        out, rest = out + stream.push(rest[:size]), rest[size:]
        if stream.stopped:
            break
    out += stream.flush()
    assert stream.stopped == (cut < len(text) or any(text[cut:].startswith(s) for s in stop))
    first_end = min((text.find(s) + len(s) for s in stop if s in text), default=len(text))
    assert text.startswith(out) and len(out) <= first_end
    assert not any(s in out for s in stop)
