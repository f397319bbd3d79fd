"""Clients that people use, unchanged, against the server."""

import pytest

MESSAGES = [{"role": "user", "content": "Hi"}]


@pytest.fixture
def openai(client):
    openai = pytest.importorskip("openai")
    with openai.OpenAI(base_url=f"{client.base_url}/v1", api_key="none", max_retries=0) as openai_client:
        yield openai_client


def test_openai_lists_models_and_completes(openai):
    assert [model.id for model in openai.models.list()] == ["tiny"]
    answer = openai.completions.create(
        model="tiny",
        prompt=["the cat", "a dog"],
        max_tokens=6,
        n=2,
        logprobs=2,
        seed=3,
        extra_body={"ignore_eos": True},
    )
    assert [choice.index for choice in answer.choices] == [0, 1, 2, 3]
    assert all(len(choice.logprobs.tokens) == 6 for choice in answer.choices)
    assert answer.usage.completion_tokens == 24


def test_openai_streams_a_chat_that_adds_up(openai):
    ask = {"model": "tiny", "messages": MESSAGES, "max_tokens": 12, "temperature": 0}
    whole = openai.chat.completions.create(**ask)
    text, usage = "", None
    for chunk in openai.chat.completions.create(**ask, stream=True, stream_options={"include_usage": True}):
        text += (chunk.choices[0].delta.content or "") if chunk.choices else ""
        usage = chunk.usage or usage
    assert text == whole.choices[0].message.content
    assert usage.completion_tokens == whole.usage.completion_tokens


def test_openai_raises_its_own_errors(openai):
    import openai as library

    with pytest.raises(library.BadRequestError) as error:
        openai.chat.completions.create(model="tiny", messages=MESSAGES, temperature=9)
    assert error.value.param == "temperature" and error.value.type == "invalid_request_error"
    with pytest.raises(library.NotFoundError):
        openai.chat.completions.create(model="other", messages=MESSAGES)


def test_langchain_invokes_streams_and_parses(client):
    langchain = pytest.importorskip("langchain_openai")
    from pydantic import BaseModel

    class Answer(BaseModel):
        ready: bool

    chat = langchain.ChatOpenAI(
        base_url=f"{client.base_url}/v1", api_key="none", model="tiny", max_tokens=60, temperature=0
    )
    assert chat.invoke("Hi").content == "".join(chunk.content for chunk in chat.stream("Hi"))
    assert isinstance(chat.with_structured_output(Answer, method="json_schema").invoke("Hi"), Answer)
