"""Recommending from a run of sessions: scores against NumPy, candidates, similar items, queries in any form."""

from __future__ import annotations

import re
import shutil
from collections import deque
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from helpers import load_parts, ranked
from numpy_gru import last_scores

from jaxrec import Query, Recommender, UserError
from jaxrec.data.items import Items


@pytest.fixture(scope="module")
def recommender(run: Path) -> Recommender:
    return Recommender.load(run)


@pytest.fixture(scope="module")
def vocabulary(run: Path) -> Items:
    return Items.read(run / "dataset" / "items.parquet")


@pytest.fixture(scope="module")
def parameters(run: Path) -> dict[str, Any]:
    return load_parts(run)


SESSIONS = [[7], [3, 50], [99, 1, 42], [5, 5, 5, 6, 5], [12, 80, 12, 33, 21, 64, 2]]
LONG = [int(item) for item in np.random.default_rng(1).integers(1, 101, 700)]


def expected(parameters: dict[str, Any], vocabulary: Items, session: list[int]) -> dict[int, float]:
    """Raw id to score, over the whole catalogue."""
    scores = last_scores(parameters, vocabulary.encode(session))
    return {int(raw): float(score) for raw, score in zip(vocabulary.ids.values(), scores, strict=True)}


def best(scores: dict[int, float], k: int, without: Any = ()) -> list[int]:
    return sorted((item for item in scores if item not in set(without)), key=lambda item: -scores[item])[:k]


@pytest.mark.parametrize("session", [*SESSIONS, LONG], ids=len)
@pytest.mark.parametrize("seen", [True, False])
def test_ids_and_scores_are_those_of_brute_force(
    recommender: Recommender, parameters: dict[str, Any], vocabulary: Items, session: list[int], seen: bool
) -> None:
    scores = expected(parameters, vocabulary, session)
    ids, found = ranked(recommender, session, min(30, 100 - len(set(session))) or 1, seen=seen)
    assert ids == best(scores, len(ids), () if seen else session)
    np.testing.assert_allclose(found, [scores[item] for item in ids], rtol=1e-4, atol=1e-4)
    assert all(type(item) is int for item in ids)


@pytest.mark.parametrize("size", [1, 3, 64, 65, 100])
def test_candidates_are_ranked_as_in_the_whole_catalogue(
    recommender: Recommender, parameters: dict[str, Any], vocabulary: Items, size: int
) -> None:
    session = [99, 1, 42]
    scores = expected(parameters, vocabulary, session)
    pool = [int(item) for item in np.random.default_rng(size).permutation(np.arange(1, 101))[:size]]
    in_pool = {item: scores[item] for item in pool}
    ids, found = ranked(recommender, session, 100, seen=True, only=[*pool, pool[0], 54321, "x"])
    assert ids == best(in_pool, 100)
    np.testing.assert_allclose(found, [scores[item] for item in ids], rtol=1e-5, atol=1e-5)
    assert ranked(recommender, session, 100, exclude=pool[:1], only=pool)[0] == best(in_pool, 100, [*session, pool[0]])
    assert ranked(recommender, session, 2, seen=True, only=pool)[0] == best(in_pool, 2)


def test_the_most_popular_without_a_known_item(recommender: Recommender, vocabulary: Items) -> None:
    popular = vocabulary.decode(np.arange(len(vocabulary)))
    pool = [popular[60], *popular[:4]]
    ids, scores = ranked(recommender, [4711], 5, exclude=popular[:2], only=pool)
    assert ids == [popular[2], popular[3], popular[60]]
    np.testing.assert_array_equal(scores, vocabulary.counts[[2, 3, 60]])


@pytest.mark.parametrize("item", [1, "42", 100])
def test_similar_items_are_those_of_the_highest_cosine(
    recommender: Recommender, parameters: dict[str, Any], vocabulary: Items, item: Any
) -> None:
    vectors = np.asarray(parameters["tables"]["item"], np.float64)[:, :-1]  # the last column is the bias
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    cosine = vectors @ vectors[vocabulary.encode([item])[0]]
    by_id = {int(raw): float(value) for raw, value in zip(vocabulary.ids.values(), cosine, strict=True)}
    found = recommender.similar(item, 15).items
    assert [one.id for one in found] == best(by_id, 15, [int(item)])
    np.testing.assert_allclose([one.score for one in found], [by_id[one.id] for one in found], atol=1e-5)
    everything = [one.id for one in recommender.similar(item, 100).items]
    assert sorted(everything) == [other for other in range(1, 101) if other != int(item)]


def test_vectors_rank_as_the_recommender_does(
    recommender: Recommender, parameters: dict[str, Any], vocabulary: Items
) -> None:
    table = recommender.vectors()
    vectors = np.array(table["vector"].to_pylist(), np.float32)
    np.testing.assert_array_equal(vectors, parameters["tables"]["item"])
    assert table["id"].to_pylist() == vocabulary.ids.values() and table["count"].to_pylist() == [*vocabulary.counts]


@pytest.mark.parametrize(
    ("query", "options", "message"),
    [
        ([3], {"k": 0}, "k = 0: expected 1 to 100"),
        ([3], {"k": 101}, "k = 101: expected 1 to 100"),
        ([3], {"k": 2.0}, "k = 2.0: expected 1 to 100"),
        ([3], {"k": True}, "k = True: expected 1 to 100"),
        ([3], {"only": [4711]}, "only: none of them is known to the run"),
        ([3], {"only": []}, "only: none of them"),
        ([3], {"only": 5}, "only: found 5; give a list"),
        ([3], {"only": "price < 3"}, "only: found a filter, and the items of"),
        ([3], {"exclude": "5"}, "exclude: found '5'; give a list"),
        ([3], {"exclude": [[5]]}, "exclude: found [5], expected a single value"),
        ([3], {"seen": "rows"}, "seen: found 'rows', and"),
        (3, {}, "items: found 3; give a list"),
        ("3", {}, "items: found '3'; give a list"),
        ({3, 50}, {}, "items: found {"),
        ({3: 50}, {}, "items: found {3: 50}; give a list"),
        (pd.DataFrame({"item": [3]}), {}, "items: found    item"),
        ([3, [5]], {}, "items: found [5], expected a single value, a number or text"),
    ],
)
def test_what_is_refused(recommender: Recommender, query: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        recommender.recommend({"items": query}, **options)


SHAPES: dict[str, Any] = {
    "tuple": (3, 50), "array": np.array([3, 50]), "texts": np.array(["3", "50"]), "floats": np.array([3.0, 50.0]),
    "Series": pd.Series([3, 50], index=[7, 1]), "Arrow": pa.array([3, 50]), "chunks": pa.chunked_array([[3], [50]]),
    "scalars": [np.int16(3), pa.scalar(50)], "JAX": jnp.array([3, 50]), "deque": deque([3, 50]),
    "Categorical": pd.Series(["3", "50"], dtype="category"), "Index": pd.Index([3, 50]),
    "extension": pd.array([3, 50], dtype="Int64"), "generator": (item for item in ("3", 50.0)),
}  # fmt: skip


@pytest.mark.parametrize("form", SHAPES)
def test_a_session_in_any_form(recommender: Recommender, form: str) -> None:
    assert recommender.recommend(Query(SHAPES[form]), 7) == recommender.recommend(Query([3, 50]), 7)


def test_the_run_directory_is_enough(run: Path, tmp_path: Path, recommender: Recommender) -> None:
    """Moved elsewhere, and with its data set gone."""
    moved = shutil.copytree(run, tmp_path / "moved")
    text = (moved / "config.yaml").read_text()
    (moved / "config.yaml").write_text(re.sub(r"path: .*", "path: /nowhere", text))
    assert Recommender.load(moved).recommend(Query([3, 50]), 10) == recommender.recommend(Query([3, 50]), 10)
