"""Baselines of sessions against their formulas in plain Python; ranked as models are; alone and beside a run."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import call, fails, open_sessions
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxrec.baselines.base import Choice, Queries, Scores, parse
from jaxrec.baselines.sessions import BASELINES
from jaxrec.config import EvaluationConfig
from jaxrec.data.dataset import Sessions
from jaxrec.data.splits import cut_validation
from jaxrec.evaluate import evaluate
from jaxrec.tasks.sessions import task as measuring

V, DAY = 12, 86_400_000
Train = list[tuple[list[int], int]]
"""Each session's items and the time of its last click, the one that ended first in front."""


def make_sessions(seed: int, count: int = 40, longest: int = 9, n_items: int = V - 1, later: int = 0) -> Sessions:
    """Random sessions over a month, not in the order of their ends; item ``n_items`` and above never occur."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, longest + 1, count)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    begin = np.repeat(rng.integers(later, later + 30 * DAY, count), lengths)
    items = (n_items * rng.random(offsets[-1]) ** 2).astype(np.int32)
    return Sessions(items, begin + 1000 * np.arange(offsets[-1]), offsets)


def lists(sessions: Sessions) -> Train:
    bounds = zip(sessions.offsets[:-1], sessions.offsets[1:], strict=True)
    both = [(sessions.items[low:high].tolist(), int(sessions.times[high - 1])) for low, high in bounds]
    return sorted(both, key=lambda session: session[1])


# ---- the formulas: from training sessions, a prefix, the time and parameters to {item: score} ------------------------


def pop(train: Train, prefix: list[int], now: int) -> dict[int, float]:
    counts = Counter(item for session, _ in train for item in session)
    distinct = sorted({counts[item] for item in range(V)})
    return {item: distinct.index(counts[item]) / len(distinct) for item in range(V)}


def spop(train: Train, prefix: list[int], now: int) -> dict[int, float]:
    return {item: score + prefix.count(item) for item, score in pop(train, prefix, now).items() if item in prefix}


def returns(train: Train, prefix: list[int], now: int, after: int) -> dict[int, float]:
    def kinds(prefix: list[int]) -> dict[int, tuple[int, int]]:
        return {item: (min(d, 49), min(prefix.count(item), 4)) for item, d in last_distances(prefix).items()}

    went, stood = Counter[tuple[int, int]](), Counter[tuple[int, int]]()
    for session, _ in train:
        for end in range(1, len(session)):
            for item, kind in kinds(session[:end]).items():
                stood[kind] += 1
                went[kind] += session[end] == item
    if len(prefix) - len(set(prefix)) < after:
        return {}
    return {item: (went[kind] + 1) / (stood[kind] + 2) for item, kind in kinds(prefix).items()}


def itemknn(train: Train, prefix: list[int], now: int, k: int, shrinkage: float, alpha: float, decay: float) -> Any:
    sets = [set(session) for session, _ in train]
    holds = {item: sum(item in one for one in sets) for item in range(V)}
    scores: dict[int, float] = {}
    for distance, clicked in enumerate(reversed(prefix)):
        similar = []
        for item in set(range(V)) - {clicked}:
            if both := sum(item in one and clicked in one for one in sets):
                norm = (holds[clicked] + shrinkage) ** alpha * (holds[item] + shrinkage) ** (1 - alpha)
                similar.append((-both / norm, item))
        for value, item in sorted(similar)[:k]:
            scores[item] = scores.get(item, 0.0) - decay**distance * value
    return scores


def neighbours(
    train: Train, weight: dict[int, float], sample: int, k: int, factor: Callable[[list[int], int], float]
) -> list[tuple[float, list[int]]]:
    shared = [(number, sum(weight[item] for item in weight if item in session)) for number, (session, _)
              in enumerate(train) if any(weight.get(item, 0) > 0 for item in session)]  # fmt: skip
    similar = [(value * factor(*train[number]), number) for number, value in shared[-sample:]]
    return [
        (value, train[one][0]) for value, one in sorted(similar, key=lambda one: (-np.float32(one[0]), -one[1]))[:k]
    ]


def last_distances(prefix: list[int]) -> dict[int, int]:
    return {item: len(prefix) - 1 - place for place, item in enumerate(prefix)}  # the last click on an item wins


def vsknn(
    train: Train, prefix: list[int], now: int, k: int, sample: int, decay: str, vote_decay: str, idf: float
) -> dict[int, float]:
    distance = last_distances(prefix)
    decays: dict[str, Callable[[int], float]] = {
        "none": lambda d: 1.0, "linear": lambda d: max(0.0, 1 - d / 10), "harmonic": lambda d: 1 / (1 + d),
    }  # fmt: skip
    weight = {item: decays[decay](d) for item, d in distance.items()}
    holds = Counter(item for session, _ in train for item in set(session))
    scores: dict[int, float] = {}
    for similarity, session in neighbours(train, weight, sample, k, lambda session, end: 1.0):
        vote = similarity * decays[vote_decay](min(distance[item] for item in session if weight.get(item, 0) > 0))
        for item in set(session):
            scores[item] = scores.get(item, 0.0) + vote * (1 + idf * math.log(len(train) / holds[item]))
    return scores


def stan(
    train: Train, prefix: list[int], now: int, k: int, sample: int, lambda1: float, lambda2: float, lambda3: float
) -> dict[int, float]:
    def fall(x: float, scale: float) -> float:
        return math.exp(-x / scale) if scale else 1.0

    def factor(session: list[int], end: int) -> float:
        return fall(max(0, now - end) / DAY, lambda2) / math.sqrt(len(prefix) * len(session))

    distance, scores = last_distances(prefix), dict[int, float]()
    weight = {item: fall(d, lambda1) for item, d in distance.items()}
    for similarity, session in neighbours(train, weight, sample, k, factor):
        place = {item: index for index, item in enumerate(session)}
        latest = min((item for item in place if item in distance), key=lambda item: distance[item])
        for item, index in place.items():
            scores[item] = scores.get(item, 0.0) + similarity * fall(abs(index - place[latest]), lambda3)
    return scores


FORMULAS: dict[str, Callable[..., dict[int, float]]] = {
    "pop": pop, "spop": spop, "returns": returns, "itemknn": itemknn, "vsknn": vsknn, "stan": stan
}  # fmt: skip
TEXTS = [
    "pop", "spop", "returns", "returns:after=2", "itemknn", "itemknn:k=3,shrinkage=0,decay=0.5",
    "itemknn:k=1000,shrinkage=7.5,alpha=0.25,decay=1",
    "vsknn", "vsknn:k=3,sample=7,decay=harmonic,vote_decay=none", "vsknn:k=1,sample=1,decay=none,idf=1", "stan",
    "stan:k=3,sample=7,lambda1=0.7,lambda2=5,lambda3=1.5", "stan:k=1,sample=1,lambda1=0,lambda2=0,lambda3=0",
    "stan:k=5,lambda2=0.00001",  # most weights are 0 in float32
]  # fmt: skip


def fitted(text: str, train: Sessions, n_items: int = V) -> Scores:
    scores: Scores = parse([text], BASELINES)[0].fit(train, n_items)
    return scores


def expected(choice: Choice, train: Train, prefix: list[int], now: int) -> np.ndarray:
    """float64[V]: the formula's scores; below them, by popularity, the items that it does not name."""
    scores = np.array([value for _, value in sorted(pop(train, prefix, now).items())]) - 1.0
    for item, value in FORMULAS[choice.name](train, prefix, now, **choice.parameters).items():
        if np.float32(value) > 0 or choice.name == "pop":
            scores[item] = value
    return scores


@pytest.mark.parametrize("text", TEXTS)
def test_scores_are_those_of_the_formula(text: str) -> None:
    train, split = make_sessions(1), make_sessions(2, count=9, longest=14, n_items=V, later=20 * DAY)
    queries = Queries(split)
    (choice,), past = parse([text], BASELINES), lists(train)
    found = choice.fit(train, V)(queries.prefixes(np.arange(len(queries))))
    assert found.dtype == np.float32 and found.shape == (len(queries), V)
    rows = iter(zip(found, queries.targets, strict=True))
    for low, high in zip(split.offsets[:-1], split.offsets[1:], strict=True):
        for end in range(low + 1, high):
            prefix, now = split.items[low:end].tolist(), int(split.times[end - 1])
            scores, target = next(rows)
            np.testing.assert_allclose(scores, expected(choice, past, prefix, now), rtol=1e-6, atol=1e-6)
            assert target == split.items[end]
    assert next(rows, None) is None


@settings(max_examples=15, deadline=None)
@given(st.sampled_from(TEXTS), st.integers(0, 5), st.integers(1, 60), st.integers(0, 2**31))
def test_neither_the_batch_nor_the_future_matters(text: str, seed: int, cut: int, other: int) -> None:
    """Bit for bit: a query's scores are those of a batch of its own, and no click after the prefix changes them."""
    split = make_sessions(seed + 10, count=12)
    scores, queries = fitted(text, make_sessions(seed)), Queries(split)
    every = np.arange(len(queries))
    whole = scores(queries.prefixes(every))
    parts = [scores(queries.prefixes(part)) for part in np.array_split(every, cut) if len(part)]
    assert np.concatenate(parts).tobytes() == whole.tobytes()
    query = other % len(queries)
    event = split.target_positions[query]
    items, times = split.items.copy(), split.times.copy()
    items[event:], times[event:] = (items[event:] + 1 + other % (V - 1)) % V, times[event:] + other
    changed = Queries(Sessions(items, times, split.offsets))
    assert scores(changed.prefixes(np.array([query])))[0].tobytes() == whole[query].tobytes()


# ---- the command -----------------------------------------------------------------------------------------------------


def test_alone_on_a_data_set(dataset: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--baselines", "all", "itemknn:decay=1", "--data", dataset, "--k", 20, 5, "--json"]
    capsys.readouterr()
    assert call("evaluate", *words) == 0
    printed, opened = json.loads(capsys.readouterr().out), open_sessions(dataset)
    assert printed["targets"] == opened.split("test").counts["targets"] and printed["items"] == 100
    assert printed["fitted_on"] == opened.split("train").counts
    assert list(printed["baselines"]) == [*BASELINES, "itemknn:decay=1"]
    recall = {name: entry["recall@20"] for name, entry in printed["baselines"].items()}
    for name in ("itemknn", "vsknn", "stan"):
        assert recall["pop"] + 0.05 < recall[name] < printed["optimum"]["recall@20"]
    assert printed["baselines"]["itemknn:decay=1"]["parameters"]["decay"] == 1.0


def test_beside_a_run_they_are_fitted_and_ranked_as_the_run(run: Path, dataset: Path) -> None:
    """Not on its validation split."""
    found, opened = evaluate(run, "validation", ks=[5], baselines=["pop"]), open_sessions(dataset)
    parts = cut_validation(opened.split("train"), opened.split("validation"), 0.1)
    assert found["ties"] == "conservative" and found["fitted_on"] == parts.train.counts
    scores, queries = fitted("pop", parts.train, 100), Queries(parts.validation)
    alone = measuring.baseline_metrics(scores, queries, 100, [5], EvaluationConfig())
    assert alone.items() <= found["baselines"]["pop"].items()


@pytest.mark.parametrize(("words", "names"), [
    (["--baselines", "stam"], "stam: no baseline 'stam' .*'stan'.*; there are all, pop, spop, returns"),
    (["--baselines", "stan:lamda1=3"], "lamda1: no such field.*; parameters of stan: k, sample, lam"),
    ([], "--run: missing; name a run directory, or measure --baselines of sessions on --data"),
])  # fmt: skip
def test_what_is_refused(words: list[str], names: str, capsys: pytest.CaptureFixture[str], dataset: Path) -> None:
    fails(capsys, "evaluate", "--data", dataset, *words, names=names)
