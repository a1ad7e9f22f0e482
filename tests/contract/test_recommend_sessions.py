"""Recommending from a run of sessions: scores against NumPy, candidates, similar items, queries in any form."""

from __future__ import annotations

import re
from collections import deque
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from helpers import load_parts, open_sessions, ranked, write_dataset
from numpy_models import all_scores
from worlds import Worlds

from jaxrec import Query, Recommender, UserError
from jaxrec import config as configuration
from jaxrec.data.items import Items
from jaxrec.tasks.base import make_task

LONG = [int(item) for item in np.random.default_rng(1).integers(1, 101, 700)]


@pytest.fixture(scope="module")
def recommender(run: Path) -> Recommender:
    return Recommender.load(run)


@pytest.fixture(scope="module")
def vocabulary(run: Path) -> Items:
    return Items.read(run / "dataset" / "items.parquet")


@pytest.fixture(scope="module")
def parameters(run: Path) -> dict[str, Any]:
    return load_parts(run)


def by_id(vocabulary: Items, scores: Any) -> dict[int, float]:
    return dict(zip(vocabulary.ids.values(), map(float, scores), strict=True))


def best(scores: dict[int, float], k: int, without: Any = ()) -> list[int]:
    return sorted((item for item in scores if item not in set(without)), key=lambda item: -scores[item])[:k]


@pytest.mark.parametrize("size", [1, 3, 64, 100])
@pytest.mark.parametrize("session", [[99, 1, 42], [5, 5, 5, 6, 5], LONG], ids=len)
def test_candidates_are_ranked_as_in_the_whole_catalogue(
    recommender: Recommender, parameters: dict[str, Any], vocabulary: Items, session: list[int], size: int
) -> None:
    scores = by_id(vocabulary, all_scores(parameters, vocabulary.ids.encode(session))[-1])
    pool = [int(item) for item in np.random.default_rng(size).permutation(np.arange(1, 101))[:size]]
    in_pool = {item: scores[item] for item in pool}
    ids, found = ranked(recommender, session, 100, seen=True, only=[*pool, pool[0], 54321, "x"])
    assert ids == best(in_pool, 100) and all(type(item) is int for item in ids)
    np.testing.assert_allclose(found, [scores[item] for item in ids], rtol=1e-4, atol=1e-4)
    assert ranked(recommender, session, 100, exclude=pool[:1], only=pool)[0] == best(in_pool, 100, [*session, pool[0]])
    assert ranked(recommender, session, 2, seen=True, only=pool)[0] == best(in_pool, 2)


@pytest.mark.parametrize("item", [1, "42"])
def test_similar_items_and_vectors(
    recommender: Recommender, parameters: dict[str, Any], vocabulary: Items, item: Any
) -> None:
    vectors = np.asarray(parameters["tables"]["item"], np.float64)[:, :-1]  # the last column is the bias
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    cosines = by_id(vocabulary, vectors @ vectors[vocabulary.index(item)])
    found = recommender.similar(item, 100).items
    assert [one.id for one in found][:15] == best(cosines, 15, [int(item)]) and len(found) == 99
    np.testing.assert_allclose([one.score for one in found], [cosines[one.id] for one in found], atol=1e-5)
    table = recommender.vectors()
    np.testing.assert_array_equal(np.array(table["vector"].to_pylist(), np.float32), parameters["tables"]["item"])
    assert table["id"].to_pylist() == vocabulary.ids.values() and table["count"].to_pylist() == [*vocabulary.counts]


@pytest.mark.parametrize(("query", "options", "message"), [
    ([3], {"only": "price < 3"}, "where: the run's items have no attributes"),
    ([3], {"exclude": [[5]]}, "exclude: found [5], expected a single value"),
    ("3", {}, "items: found '3'; give a list"),
])  # fmt: skip
def test_what_is_refused(recommender: Recommender, query: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        recommender.recommend({"items": query}, **options)


def test_times_are_one_for_each_item_of_a_run_that_reads_them(recommender: Recommender, worlds: Worlds) -> None:
    with pytest.raises(UserError, match="times: found 1 for 2 items"):
        Query([3, 5], times=[0])
    with pytest.raises(UserError, match="a run of gru4rec does not read times"):
        recommender.recommend({"items": [3], "times": [0]})
    reader = Recommender.load(worlds.run("hstu", model={"time_bias": True, "dropout_times": 0.3}))
    with pytest.raises(UserError, match="times: found 'noon', no time"):
        reader.recommend({"items": ["sku-01"], "times": ["noon"]})
    # What is unknown goes with its time; and only what lies between times counts.
    asked = [{"items": ["sku-01", "sku-99", "sku-07"], "times": times} for times in ([60, 0, 95], [1060, 7, 1095])]
    first, *others = reader.recommend([*asked, {"items": ["sku-01", "sku-07"], "times": ["1970-01-02", 86_435]}])
    for other in others:
        assert first.ids == other.ids and first.scores == pytest.approx(other.scores, abs=1e-5)


def test_times_that_are_counters_are_no_times(tmp_path: Path) -> None:
    data = write_dataset(tmp_path / "data", [[1, 2, 3], [2, 3]], time_unit="order", test_days=0)
    config = configuration.parse({"data": {"path": str(data)}, "model": {"name": "hstu", "time_bias": True}})
    with pytest.raises(UserError, match=r"model.time_bias: found True, and the times of .* are counters"):
        make_task(config, open_sessions(data))


def test_a_session_in_any_form(recommender: Recommender) -> None:
    shapes: list[Any] = [
        (3, 50), np.array(["3", "50"]), np.array([3.0, 50.0]), pd.Series([3, 50], index=[7, 1]), pa.array([3, 50]),
        pa.chunked_array([[3], [50]]), [np.int16(3), pa.scalar(50)], jnp.array([3, 50]), deque([3, 50]),
        pd.Series(["3", "50"], dtype="category"), (item for item in ("3", 50.0)),
    ]  # fmt: skip
    answers = recommender.recommend([Query(shape) for shape in shapes], 7)
    assert answers == [answers[0]] * len(shapes)
