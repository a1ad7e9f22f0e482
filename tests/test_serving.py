"""What all recommenders share: few shapes, and one rule for ids and values wherever they are read."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers import Compilations, call, ranked, write_config
from tower_data import write_towers

from jaxrec import Query, Recommender
from jaxrec.errors import UserError
from jaxrec.ops.topk import BlockSize, top_items
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
def shop_run(place: Path) -> Path:
    sections: dict[str, Any] = {"data": {"protocol": "rows", "test_fraction": 0.1, "validation_fraction": 0.1},
                                "training": {"epochs": 1}}  # fmt: skip
    config = write_towers(place / "t.yaml", place / "data", sections)
    assert call("train", "--config", config, "--run", place / "towers") == 0
    return place / "towers"


@pytest.fixture(scope="module")
def shop(shop_run: Path) -> Recommender:
    return Recommender.load(shop_run)


@pytest.fixture(scope="module")
def clicks(place: Path) -> Recommender:
    config = write_config(
        place / "c.yaml", place / "data", evaluation={"k": [3]}, optimizer={"name": "adam"},
        training={"metric": "auc", "epochs": 1}, loss={"name": "binary", "n_sample": None},
        model={"name": "autoint", "layers": None, "embedding_dim": 4, "blocks": 1},
    )  # fmt: skip
    assert call("train", "--config", config, "--run", place / "clicks") == 0
    return Recommender.load(place / "clicks")


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


def vectors_of(rows: Any, run: Path) -> list[list[float]]:
    """The vectors of new items, added to the shop; nothing about them may be unknown."""
    shop = Recommender.load(run)
    added = shop.add(rows)
    assert not added.notes and len(added) > 0
    return np.stack(shop.vectors()["vector"].to_numpy())[-len(added) :].tolist()


@pytest.mark.parametrize("change", SPELLINGS, ids=str)
def test_values_of_new_items_in_any_form(shop_run: Path, change: dict[str, Any]) -> None:
    (expected,), (found,) = vectors_of([ITEM], shop_run), vectors_of([ITEM | change], shop_run)
    assert found == expected
    for other in ({"brand": "1"}, {"flag": "false"}):
        assert vectors_of([ITEM | other], shop_run) != [expected]


def test_values_of_new_items_in_files(shop_run: Path, tmp_path: Path) -> None:
    """007 is not 7, whatever a reader of CSV makes of it; what is empty is unknown."""
    rows = [ITEM, ITEM | {"item": "0901", "brand": "010", "flag": "false", "tags": ["o'clock"], "price": None},
            {"item": "902", "brand": None, "flag": None, "code": "2", "tags": None, "price": 1.0}]  # fmt: skip
    expected = vectors_of(rows, shop_run)
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
    names = ("a.parquet", "a.json", "a.csv", "b.csv")
    for given in (*(tmp_path / name for name in names), pd.DataFrame(rows), pa.Table.from_pylist(rows)):
        assert vectors_of(given, shop_run) == expected


@pytest.mark.parametrize(
    "change", [{"brand": ["001"]}, {"flag": {"a": 1}}, {"tags": {"a": 1}}, {"tags": [["red"]]}, {"price": True},
               {"price": 1e30}, {"price": "dear"}, {"price": 10**400}, {"item": True}, {"item": None}, {"item": [1]}],
    ids=str,
)  # fmt: skip
def test_values_of_new_items_that_are_refused(shop: Recommender, change: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=r"^new item 2: "):
        shop.add([ITEM, ITEM | {"item": "x2"} | change])


def test_filters_and_ids_follow_the_rule(clicks: Recommender) -> None:
    def ids(**options: Any) -> list[str]:
        answer = clicks.recommend(Query(), ITEMS, **options)
        assert not answer.notes
        return sorted(one.id for one in answer.items)

    everything = [f"{item:03}" for item in range(ITEMS)]
    for only, expected in {
        "brand=001": everything[::3], "brand = '1'": everything[1::3], "flag = 'true'": everything[::2],
        "code=1.50": [item for item in everything if int(item) // 3 % 2 == 0], "tags=o'clock": everything[2::3],
        "item = '007' or price = 2.5": ["005", "007"],
    }.items():  # fmt: skip
        assert ids(only=only) == expected, only
    for gone in (["007", " 010 "], ("007", "010"), {"007", "010"}, pd.Series(["007", "010"], index=[5, 4]),
                 iter(["007", "010"]), {"007": 1, "010": 2}.keys()):  # fmt: skip
        assert ids(exclude=gone) == sorted({*everything} - {"007", "010"})
    assert clicks.recommend(Query(), ITEMS, exclude=[7, "07"]).notes == ["exclude: 2 unknown items left out: 7, 07"]
    with pytest.raises(UserError, match=r"^where: 'brand=01' leaves none of 30 items: .*did you mean '010'"):
        ids(only="brand=01")


@pytest.mark.parametrize("user", [3, "3", 3.0, " 3 ", "3.0", np.int8(3), np.float32(3), pa.scalar(3), b"3"])
def test_users_in_any_form(clicks: Recommender, shop: Recommender, user: Any) -> None:
    for recommender in (clicks, shop):
        assert recommender.recommend(Query(user=user), 5) == recommender.recommend(Query(user=3), 5)


@pytest.mark.parametrize("user", ["003", True, "x", 99, 3.5])
def test_users_that_are_nobody(clicks: Recommender, shop: Recommender, user: Any) -> None:
    for recommender in (clicks, shop):
        found = recommender.recommend(Query(user=user), 5)
        assert found.items == recommender.recommend(Query(), 5).items
        assert found.notes[0] == f"user {user} is unknown to this run and counts as somebody new"


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


def test_customers_share_programs(shop_run: Path) -> None:
    """Whatever they have, their k, and what is added: a program more where the table grows."""
    shop, items, random = Recommender.load(shop_run), [f"{item:03}" for item in range(ITEMS)], np.random.default_rng(0)

    def ask(n: int) -> int:
        compiled = Compilations()
        for _ in range(n):
            user, k = int(random.integers(1, USERS + 1)), int(random.integers(1, ITEMS))
            gone = random.choice(items, random.integers(ITEMS - 1)).tolist()
            found = shop.recommend(Query(user=user, items=gone), k).items
            assert not {one.id for one in found} & set(gone) and len(found) <= k
            shop.recommend(Query(profile={"age": 20 + k}), k, exclude=gone, rules=False)
            shop.similar(items[k % ITEMS], k)
            shop.similar_users(Query(user=user), k)
        return compiled.count

    shop.recommend(Query(user=1)), shop.similar_users(Query(user=1))
    assert ask(15) == 0
    shop.add([ITEM])
    shop.recommend(Query(user=1)), shop.recommend(Query(user=1), 31)
    for number in range(20):
        shop.add([ITEM | {"item": f"n{number} {one}"} for one in range(number % 3)])
    assert ask(5) == 0 and shop.n_items == ITEMS + 1 + sum(number % 3 for number in range(20))
    everything = shop.recommend(Query(profile={"age": 30}), shop.n_items).items
    assert len(everything) == shop.n_items
    assert len({one.score for one in everything if one.id.startswith("n")}) == 1


def test_clicks_share_programs(clicks: Recommender) -> None:
    clicks.recommend(Query()), clicks.explain(Query(), "001")
    compiled = Compilations()
    for number in range(1, ITEMS):
        items = [f"{item:03}" for item in range(number)]
        assert len(clicks.recommend(Query(user=number % USERS + 1), number, exclude=items, seen=True).items) <= number
        clicks.recommend(Query(profile={"age": number}), number, only=f"brand = '{BRANDS[number % 3]}'")
        clicks.explain(Query(), items[-1])
    assert compiled.count == 0
