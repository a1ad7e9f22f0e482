"""Hit rates of chance against enumeration, and the bootstrap against the binomial distribution."""

from __future__ import annotations

import json
import os
from collections import Counter
from itertools import combinations, permutations, product
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom

from jaxrec.errors import UserError
from jaxrec.metrics import chance
from jaxrec.metrics.chance import (
    bootstrap,
    expected_category_hits,
    expected_hits,
    oracle_category_hits,
    oracle_hits,
    random_ranking,
    random_user_ranking,
)
from jaxrec.metrics.clicks import click_metrics
from jaxrec.metrics.ranking import ranking_metrics

SHARED = Path(os.environ.get("JAXREC_SHARED_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
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


def test_each_query_has_its_own_scores() -> None:
    rng = np.random.default_rng(0)
    scores, targets = rng.integers(0, 4, (20, 9)).astype(np.float32), rng.integers(0, 9, 20)
    categories, wanted = rng.integers(0, 3, 9), rng.integers(0, 4, 20)
    rows = zip(scores, targets, wanted, strict=True)
    apart = [(expected_hits(s, t[None], 3), expected_category_hits(s, categories, w[None], 3)) for s, t, w in rows]
    hits, category_hits = np.concatenate(apart, axis=1)
    np.testing.assert_array_equal(expected_hits(scores, targets, 3), hits)
    np.testing.assert_array_equal(expected_category_hits(scores, categories, wanted, 3), category_hits)


def test_ties_broken_at_random_reach_the_expectation() -> None:
    rng = np.random.default_rng(1)
    scores, targets = rng.integers(0, 4, 30), rng.integers(0, 30, 12)
    categories, wanted = rng.integers(0, 8, 30), rng.integers(0, 8, 12)
    top = np.argsort(-scores - rng.random((20_000, 30)), axis=1)[:, :5]
    hits = [(top == target).any(axis=1).mean() for target in targets]
    category_hits = [(categories[top] == one).any(axis=1).mean() for one in wanted]
    np.testing.assert_allclose(expected_hits(scores, targets, 5), hits, atol=0.02)
    np.testing.assert_allclose(expected_category_hits(scores, categories, wanted, 5), category_hits, atol=0.02)


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
    assert np.isnan(oracle_hits(none, none, 1)) and np.isnan(oracle_category_hits(none, none, 1))
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


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 1), st.integers(0, 2)), min_size=1, max_size=8), st.integers(1, 3))
def test_category_oracle_is_the_best_choice_of_items(queries: list[tuple[int, int]], k: int) -> None:
    """Every list of k of six items, two of each category, for each of two groups."""
    categories = np.array([0, 0, 1, 1, 2, 2])
    tops = [set(categories[list(top)]) for top in combinations(range(6), k)]
    best = max(sum(wanted in pair[group] for group, wanted in queries) for pair in product(tops, tops))
    groups, wanted = np.array(queries).T
    assert oracle_category_hits(groups, wanted, k) == pytest.approx(best / len(queries))


@pytest.mark.parametrize("level", [0.95, 0.5])
def test_bootstrap_of_hits_is_binomial(level: float) -> None:
    values = np.arange(277) < 55
    low, high = bootstrap(values, level=level, repetitions=40_000)
    expected = binom.ppf([(1 - level) / 2, (1 + level) / 2], 277, 55 / 277) / 277
    np.testing.assert_allclose([low, high], expected, atol=1.01 / 277)


def test_bootstrap_resamples_entries() -> None:
    """Against the plain form of it, on gains that are all different."""
    rng = np.random.default_rng(2)
    values = rng.exponential(size=200)
    means = values[rng.integers(0, 200, (20_000, 200))].mean(axis=1)
    low, high = bootstrap(values, repetitions=20_000)
    np.testing.assert_allclose([low, high], np.quantile(means, [0.025, 0.975]), atol=0.01)
    assert low < values.mean() < high


def test_bootstrap_repeats_in_chunks_of_any_size(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(3).random(50)
    whole = bootstrap(values, seed=4, repetitions=1001)
    assert bootstrap(values, seed=5, repetitions=1001) != whole
    monkeypatch.setattr(chance, "CHUNK", 130)
    assert bootstrap(values, seed=4, repetitions=1001) == pytest.approx(whole, rel=1e-12)
    assert bootstrap(np.full(7, 0.25)) == (0.25, 0.25)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: expected_hits(np.array([0.0, np.nan]), np.array([0]), 1), "scores: found 1 that are not a number"),
        (lambda: expected_hits(np.zeros((2, 3)), np.array([0]), 1), r"scores: found the shape \(2, 3\)"),
        (lambda: expected_hits(np.zeros(3), np.array([0, 3]), 1), "targets: found 0 to 3; expected 0 to 2"),
        (lambda: expected_hits(np.zeros(3), np.array([0]), 0), "k: found 0"),
        (lambda: expected_category_hits(np.zeros(3), np.zeros(2), np.array([0]), 1), r"categories: .*expected \(3,\)"),
        (lambda: oracle_hits(np.zeros(3), np.zeros(2), 1), "expected one length"),
        (lambda: oracle_hits(np.zeros(3), np.zeros(3), -1), "k: found -1"),
        (lambda: bootstrap(np.array([0.0, np.inf])), "finite"),
        (lambda: bootstrap(np.ones(2), level=1.0), "level 1.0"),
        (lambda: bootstrap(np.ones(2), repetitions=0), "repetitions 0"),
    ],
)
def test_mistakes_are_named(call: object, message: str) -> None:
    assert callable(call)
    with pytest.raises(UserError, match=message):
        call()


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


def test_random_scores_of_a_click_model_come_to_it() -> None:
    """The metrics of random scores, as ``click_metrics`` measures them, within 4.5 standard errors."""
    random = np.random.default_rng(1)
    users = random.integers(0, 4000, 16_000)
    labels = (random.random(len(users)) < 0.4).astype(np.float32)
    found = click_metrics(random.standard_normal(len(users)).astype(np.float32), labels, users.astype(np.int32), [2, 5])
    for name, value in random_user_ranking(labels, users, [2, 5]).items():
        assert abs(found[name] - value) < 4.5 * 0.5 / np.sqrt(3000), name
