"""What every model of two towers must do, whatever its loss and tables. A new one joins with a line in ``MODELS``."""

from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers import assert_same_arrays, call, same_metrics, steps_of
from tower_data import (
    BRANDS,
    EACH,
    ITEMS,
    SKINS,
    USERS,
    Sections,
    age,
    bought,
    customer,
    group,
    kind,
    load_state,
    product,
    skin,
    write_source,
    write_towers,
)

from jaxrec import run as runs
from jaxrec.data.codes import UnknownValues
from jaxrec.data.dataset import open_dataset
from jaxrec.data.retrieval import Retrieval
from jaxrec.data.rows import RowsDataset
from jaxrec.errors import UserError
from jaxrec.tasks.base import load as load_run
from jaxrec.tasks.retrieval import judge as retrieval_evaluation
from jaxrec.tasks.retrieval.judge import Judge
from jaxrec.tasks.retrieval.recommend import TowerRecommender

MODELS: dict[str, Sections] = {
    "triplet": {
        "loss": {"name": "triplet", "hard_negatives": 2, "hard_pool": 8, "refresh_steps": 7},
        "training": {"average": 0.5},
    },
    "infonce": {
        "loss": {
            "name": "infonce", "temperature": 0.2, "mask": "duplicates", "logq": 1.0, "n_sample": 8,
            "sample_alpha": 0.5,
        },
        "model": {"table": "rows", "norm": "none"},
        "data": {
            "fields": ["age", "skin", "likes", "price", "category", "brand"], "unknown_rate": 0.05, "device_memory": 0,
        },
    },
}  # fmt: skip
Shop = TowerRecommender


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("towers")
    return {name: write_source(root / name, name == "made") for name in ("made", "noise")}


def trained(place: Path, source: Path, *sections: Sections) -> Path:
    config = write_towers(place / "c.yaml", source, *sections)
    assert call("train", "--config", config, "--run", place / "run") == 0
    return place / "run"


@pytest.fixture(scope="module", params=MODELS)
def model(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def learned(model: str, sources: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on the predictable source; tests must not change it."""
    return trained(tmp_path_factory.mktemp(model), sources["made"], MODELS[model], {"training": {"epochs": 3}})


@pytest.fixture(scope="module")
def noisy(model: str, sources: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on the random source that saves after every block; tests must not change it."""
    return trained(tmp_path_factory.mktemp(model), sources["noise"], MODELS[model], {"training": {"save_every": 0}})


@pytest.fixture(scope="module")
def one(sources: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one of the models, for what does not depend on which."""
    return trained(tmp_path_factory.mktemp("one"), sources["made"], MODELS["triplet"])


@pytest.fixture(scope="module")
def shop(one: Path) -> Shop:
    return Shop.load(one)


def opened(run: Path) -> Retrieval:
    found = runs.open_run(run)
    dataset = open_dataset(found.config.data.path)
    assert isinstance(dataset, RowsDataset)
    return Retrieval.open(found.config, dataset)


def evaluator_of(run: Path, split: str) -> tuple[Judge, dict[str, Any], str]:
    data, (_, made, weights, which) = opened(run), load_run(run)
    config = runs.open_run(run).config.evaluation
    return Judge(made, data, getattr(data.splits, split), config), weights, which


def evaluated(run: Path) -> dict[str, Any]:
    assert call("evaluate", "--run", run) == 0
    return json.loads((run / "eval-test.json").read_text())


def raw(evaluator: Judge, query: int) -> int:
    """The number of the customer of a query."""
    return int(evaluator.queries.users[query]) - 1


# ---- what is learned -------------------------------------------------------------------------------------------------


def test_a_predictable_source_is_learned(learned: Path) -> None:
    """For customers of whom training has no row: five products are right, of which they have two."""
    result = evaluated(learned)
    assert result["targets"] == EACH * USERS // 4 and result["checkpoint"] == "best"
    assert result["chance"]["hit_rate@3"] == pytest.approx(3 / (ITEMS - EACH + 1))
    assert result["hit_rate@3"] > 0.9, "the optimum is 1"
    assert 0.25 < result["mrr@3"] < 0.75, "and of three that are right any may be first: 11 / 18"


def test_a_random_source_stays_at_chance(noisy: Path) -> None:
    result = evaluated(noisy)
    chance = 3 / (ITEMS - EACH + 1)
    assert abs(result["hit_rate@3"] - chance) < 3.5 * np.sqrt(chance * (1 - chance) / result["targets"])
    data = opened(noisy)
    users = [set(data.rows.users[part].tolist()) for part in data.splits]
    assert not users[0] & users[2] and not users[0] & users[1] and len(users[2]) == USERS // 4


# ---- saved, loaded, resumed ------------------------------------------------------------------------------------------


def test_what_is_loaded_scores_like_what_was_trained(learned: Path) -> None:
    """The best checkpoint gives the metrics that validation wrote of it; the latest, those in memory at the end."""
    evaluator, weights, which = evaluator_of(learned, "validation")
    written = [line for line in same_metrics(learned) if line["kind"] == "validation"]
    best = max(written, key=lambda line: line["hit_rate@3"])
    assert which == "best" and evaluator(weights, [3]).metrics.items() <= best.items()
    state, _ = load_state(learned)
    assert evaluator(state.weights(), [3]).metrics.items() <= written[-1].items()


def test_resuming_is_bit_identical(noisy: Path, model: str, tmp_path: Path) -> None:
    """From a checkpoint within an epoch: index, batch statistics, averages, drawn negatives and unknown values."""
    reference, resumed = noisy, tmp_path / "resumed"
    inner, final = steps_of(reference)
    shutil.copytree(reference, resumed, ignore=shutil.ignore_patterns("item_vectors.npz"))
    shutil.rmtree(resumed / "state" / "latest" / str(final))
    state, position = load_state(resumed)
    assert (int(state.step), position["epoch"]) == (inner, 1) and position["block"] > 0
    assert set(state.carry) == {"statistics"} | ({"near", "steps"} if model == "triplet" else set())
    if model == "triplet":
        assert int(state.carry["steps"]) == inner and state.carry["near"].max() > 0
        assert state.average is not None
        assert np.abs(state.carry["statistics"]["user"]["BatchNorm_0"]["mean"]).max() > 0
    assert call("train", "--config", resumed / "config.yaml", "--run", resumed, "--resume") == 0
    (state, position), (expected, expected_position) = load_state(resumed), load_state(reference)
    assert_same_arrays(state, expected)
    for entries in (position, expected_position):
        del entries["seconds"], entries["metrics_bytes"]
    assert position == expected_position
    assert same_metrics(resumed) == same_metrics(reference)
    assert steps_of(resumed, "best") == steps_of(reference, "best")
    ours, theirs = (np.load(run / "item_vectors.npz") for run in (resumed, reference))
    assert np.array_equal(ours["vectors"], theirs["vectors"]) and ours["checkpoint"] == theirs["checkpoint"]


def test_passes_are_epochs_without_a_pause(sources: dict[str, Path], one: Path, tmp_path: Path) -> None:
    """Two epochs of four passes end as four epochs of two do."""
    more = trained(tmp_path, sources["made"], MODELS["triplet"], {"training": {"epochs": 4, "passes": 2}})
    (ours, position), (theirs, _) = load_state(more), load_state(one)
    assert int(ours.step) == 8 * 12 and position["epoch"] == 4
    assert_same_arrays(ours, theirs)


# ---- evaluated -------------------------------------------------------------------------------------------------------


def test_evaluation_does_not_depend_on_what_is_asked_together(learned: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    evaluator, weights, _ = evaluator_of(learned, "test")
    queries, items = (np.asarray(one) for one in evaluator.vectors(weights))
    ranks, top = evaluator(weights, [5], 5).arrays.values()
    monkeypatch.setattr(retrieval_evaluation, "MOST_QUERIES", 50)
    again, _, _ = evaluator_of(learned, "test")
    assert again.blocks == 4
    in_parts, best = again(weights, [5], 5).arrays.values()
    np.testing.assert_array_equal(in_parts, ranks)
    np.testing.assert_array_equal(best, top)
    made, asked = load_run(learned).model, evaluator.queries
    alone = jax.jit(made.encode, static_argnums=0)("user", weights, asked.columns[:7], asked.numbers[:7])
    np.testing.assert_allclose(alone, queries[:7], rtol=1e-4, atol=1e-6)
    for query in range(0, len(ranks), 29):  # by sets, from the same vectors
        user, own = raw(evaluator, query), int(asked.items[query])
        others = {int(code) + 1 for code in bought(True)[user]} - {own}
        scores = items @ queries[query]
        assert ranks[query] == 1 + sum(scores[i] >= scores[own] for i in range(1, ITEMS + 1) if i not in others | {own})
        assert not others & set(top[query].tolist())


# ---- recommended -----------------------------------------------------------------------------------------------------


def test_customers_whom_nobody_has_seen(learned: Path) -> None:
    """From a profile alone, in raw values; what they like is of their kind, and scores are from 0 to 1."""
    shop, right = Shop.load(learned), 0
    for user in range(8):
        profile = {"age": age(user), "skin": SKINS[skin(user)]}
        found = shop.recommend(profile, k=5)
        assert [one.score for one in found] == sorted((one.score for one in found), reverse=True)
        assert 0 <= found[-1].score <= found[0].score <= 1
        assert all(one.known == {"name": f"Thing {int(one.item[1:])}"} for one in found)
        right += sum(kind(int(one.item[1:])) == group(user) for one in found)
    assert right > 0.8 * 8 * 5


def test_scores_are_those_of_evaluation(learned: Path) -> None:
    """For customers of the data, by their ids."""
    shop = Shop.load(learned)
    evaluator, weights, _ = evaluator_of(learned, "test")
    queries, items = (np.asarray(one) for one in evaluator.vectors(weights))
    for query in range(0, 160, 40):
        found = shop.recommend(user=customer(raw(evaluator, query)), k=ITEMS, exclude_seen=False)
        assert sorted(one.item for one in found) == [product(i) for i in range(ITEMS)]
        expected = (1 + items @ queries[query]) / 2
        for one in found:
            assert one.score == pytest.approx(expected[int(one.item[1:]) + 1], abs=1e-5)


def test_what_is_left_out(shop: Shop) -> None:
    user = 5
    liked = {product(i) for i in bought(True)[user]}
    own = liked | {product(user * 7 + 3)}  # which had 2 stars
    everything = [product(i) for i in range(ITEMS)]
    fresh = [one.item for one in shop.recommend(user=customer(user), k=ITEMS)]
    assert sorted(fresh) == sorted(set(everything) - own), "all that was rated"
    others = [one.item for one in shop.recommend(user=customer(user), seen="positives", k=ITEMS)]
    assert sorted(others) == sorted(set(everything) - liked) != sorted(fresh), "what was liked"
    assert [one.item for one in shop.recommend(user=str(customer(user)), k=ITEMS)] == fresh, "text or number: one id"
    assert [
        one.item for one in shop.recommend(user=customer(user), purchased=fresh[:2], exclude=[fresh[2]], k=3)
    ] == fresh[3:6]
    profile = {"skin": "dry", "age": 25, "likes": ["spa", "gold"]}
    usual = [one.item for one in shop.recommend(profile, k=ITEMS)]
    assert sorted(usual) == everything
    assert [one.item for one in shop.recommend(profile, purchased=iter(usual[:4]), k=2)] == usual[4:6]
    assert shop.recommend(profile | {"likes": "spa|gold"}, k=ITEMS) == shop.recommend(profile, k=ITEMS)
    assert len(shop.recommend(profile, purchased=everything[:-1])) == 1
    with pytest.raises(UserError, match="--purchased, --exclude: they name all 40 items; nothing is left to recommend"):
        shop.recommend(profile, purchased=everything)
    assert [one.item for one in shop.recommend(user=customer(user), exclude_seen=False, k=ITEMS)] != fresh
    with pytest.raises(UserError, match=f"nothing is left to .* of 40 items; --include-seen allows {len(own)} items "
                                        "that the user has rated before$"):  # fmt: skip
        shop.recommend(user=customer(user), exclude=fresh)


def test_a_profile_wins_over_what_is_known(shop: Shop) -> None:
    user = 6
    plain = {one.item: one.score for one in shop.recommend(user=customer(user), k=ITEMS)}
    same = shop.recommend({"skin": SKINS[skin(user)], "age": age(user)}, user=customer(user), k=ITEMS)
    assert {one.item: one.score for one in same} == pytest.approx(plain, abs=1e-6)
    other = shop.recommend({"skin": SKINS[(skin(user) + 1) % 4]}, user=customer(user), k=ITEMS)
    assert {one.item: one.score for one in other} != pytest.approx(plain, abs=1e-3)


def test_similar_products_and_customers(shop: Shop) -> None:
    near = shop.similar_items(product(12), 4)
    assert product(12) not in {one.id for one in near} and all(kind(int(one.id[1:])) // 2 == 1 for one in near)
    assert [one.similarity for one in near] == sorted((one.similarity for one in near), reverse=True)
    assert near[0].similarity <= 1 + 1e-6 and near[0].known == {"name": f"Thing {int(near[0].id[1:])}"}
    assert len(shop.similar_items(product(12), 99)) == ITEMS - 1
    people = shop.similar_customers({"skin": "oily", "age": 25}, k=5)
    assert {one.known["persona"] for one in people} == {"Oily"}
    own = shop.similar_customers(user=customer(7), k=5)
    assert (
        customer(7) not in {one.id for one in own} and len(shop.similar_customers(user=customer(7), k=999)) == USERS - 1
    )


def test_new_products_without_training(one: Path, tmp_path: Path) -> None:
    """Through the products' tower: like others of the same fields; also from files."""
    shop = Shop.load(one)
    new = {"category": SKINS[1], "brand": BRANDS[1], "tags": TAGS_OF_17, "price": 2.0 + 3 * 17, "label": "x"}
    assert shop.add_items([{"product": "n1", **new}, {"product": 77, "price": 5}]) == ["n1", 77]
    assert shop.n_items == ITEMS + 2
    profile = {"skin": SKINS[1], "age": 22}
    found = {one.item: one for one in shop.recommend(profile, k=99)}
    assert set(found) == {*(product(i) for i in range(ITEMS)), "n1", 77}
    assert found["n1"].known == {"label": "x", **{name: new[name] for name in ("category", "brand", "tags", "price")}}
    (near,) = shop.similar_items("n1", 1)
    assert kind(int(str(near.id)[1:])) // 2 == kind(17) // 2, "an unseen id matters less than the fields"
    before = [one.score for one in Shop.load(one).recommend(profile, k=ITEMS)]
    assert [found[item].score for item in found if item not in ("n1", 77)] == pytest.approx(before, abs=1e-6)
    assert "77" not in {one.item for one in shop.recommend(profile, k=99, purchased=["77"])}
    assert 77 not in {one.item for one in shop.recommend(profile, k=99, exclude=[77])}
    rows = [{"product": "n1", **new}, {"product": "n2", "category": None, "tags": ["new"], "price": None}]
    (tmp_path / "a.json").write_text(json.dumps(rows))
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    lines = [
        "product,category,brand,tags,price",
        f"n1,{new['category']},{new['brand']},{'|'.join(TAGS_OF_17)},53",
        "n2,,,new,",
    ]
    (tmp_path / "a.csv").write_text("\n".join(lines) + "\n")
    scores = []
    for name in ("a.json", "a.parquet", "a.csv"):
        other = Shop.load(one)
        assert other.add_items(str(tmp_path / name)) == ["n1", "n2"]
        scores.append({one.item: one.score for one in other.recommend(profile, k=99)})
    assert scores[0] == pytest.approx(scores[1], abs=1e-6) and scores[0] == pytest.approx(scores[2], abs=1e-6)
    assert scores[0]["n1"] == pytest.approx(found["n1"].score, abs=1e-6)
    assert Shop.load(one).add_items([]) == []


TAGS_OF_17 = ["new", "soft"]


def test_new_products_of_unseen_values(shop: Shop) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UnknownValues)
        shop.add_items([{"product": "n8", "category": "garden", "tags": "new|odd|soft|big"}, {"product": 8, "tags": 9}])
    assert [str(warning.message) for warning in caught] == [
        "field 'category': training has not seen 'garden'; it counts as unknown",
        "new item 1: field 'tags': 4 values, the first 2 are read, as many as in the data",
        "field 'tags': training has not seen 'odd'; it counts as unknown",
        "field 'tags': training has not seen '9'; it counts as unknown",
    ]
    assert {"n8", 8} < {one.item for one in shop.recommend({"skin": "dry"}, k=99)}


def test_new_products_are_like_others_of_the_same_fields(learned: Path, model: str) -> None:
    """Where ids are not read they are the same."""
    shop = Shop.load(learned)
    shop.add_items([{"product": "n1", "category": SKINS[1], "brand": BRANDS[1], "tags": TAGS_OF_17, "price": 53}])
    found = {one.item: one.score for one in shop.recommend({"skin": SKINS[1], "age": 22}, k=99)}
    if model == "infonce":
        assert found["n1"] == pytest.approx(found[product(17)], abs=1e-6)
    assert found["n1"] > np.median(list(found.values()))
