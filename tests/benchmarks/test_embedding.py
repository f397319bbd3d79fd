"""What the benchmark of an encoder's quality counts."""

import numpy as np
import pytest

from benchmarks.embedding.quality import ndcg, paragraphs, row, table


def test_ndcg_of_known_ranks():
    """The right document first, second, and behind ten others."""
    documents = np.eye(12, dtype=np.float32)
    queries = documents.copy()
    queries[1] = 2 * documents[0] + documents[1]
    queries[2] = 2 * documents.sum(axis=0) - 1.5 * documents[2]
    found = ndcg(queries, documents)
    np.testing.assert_allclose(found[[0, 1, 2]], [1, 1 / np.log2(3), 0])
    assert not ndcg(np.ones((20, 4)), np.ones((20, 4))).any()  # whoever makes one vector of everything finds nothing
    with pytest.raises(ValueError, match="not finite"):
        ndcg(np.full((2, 2), np.nan), documents[:2, :2])


def test_paragraphs_are_those_with_two_sentences(tmp_path):
    file = tmp_path / "text"
    file.write_text(" = A heading = \n\n One sentence . \n First one , 3 @.@ 5 long . And a second . \n")
    assert paragraphs(file) == ["First one , 3 @.@ 5 long . And a second ."]


def test_what_is_lost_is_counted_by_query():
    dense = {"a": np.array([1.0, 1.0, 0.5, 0.5] * 50)}
    worse = {"a": dense["a"] - 0.25}
    cell = row("worse", worse, dense)["a"]
    assert cell["ndcg"] == pytest.approx(50)
    assert [cell["lost"], cell["low"], cell["high"]] == pytest.approx([25, 25, 25])
    rows = [row("dense", dense, dense), row("worse", worse, dense)]
    assert table({"queries": {"a": 200}, "rows": rows}).splitlines()[-1] == "| worse | 50.0 | 25.0 (25.0 to 25.0) |"
