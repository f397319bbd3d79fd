"""Filling in the middle, answers that are begun, pages of other sites."""

from typing import Any

import pytest

from ..engine.tiny import byte_level_tokenizer
from .conftest import events, force, serving

MARKS = ["<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"]
PLAIN = (
    "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)
THINKS = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}<think></think>"


def test_suffix_and_infill_write_the_same_prompt(recorded):
    with recorded(PLAIN, special=MARKS) as client:
        client.model.tokenizer.get_vocab = lambda: 1 / 0  # others would wait while the whole vocabulary is read
        shared = {"temperature": 0, "ignore_eos": True}
        plain = client.post(
            "/v1/completions",
            json={"prompt": f"{MARKS[0]}a = {MARKS[1]} + 1{MARKS[2]}", "max_tokens": 9, **shared},
        ).json()
        filled = client.post(
            "/v1/completions", json={"prompt": "a = ", "suffix": " + 1", "max_tokens": 9, **shared}
        ).json()
        assert filled["choices"][0]["text"] == plain["choices"][0]["text"]
        body = {"input_prefix": "a ", "prompt": "= ", "input_suffix": " + 1", "n_predict": 9, **shared}
        editor = client.post("/infill", json={**body, "samplers": ["top_k"], "cache_prompt": True, "n_indent": 4})
        assert editor.json()["content"] == plain["choices"][0]["text"] and editor.json()["stop_type"] == "limit"
        assert "n_indent, samplers" in editor.headers["x-cutwork-warning"]
        with client.stream("POST", "/infill", json={**body, "stream": True}) as response:
            told = events(response, done=False)
        assert "".join(event["content"] for event in told) == editor.json()["content"] and told[-1]["stop"]
        ends = client.post("/infill", json={**body, "stop_token_ids": [7] * 1024})
        assert ends.json()["content"] == editor.json()["content"]
        more = client.post("/infill", json={**body, "input_extra": [{"filename": "b.py", "text": "b = 2"}]}).json()
        assert more["tokens_evaluated"] > editor.json()["tokens_evaluated"]
        chunk = {"filename": "b.py", "text": "b = 2", "time": 1732800000}  # as llama.vim and llama.vscode send it
        ahead = client.post("/infill", json={**body, "n_predict": 0, "input_extra": [chunk]})
        assert ahead.json()["content"] == "" and ahead.json()["tokens_evaluated"] == more["tokens_evaluated"]
        endless = client.post("/infill", json={**body, "n_predict": -1, "ignore_eos": True})
        assert endless.json()["tokens_predicted"] > 400  # the rest of the context


def test_the_gap_ends_where_the_model_goes_on_with_another_file(recorded):
    with recorded(PLAIN, f"b{MARKS[0]}never", special=MARKS) as client:
        filled = client.post("/v1/completions", json={"prompt": "a", "suffix": "c", "max_tokens": 50}).json()
        assert filled["choices"][0]["text"] == "b" and filled["choices"][0]["finish_reason"] == "stop"
        ended = client.post("/v1/completions", json={"prompt": "a", "stop_token_ids": [ord("b")], "max_tokens": 50})
        assert ended.status_code == 200


@pytest.mark.parametrize("body", [{"prompt": "a", "suffix": "b"}, {"prompt": ["a"], "suffix": "b"}])
def test_what_cannot_be_filled_is_refused(client, recorded, body):
    assert "cannot fill in the middle" in client.post("/v1/completions", json=body).json()["error"]["message"]
    assert client.post("/infill", json={"input_prefix": "a", "input_suffix": "b"}).status_code == 400
    with recorded(PLAIN, special=MARKS) as able:
        refused = able.post("/v1/completions", json=body | {"echo": True})
        assert "suffix needs" in refused.json()["error"]["message"]


def test_an_answer_that_is_begun_goes_on(recorded):
    with recorded(PLAIN) as client:
        said = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Well, I"}]
        chat = client.post("/v1/chat/completions", json={"messages": said, "temperature": 0, "max_tokens": 9}).json()
        plain = client.post(
            "/v1/completions",
            json={"prompt": "user: Hi\nassistant: Well, I", "temperature": 0, "max_tokens": 9},
        ).json()
        assert chat["choices"][0]["message"]["content"] == plain["choices"][0]["text"]
        assert chat["usage"]["prompt_tokens"] == plain["usage"]["prompt_tokens"]

        def asked(said: list[dict[str, str]] = said, **fields: bool) -> dict[str, Any]:
            body = {"messages": said, "temperature": 0, "max_tokens": 9, **fields}
            return client.post("/v1/chat/completions", json=body).json()

        anew = {"prompt": "user: Hi\nassistant: Well, I\nassistant: ", "temperature": 0, "max_tokens": 9}
        anew = client.post("/v1/completions", json=anew).json()["usage"]["prompt_tokens"]
        assert asked(continue_final_message=False)["usage"]["prompt_tokens"] == anew > plain["usage"]["prompt_tokens"]
        assert asked(add_generation_prompt=True)["usage"]["prompt_tokens"] == anew
        assert asked(continue_final_message=True, add_generation_prompt=False)["choices"] == chat["choices"]
        both = asked(continue_final_message=True, add_generation_prompt=True)
        assert "the opposite of continue_final_message" in both["error"]["message"]
        nothing = asked(said[:1], continue_final_message=True)
        assert "needs a last message of the assistant" in nothing["error"]["message"]
        assert "opposite" in asked(said[:1], add_generation_prompt=False)["error"]["message"]


@pytest.mark.parametrize(
    ("begun", "answer", "thought", "said"),
    [
        ("<think>Hm, ", "well.</think>\n\nYes.", "well.", "Yes."),
        ("<think>Hm.</think>\n\nYes, ", "Sir.", None, "Sir."),
    ],
)
def test_a_thought_that_is_begun_goes_on(recorded, begun, answer, thought, said):
    with recorded(THINKS, answer) as client:
        messages = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": begun}]
        message = client.post("/v1/chat/completions", json={"messages": messages}).json()["choices"][0]["message"]
        assert (message.get("reasoning"), message["content"]) == (thought, said)
        if thought:
            force(client.model, "abc</think>d")
            free = client.model.session.add.free
            client.model.session.add = free
            body = {"messages": messages, "thinking_budget": 3, "max_tokens": 40, "ignore_eos": True}
            assert client.post("/v1/chat/completions", json=body).json()["choices"][0]["message"]["content"]


def test_an_answer_has_so_many_tokens_at_least(recorded):
    with recorded(PLAIN) as client:
        body = {"prompt": "a", "max_tokens": 30, "logit_bias": {"2": 100}}
        shortest = client.post("/v1/completions", json=body).json()["usage"]["completion_tokens"]
        longer = client.post("/v1/completions", json=body | {"min_tokens": 7}).json()["usage"]["completion_tokens"]
        assert (shortest, longer) == (1, 8)


def test_pages_of_named_sites_may_ask(load):
    with serving(load(), hosts=[], origins=["https://a.example"]) as client:
        mine, other = {"Origin": "https://a.example"}, {"Origin": "https://b.example"}
        asked = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}
        before = client.options("/v1/chat/completions", headers=mine | asked)
        assert before.status_code == 200 and before.headers["access-control-allow-origin"] == mine["Origin"]
        assert client.options("/v1/chat/completions", headers=other | asked).status_code == 400
        answer = client.post("/tokenize", json={"prompt": "a"}, headers=mine | {"Sec-Fetch-Site": "cross-site"})
        assert answer.status_code == 200 and answer.headers["access-control-allow-origin"] == mine["Origin"]
        assert client.post("/tokenize", json={"prompt": "a"}, headers=other).status_code == 403
    with serving(load(), keys=["k"], origins=["*"]) as client:
        assert client.options("/v1/models", headers=other | asked).status_code == 200
        refused = client.get("/v1/models", headers=other)
        assert refused.status_code == 401 and refused.headers["access-control-allow-origin"] == "*"


def test_marks_are_those_of_the_tokenizer():
    from cutwork.engine.infill import infill_format

    tokenizer = byte_level_tokenizer()
    assert infill_format(tokenizer) is None and infill_format(None) is None
    tokenizer.add_special_tokens({"additional_special_tokens": ["[PREFIX]", "[SUFFIX]"]})
    assert infill_format(tokenizer).prompt("a", "b") == "[SUFFIX]b[PREFIX]a"
    tokenizer.add_special_tokens({"additional_special_tokens": [*MARKS, "<|repo_name|>", "<|file_sep|>"]})
    assert infill_format(tokenizer).prompt("a", "b", [("x.py", "x")]) == (
        "<|repo_name|>repository\n<|file_sep|>x.py\nx\n<|file_sep|>file\n<|fim_prefix|>a<|fim_suffix|>b<|fim_middle|>"
    )
    found = infill_format(tokenizer)
    vocabulary = tokenizer.get_vocab()
    assert list(found.ends) == [vocabulary[mark] for mark in (*MARKS, "<|repo_name|>", "<|file_sep|>")]
