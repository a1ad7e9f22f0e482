"""The baselines against their formulas in plain Python, and the walk over queries."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxrec.baselines import parse, prefixes
from jaxrec.baselines.base import Baseline
from jaxrec.baselines.prefixes import Queries
from jaxrec.data.dataset import Sessions
from jaxrec.tasks.sessions import Evaluation
from jaxrec.tasks.sessions import judge as measuring
from jaxrec.tasks.sessions.judge import baseline_metrics

V, DAY = 12, 86_400_000


def make_sessions(seed: int, count: int = 40, longest: int = 9, n_items: int = V - 1) -> Sessions:
    """Random sessions over a month, not in the order of their ends; item ``n_items`` and above never occur."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, longest + 1, count)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    begin = np.repeat(rng.integers(0, 30 * DAY, count), lengths)
    items = (n_items * rng.random(offsets[-1]) ** 2).astype(np.int32)
    return Sessions(items, begin + 1000 * np.arange(offsets[-1]), offsets)


def lists(sessions: Sessions) -> list[tuple[list[int], int]]:
    """Every session's items and the time of its last click, the one that ended first in front."""
    bounds = zip(sessions.offsets[:-1], sessions.offsets[1:], strict=True)
    both = [(sessions.items[low:high].tolist(), int(sessions.times[high - 1])) for low, high in bounds]
    return sorted(both, key=lambda session: session[1])


# ---- the formulas in plain Python: from training sessions, a prefix, the time and parameters to {item: score} --------

Train = list[tuple[list[int], int]]


def pop(train: Train, prefix: list[int], now: int) -> dict[int, float]:
    counts = Counter(item for session, _ in train for item in session)
    distinct = sorted({counts[item] for item in range(V)})
    return {item: distinct.index(counts[item]) / len(distinct) for item in range(V)}


def spop(train: Train, prefix: list[int], now: int) -> dict[int, float]:
    return {item: score + prefix.count(item) for item, score in pop(train, prefix, now).items()}


def itemknn_(
    train: Train, prefix: list[int], now: int, k: int, shrinkage: float, alpha: float, decay: float
) -> dict[int, float]:
    sets = [set(session) for session, _ in train]
    holds = {item: sum(item in one for one in sets) for item in range(V)}
    scores: dict[int, float] = {}
    for distance, clicked in enumerate(reversed(prefix)):
        similar = []
        for item in range(V):
            both = sum(item in one and clicked in one for one in sets)
            if both and item != clicked:
                norm = (holds[clicked] + shrinkage) ** alpha * (holds[item] + shrinkage) ** (1 - alpha)
                similar.append((-both / norm, item))
        for value, item in sorted(similar)[:k]:
            scores[item] = scores.get(item, 0.0) - decay**distance * value
    return scores


def neighbours(
    train: Train, weight: dict[int, float], sample: int, k: int, factor: Callable[[list[int], int], float]
) -> list[tuple[float, int]]:
    shared = [
        (number, sum(weight[item] for item in weight if item in session))
        for number, (session, _) in enumerate(train)
        if any(weight.get(item, 0) > 0 for item in session)
    ]
    similar = [(value * factor(*train[number]), number) for number, value in shared[-sample:]]
    return sorted(similar, key=lambda one: (-np.float32(one[0]), -one[1]))[:k]


def vsknn(
    train: Train, prefix: list[int], now: int, k: int, sample: int, decay: str, vote_decay: str, idf: float
) -> dict[int, float]:
    length = len(prefix)
    decays = {
        "none": lambda d: 1.0, "linear": lambda d: max(0.0, 1 - d / 10), "ratio": lambda d: (length - d) / length,
        "harmonic": lambda d: 1 / (1 + d), "quadratic": lambda d: 1 / (1 + d) ** 2,
        "log": lambda d: 1 / math.log10(d + 1.7),
    }  # fmt: skip
    distance = {item: length - 1 - place for place, item in enumerate(prefix)}  # the last click on an item wins
    weight = {item: decays[decay](d) for item, d in distance.items()}
    holds = Counter(item for session, _ in train for item in set(session))
    scores: dict[int, float] = {}
    for similarity, number in neighbours(train, weight, sample, k, lambda session, end: 1.0):
        session = train[number][0]
        vote = similarity * decays[vote_decay](min(distance[item] for item in session if weight.get(item, 0) > 0))
        for item in set(session):
            scores[item] = scores.get(item, 0.0) + vote * (1 + idf * math.log(len(train) / holds[item]))
    return scores


def stan(
    train: Train, prefix: list[int], now: int, k: int, sample: int, lambda1: float, lambda2: float, lambda3: float
) -> dict[int, float]:
    def fall(x: float, scale: float) -> float:
        return math.exp(-x / scale) if scale else 1.0

    distance = {item: len(prefix) - 1 - place for place, item in enumerate(prefix)}
    weight = {item: fall(d, lambda1) for item, d in distance.items()}

    def factor(session: list[int], end: int) -> float:
        return fall(max(0, now - end) / DAY, lambda2) / math.sqrt(len(prefix) * len(session))

    scores: dict[int, float] = {}
    for similarity, number in neighbours(train, weight, sample, k, factor):
        place = {item: index for index, item in enumerate(train[number][0])}
        latest = min((item for item in place if item in distance), key=lambda item: distance[item])
        for item, index in place.items():
            scores[item] = scores.get(item, 0.0) + similarity * fall(abs(index - place[latest]), lambda3)
    return scores


def fitted(text: str, train: Sessions) -> Baseline:
    return parse(text).parameters.fit(train, V)


FORMULAS: dict[str, Callable[..., dict[int, float]]] = {
    "pop": pop, "spop": spop, "itemknn": itemknn_, "vsknn": vsknn, "stan": stan
}  # fmt: skip
TEXTS = [
    "pop", "spop", "itemknn", "itemknn:k=3,shrinkage=0,decay=0.5", "itemknn:k=1000,shrinkage=7.5,alpha=0.25,decay=1",
    "vsknn", "vsknn:k=3,sample=7,decay=quadratic,vote_decay=none", "vsknn:k=1,sample=1,decay=log,vote_decay=log,idf=1",
    "vsknn:k=4,decay=harmonic,vote_decay=ratio,idf=0.3", "vsknn:k=5,decay=ratio,vote_decay=linear", "stan",
    "stan:k=3,sample=7,lambda1=0.7,lambda2=5,lambda3=1.5", "stan:k=1,sample=1,lambda1=0,lambda2=0,lambda3=0",
    "stan:k=5,lambda2=0.00001",  # most weights are 0 in float32
]  # fmt: skip


def expected(text: str, train: Train, prefix: list[int], now: int) -> np.ndarray:
    """float64[V]: the formula's scores; below them, by popularity, the items that it does not name."""
    choice = parse(text)
    scores = np.array([value for _, value in sorted(pop(train, prefix, now).items())]) - 1.0
    for item, value in FORMULAS[choice.name](train, prefix, now, **choice.parameters.model_dump()).items():
        if np.float32(value) > 0 or choice.name in ("pop", "spop"):
            scores[item] = value
    return scores


@pytest.mark.parametrize("text", TEXTS)
def test_scores_are_those_of_the_formula(text: str) -> None:
    train, split = make_sessions(1), make_sessions(2, count=15, longest=14, n_items=V)
    split = Sessions(split.items, split.times + 20 * DAY, split.offsets)
    baseline, queries = fitted(text, train), Queries(split)
    found = baseline.scores(queries.prefixes(0, len(queries)))
    assert found.dtype == np.float32 and found.shape == (len(queries), V)
    row = 0
    for low, high in zip(split.offsets[:-1], split.offsets[1:], strict=True):
        for end in range(low + 1, high):
            prefix, now = split.items[low:end].tolist(), int(split.times[end - 1])
            np.testing.assert_allclose(found[row], expected(text, lists(train), prefix, now), rtol=1e-6, atol=1e-6)
            assert queries.targets[row] == split.items[end]
            row += 1
    assert row == len(queries) == split.counts["targets"]


@settings(max_examples=15, deadline=None)
@given(st.sampled_from(TEXTS), st.integers(0, 5), st.lists(st.integers(1, 60), max_size=6), st.integers(0, 2**31))
def test_neither_the_batch_nor_the_future_matters(text: str, seed: int, cuts: list[int], other: int) -> None:
    """Bit for bit: a query's scores are those of a batch of its own, and no click after the prefix changes them."""
    split = make_sessions(seed + 10, count=12)
    baseline, queries = fitted(text, make_sessions(seed)), Queries(split)
    whole = baseline.scores(queries.prefixes(0, len(queries)))
    bounds = sorted({0, len(queries), *(cut for cut in cuts if cut < len(queries))})
    parts = [baseline.scores(queries.prefixes(low, high)) for low, high in pairwise(bounds)]
    assert np.concatenate(parts).tobytes() == whole.tobytes()
    query = other % len(queries)
    event = queries._end[query]
    items, times = split.items.copy(), split.times.copy()
    items[event:], times[event:] = (items[event:] + 1 + other % (V - 1)) % V, times[event:] + other
    changed = Queries(Sessions(items, times, split.offsets))
    again = baseline.scores(changed.prefixes(query, query + 1))
    assert again[0].tobytes() == whole[query].tobytes()


def test_batches_hold_every_query_once_and_bounded_work(monkeypatch: pytest.MonkeyPatch) -> None:
    queries, work = Queries(make_sessions(0)), np.arange(V)
    for bound, rows in ((1, 5), (40, 7), (200, 1000)):
        monkeypatch.setattr(prefixes, "WORK", bound)
        batches = list(queries.batches(rows, work))
        assert [low for low, _ in batches] == [0, *(high for _, high in batches[:-1])]
        assert batches[-1][1] == len(queries)
        for low, high in batches:
            spent = (1 + work[queries.prefixes(low, high).items]).sum()
            assert 0 < high - low <= rows and (spent <= bound or high - low == 1)


@pytest.mark.parametrize("text", ["pop", "stan:k=1,lambda3=0"])
@pytest.mark.parametrize("ties", ["conservative", "standard", "median"])
def test_metrics_and_ties(text: str, ties: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prefixes, "WORK", 300)
    monkeypatch.setattr(measuring, "ROWS", 7)
    train, queries = make_sessions(1), Queries(make_sessions(2, n_items=V))
    baseline = fitted(text, train)
    found = baseline_metrics(baseline, queries, V, [1, 3, V], Evaluation(ties=ties), coverage=True)
    scores = baseline.scores(queries.prefixes(0, len(queries)))
    own = scores[np.arange(len(queries)), queries.targets][:, None]
    equal = (scores == own).sum(1) - 1
    assert equal.any(), "no tie to break"
    ranks = 1 + (scores > own).sum(1) + equal * {"conservative": 1.0, "standard": 0.0, "median": 0.5}[ties]
    tops = np.argsort(-scores, axis=1, kind="stable")
    for k in (1, 3, V):
        assert found[f"recall@{k}"] == pytest.approx((ranks <= k).mean(), abs=1e-9)
        assert found[f"mrr@{k}"] == pytest.approx(((ranks <= k) / ranks).mean(), abs=1e-9)
        assert found[f"coverage@{k}"] == len(np.unique(tops[:, :k])) / V
