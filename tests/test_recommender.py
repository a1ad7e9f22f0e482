"""``Recommender`` against brute force in NumPy, and its filters."""

from __future__ import annotations

import re
import shutil
import warnings
from collections import deque
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from helpers import load_parts
from numpy_gru import last_scores

from jaxrec.data.items import Vocabulary
from jaxrec.errors import UserError
from jaxrec.recommend import Recommender
from jaxrec.tasks.serving import UnknownItems


@pytest.fixture(scope="module")
def recommender(run: Path) -> Recommender:
    return Recommender.load(run)


@pytest.fixture(scope="module")
def vocabulary(run: Path) -> Vocabulary:
    return Vocabulary.read(run / "dataset" / "items.parquet")


@pytest.fixture(scope="module")
def parameters(run: Path) -> dict[str, Any]:
    return load_parts(run)


SESSIONS = [[7], [3, 50], [99, 1, 42], [5, 5, 5, 6, 5], [12, 80, 12, 33, 21, 64, 2]]


def expected(parameters: dict[str, Any], vocabulary: Vocabulary, session: list[int]) -> dict[int, float]:
    """Raw id to score, over the whole catalogue."""
    scores = last_scores(parameters, vocabulary.encode(session))
    return {int(raw): float(score) for raw, score in zip(vocabulary.ids, scores, strict=True)}


def best(scores: dict[int, float], k: int, without: Any = ()) -> list[int]:
    return sorted((item for item in scores if item not in set(without)), key=lambda item: -scores[item])[:k]


@pytest.mark.parametrize("session", SESSIONS)
@pytest.mark.parametrize("seen", [True, False])
def test_ids_and_scores_are_those_of_brute_force(
    recommender: Recommender, parameters: dict[str, Any], vocabulary: Vocabulary, session: list[int], seen: bool
) -> None:
    scores = expected(parameters, vocabulary, session)
    ids, found = recommender.recommend(session, k=30, exclude_seen=seen)
    assert ids == best(scores, 30, session if seen else ())
    np.testing.assert_allclose(found, [scores[item] for item in ids], rtol=1e-5, atol=1e-5)
    assert len(set(ids)) == 30
    assert (np.diff(found) <= 0).all()
    assert all(type(item) is int for item in ids)


def test_an_item_just_seen_would_be_recommended_otherwise(recommender: Recommender) -> None:
    """Excluding what was seen matters: somewhere in the catalogue it takes an item away."""
    changed = 0
    for item in range(1, 101):
        with_seen, _ = recommender.recommend([item, item], k=100, exclude_seen=False)
        without, _ = recommender.recommend([item, item], k=100)
        assert item in with_seen and item not in without and len(without) == 99
        changed += without[:20] != with_seen[:20]
    assert changed


def test_exclude_takes_items_and_nothing_else(
    recommender: Recommender, parameters: dict[str, Any], vocabulary: Vocabulary
) -> None:
    session = [3, 50]
    scores = expected(parameters, vocabulary, session)
    top = best(scores, 5)
    with pytest.warns(UnknownItems, match="^exclude: 1 unknown item ignored: 987654$"):
        ids, _ = recommender.recommend(session, k=10, exclude_seen=False, exclude=[*top[:3], top[0], 987654])
    assert ids == best(scores, 10, top[:3])
    ids, _ = recommender.recommend(session, k=10, exclude=(str(item) for item in top[:3]))  # as text, from a generator
    assert ids == best(scores, 10, [*top[:3], *session])


@pytest.mark.parametrize("size", [1, 2, 3, 8, 64, 65, 100])
def test_candidates_are_ranked_as_in_the_whole_catalogue(
    recommender: Recommender, parameters: dict[str, Any], vocabulary: Vocabulary, size: int
) -> None:
    session = [99, 1, 42]
    scores = expected(parameters, vocabulary, session)
    pool = [int(item) for item in np.random.default_rng(size).permutation(np.arange(1, 101))[:size]]
    with pytest.warns(UnknownItems, match="^candidates: 2 unknown items ignored: 54321, x$"):
        ids, found = recommender.recommend(session, k=100, exclude_seen=False, candidates=[*pool, pool[0], 54321, "x"])
    assert ids == best({item: scores[item] for item in pool}, 100)
    np.testing.assert_allclose(found, [scores[item] for item in ids], rtol=1e-5, atol=1e-5)
    ids, _ = recommender.recommend(session, k=100, exclude=pool[:1], candidates=pool)
    assert ids == best({item: scores[item] for item in pool}, 100, [*session, pool[0]])
    ids, _ = recommender.recommend(session, k=2, exclude_seen=False, candidates=pool)
    assert ids == best({item: scores[item] for item in pool}, 2)


def test_fewer_than_k_where_exclusions_leave_fewer(recommender: Recommender) -> None:
    ids, scores = recommender.recommend([1], k=100, exclude=range(4, 101))
    assert sorted(ids) == [2, 3] and scores.shape == (2,) and np.isfinite(scores).all()
    ids, scores = recommender.recommend([1], k=3, candidates=[1])
    assert ids == [] and scores.shape == (0,)


def test_a_batch_is_its_sessions(recommender: Recommender) -> None:
    together, scores = recommender.recommend(SESSIONS, k=12, exclude=[4])
    assert len(together) == len(scores) == len(SESSIONS)
    for session, ids, score in zip(SESSIONS, together, scores, strict=True):
        alone, alone_score = recommender.recommend(session, k=12, exclude=[4])
        assert ids == alone
        np.testing.assert_allclose(score, alone_score, rtol=1e-5, atol=1e-6)
    one, _ = recommender.recommend([SESSIONS[2]], k=12, exclude=[4])
    assert one == [together[2]]
    arrays, _ = recommender.recommend([np.array(session) for session in SESSIONS], k=12, exclude=[4])
    assert arrays == together


def test_long_sessions_and_repetition(
    recommender: Recommender, parameters: dict[str, Any], vocabulary: Vocabulary
) -> None:
    session = [int(item) for item in np.random.default_rng(1).integers(1, 101, 700)]
    scores = expected(parameters, vocabulary, session)
    ids, found = recommender.recommend(session, k=20, exclude_seen=False)
    assert ids == best(scores, 20)
    np.testing.assert_allclose(found, [scores[item] for item in ids], rtol=1e-4, atol=1e-4)
    once, _ = recommender.recommend([9], k=20)
    often, _ = recommender.recommend([9, 9, 9, 9], k=20)
    assert once != often, "a repeated click is a click"


def test_unknown_items_are_left_out_and_reported(recommender: Recommender) -> None:
    known, scores = recommender.recommend([3, 50], k=10)
    with pytest.warns(UnknownItems, match="2 unknown items left out: 4711, no-item"):
        ids, found = recommender.recommend([3, 4711, 50, "no-item"], k=10)
    assert ids == known
    np.testing.assert_array_equal(found, scores)
    assert recommender.unknown([3, 4711, "50", 2.5]) == [4711, 2.5]


def test_a_session_without_known_items_gets_the_most_popular(recommender: Recommender, vocabulary: Vocabulary) -> None:
    popular = vocabulary.decode(np.arange(len(vocabulary)))
    with pytest.warns(UnknownItems):
        ids, scores = recommender.recommend([4711], k=5)
    assert ids == popular[:5]
    np.testing.assert_array_equal(scores, vocabulary.counts[:5])
    with pytest.warns(UnknownItems):
        ids, scores = recommender.recommend([4711], k=5, exclude=popular[:2], candidates=[popular[60], *popular[:4]])
    assert ids == [popular[2], popular[3], popular[60]]
    np.testing.assert_array_equal(scores, vocabulary.counts[[2, 3, 60]])
    with pytest.warns(UnknownItems):
        both, _ = recommender.recommend([[4711], [3, 50]], k=5)
    assert both == [popular[:5], recommender.recommend([3, 50], k=5)[0]]


def test_ids_as_text_and_known_items_do_not_warn(recommender: Recommender) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert recommender.recommend(["3", "50"], k=4)[0] == recommender.recommend([3, 50], k=4)[0]


@pytest.mark.parametrize(
    ("items", "options", "message"),
    [
        ([], {}, "an empty session: give at least one item"),
        (iter([]), {}, "an empty session"),
        ([3], {"k": 0}, "k = 0: expected 1 to 100"),
        ([3], {"k": 101}, "k = 101: expected 1 to 100"),
        ([3], {"k": 2.0}, "k = 2.0: expected 1 to 100"),
        ([3], {"k": True}, "k = True: expected 1 to 100"),
        ([3], {"candidates": [4711]}, "candidates: none of them is in this run's vocabulary (found 4711)"),
        ([3], {"candidates": []}, "candidates: none of them"),
        ([3], {"candidates": 5}, "candidates: a list of ids is expected, such as [5], not a single one"),
        ([3], {"exclude": "5"}, "exclude: a list of ids is expected, such as ['5'], not a single one"),
        ([3], {"exclude": [[5]]}, "exclude: found [5], expected a single value"),
        (3, {}, "items: a list of ids is expected, such as [3], not a single one"),
        ("3", {}, "items: a list of ids is expected"),
        (None, {}, "items: a list of ids is expected"),
        ({3, 50}, {}, "items: found a set, which has no order; give a list"),
        ({3: 50}, {}, "items: found a dict; give a list of ids"),
        (pd.DataFrame({"item": [3]}), {}, "items: found a table; give a list of ids, or one column of it"),
        (np.zeros((1, 1, 1)), {}, "items: found an array of 3 dimensions"),
        ([[3], 5], {}, "items: session 2 of 2: found 5, an id among lists; make it a list of one"),
        ([[3], {5}], {}, "items: session 2 of 2: found a set, which has no order"),
        ([[3, [5]]], {}, "items: found [5], expected a single value, a number or text"),
    ],
)
def test_what_cannot_be_recommended(
    recommender: Recommender, items: list[Any], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        recommender.recommend(items, **options)


SHAPES: list[tuple[str, Any]] = [
    ("tuple", (3, 50)),
    ("row", np.array([3, 50])),
    ("text row", np.array(["3", "50"])),
    ("float row", np.array([3.0, 50.0])),
    ("Series", pd.Series([3, 50], index=[7, 1])),
    ("Series of text", pd.Series(["3", "50"], index=["b", "a"])),
    ("array", pa.array([3, 50])),
    ("chunks", pa.chunked_array([[3], [50]])),
    ("scalars", [np.int16(3), pa.scalar(50)]),
    ("JAX", jnp.array([3, 50])),
    ("deque", deque([3, 50])),
    ("Categorical", pd.Series(["3", "50"], dtype="category")),
    ("Index", pd.Index([3, 50])),
    ("extension", pd.array([3, 50], dtype="Int64")),
]


@pytest.mark.parametrize("given", [given for _, given in SHAPES], ids=[name for name, _ in SHAPES])
def test_a_session_in_any_form(recommender: Recommender, given: Any) -> None:
    """And several, in a list, a Series or a generator of such."""
    ids, scores = recommender.recommend([3, 50], k=7)
    found, same = recommender.recommend(given, k=7)
    assert (found, same.tolist()) == (ids, scores.tolist())
    assert recommender.recommend((item for item in given), k=7)[0] == ids
    others = [[7], *SESSIONS[2:4]]
    for several in ([given, *others], (one for one in [given, *others])):
        assert recommender.recommend(several, k=7)[0] == [ids, *recommender.recommend(others, k=7)[0]]


@pytest.mark.parametrize(
    "given",
    [
        np.array([[3, 50], [7, 9]]),
        jnp.array([[3, 50], [7, 9]]),
        pd.Series([[3, 50], (7, 9)], index=[4, 4]),
        pa.array([[3, 50], [7, 9]]),
    ],
    ids=["array", "JAX", "Series", "Arrow"],
)
def test_tables_of_sessions(recommender: Recommender, given: Any) -> None:
    assert recommender.recommend(given, k=7)[0] == recommender.recommend([[3, 50], [7, 9]], k=7)[0]


def test_no_sessions_are_answered_with_nothing(recommender: Recommender) -> None:
    assert recommender.recommend(np.zeros((0, 3))) == ([], [])


def test_an_empty_session_among_others_is_named_and_gets_the_most_popular(
    recommender: Recommender, vocabulary: Vocabulary
) -> None:
    """All that is left out is said in one warning."""
    popular = vocabulary.decode(np.arange(6))
    given = [[3, 50], [], [4711, None, 5], [float("nan")], None]
    text = (
        "^3 unknown items in 2 of 5 sessions left out: 4711, None, nan; sessions 2, 5 of 5 are empty, so the most "
        "popular items are recommended; session 4 of 5 holds no known item, so the most popular items are recommended$"
    )
    with pytest.warns(UnknownItems, match=text) as caught:
        ids, scores = recommender.recommend(given, k=5, exclude=popular[:1])
    assert len(caught) == 1 and caught[0].filename == __file__
    assert ids[1] == ids[3] == ids[4] == popular[1:]
    np.testing.assert_array_equal(scores[4], vocabulary.counts[1:6])
    assert [ids[0], ids[2]] == recommender.recommend([[3, 50], [5]], k=5, exclude=popular[:1])[0]
    with pytest.warns(UnknownItems, match="^session 1 of 1 is empty, so the most popular items are recommended$"):
        assert recommender.recommend([[]], k=6)[0] == [popular]


@pytest.mark.parametrize("item", [1, "42", 100])
def test_similar_items_are_those_of_the_highest_cosine(
    recommender: Recommender, parameters: dict[str, Any], vocabulary: Vocabulary, item: Any
) -> None:
    vectors = np.asarray(parameters["tables"]["item"], np.float64)[:, :-1]  # the last column is the bias
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    cosine = vectors @ vectors[vocabulary.encode([item])[0]]
    by_id = {int(raw): float(value) for raw, value in zip(vocabulary.ids, cosine, strict=True)}
    ids, found = recommender.similar_items(item, k=15)
    assert ids == best(by_id, 15, [int(item)])
    np.testing.assert_allclose(found, [by_id[int(other)] for other in ids], atol=1e-5)
    everything, _ = recommender.similar_items(item, k=100)
    assert sorted(everything) == [other for other in range(1, 101) if other != int(item)]


def test_similar_items_of_an_unknown_item(recommender: Recommender) -> None:
    with pytest.raises(UserError, match="item 4711: unknown"):
        recommender.similar_items(4711)
    with pytest.raises(UserError, match="k = 0"):
        recommender.similar_items(3, k=0)


def test_the_run_directory_is_enough(run: Path, tmp_path: Path, recommender: Recommender) -> None:
    """Moved elsewhere, and with its data set gone."""
    moved = shutil.copytree(run, tmp_path / "moved")
    text = (moved / "config.yaml").read_text()
    (moved / "config.yaml").write_text(re.sub(r"path: .*", "path: /nowhere", text))
    ids, scores = Recommender.load(moved).recommend([3, 50], k=10)
    expected_ids, expected_scores = recommender.recommend([3, 50], k=10)
    assert ids == expected_ids
    np.testing.assert_array_equal(scores, expected_scores)
