"""Hit rates of chance against enumeration, and the bootstrap against the binomial distribution."""

from __future__ import annotations

import json
import os
from collections import Counter
from itertools import combinations, permutations
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom

from jaxrec.metrics import chance
from jaxrec.metrics.chance import (
    bootstrap,
    expected_category_hits,
    expected_hits,
    oracle_hits,
    random_ranking,
    random_user_ranking,
)
from jaxrec.metrics.ranking import ranking_metrics

SHARED = Path(os.environ.get("JAXREC_SHARED_DATA", Path(__file__).resolve().parents[3] / "shared" / "data"))
CUSTOMERS, PRODUCTS = SHARED / "amore" / "customers.json", SHARED / "amore" / "amoremall_reviews.json"

few_scores = st.lists(st.sampled_from([-np.inf, -1.5, 0.0, 2.0]), min_size=1, max_size=6)


def lists(scores: list[float], k: int) -> list[tuple[int, ...]]:
    """The top k of every order in which ties can be broken, each equally likely."""
    orders = {tuple(sorted(order, key=lambda item: -scores[item])) for order in permutations(range(len(scores)))}
    return [order[:k] for order in orders]


@settings(max_examples=60, deadline=None)
@given(scores=few_scores, k=st.integers(1, 8))
def test_expected_hits_enumerated(scores: list[float], k: int) -> None:
    every = lists(scores, k)
    expected = [sum(item in top for top in every) / len(every) for item in range(len(scores))]
    targets = np.arange(len(scores), dtype=np.int32)
    for one in (np.array(scores), np.tile(np.array(scores, np.float32), (len(scores), 1))):
        found = expected_hits(one, targets, k)
        assert found.dtype == np.float64
        np.testing.assert_allclose(found, expected, rtol=1e-12)
        assert found.sum() == pytest.approx(min(k, len(scores)))


@settings(max_examples=60, deadline=None)
@given(scores=few_scores, k=st.integers(1, 8), data=st.data())
def test_expected_category_hits_enumerated(scores: list[float], k: int, data: st.DataObject) -> None:
    categories = data.draw(st.lists(st.sampled_from([-3, 5, 9]), min_size=len(scores), max_size=len(scores)))
    every, wanted = lists(scores, k), np.array([5, 9, -3, 7, 5])  # 7 is no item's
    expected = [sum(any(categories[i] == one for i in top) for top in every) / len(every) for one in wanted]
    for one in (np.array(scores), np.tile(np.array(scores, np.float32), (len(wanted), 1))):
        found = expected_category_hits(one, np.array(categories), wanted, k)
        assert found.dtype == np.float64
        np.testing.assert_allclose(found, expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize(("share", "k"), [(1, 1), (1, 500_000), (3, 10), (1000, 999_000), (500_000, 3), (400, 400_000)])
def test_a_million_tied_items(share: int, k: int) -> None:
    """Against whole numbers of any size: also where the probability is a millionth."""
    total = 1_000_000
    categories = (np.arange(total) < share).astype(np.int64)
    found = expected_category_hits(np.zeros(total, np.float32), categories, np.array([1]), k)[0]
    few, many = sorted((share, k))
    missed, ways = 1, 1
    for i in range(min(few, 2000)):  # the product of the docstring, as one fraction
        missed, ways = missed * (total - many - i), ways * (total - i)
    assert few <= 2000 and found == pytest.approx((ways - missed) / ways, rel=1e-12)


@pytest.mark.parametrize("shape", [(5,), (0, 5)])
def test_no_queries(shape: tuple[int, ...]) -> None:
    none = np.zeros(0, np.int64)
    assert expected_hits(np.zeros(shape), none, 2).shape == (0,)
    assert expected_category_hits(np.zeros(shape), np.arange(5), none, 2).shape == (0,)
    assert np.isnan(oracle_hits(none, none, 1)) and np.isnan(oracle_hits(none, none, 3))
    assert np.isnan(bootstrap(np.zeros(0))).all() and len(bootstrap(np.zeros(0))) == 2


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(-1, 2), st.integers(0, 4)), min_size=1, max_size=12), st.integers(1, 6))
def test_oracle_is_the_best_choice_of_lists(queries: list[tuple[int, int]], k: int) -> None:
    best = 0
    for group in {group for group, _ in queries}:
        asked = Counter(target for other, target in queries if other == group)
        best += max(sum(asked[target] for target in top) for top in combinations(range(5), min(k, 5)))
    groups, targets = np.array(queries).T
    assert oracle_hits(groups, targets, k) == pytest.approx(best / len(queries))


def test_bootstrap_of_hits_is_binomial() -> None:
    values = np.arange(277) < 55
    low, high = bootstrap(values, repetitions=40_000)
    expected = binom.ppf([0.025, 0.975], 277, 55 / 277) / 277
    np.testing.assert_allclose([low, high], expected, atol=1.01 / 277)


def test_bootstrap_repeats_in_chunks_of_any_size(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(3).random(50)
    whole = bootstrap(values, seed=4, repetitions=1001)
    assert bootstrap(values, seed=5, repetitions=1001) != whole
    monkeypatch.setattr(chance, "CHUNK", 130)
    assert bootstrap(values, seed=4, repetitions=1001) == pytest.approx(whole, rel=1e-12)
    assert bootstrap(np.full(7, 0.25)) == (0.25, 0.25)


@pytest.mark.skipif(not CUSTOMERS.is_file(), reason=f"needs the shop's real customers: {CUSTOMERS} is absent")
def test_published_chance_and_oracle() -> None:
    """The figures of the data's README: 277 reviews of 93 products."""
    customers, products = json.loads(CUSTOMERS.read_text()), json.loads(PRODUCTS.read_text())
    ids = [one["product_id"] for one in products]
    categories = np.array([one["category"] for one in products])
    targets = np.array([ids.index(one["purchased_product_id"]) for one in customers])
    assert (len(ids), len(targets)) == (93, 277)
    assert round(expected_hits(np.zeros(93), targets, 3).mean(), 3) == 0.032
    assert round(expected_category_hits(np.zeros(93), categories, categories[targets], 3).mean(), 3) == 0.500

    def groups(*names: str) -> np.ndarray:
        keys = [tuple(one[name] for name in names) for one in customers]
        return np.array([sorted(set(keys)).index(key) for key in keys])

    assert round(oracle_hits(groups("age", "gender", "skin_type", "skin_concern"), targets, 3), 3) == 0.657
    assert round(oracle_hits(groups("gender", "skin_type", "skin_concern"), targets, 3), 3) == 0.159


# ---- whole rankings --------------------------------------------------------------------------------------------------


def test_a_random_rank_is_what_is_expected() -> None:
    """The mean over all ranks, each as likely as the others, of two catalogues."""
    ks = [1, 3, 10]
    found = random_ranking(np.array([4, 7, 7]), ks)
    few, many = (ranking_metrics(np.arange(1, n + 1), ks) for n in (4, 7))
    for name, value in found.items():
        assert value == pytest.approx((few[name] + 2 * many[name]) / 3, rel=1e-12), name
    assert list(found) == list(few) and found["recall@10"] == 1.0
    assert random_ranking(np.zeros(0, np.int64), [2])["recall@2"] == 0.0


def test_users_rows_in_a_random_order_are_what_is_expected() -> None:
    """The mean over every order of each user's rows; one of them has no positive and does not count."""
    ks, rows = (1, 2, 4), {0: [1.0, 0, 0], 1: [0.0, 0], 2: [1.0, 1, 0, 1, 0], 3: [1.0]}
    labels = np.concatenate([np.array(own) for own in rows.values()])
    users = np.concatenate([np.full(len(own), user) for user, own in rows.items()])
    sums: dict[str, float] = {}
    for user in (0, 2, 3):
        own = np.array(rows[user])
        gains = 1 / np.log2(np.arange(len(own)) + 2)
        orders = [own[list(order)] for order in permutations(range(len(own)))]
        for k in ks:
            ideal = gains[: int(own.sum())]
            dcg = np.mean([np.sum((order * gains)[:k]) for order in orders])
            hits = np.array([np.sum(order[:k]) for order in orders])
            parts = {"ndcg": dcg / ideal[:k].sum(), "hit_rate": np.mean(hits > 0),
                     "ndcg_published": dcg / ideal.sum(), "hit_rate_published": np.mean(hits) / own.sum()}  # fmt: skip
            for name, value in parts.items():
                sums[f"{name}@{k}"] = sums.get(f"{name}@{k}", 0.0) + float(value) / 3
    found = random_user_ranking(labels, users, ks)
    assert found.pop("auc") == 0.5
    assert found == pytest.approx(sums, rel=1e-12)
    assert np.isnan(random_user_ranking(np.zeros(3), np.zeros(3, np.int64), [1])["ndcg@1"])
