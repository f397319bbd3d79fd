"""/classify and /v1/rerank give what the engine gives, within the server's limits."""

import numpy as np
import pytest

from cutwork.serve.limits import Limits

from ..engine.test_classification import load, make, save
from .conftest import serving

DOCUMENTS = ["the cloth", "a", "The embroiderer cuts the cloth away.", "b c"]
QUERY = "what is cut?"
LIMITS = Limits(inputs=5)


@pytest.fixture(scope="module", params=["bert", "qwen3"])
def ranker(request, tmp_path_factory):
    directory = save(make(request.param, "text", labels=1), tmp_path_factory.mktemp("r"))
    with load(directory) as model:
        scores = [model.rank(QUERY, DOCUMENTS), model.rank(QUERY, DOCUMENTS, raw=True)]
    with serving(load(directory), limits=LIMITS) as client:
        yield client, *scores


@pytest.fixture(scope="module", params=["text", "token"])
def classifier(request, tmp_path_factory):
    directory = save(make("xlm-roberta", request.param), tmp_path_factory.mktemp("c"))
    with load(directory) as model:
        expected = model.classify(DOCUMENTS)
    with serving(load(directory), limits=LIMITS) as client:
        yield client, request.param, expected


@pytest.mark.parametrize("path", ["/v1/rerank", "/rerank", "/v2/rerank"])
def test_documents_are_ranked_as_by_the_engine(ranker, path):
    client, scores, raw = ranker
    documents = [DOCUMENTS[0], {"text": DOCUMENTS[1]}, *DOCUMENTS[2:]]
    answer = client.post(path, json={"query": QUERY, "documents": documents, "model": "tiny"}).json()
    order = np.argsort(-scores).tolist()
    assert [each["index"] for each in answer["results"]] == order
    assert [each["relevance_score"] for each in answer["results"]] == pytest.approx(scores[order].tolist(), abs=1e-6)
    assert [each["document"]["text"] for each in answer["results"]] == [DOCUMENTS[i] for i in order]
    assert answer["model"] == "tiny" and answer["usage"]["total_tokens"] > 0 and answer["id"].startswith("rerank-")
    two = {"query": QUERY, "documents": DOCUMENTS, "top_n": 2, "return_documents": False, "raw_scores": True}
    answer = client.post(path, json=two).json()
    assert [each["index"] for each in answer["results"]] == order[:2] and "document" not in answer["results"][0]
    assert answer["results"][0]["relevance_score"] == pytest.approx(float(raw.max()), abs=1e-5)


def test_a_long_pair_is_cut_unless_that_is_not_wanted(ranker):
    client, *_ = ranker
    body = {"query": QUERY, "documents": ["the " * 300]}
    assert client.post("/v1/rerank", json=body).status_code == 200
    response = client.post("/v1/rerank", json=body | {"truncate": False})
    assert response.status_code == 400 and response.json()["error"]["code"] == "context_length_exceeded"


@pytest.mark.parametrize(
    ("fields", "what"),
    [
        ({"documents": ["a"]}, "query"),
        ({"query": "", "documents": ["a"]}, "query"),
        ({"query": "a"}, "documents"),
        ({"query": "a", "documents": []}, "documents"),
        ({"query": "a", "documents": ["b"] * 6}, "from 1 to 5"),
        ({"query": "a", "documents": ["b", ""]}, "empty"),
        ({"query": "a", "documents": [5]}, "documents"),
        ({"query": "a" * 600_000, "documents": ["b"] * 4}, "2400004 characters are to be read"),
        ({"query": "a", "documents": ["b"], "top_n": 0}, "top_n"),
        ({"query": "a", "documents": ["b"], "max_chunks_per_doc": 2}, "not supported"),
    ],
)
def test_what_cannot_be_ranked_is_a_400(ranker, fields, what):
    response = ranker[0].post("/v1/rerank", json=fields)
    assert response.status_code == 400 and what in response.text, response.text


def test_texts_are_classified_as_by_the_engine(classifier):
    client, of, expected = classifier
    answer = client.post("/classify", json={"input": DOCUMENTS}).json()
    assert [each["index"] for each in answer["data"]] == [0, 1, 2, 3] and answer["object"] == "list"
    for each, labels in zip(answer["data"], expected, strict=True):
        if of == "token":
            assert [(e["label"], e["text"], e["start"], e["end"]) for e in each["entities"]] == [
                (span.label, span.text, span.start, span.end) for span in labels
            ]
        else:
            assert each["label"] == labels[0].label and each["num_classes"] == 3
            assert max(each["probs"]) == pytest.approx(labels[0].score, abs=1e-5)
            assert sum(each["probs"]) == pytest.approx(1, abs=1e-5)
    one = client.post("/classify", json={"input": DOCUMENTS[0]}).json()["data"]
    assert len(one) == 1


def test_what_cannot_be_classified_is_a_400(classifier):
    client, _, _ = classifier
    for fields, what in [
        ({}, "input"),
        ({"input": []}, "from 1 to 5"),
        ({"input": ["a", ""]}, "empty"),
        ({"input": "the " * 300}, "truncate"),
        ({"input": [["a", "b"]]}, "input"),
    ]:
        response = client.post("/classify", json=fields)
        assert response.status_code == 400 and what in response.text, response.text
    assert client.post("/classify", json={"input": "the " * 300, "truncate": True}).status_code == 200
    assert client.post("/v1/rerank", json={"query": "a", "documents": ["b"]}).status_code == 400
    response = client.post("/v1/embeddings", json={"input": "a"})
    assert response.status_code == 400 and "use /classify" in response.text
    assert client.post("/v1/completions", json={"prompt": "a"}).status_code == 400
    assert client.get("/v1/models").json()["data"][0]["cutwork"]["classify"]
