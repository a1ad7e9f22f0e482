"""What all recommenders share: few shapes, and one rule for ids and values wherever they are read."""

from __future__ import annotations

import json
import warnings
from functools import partial
from pathlib import Path
from typing import Any, cast

import jax.numpy as jnp
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from event_data import random_weights
from helpers import Compilations, call, ranked, write_config
from tower_data import write_towers
from towers import random_weights as tower_weights

from jaxrec import Recommender
from jaxrec import config as configuration
from jaxrec.data.codes import UnknownValues
from jaxrec.data.dataset import open_dataset
from jaxrec.data.rows import Schema
from jaxrec.errors import UserError
from jaxrec.models.base import make_click_model, make_tower_model
from jaxrec.models.two_tower import TwoTower
from jaxrec.ops.topk import BlockSize, top_items
from jaxrec.run import Run, create_run
from jaxrec.tasks.base import make_task
from jaxrec.tasks.clicks.recommend import ClickRecommender
from jaxrec.tasks.retrieval.recommend import TowerRecommender
from jaxrec.tasks.vectors import batches, best, capacity, steps

BRANDS, FLAGS, CODES = ["001", "1", "010"], ["true", "false"], ["1.50", "2"]
TAGS = ["red", "big", "o'clock"]
USERS, ITEMS = 12, 30


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With ``data``: ids of users are integers, those of items text with leading zeros; tags stand between ``;``."""
    root = tmp_path_factory.mktemp("serving")
    lines = ["user,item,click,brand,flag,code,tags,price,age"]
    random = np.random.default_rng(0)
    for user in range(1, USERS + 1):
        for item in random.permutation(ITEMS)[:12]:
            label = int((user + item) % 3 == 0)
            cells = (user, f"{item:03}", label, BRANDS[item % 3], FLAGS[item % 2], CODES[item // 3 % 2],
                     ";".join(TAGS[: item % 3 + 1]), item / 2, 20 + user)  # fmt: skip
            lines.append(",".join(map(str, cells)))
    (root / "rows.csv").write_text("\n".join(lines) + "\n")
    words = ["--raw", root / "rows.csv", "--out", root / "data", "--label", "click", "--user", "user", "--item", "item"]
    words += ["--categorical", "brand", "flag", "code", "--bag", "tags", "--bag-separator", ";"]
    words += ["--numerical", "price", "age", "--item-fields", "brand", "flag", "code", "tags", "price"]
    assert call("prepare", "rows", *words, "--user-fields", "age") == 0
    return root


@pytest.fixture(scope="module")
def shop(place: Path) -> TowerRecommender:
    sections: dict[str, Any] = {"data": {"protocol": "rows", "test_fraction": 0.1, "validation_fraction": 0.1}}
    run = untrained(place / "towers", write_towers(place / "t.yaml", place / "data", sections))
    model = make_tower_model(run.config, Schema.from_manifest(run.manifest))
    given = tower_weights(cast(TwoTower, model))
    parts = {"params": given.params, "tables": given.tables, "statistics": given.statistics}
    return TowerRecommender(run, model, parts, "latest")


@pytest.fixture(scope="module")
def clicks(place: Path) -> ClickRecommender:
    config = write_config(
        place / "c.yaml", place / "data", evaluation={"k": [3]}, optimizer={"name": "adam"}, training={"metric": "auc"},
        model={"name": "autoint", "layers": None, "embedding_dim": 4, "blocks": 1},
        loss={"name": "binary", "n_sample": None},
    )  # fmt: skip
    run = untrained(place / "clicks", config)
    model = make_click_model(run.config, run.schema)
    return ClickRecommender(run, model, random_weights(model))


def untrained(path: Path, file: Path) -> Run:
    config = configuration.load(file)
    dataset = open_dataset(config.data.path)
    task = make_task(config, dataset)
    return create_run(path, config, dataset, False, task.kept, task.copied)


# ---- ids and values --------------------------------------------------------------------------------------------------

ITEM = {"item": "x1", "brand": "001", "flag": "true", "code": "1.50", "tags": ["red", "big"], "price": 3.5}
SPELLINGS: list[dict[str, Any]] = [
    {"brand": " 001 ", "flag": "TRUE", "tags": "red;big"},
    {"flag": True, "code": 1.5, "tags": "['red', 'big']"},
    {"flag": np.bool_(True), "code": np.float32(1.5), "tags": ("red", "big"), "price": np.float64(3.5)},
    {"tags": '["red", "big"]', "price": "3.5"},
    {"tags": np.array(["red", "big"]), "code": pa.scalar(1.5)},
    {"tags": "red;;big;", "brand": b"001"},
    {"tags": pd.Series(["red", None, "big"], index=[4, 2, 9]), "size": "only shown"},
]


def added(shop: TowerRecommender, rows: Any) -> list[list[float]]:
    """The vectors of new items, added to a shop like this one; nothing about them may be unknown."""
    other = TowerRecommender.__new__(TowerRecommender)
    other.__dict__ |= shop.__dict__ | {"_ids": list(shop._ids), "_known": dict(shop._known)}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        n = len(other.add_items(rows))
    return np.asarray(other._table)[other.n_items + 1 - n : other.n_items + 1].tolist()


@pytest.mark.parametrize("change", SPELLINGS, ids=str)
def test_values_of_new_items_in_any_form(shop: TowerRecommender, change: dict[str, Any]) -> None:
    (expected,), (found,) = added(shop, [ITEM]), added(shop, [ITEM | change])
    assert found == expected
    assert added(shop, [ITEM | {"brand": "1"}]) != [expected] != added(shop, [ITEM | {"flag": "false"}])


def test_values_of_new_items_in_files(shop: TowerRecommender, tmp_path: Path) -> None:
    """007 is not 7, whatever a reader of CSV makes of it; what is empty is unknown."""
    rows = [ITEM, ITEM | {"item": "0901", "brand": "010", "flag": "false", "tags": ["o'clock"], "price": None},
            {"item": "902", "brand": None, "flag": None, "code": "2", "tags": None, "price": 1.0}]  # fmt: skip
    expected = added(shop, rows)
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    (tmp_path / "a.json").write_text(json.dumps(rows))
    (tmp_path / "a.csv").write_text(
        "item,brand,flag,code,tags,price\nx1,001,TRUE,1.50,red;big,3.5\n0901,010,FALSE,1.50,o'clock,\n902,,,2,,1\n"
    )
    (tmp_path / "b.csv").write_text(
        "price,tags,item,code,flag,brand\n3.5,\"['red', 'big']\",x1,1.50,true,001\n"
        ',"[""o\'clock""]",0901,1.50,false,010\n'
        "1,[],902,2,,\n"
    )
    for name in ("a.parquet", "a.json", "a.csv", "b.csv"):
        assert added(shop, tmp_path / name) == expected, name
    for table in (pd.DataFrame(rows), pa.Table.from_pylist(rows)):
        assert added(shop, table) == expected


def test_a_brand_without_its_zeros_is_another(shop: TowerRecommender) -> None:
    with pytest.warns(
        UnknownValues, match=r"^field 'brand': training has not seen '01' \(did you mean '010'\?\); it counts"
    ):
        shop._codes.encode(shop._codes.field("brand"), "01")
    with pytest.warns(
        UnknownValues, match=r"^field 'tags': training has not seen 'rde' \(did you mean 'red'\?\); it coun"
    ):
        found = shop._codes.encode(shop._codes.field("tags"), "rde;red")
    assert found[0] == 0 and found[1] > 0


@pytest.mark.parametrize(
    "change", [{"brand": ["001"]}, {"flag": {"a": 1}}, {"tags": {"a": 1}}, {"tags": [["red"]]}, {"price": True},
               {"price": 1e30}, {"price": "dear"}, {"price": 10**400}, {"item": True}, {"item": None}, {"item": [1]}],
    ids=str,
)  # fmt: skip
def test_values_of_new_items_that_are_refused(shop: TowerRecommender, change: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=r"^new item 2: "):
        added(shop, [ITEM, ITEM | {"item": "x2"} | change])


@pytest.mark.parametrize("rows", ["no.csv", {"item": "x"}, ["item"], 5, None, [5]], ids=str)
def test_new_items_that_are_no_rows(shop: TowerRecommender, rows: Any) -> None:
    with pytest.raises(UserError, match=r"^(no\.csv: no such file|new item 1: found .*expected a list of mappings)"):
        added(shop, rows)


def test_filters_and_ids_follow_the_rule(clicks: ClickRecommender) -> None:
    def found(**where: Any) -> list[str]:
        return sorted(one.item for one in clicks.recommend(k=ITEMS, where=where))

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert found(brand="001") == [f"{item:03}" for item in range(0, ITEMS, 3)]
        assert found(brand="1") == found(brand=1) == found(brand=1.0) == [f"{item:03}" for item in range(1, ITEMS, 3)]
        assert (
            found(flag=True)
            == found(flag="True")
            == found(flag="true")
            == [f"{item:03}" for item in range(0, ITEMS, 2)]
        )
        assert found(code=1.5) == found(code="1.50") == [f"{item:03}" for item in range(ITEMS) if item // 3 % 2 == 0]
        assert found(tags="o'clock") == [f"{item:03}" for item in range(2, ITEMS, 3)]
        assert found(item="007") == ["007"]
        everything = {one.item for one in clicks.recommend(k=ITEMS)}
        for gone in (["007", " 010 "], ("007", "010"), {"007", "010"}, pd.Series(["007", "010"], index=[5, 4]),
                     iter(["007", "010"]), {"007": 1, "010": 2}.keys()):  # fmt: skip
            assert {one.item for one in clicks.recommend(k=ITEMS, exclude=gone)} == everything - {"007", "010"}
    with pytest.warns(UnknownValues, match=r"^exclude: 2 unknown items ignored: 7, 07$"):
        assert len(clicks.recommend(k=ITEMS, exclude=[7, "07"])) == ITEMS
    for value in ("01", 10, True, None, "tru"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with pytest.raises(UserError, match=r"^where: brand=.* leaves none of 30 items"):
                found(brand=value)
    with pytest.raises(UserError, match=r"item 7: unknown to this run; name one of its 30 items"):
        clicks.explain(7)


@pytest.mark.parametrize("user", [3, "3", 3.0, " 3 ", "3.0", np.int8(3), np.float32(3), pa.scalar(3), b"3"])
def test_users_in_any_form(clicks: ClickRecommender, shop: TowerRecommender, user: Any) -> None:
    for recommender in (clicks, shop):
        assert recommender.recommend(user=user, k=5) == recommender.recommend(user=3, k=5)
    assert clicks.rated(user) == clicks.rated(3) != []
    assert shop.similar_customers(user=user) == shop.similar_customers(user=3)


@pytest.mark.parametrize("user", ["003", True, "x", 99, 3.5])
def test_users_that_are_nobody(clicks: ClickRecommender, shop: TowerRecommender, user: Any) -> None:
    for recommender in (clicks, shop):
        with pytest.warns(UnknownValues, match=rf"^user {user} is .* and counts as somebody new$"):
            assert recommender.recommend(user=user, k=5) == recommender.recommend(k=5)


@pytest.mark.parametrize("several", [[1, 2], (1,), np.array([1, 2]), {1}, {1: 2}, pd.Series([1])], ids=str)
def test_several_customers_are_refused(shop: TowerRecommender, several: Any) -> None:
    for ask in (shop.recommend, shop.similar_customers):
        with pytest.raises(UserError, match=r"^user: found .*, expected one id; ask for one user at a time$"):
            ask(user=several)
        with pytest.raises(UserError, match=r"^profile: found .*, expected fields with their values"):
            ask(cast(Any, [{"age": 3}]))
    with pytest.raises(UserError, match=r"^item: found .*, expected a single value"):
        shop.similar_items(several)


# ---- shapes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [40, 16])
def test_a_padded_k_begins_as_the_smaller_one(width: int) -> None:
    """With many equal scores, also at the cut: the lower index first, whatever k is rounded up to."""
    random, n, count = np.random.default_rng(3), 40, 37
    queries, items = (random.integers(-1, 2, (rows, 3)).astype(np.float32) for rows in (4, n))
    items[count:] = 9  # padding, which would win
    banned = [random.integers(0, count, size) for size in (0, 1, 6)]  # the last query is padding

    def kernel(queries: Any, ban: Any, k: int) -> Any:
        return top_items(queries, jnp.asarray(items), ban, k, BlockSize(2, width), count)

    for k in range(1, n + 1):
        found = best(kernel, jnp.asarray(queries), n, banned, k)
        for query, gone, (places, scores) in zip(queries[:3], banned, found, strict=True):
            values = items[:count] @ query
            order = [item for item in np.argsort(-values, kind="stable") if item not in gone][:k]
            assert places.tolist() == order
            np.testing.assert_array_equal(scores, values[order])


def test_steps_and_batches() -> None:
    assert [steps(n, 16, 4) for n in (0, 1, 16, 17, 64, 65)] == [16, 16, 16, 64, 64, 256]
    assert [capacity(40, added) for added in (0, 1, 256, 257)] == [40, 296, 296, 1064]
    for n in (0, 1, 2, 16, 17, 64, 65, 256, 257, 300, 1000):
        for most in (1, 4, 256):
            parts = list(batches(n, most))
            assert [i for part, _ in parts for i in range(n)[part]] == list(range(n))
            assert {rows for _, rows in parts} <= {1, min(16, most), min(256, most)}
            assert all(part.stop - part.start <= rows for part, rows in parts)


def test_sessions_share_programs(run: Path) -> None:
    """Whatever their lengths, k, what is left out and the candidates; answers are those of other batches."""
    recommender, random = Recommender.load(run), np.random.default_rng(0)
    ask = partial(ranked, recommender, exclude=range(1, 9))
    together = {}
    for sessions in ([1], [[1], [2]]):
        ask(sessions, 5), ask(sessions, 50), ask(sessions, 5, only=[1, 2, 3])
    recommender.similar(1, 5), recommender.similar(1, 50)
    compiled = Compilations()
    for _ in range(40):
        items = [int(item) for item in random.integers(1, 101, int(random.integers(1, 17)))]
        k, gone = int(random.integers(1, 101)), random.integers(1, 101, random.integers(40)).tolist()
        together[tuple(items)] = ranked(recommender, items, k, exclude=gone)[0][0]
        ranked(recommender, items, k % 30 + 1, only=[*gone, 1])
        ranked(recommender, [items] * (k % 60 + 2), k)
        recommender.similar(items[0], k)
    assert compiled.count == 0 and len(set(together.values())) > 10


def test_customers_share_programs(shop: TowerRecommender) -> None:
    """Whatever they have, their k, and what is added: a program more where the table grows."""
    other = TowerRecommender.__new__(TowerRecommender)
    other.__dict__ |= shop.__dict__ | {"_ids": list(shop._ids), "_known": dict(shop._known)}
    items, random = [f"{item:03}" for item in range(ITEMS)], np.random.default_rng(0)

    def ask(n: int) -> int:
        compiled = Compilations()
        for _ in range(n):
            user, k = int(random.integers(1, USERS + 1)), int(random.integers(1, 60))
            gone = random.choice(items, random.integers(ITEMS - 1)).tolist()
            found = other.recommend(user=user, purchased=gone, k=k)
            assert not {one.item for one in found} & set(gone) and len(found) <= k
            other.recommend({"age": 20 + k}, exclude=gone, k=k, rules=False)
            other.similar_items(items[k % ITEMS], k)
            other.similar_customers(user=user, k=k)
        return compiled.count

    other.recommend(user=1), other.similar_customers(user=1)
    assert ask(15) == 0
    other.add_items([ITEM])
    other.recommend(user=1), other.recommend(user=1, k=50)
    for number in range(20):
        other.add_items([ITEM | {"item": f"n{number} {one}"} for one in range(number % 3)])
    assert ask(5) == 0 and other.n_items == ITEMS + 1 + sum(number % 3 for number in range(20))
    everything = other.recommend(k=999)
    assert len(everything) == other.n_items
    assert len({one.score for one in everything if str(one.item).startswith("n")}) == 1


def test_clicks_share_programs(clicks: ClickRecommender) -> None:
    clicks.recommend(), clicks.explain("001")
    compiled = Compilations()
    for number in range(1, ITEMS):
        items = [f"{item:03}" for item in range(number)]
        assert len(clicks.recommend(number % USERS + 1, k=number, exclude=items, exclude_seen=False)) <= number
        clicks.recommend(profile={"age": number}, k=number, where={"brand": BRANDS[number % 3]})
        clicks.explain(items[-1])
    assert compiled.count == 0
