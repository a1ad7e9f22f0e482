"""Hit rates of chance against enumeration, and the bootstrap against the binomial distribution."""

from __future__ import annotations

from collections import Counter
from itertools import combinations, permutations
from math import factorial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom, hypergeom

from jaxrec.metrics import ranking
from jaxrec.metrics.clicks import user_ranking
from jaxrec.metrics.ranking import (
    bootstrap,
    expected_category_hits,
    expected_hits,
    oracle_hits,
    random_ranking,
    random_user_ranking,
    ranking_metrics,
)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from([-np.inf, -1.5, 0.0, 2.0]), min_size=1, max_size=6), st.integers(1, 8), st.data())
def test_expected_hits_enumerated(scores: list[float], k: int, data: st.DataObject) -> None:
    """The top k of every order in which ties can be broken, each equally likely."""
    n = len(scores)
    every = {tuple(sorted(order, key=lambda item: -scores[item])) for order in permutations(range(n))}
    tops = [order[:k] for order in every]
    found = expected_hits(np.tile(np.array(scores), (n, 1)), np.arange(n), k)
    np.testing.assert_allclose(found, [sum(item in top for top in tops) / len(tops) for item in range(n)], rtol=1e-12)
    categories = data.draw(st.lists(st.sampled_from([-3, 5, 9]), min_size=n, max_size=n))
    wanted = np.array([5, 9, -3, 7, 5])  # 7 is no item's
    expected = [sum(any(categories[i] == one for i in top) for top in tops) / len(tops) for one in wanted]
    found = expected_category_hits(np.tile(np.array(scores, np.float32), (5, 1)), np.array(categories), wanted, k)
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize(("share", "k"), [(1, 1), (1, 500_000), (3, 10), (1000, 999_000), (400, 400_000)])
def test_a_million_tied_items(share: int, k: int) -> None:
    """Also where the probability is a millionth."""
    categories = (np.arange(10**6) < share).astype(np.int64)
    found = expected_category_hits(np.zeros((1, 10**6), np.float32), categories, np.array([1]), k)[0]
    assert found == pytest.approx(hypergeom.sf(0, 10**6, share, k), rel=1e-7)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(-1, 2), st.integers(0, 4)), min_size=1, max_size=12), st.integers(1, 6))
def test_oracle_is_the_best_choice_of_lists(queries: list[tuple[int, int]], k: int) -> None:
    best = 0
    for group in {group for group, _ in queries}:
        asked = Counter(target for other, target in queries if other == group)
        best += max(sum(asked[target] for target in top) for top in combinations(range(5), min(k, 5)))
    groups, targets = np.array(queries).T
    assert oracle_hits(groups, targets, k) == pytest.approx(best / len(queries))


def test_bootstrap(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of hits it is binomial; it repeats, in chunks of any size."""
    expected = binom.ppf([0.025, 0.975], 277, 55 / 277) / 277
    np.testing.assert_allclose(bootstrap(np.arange(277) < 55, repetitions=40_000), expected, atol=1.01 / 277)
    values = np.random.default_rng(3).random(50)
    whole = bootstrap(values, seed=4, repetitions=1001)
    assert bootstrap(values, seed=5, repetitions=1001) != whole
    monkeypatch.setattr(ranking, "CHUNK", 130)
    assert bootstrap(values, seed=4, repetitions=1001) == pytest.approx(whole, rel=1e-12)
    assert np.isnan(bootstrap(np.zeros(0))).all()


def test_a_random_rank_is_what_is_expected() -> None:
    """The mean over all ranks, each as likely as the others, of two catalogues."""
    ks = [1, 3, 10]
    found = random_ranking(np.array([4, 7, 7]), ks)
    few, many = (ranking_metrics(np.arange(1, n + 1), ks) for n in (4, 7))
    for name, value in found.items():
        assert value == pytest.approx((few[name] + 2 * many[name]) / 3, rel=1e-12), name
    assert list(found) == list(few) and found["recall@10"] == 1.0


def test_users_rows_in_a_random_order_are_what_is_expected() -> None:
    """The mean over every order of each user's rows, each order a user; one user has no positive and does not count."""
    ks, rows = (1, 2, 4), [[1.0, 0, 0], [0.0, 0], [1.0, 1, 0, 1, 0], [1.0]]
    orders = [order for own in rows for order in list(permutations(own)) * (120 // factorial(len(own)))]
    lengths = list(map(len, orders))
    users, scores = np.repeat(np.arange(len(orders)), lengths), -np.concatenate([np.arange(n) for n in lengths])
    expected = user_ranking(scores.astype(np.float32), np.concatenate(orders), users, ks)
    labels, own = np.concatenate(rows), np.repeat(np.arange(4), list(map(len, rows)))
    assert random_user_ranking(labels, own, ks) == pytest.approx(expected | {"auc": 0.5}, rel=1e-12)
