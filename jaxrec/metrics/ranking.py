"""Ranking metrics from the rank of the one relevant item of each query; exact figures of chance, of hit rates of tied
scores and of the in-sample oracle; bootstrap intervals."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

NAMES = ("recall", "mrr", "ndcg", "hit_rate")
CHUNK = 2**22  # drawn counts that are held at once


def ranking_metrics(ranks: np.ndarray, ks: Sequence[int]) -> dict[str, float]:
    """Means at each cut-off of float[n] ranks, 1 for the first, named ``recall@20`` and so on; 0 without ranks. With
    one relevant item a query, recall is the hit rate, MRR@K 1 / rank, NDCG@K 1 / log2(1 + rank), 0 beyond K.

    >>> ranking_metrics(np.array([1.0, 3.0, 30.0]), [20])["mrr@20"]
    0.4444444444444444
    """
    values = ranking_gains(ranks, ks)
    return {name: float(gain.mean()) if len(gain) else 0.0 for name, gain in values.items()}


def ranking_gains(ranks: np.ndarray, ks: Sequence[int]) -> dict[str, np.ndarray]:
    """What ``ranking_metrics`` takes the means of: an entry of float64[n] or bool[n] for each query."""
    ranks, result = np.asarray(ranks, np.float64), dict[str, np.ndarray]()
    for k in ks:
        hit = ranks <= k
        gains = {"recall": hit, "mrr": hit / ranks, "ndcg": hit / np.log2(1.0 + ranks), "hit_rate": hit}
        result |= {f"{name}@{k}": gain for name, gain in gains.items()}
    return result


# ---- chance ----------------------------------------------------------------------------------------------------------


def expected_hits(scores: np.ndarray, targets: np.ndarray, k: int) -> np.ndarray:
    """float64[Q], the probability that int[Q] targets are in the top k of float[Q, V] scores when ties are broken at
    random: with a items above the target and t equal to it, itself among them, min(1, max(0, (k - a) / t)).

    >>> expected_hits(np.array([[0.5, 0.5, 0.1, 0.5]] * 2), np.array([0, 2]), 2).round(3)
    array([0.667, 0.   ])
    """
    own = np.take_along_axis(scores, targets[:, None], axis=1)
    above, tied = np.count_nonzero(scores > own, axis=1), np.count_nonzero(scores == own, axis=1)
    return np.clip((k - above) / tied, 0.0, 1.0)


def expected_category_hits(scores: np.ndarray, categories: np.ndarray, wanted: np.ndarray, k: int) -> np.ndarray:
    """float64[Q], the probability that any of the top k of float[Q, V] scores, with int[V] categories, is of the wanted
    category, int[Q], when ties are broken at random. Where no item above the tie at place k is of it, the m places left
    for the T tied items, c of them of that category, are a draw without replacement: 1 - C(T - c, m) / C(T, m).

    >>> expected_category_hits(np.zeros((3, 4)), np.array([7, 7, 8, 9]), np.array([7, 9, 5]), 2).round(3)
    array([0.833, 0.5  , 0.   ])
    """
    hits, n = np.ones(len(wanted)), scores.shape[1]
    for query, (row, category) in enumerate(zip(scores, wanted, strict=True)):
        last = np.partition(row, max(0, n - k))[max(0, n - k)]  # the score at place k
        above, tied, right = row > last, row == last, categories == category
        if not np.any(above & right):
            places = min(k, n) - np.count_nonzero(above)
            hits[query] = _draw_has(int(tied.sum()), int(places), int(np.count_nonzero(tied & right)))
    return hits


def _draw_has(total: int, places: int, wanted: int) -> float:
    """1 - C(total - wanted, places) / C(total, places): that a draw of ``places`` has one of the ``wanted``. Logarithms
    of the ratio's factors are added: log-gamma of a million errs by 1e-9, not little beside one item."""
    few, many = min(places, wanted), max(places, wanted)
    if few + many > total:
        return 1.0
    return float(-np.expm1(np.log1p(-many / (total - np.arange(few))).sum())) + 0.0  # not -0.0


def random_ranking(candidates: np.ndarray, ks: Sequence[int]) -> dict[str, float]:
    """What ``ranking_metrics`` is expected to give of ranks drawn at random among int[Q] candidates.

    >>> random_ranking(np.array([4]), [2])
    {'recall@2': 0.5, 'mrr@2': 0.375, 'ndcg@2': 0.4077324383928644, 'hit_rate@2': 0.5}
    """
    candidates, counts = np.unique(candidates, return_counts=True)
    share, ranks = counts / max(1, counts.sum()), np.arange(1, 1 + min(max(ks), int(candidates.max(initial=0))))
    gains = {"recall": np.ones(len(ranks)), "mrr": 1 / ranks, "ndcg": 1 / np.log2(1 + ranks)}
    gains["hit_rate"] = gains["recall"]
    sums = {name: np.append(0.0, np.cumsum(gain)) for name, gain in gains.items()}  # of the first places
    return {f"{name}@{k}": float(np.sum(share * total[np.minimum(candidates, k)] / candidates))
            for k in ks for name, total in sums.items()}  # fmt: skip


def random_user_ranking(labels: np.ndarray, users: np.ndarray, ks: Sequence[int]) -> dict[str, float]:
    """What ``jaxrec.metrics.clicks`` is expected to give of scores that order each user's rows at random; float[n]
    labels, int[n] users. Of a user with n rows, p of them positive, a place holds a positive with the probability p /
    n, and the first k have none with C(n - p, k) / C(n, k)."""
    rows = np.bincount(users[users >= 0])
    positives = np.bincount(users[users >= 0], labels[users >= 0] > 0, minlength=len(rows)).astype(np.int64)
    (n, p), counts = np.unique(np.stack([rows, positives])[:, positives > 0], axis=1, return_counts=True)
    gain = np.append(0.0, np.cumsum(1 / np.log2(np.arange(2, 2 + n.max(initial=0)))))  # of the first places
    result = {"auc": 0.5}
    for k in ks:
        places = np.minimum(k, n)
        dcg = p / n * gain[places]
        hit = np.array([_draw_has(*one) for one in zip(n.tolist(), places.tolist(), p.tolist(), strict=True)])
        values = {"ndcg": dcg / gain[np.minimum(k, p)], "hit_rate": hit, "ndcg_published": dcg / gain[p],
                  "hit_rate_published": places / n}  # fmt: skip
        for name, value in values.items():
            result[f"{name}@{k}"] = float(np.average(value, weights=counts)) if len(counts) else float("nan")
    return result


def oracle_hits(groups: np.ndarray, targets: np.ndarray, k: int) -> float:
    """The best Hit@k that any model can have in sample if it gives all customers of a group, int[Q], one list: the sum
    over groups of the k largest counts of int[Q] targets / Q; nan without queries. With categories for targets it is
    the best Category Hit@k (a bound from above where a category has no item).

    >>> oracle_hits(np.array([0, 0, 0, 1]), np.array([5, 5, 6, 7]), 1)
    0.75
    """
    if not len(groups):
        return float("nan")
    pairs, counts = np.unique(np.stack([groups, targets]), axis=1, return_counts=True)
    order = np.lexsort((-counts, pairs[0]))
    group = pairs[0][order]
    place = np.arange(len(group)) - np.searchsorted(group, group)
    return float(counts[order][place < k].sum() / len(groups))


def bootstrap(values: np.ndarray, seed: int = 0, repetitions: int = 10_000) -> tuple[float, float]:
    """The 95 % percentile interval of the mean of float[Q] values (Efron and Tibshirani 1993, "An introduction to the
    bootstrap", ch. 13); (nan, nan) without values. Only counts of distinct values are drawn, from a multinomial: hits
    of 0 and 1 take the same time however many they are."""
    values = np.asarray(values, np.float64)
    if not len(values):
        return float("nan"), float("nan")
    random, (distinct, counts) = np.random.default_rng(seed), np.unique(values, return_counts=True)
    step, means = max(1, CHUNK // len(distinct)), np.empty(repetitions)
    for low in range(0, repetitions, step):
        drawn = random.multinomial(len(values), counts / len(values), size=min(step, repetitions - low))
        means[low : low + step] = drawn @ distinct / len(values)
    low_end, high_end = np.quantile(means, [(1 - 0.95) / 2, (1 + 0.95) / 2])
    return float(low_end), float(high_end)
