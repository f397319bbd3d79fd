"""/v1/completions gives what the engine gives, in OpenAI's shape."""

import numpy as np
import pytest
from tokenizers.processors import TemplateProcessing

from cutwork.engine.decoding.options import GenerateOptions
from cutwork.serve.limits import Limits
from cutwork.serve.routes.generation import EngineFields

from .conftest import events, serving

PROMPT = "the cat and the"


def ask(client, **fields):
    return client.post("/v1/completions", json={"model": "tiny", "prompt": PROMPT, "temperature": 0, **fields})


def test_text_tokens_and_usage_equal_the_engine(client, load):
    answer = ask(client, max_tokens=20).json()
    with load() as model:
        expected = model.generate(PROMPT, max_new_tokens=20)
    choice = answer["choices"][0]
    assert (choice["text"], choice["finish_reason"]) == (expected.text, expected.finish_reason)
    assert answer["usage"]["prompt_tokens"] == expected.prompt_tokens
    assert answer["usage"]["completion_tokens"] == len(expected.tokens)
    assert answer["timings"]["predicted_n"] == len(expected.tokens)
    assert answer["object"] == "text_completion" and answer["model"] == "tiny"


def test_a_stream_adds_up_to_the_whole(client):
    whole = ask(client, max_tokens=24).json()
    with client.stream(
        "POST",
        "/v1/completions",
        json={
            "prompt": PROMPT,
            "temperature": 0,
            "max_tokens": 24,
            "stream": True,
            "stream_options": {"include_usage": True},
        },
    ) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        parts = events(response)
    *parts, last = parts
    assert "".join(part["choices"][0]["text"] for part in parts) == whole["choices"][0]["text"]
    assert parts[-1]["choices"][0]["finish_reason"] == whole["choices"][0]["finish_reason"]
    assert last["choices"] == [] and last["usage"]["completion_tokens"] == whole["usage"]["completion_tokens"]


def test_a_stream_tells_the_places_of_tokens_as_the_whole_does(client):
    fields = {"max_tokens": 40, "ignore_eos": True, "logprobs": 0}
    text = ask(client, **fields).json()["choices"][0]["text"]
    fields["stop"] = [f"{text[i : i + 3]}\x00" for i in (2, 9, 20)]  # which hold some of it back, and never come
    whole = ask(client, **fields).json()["choices"][0]
    body = {"prompt": PROMPT, "temperature": 0, "stream": True, **fields}
    with client.stream("POST", "/v1/completions", json=body) as response:
        parts = [event["choices"][0]["logprobs"]["text_offset"] for event in events(response)]
    assert [place for places in parts for place in places] == whole["logprobs"]["text_offset"]
    assert whole["text"] == text


def test_prompts_may_be_texts_or_tokens_one_or_many(client):
    ids = client.post("/tokenize", json={"prompt": PROMPT}).json()["tokens"]
    one = ask(client).json()["choices"][0]["text"]
    for prompt in (ids, [PROMPT], [ids]):
        assert ask(client, prompt=prompt).json()["choices"][0]["text"] == one
    answer = ask(client, prompt=[PROMPT, "dog", PROMPT], n=2).json()
    texts = [choice["text"] for choice in answer["choices"]]
    assert [choice["index"] for choice in answer["choices"]] == list(range(6))
    assert texts[0] == texts[1] == texts[4] == one and texts[2] == texts[3]


def test_tokenize_adds_special_tokens_unless_told_not_to(load):
    model = load()
    model.tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    with serving(model) as client:

        def tokens(**fields):
            return client.post("/tokenize", json={"prompt": PROMPT, **fields}).json()["tokens"]

        assert tokens() == tokens(add_special_tokens=True) == [1, *tokens(add_special_tokens=False)]


def test_fields_that_go_to_the_engine_as_they_are_are_options_it_knows():
    assert set(EngineFields.model_fields) <= set(GenerateOptions.__annotations__)


def test_n_draws_differ_and_a_seed_repeats_them(client):
    fields = {"temperature": 1.0, "n": 4, "max_tokens": 12, "seed": 7}
    first, second = ([c["text"] for c in ask(client, **fields).json()["choices"]] for _ in range(2))
    assert first == second and len(set(first)) > 1


def test_stop_logit_bias_and_penalties(client):
    text = ask(client, max_tokens=40, ignore_eos=True).json()["choices"][0]["text"]
    stop = text[5:7]
    cut = ask(client, max_tokens=40, ignore_eos=True, stop=[stop, "\x00never"]).json()["choices"][0]
    assert cut["text"] == text[: text.index(stop)] and cut["finish_reason"] == "stop"
    kept = ask(client, max_tokens=40, ignore_eos=True, stop=stop, include_stop_str_in_output=True).json()["choices"][0]
    assert kept["text"] == cut["text"] + stop and kept["finish_reason"] == "stop"
    biased = ask(client, max_tokens=5, logit_bias={"77": 100}, ignore_eos=True, logprobs=0).json()
    assert len(set(biased["choices"][0]["logprobs"]["tokens"])) == 1
    varied = ask(
        client, max_tokens=5, logit_bias={"77": 100, "78": 99.5}, frequency_penalty=2, ignore_eos=True, logprobs=0
    )
    assert len(set(varied.json()["choices"][0]["logprobs"]["tokens"])) == 2


def test_without_a_limit_an_answer_is_as_long_as_there_is_room(client):
    assert ask(client, ignore_eos=True).json()["usage"]["completion_tokens"] == 16
    usage = ask(client, max_tokens=-1, ignore_eos=True).json()["usage"]
    assert usage["total_tokens"] == client.model.max_context


@pytest.mark.parametrize("max_tokens", [0, 3])
def test_echo_scores_the_prompt(client, load, max_tokens):
    """What lm-eval asks for."""
    choice = ask(client, echo=True, logprobs=2, max_tokens=max_tokens).json()["choices"][0]
    with load() as model:
        ids = model.encode(PROMPT)
        logits = model.logits(ids).astype(np.float64)
        result = model.generate(PROMPT, max_new_tokens=3) if max_tokens else None
    logs = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    expected = [logs[i, token] for i, token in enumerate(ids[1:])]
    found = choice["logprobs"]
    assert found["token_logprobs"][0] is None
    np.testing.assert_allclose(found["token_logprobs"][1 : len(ids)], expected, atol=1e-4)
    assert len(found["tokens"]) == len(ids) + (len(result.tokens) if result else 0)
    assert choice["text"].endswith(PROMPT + (result.text if result else ""))
    assert all(len(top) <= 2 for top in found["top_logprobs"][1:])


def test_echo_waits_for_its_own_answer_to_leave_the_cache(load):
    with serving(load(max_batch=1, max_context=64, cache_bytes=1 << 16)) as client:
        whole = client.model.session.scheduler.cache.blocks * client.model.session.scheduler.cache.block_size
        prompt = [5 + i % 9 for i in range(whole * 2 // 3)]
        answer = ask(client, prompt=prompt, echo=True, logprobs=1, max_tokens=3)
        assert answer.status_code == 200, answer.text
        assert len(answer.json()["choices"][0]["logprobs"]["tokens"]) == len(prompt) + 3


def test_more_sequences_than_the_server_ever_takes_are_no_reason_to_try_again(load):
    with serving(load(), limits=Limits(queue=2)) as client:
        refused = ask(client, prompt=[PROMPT] * 4, n=2)
        assert refused.status_code == 400 and "at most 6 sequences" in refused.json()["error"]["message"]


def test_parts_of_characters_are_told_in_bytes(client):
    prompt = "a é"
    ids = client.post("/tokenize", json={"prompt": prompt}).json()["tokens"]
    found = ask(client, prompt=ids, echo=True, logprobs=3, max_tokens=0).json()["choices"][0]["logprobs"]
    assert found["text_offset"][-2:] == [len(prompt) - 1] * 2  # both halves where the character begins
    for value, top in zip(found["token_logprobs"][1:], found["top_logprobs"][1:], strict=True):
        assert max(top.values()) >= value
    messages = [{"role": "user", "content": "a"}]
    forced = {"logit_bias": {str(ids[-2]): 100}, "max_tokens": 1, "temperature": 0}
    body = {"messages": messages, "logprobs": True, **forced}
    [told] = client.post("/v1/chat/completions", json=body).json()["choices"][0]["logprobs"]["content"]
    assert bytes(told["bytes"]) == "é".encode()[:1] and told["token"] == "\ufffd"


def test_concurrent_requests_give_what_one_at_a_time_gives(client):
    from concurrent.futures import ThreadPoolExecutor

    prompts = [f"{'the ' * i}number {i}" for i in range(12)]
    alone = [ask(client, prompt=p, max_tokens=30).json()["choices"][0]["text"] for p in prompts]
    with ThreadPoolExecutor(12) as pool:
        together = list(pool.map(lambda p: ask(client, prompt=p, max_tokens=30).json()["choices"][0]["text"], prompts))
    assert together == alone


def test_a_draft_changes_nothing_but_speed(load, llama, tmp_path):
    llama.save_pretrained(tmp_path)
    with serving(load()) as client:
        fields = {"max_tokens": 30, "n": 2, "seed": 3, "stop": ["zz"]}
        expected = [choice["text"] for choice in ask(client, **fields).json()["choices"]]
    with serving(load(draft=tmp_path, draft_tokens=3)) as client:
        answer = ask(client, **fields).json()
        assert [choice["text"] for choice in answer["choices"]] == expected
        body = {"prompt": PROMPT, "temperature": 0, "max_tokens": 30, "stream": True, "stop": ["zz"]}
        with client.stream("POST", "/v1/completions", json=body) as response:
            text = "".join(event["choices"][0]["text"] for event in events(response) if event["choices"])
        assert text == expected[0]
        assert client.model.session.scheduler.drafter is not None
