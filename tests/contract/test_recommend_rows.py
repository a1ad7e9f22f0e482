"""Recommending from runs of rows, click models and two towers: what is recommended, left out, unknown and explained."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers import Compilations, call
from worlds import Clicks, Shop, Worlds

from jaxrec import Query, Recommender, UserError
from jaxrec.data.dataset import open_dataset
from jaxrec.data.retrieval import Retrieval
from jaxrec.tasks.base import load
from jaxrec.tasks.clicks.task import known_rows, selected_rows

SAID = "category=oily +0.9 as skin=dry"
THINGS = [Clicks.sku(i) for i in range(Clicks.items)]
PRODUCTS = [Shop.product(i) for i in range(Shop.items)]


@pytest.fixture(scope="module")
def clicks(worlds: Worlds) -> Recommender:
    return Recommender.load(worlds.run("autoint"))


@pytest.fixture(scope="module")
def tower_run(worlds: Worlds) -> Path:
    return worlds.towers()


@pytest.fixture(scope="module")
def shop(tower_run: Path) -> Recommender:
    return Recommender.load(tower_run)


def ids(answer: Any) -> list[Any]:
    return [one.id for one in answer.items]


def scores(answer: Any) -> dict[Any, float]:
    return {one.id: one.score for one in answer.items}


# ---- what is recommended ---------------------------------------------------------------------------------------------


def test_click_probabilities_are_those_of_evaluation(worlds: Worlds, clicks: Recommender) -> None:
    """Of rows that are given with raw values, some unseen, and of a user's items."""
    run, model, weights, _ = load(worlds.run("autoint"))
    dataset: Any = open_dataset(run.config.data.path)
    rows, splits = selected_rows(run.config, dataset)
    test = rows.take(splits.test)
    known = known_rows(run.schema, test, run.kept("value_counts"))
    logits = np.asarray(model.logits(weights["params"], weights["tables"], known.columns, known.numbers), np.float64)
    expected, place = 1 / (1 + np.exp(-logits)), dataset.schema.slices()
    raw = pa.table({
        name: [dataset.values(name)[code - 1] for code in test.columns[:, place[name].start]]
        for name in ("user", "item", "device", "month")
    })  # fmt: skip
    assert {Clicks.rare_user, Clicks.rare_device} <= {*raw["user"].to_pylist(), *raw["device"].to_pylist()}
    np.testing.assert_allclose(clicks.score(raw), expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(clicks.score(raw.to_pylist()[:9]), expected[:9], rtol=1e-5, atol=1e-6)
    for row, probability in zip(raw.to_pylist()[:4], expected, strict=False):
        query = Query(user=row["user"], profile={"device": row["device"], "month": row["month"]})
        answer, explained = clicks.recommend(query, 24, seen=True), clicks.explain(query, row["item"])
        assert scores(answer)[row["item"]] == pytest.approx(probability, rel=1e-5)
        assert explained.probability == pytest.approx(probability, rel=1e-5)
        unseen = ["field 'device': training has not seen 'watch'; it counts as unknown"]
        assert answer.notes == explained.notes == unseen * (row["device"] == "watch")
    assert clicks.score(raw.slice(0, 0)).shape == (0,)
    for wrong, names in (({"age": "old"}, "row 1: field 'age': found 'old'"), ({"ages": 3}, "rows: no column is a")):
        with pytest.raises(UserError, match=f"^{names}"):
            clicks.score([wrong])


def test_tower_scores_are_those_of_evaluation(tower_run: Path, shop: Recommender) -> None:
    run, model, weights, _ = load(tower_run)
    data = Retrieval.open(run.config, open_dataset(run.config.data.path))  # type: ignore[arg-type]
    asked = data.queries(data.splits.test)
    queries, items = (np.asarray(model.encode(side, weights, one.columns, one.numbers))
                      for side, one in (("user", asked), ("item", data.catalogue)))  # fmt: skip
    for query in range(0, 120, 40):
        user = Query(user=Shop.customer(int(asked.users[query]) - 1))
        found = scores(shop.recommend(user, 40, seen=True, rules=False))
        expected = dict(zip(PRODUCTS, ((1 + items @ queries[query]) / 2)[1:].tolist(), strict=True))
        assert found == pytest.approx(expected, abs=1e-5)
    table = shop.vectors()
    assert table["id"].to_pylist() == PRODUCTS and {"name", "category", "vector"} <= set(table.column_names)
    np.testing.assert_allclose(np.stack(table["vector"].to_numpy()), items[1:], atol=1e-6)


# ---- what is left out ------------------------------------------------------------------------------------------------


def test_what_a_user_has_seen_is_left_out(worlds: Worlds, clicks: Recommender, shop: Recommender) -> None:
    rows: Any = open_dataset(worlds.data("clicks")).rows()  # type: ignore[union-attr]
    shown = {Clicks.sku(code - 1) for code in rows.columns[rows.users == 6, 1]}
    clicked = {Clicks.sku(code - 1) for code in rows.columns[(rows.users == 6) & (rows.labels > 0), 1]}
    assert clicked < shown < set(THINGS)
    rated = {*(Shop.product(i) for i in Shop.bought()[5]), Shop.product(5 * 7 + 3)}  # the last had 2 stars
    for r, user, every, left_out in ((clicks, 105, THINGS, clicked), (shop, 1005, PRODUCTS, rated)):
        for seen, gone in ((False, left_out), (True, set())):
            assert set(ids(r.recommend(Query(user=user), len(every), seen=seen))) == set(every) - gone
    usual = ids(shop.recommend(Query(profile={"skin": "dry"}), 40))
    assert ids(shop.recommend(Query(profile={"skin": "dry"}, items=usual[:4]), 2)) == usual[4:6]


# ---- what is unknown, and profiles -----------------------------------------------------------------------------------


def test_whoever_is_unknown_counts_as_somebody_new(clicks: Recommender, shop: Recommender) -> None:
    for user in ("0101", True, "x", 99.5):
        for recommender in (clicks, shop):
            found, new = recommender.recommend(Query(user=user), 24), recommender.recommend(Query(), 24)
            assert found.items == new.items and found.notes[0].startswith(f"user {user} is unknown to this run and")
    new = clicks.recommend(Query(), 24)
    assert sorted(ids(new)) == THINGS and not new.notes and not new.popular, "the occasion is known"
    strange = clicks.recommend(Query(profile={"group": "g7"}), 24)
    assert strange.notes == ["field 'group': training has not seen 'g7'; it counts as unknown"]
    assert strange.items == new.items
    assert clicks.recommend(Query(profile={"group": None, "age": float("nan")}), 24) == new
    popular = shop.recommend(Query(user="nobody", profile={"skin": None}), 40)
    counts = np.bincount(Shop.bought().reshape(-1), minlength=Shop.items)
    assert [one.score for one in popular.items] == sorted(counts.tolist(), reverse=True) and popular.popular
    assert all(counts[int(one.id[1:])] == one.score for one in popular.items)


def test_a_profile_wins_over_what_is_known(clicks: Recommender, shop: Recommender) -> None:
    own = clicks.explain(Query(user=103, at=date(2023, 12, 24)), "sku-003")
    other = clicks.explain(Query(user=103, profile={"group": "g1", "age": 33.0}, at="2023-12-24"), " sku-003 ")
    named = dict(zip(own.fields, zip(own.values, other.values, strict=True), strict=True))
    assert named.pop("group") == ("g0", "g1") and named.pop("age") == ("23", "33")
    assert {name: one for name, (one, two) in named.items() if one == two} == {
        "user": "103", "item": "sku-003", "kind": "k0", "tags": "red, big, old", "price": "4",
        "device": named["device"][0], "month": "12",
    }  # fmt: skip
    for weights in own.weights:
        assert weights.shape == (2, 9, 9)
        np.testing.assert_allclose(weights.sum(axis=-1), 1.0, atol=1e-5)
    plain = scores(shop.recommend(Query(user=1006), 30))
    same = Query(user=1006, profile={"skin": Shop.skin(6), "age": Shop.age(6), "likes": "|".join(Shop.likes[2])})
    assert scores(shop.recommend(same, 30)) == pytest.approx(plain, abs=1e-6)
    assert scores(shop.recommend(Query(user=1006, profile={"skin": "dry"}), 30)) != pytest.approx(plain, abs=1e-3)


def test_profiles_and_items_that_are_refused(clicks: Recommender, shop: Recommender) -> None:
    wrong: dict[str, Any] = {"age": "found ", "agee": "not one of a profile .did you mean 'age'", "tags": "not one of"}
    for name, value in (("age", "old"), ("age", [25]), ("agee", 5), ("tags", "x")):
        for recommender in (clicks, shop):
            with pytest.raises(UserError, match=f"^field '{name}': {wrong[name]}"):
                recommender.recommend(Query(profile={name: value}))
    for ask, item in ((lambda item: clicks.explain(Query(user=101), item), "sku-999"), (shop.similar, "soap")):
        with pytest.raises(UserError, match=f"^item {item}: unknown"):
            ask(item)


# ---- two towers alone ------------------------------------------------------------------------------------------------


def test_rules_move_what_they_name(shop: Recommender) -> None:
    for skin, by in (("dry", 0.9), ("normal", 0.0)):
        query = Query(profile={"skin": skin, "age": 30})
        plain, found = scores(shop.recommend(query, 40, rules=False)), shop.recommend(query, 40)
        assert [one.score for one in found.items] == sorted((one.score for one in found.items), reverse=True)
        for one in found.items:
            moved = by * (10 <= int(one.id[1:]) < 20)
            assert one.score == pytest.approx(plain[one.id] + moved, abs=1e-5)
            assert one.why == (SAID,) * bool(moved)


def test_similar_products_and_customers(shop: Recommender) -> None:
    near = shop.similar("p12", 4)
    assert "p12" not in ids(near) and {int(one[1:]) // 10 for one in ids(near)} == {1}
    assert 1 + 1e-6 >= near.items[0].score >= near.items[-1].score and len(shop.similar("p12", 40).items) == 39
    people = shop.similar_users(Query(profile={"skin": "oily", "age": 25}), 5)
    assert {one.known["persona"] for one in people.items} == {"Oily"}
    everybody = ids(shop.similar_users({"user": 1007}, 500))
    assert 1007 not in everybody and len(everybody) == Shop.users - 1


ENDS = ("csv", "parquet", "json")
NEW = {"category": "oily", "brand": "young brand", "tags": ["new", "soft"], "price": 53.0}


def test_new_products_without_training(tower_run: Path) -> None:
    """Through the products' tower: like others of the same fields, and they are filtered and found like others."""
    shop, query = Recommender.load(tower_run), Query(profile={"skin": "oily", "age": 22})
    before = scores(shop.recommend(query, 40))
    other = {"product": 77, "category": "garden", "tags": "new|odd|soft"}
    added = shop.add([{"product": "n1", **NEW, "label": "x"}, other])
    assert added == ["n1", 77] and shop.n_items == 42 and added.notes == [
        "field 'category': training has not seen 'garden'; it counts as unknown",
        "field 'tags': of 3 values the first 2 are read",
        "field 'tags': training has not seen 'odd'; it counts as unknown",
    ]  # fmt: skip
    found = {one.id: one for one in shop.recommend(query, 42).items}
    assert {item: one.score for item, one in found.items() if item in before} == pytest.approx(before, abs=1e-6)
    assert found["n1"].known == NEW | {"label": "x"} and found["n1"].score > np.median(list(before.values()))
    assert int(ids(shop.similar("n1", 1))[0][1:]) // 10 == 1
    for text, right in (("category = 'garden' or price = 53 and tags = 'soft'", {"n1", 77, "p17"}),
                        ("category = 'garden' or product = 'p03'", {77, "p03"})):  # fmt: skip
        assert set(ids(shop.recommend(query, 42, only=text))) == right
    assert 77 not in ids(shop.recommend(query, 42, exclude=[77]))
    assert shop.vectors()["id"].to_pylist()[-2:] == ["n1", "77"] and shop.add([]) == []
    compiled = Compilations()  # a program more where the table grows, and then no more
    for number in range(20):
        shop.add([{"product": f"n{number} {one}", **NEW} for one in range(number % 3)])
        shop.recommend(query, 5)
    assert compiled.count <= 2


def test_new_products_in_any_form(tower_run: Path, tmp_path: Path) -> None:
    """007 is not 7, whatever a reader of CSV makes of it; what is empty is unknown."""
    other = {"tags": "new|soft", "price": "53", "category": " oily ", "brand": b"young brand"}
    series, (csv, parquet, text) = {"tags": pd.Series(["new", None, "soft"])}, (tmp_path / f"a.{end}" for end in ENDS)
    forms: list[Callable[[list[Any]], Any]] = [
        list, pd.DataFrame, lambda rows: [rows[0] | other, rows[1]], lambda rows: [rows[0] | series, rows[1]],
        lambda rows: text.write_text(json.dumps(rows)) and text,
        lambda rows: pq.write_table(pa.Table.from_pylist(rows), parquet) or parquet,
        lambda rows: csv.write_text("product,category,brand,tags,price\n" + rows[0]["product"] + ",oily,young brand,"
                                    f"new|soft,53\n{rows[1]['product']},,,new,\n") and csv,
    ]  # fmt: skip
    shop, found = Recommender.load(tower_run), []
    for number, form in enumerate(forms):
        names = [f"00{number}", f"n{number}"]
        rows = [{"product": names[0], **NEW}, {"product": names[1], "category": None, "tags": ["new"], "price": None}]
        assert shop.add(form(rows)) == names
        found.append(np.stack(shop.vectors()["vector"].to_numpy())[-2:].tolist())
    assert all(one == found[0] for one in found) and found[0][0] != found[0][1]


# ---- the command -----------------------------------------------------------------------------------------------------


def test_the_command(capsys: pytest.CaptureFixture[str], worlds: Worlds, tmp_path: Path) -> None:
    def said(words: str, *more: object) -> tuple[Any, list[str]]:
        capsys.readouterr()
        assert call("recommend", "--run", run, *words.split(), *more, "--json") == 0
        out, err = capsys.readouterr()
        return json.loads(out), err.splitlines()

    run, picture, out = worlds.run("autoint"), tmp_path / "why.png", tmp_path / "scored.parquet"
    found, notes = said("--profile group=g1 --where tags=new kind=k1 --at 2023-12-03 --exclude x")
    assert notes == ["jaxrec: note: exclude: 1 unknown item left out: x"]
    right = {Clicks.sku(i) for i in range(24) if i % 4 in (0, 1) and Clicks.kind(i)}
    assert {row["item"] for row in found["recommendations"]} == right
    found, _ = said("--user 101 --explain sku-003 --out", picture)
    assert found.keys() == {"probability", "fields", "values", "weights"} and picture.read_bytes()[:4] == b"\x89PNG"
    pq.write_table(pa.table({"user": [101, 102], "item": ["sku-001", "sku-007"]}), tmp_path / "rows.parquet")
    assert call("recommend", "--run", run, "--score", tmp_path / "rows.parquet", "--out", out) == 0
    assert pq.read_table(out).column_names == ["user", "item", "probability"]
