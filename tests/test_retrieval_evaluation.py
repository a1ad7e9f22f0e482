"""Ranks among candidates against brute force; hits of lists, of chance, of popularity and of the oracle by hand."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from retrieval_data import opened

from jaxrec import config as configuration
from jaxrec.data.retrieval import Queries, positive_bits
from jaxrec.metrics.ranking import ranking_metrics
from jaxrec.tasks.retrieval import hits as counting
from jaxrec.tasks.retrieval import judge as retrieval_evaluation
from jaxrec.tasks.retrieval.judge import Judge, rank_queries

# ---- ranks -----------------------------------------------------------------------------------------------------------

N, V, D = 23, 40, 3


def asked_of(random: np.random.Generator) -> tuple[Queries, np.ndarray, np.ndarray, np.ndarray]:
    """Whole numbers, so that products are exact and ties many; the query is in the number, the item in the column."""
    queries, items = random.integers(-2, 3, (N, D)), random.integers(-2, 3, (V, D))
    users, targets = random.integers(1, 9, N).astype(np.int32), random.integers(1, V, N).astype(np.int32)
    has = random.random((9, V)) < 0.4
    has[1], has[2] = True, False
    rows, columns = np.nonzero(has)
    asked = Queries(np.zeros((N, 0), np.int32), queries.astype(np.float32), users, targets)
    return asked, items.astype(np.float32), positive_bits(rows, columns, 9, V), has


@pytest.mark.parametrize("rows", [1, 5, N, 64])
def test_ranks_are_those_of_brute_force(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many are ranked at once."""
    monkeypatch.setattr(retrieval_evaluation, "MOST_QUERIES", rows)
    asked, items, had, has = asked_of(np.random.default_rng(0))
    items[5] = np.nan
    moved: list[int] = []
    ranks, top = rank_queries(asked, jnp.asarray(asked.numbers), jnp.asarray(items), had, 64, 6,
                              lambda: moved.append(1))  # fmt: skip
    assert len(moved) == -(-N // rows)
    scores = asked.numbers @ items.T
    for row, (user, target) in enumerate(zip(asked.users, asked.items, strict=True)):
        candidates = [i for i in range(1, V) if i == target or not has[user, i]]
        worse = {i for i in candidates if scores[row, i] < scores[row, target]}
        last = V if target == 5 else len(candidates)
        assert ranks[row] == last - len(worse), "ties and what is no number stand before the target"
        allowed = [i for i in candidates if i != 5]
        best = sorted(allowed, key=lambda i: (-scores[row, i], i))[:6]
        assert top[row, : len(best)].tolist() == best
    alone, nothing = rank_queries(asked, jnp.asarray(asked.numbers), jnp.asarray(items), had, 64)
    np.testing.assert_array_equal(alone, ranks)
    assert nothing.shape == (N, 0)


class Numbers:
    """A model whose vectors are the numbers themselves."""

    def encode(self, side: str, weights: Any, columns: Any, numbers: Any) -> Any:
        return numbers


@pytest.mark.parametrize("most", [1, 3, 4096])
def test_the_evaluator_leaves_out_what_a_user_has(most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """In training and in the split; rows of another split do not matter."""
    monkeypatch.setattr(retrieval_evaluation, "MOST_QUERIES", most)
    data = opened([0, 5], [1, 2, 4], ("age", "price"))
    model: Any = Numbers()
    judge = Judge(model, data, data.splits.test, configuration.EvaluationConfig())
    assert judge.targets == 3 and judge.blocks == -(-3 // min(most, 3))
    metrics, arrays = judge({}, [2, 4], 5)
    ranks, top = arrays["rank"], arrays["top"]
    # Users 1, 2 and 3 ask for 2, 1 and 4; user 1 has 1. The dearer the better: 5, 4, 3, 2, 1.
    assert ranks.tolist() == [4, 5, 2] and top[0, :4].tolist() == [5, 4, 3, 2] and top[1].tolist() == [5, 4, 3, 2, 1]
    assert metrics == ranking_metrics(np.array([4.0, 5.0, 2.0]), [2, 4])
    more = np.zeros((3, 1), np.float32), np.zeros((6, 1), np.float32)
    more[0][0], more[1][2] = 1.0, 1000.0  # one customer for whom item 2 moves up
    ranks, top = judge({}, [2], 1, wider=more).arrays.values()
    assert ranks.tolist() == [1, 5, 2] and top[:, 0].tolist() == [2, 5, 5]


# ---- hits ------------------------------------------------------------------------------------------------------------

CATEGORIES = np.array([0, 1, 1, 2, 2, 3])


def test_hits_of_lists() -> None:
    top = np.array([[1, 2, 3], [5, 3, 1], [4, 1, 2]])
    found = counting.answered(np.array([1.0, 4.0, 3.0]), top, np.array([1, 4, 2]), CATEGORIES, [1, 2, 3])
    assert {name: values.tolist() for name, values in found.items()} == {
        "hit_rate@1": [1, 0, 0], "hit_rate@2": [1, 0, 0], "hit_rate@3": [1, 0, 1],
        "category_hit@1": [1, 0, 0], "category_hit@2": [1, 1, 1], "category_hit@3": [1, 1, 1],
    }  # fmt: skip
    assert set(counting.answered(np.ones(3), top, np.ones(3, int), None, [2])) == {"hit_rate@2"}
    assert counting.means(found)["category_hit@1"] == pytest.approx(1 / 3)
    low, high = counting.intervals(found)["hit_rate@3"]
    assert 0 <= low <= 2 / 3 <= high <= 1
    assert counting.take(found, np.array([1]))["category_hit@2"].tolist() == [1]


@pytest.mark.parametrize("cells", [1, 2**23])
def test_what_is_expected_of_chance_and_popularity(cells: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """By hand: five products of which a customer may have some, and the target is a candidate all the same."""
    monkeypatch.setattr(counting, "CELLS", cells)
    targets = np.array([1, 3, 5])
    had = positive_bits(np.array([1, 1, 3, 3, 3]), np.array([1, 2, 3, 4, 5]), 4, 6)[[1, 2, 3]]
    found = counting.expected(np.zeros(6), targets, had, CATEGORIES, [1, 2])
    # Candidates: 1, 3, 4, 5; all five; 1, 2, 5. Of the target's category one, two and one of them.
    np.testing.assert_allclose(found["hit_rate@1"], [1 / 4, 1 / 5, 1 / 3])
    np.testing.assert_allclose(found["hit_rate@2"], [2 / 4, 2 / 5, 2 / 3])
    np.testing.assert_allclose(found["category_hit@1"], [1 / 4, 2 / 5, 1 / 3])
    np.testing.assert_allclose(found["category_hit@2"], [2 / 4, 1 - 3 / 10, 2 / 3])
    counts = np.array([99.0, 4, 7, 4, 4, 1])
    found = counting.expected(counts, targets, had, None, [1, 2])
    assert set(found) == {"hit_rate@1", "hit_rate@2"}
    np.testing.assert_allclose(found["hit_rate@1"], [1 / 3, 0, 0])
    np.testing.assert_allclose(found["hit_rate@2"], [2 / 3, 1 / 3, 0])
    plain = counting.expected(np.zeros(6), targets, np.zeros((3, 1), np.uint32), CATEGORIES, [1])
    np.testing.assert_allclose(plain["hit_rate@1"], 1 / 5)
    np.testing.assert_allclose(plain["category_hit@1"], [2 / 5, 2 / 5, 1 / 5])


def test_the_oracle_knows_what_the_fields_tell_apart() -> None:
    """Four customers; without the age two of them are one."""
    asked = Queries(np.array([[1], [1], [2], [2]], np.int32), np.array([[20, 1], [30, 1], [30, 2], [30, 2]]),
                    np.arange(1, 5), np.array([1, 3, 2, 5]))  # fmt: skip
    found = counting.oracle(asked, ["age", "size"], CATEGORIES, [1, 2])
    assert set(found) == {"all fields", "without age", "without size"}
    assert found["all fields"] == {"hit_rate@1": 0.75, "hit_rate@2": 1.0, "category_hit@1": 0.75, "category_hit@2": 1.0}
    assert found["without age"]["hit_rate@1"] == 0.5 and found["without age"]["hit_rate@2"] == 1.0
    assert found["without size"] == found["all fields"]
