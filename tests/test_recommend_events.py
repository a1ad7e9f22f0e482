"""``EventRecommender``: scores against the model itself, what may be recommended, what is refused."""

from __future__ import annotations

import copy
import json
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import jax.numpy as jnp
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from event_data import (
    MODEL,
    UNNAMED,
    fake_encoded,
    fake_find_model,
    make_event_data,
    make_run,
    random_weights,
    train_small,
    word_vectors,
)  # fmt: skip
from serving_requests import Compilations

from jaxrec.data.codes import UnknownValues
from jaxrec.data.dataset import Sessions
from jaxrec.data.items import open_catalogue
from jaxrec.errors import UserError
from jaxrec.feeds.base import Plan
from jaxrec.feeds.packed import target_positions
from jaxrec.models.merrec import MERRec
from jaxrec.run import open_run
from jaxrec.tasks.events import listings
from jaxrec.tasks.events.listings import SHOWN
from jaxrec.tasks.events.recommend import EventRecommender
from jaxrec.tasks.vectors import UnknownItems

Capsys = pytest.CaptureFixture[str]
VIEW, BUY = "item_view", "buy_comp"
HEADS = ("both", "text", "items")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("events")


@pytest.fixture(scope="module")
def event_run(place: Path) -> Path:
    """Both heads, on data that say when listings are live, trained by the command; tests must not change it."""
    return train_small(make_event_data(place / "live"), place / "both")


@pytest.fixture(scope="module")
def market(event_run: Path) -> EventRecommender:
    """Tests that add to it add to a copy."""
    return EventRecommender.load(event_run)


@pytest.fixture(scope="module")
def others(event_run: Path, place: Path) -> dict[str, EventRecommender]:
    """Of each head, with random weights."""
    return {head: untrained(make_run(place / "live", place / f"only-{head}", model={"head": head})) for head in HEADS}


@pytest.fixture(scope="module")
def always(place: Path) -> EventRecommender:
    """On data that do not say when listings are live, and in which some have no name; with random weights."""
    return untrained(make_run(make_event_data(place / "always", live=False), place / "all"))


def untrained(path: Path) -> EventRecommender:
    run = open_run(path)
    catalogue = open_catalogue(path / "dataset", run.manifest, run.config.model.item_fields)
    model = MERRec(run.config, catalogue, len(run.manifest["event_types"]))
    return EventRecommender(run, model, catalogue, random_weights(model))


def copied(market: EventRecommender) -> EventRecommender:
    """Another one, that can be added to."""
    other = copy.copy(market)
    other.listings = copy.copy(market.listings)
    return other


@pytest.fixture
def text_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """The text model of the vectors is there."""
    monkeypatch.setattr(listings, "find_model", fake_find_model)
    monkeypatch.setattr(listings, "encoded", fake_encoded)


def ids(found: list[Any]) -> list[Any]:
    return [one.item for one in found]


def scores(found: list[Any]) -> list[float]:
    return [one.score for one in found]


def sequences(market: EventRecommender, n: int = 8) -> list[list[dict[str, Any]]]:
    """Kept sequences without their last event."""
    found = [market.example(seed) for seed in range(n)]
    return [[{"item": one.item, "event": one.event} for one in sequence[:-1]] for sequence in found]


def all_scores(market: EventRecommender, events: Any, **options: Any) -> dict[Any, float]:
    """By raw id, of all that can be recommended."""
    found = market.recommend(events, len(market.listings), **options)
    assert (np.diff(scores(found)) <= 0).all() and len(set(ids(found))) == len(found)
    return dict(zip(ids(found), scores(found), strict=True))


def live_at(market: EventRecommender, time: int) -> np.ndarray:
    table = market.listings.attributes
    return (table["listed"].to_numpy() <= time) & (time < table["sold"].to_numpy())


# ---- scores ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("head", HEADS)
def test_scores_are_those_of_the_model_on_the_feed(others: dict[str, EventRecommender], head: str) -> None:
    market = others[head]
    run = open_run(market.run.path)
    items, times, offsets, events = (run.kept(f"example_{name}") for name in ("items", "times", "offsets", "events"))
    sessions = Sessions(items, times, offsets, events)
    model, weights, trained = market._model, market._weights, run.kept("item_counts") > 0
    feed = model.feed(sessions, Plan(128, 1, order="time", seed=0, device_bytes=2**30))
    where = target_positions(feed)
    queries = np.concatenate([np.asarray(model.encode(weights, model.known, block))[0] for block in feed.epoch(0)])
    expected = queries @ np.asarray(model.catalogue_vectors(weights, trained)).T
    vocabulary = market.listings.vocabulary.ids
    lengths = np.diff(offsets)
    chosen = [*range(6), int(np.argmax(lengths))]
    assert lengths.max() > model.window + 1, "one that is cut"
    for session in chosen:
        position = int(offsets[session + 1]) - 1  # its last event is the target
        (row,) = np.flatnonzero(where.reshape(-1) == position)
        given = [
            {"item": int(vocabulary[item]), "event": market.types[event]}
            for item, event in zip(items[offsets[session] : position], events[offsets[session] : position], strict=True)
        ]
        found = all_scores(market, given, at=int(times[position - 1]), exclude_bought=False)
        allowed = live_at(market, int(times[position - 1])) & (trained | (head != "items"))
        assert 10 < allowed.sum() < len(trained)
        assert set(found) == set(vocabulary[allowed].tolist())
        wanted = dict(zip(vocabulary.tolist(), expected[row].tolist(), strict=True))
        np.testing.assert_allclose(list(found.values()), [wanted[one] for one in found], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("head", HEADS)
def test_a_sequence_alone_and_among_others(others: dict[str, EventRecommender], head: str) -> None:
    market = others[head]
    given = sequences(market)
    together = market.recommend(given, k=15)
    assert len(together) == len(given) and len({len(events) for events in given}) > 2
    for events, found in zip(given, together, strict=True):
        alone = market.recommend(events, k=15)
        assert ids(alone) == ids(found)
        np.testing.assert_allclose(scores(alone), scores(found), rtol=1e-5, atol=1e-5)


def test_many_sequences_in_blocks(market: EventRecommender, monkeypatch: pytest.MonkeyPatch) -> None:
    given = sequences(market, 5)
    whole = market.recommend(given, k=3)
    monkeypatch.setattr(market, "_rows", lambda: 2)
    assert [ids(one) for one in market.recommend(given, k=3)] == [ids(one) for one in whole]


@pytest.mark.parametrize(("items", "rows"), [(1000, 256), (1024, 256), (1025, 128), (2**18, 1), (10**6, 1)])
def test_blocks_keep_to_the_memory(items: int, rows: int, market: EventRecommender) -> None:
    small = copied(market)
    evaluation = market.run.config.evaluation.model_copy(update={"memory": 1})
    small.run = replace(market.run, config=market.run.config.model_copy(update={"evaluation": evaluation}))
    small.listings = range(items)  # type: ignore[assignment]
    assert small._rows() == rows


def test_only_the_window_counts(others: dict[str, EventRecommender]) -> None:
    market = others["both"]
    window, some = market._model.window, sequences(market, 30)
    long = [event for sequence in some for event in sequence if event["event"] != BUY]
    last = market.recommend(long[-window:], k=5)
    assert market.recommend(long, k=5) == last
    changed = [*long[: -window - 1], {"item": long[0]["item"], "event": "item_like"}, *long[-window:]]
    assert market.recommend(changed, k=5) == last
    assert scores(market.recommend(long[-window + 1 :], k=5)) != scores(last)


def test_what_is_done_matters(others: dict[str, EventRecommender]) -> None:
    market = others["both"]
    item = sequences(market)[0][0]["item"]
    found = {event: scores(market.recommend([{"item": item, "event": event}], k=3)) for event in market.types}
    assert len({tuple(values) for values in found.values()}) == len(market.types) == 6


# ---- who can be recommended ------------------------------------------------------------------------------------------


def test_filters_are_masks(others: dict[str, EventRecommender]) -> None:
    market = others["both"]
    events, table = sequences(market)[0], market.listings.attributes
    time = int(market.run.kept("example_times").max())
    category = table["c0_name"][0].as_py()
    price, same = table["price"].to_numpy(), np.array([name == category for name in table["c0_name"].to_pylist()])
    everything = all_scores(market, events)
    assert everything == all_scores(market, events, at=time), "the default"
    mask = live_at(market, time) & (price <= 60) & same
    found = all_scores(market, events, where=f"price <= 60 and c0_name = '{category}'")
    assert 0 < mask.sum() < live_at(market, time).sum()
    assert list(found) == [item for item in everything if item in set(market.listings.vocabulary.ids[mask].tolist())]
    assert found == {item: everything[item] for item in found}
    with pytest.warns(UnknownItems, match="^exclude: 1 unknown item ignored: -5$"):
        without = all_scores(market, events, exclude=[*list(everything)[:3], str(list(everything)[3]), -5])
    assert list(without) == list(everything)[4:]
    assert len(market.recommend(events, k=20, where=f"price <= 60 and c0_name = '{category}'")) == min(20, len(found))


def test_times(others: dict[str, EventRecommender]) -> None:
    market = others["text"]
    events, first = sequences(market)[0], int(market.listings.attributes["listed"].to_numpy().min())
    day = np.datetime64(first, "ms").astype("datetime64[D]") + 1
    expected = live_at(market, int(day.astype("datetime64[ms]").astype(int)))
    for at in (str(day), f"{day} 00:00", f"{day}T00:00:00Z", f"{day} 02:00+02:00"):
        assert set(all_scores(market, events, at=at)) == set(market.listings.vocabulary.ids[expected].tolist())
    refused(r"--at yesterday: no time; give one such as 2023-05-31", market.recommend, events, at="yesterday")
    refused(r"no listing is live at 1999-01-01 00:00:00; the data have some from 2023-0.* to 2023-",
            market.recommend, events, at="1999-01-01")  # fmt: skip


def test_bought_items_are_left_out(others: dict[str, EventRecommender]) -> None:
    market = others["both"]
    item = market.recommend([{"item": sequences(market)[0][0]["item"], "event": VIEW}], k=1)[0].item
    for several in (False, True):
        bought = [{"item": item, "event": BUY}, *[{"item": item, "event": VIEW}] * 20]
        viewed = [{"item": str(item), "event": VIEW}] * 20
        found = [all_scores(market, one) for one in (bought, viewed)]
        if several:
            answers = market.recommend([bought, viewed], k=len(market.listings))
            found = [dict(zip(ids(one), scores(one), strict=True)) for one in answers]
        assert item not in found[0] and item in found[1]
        assert found[0].keys() == found[1].keys() - {item}
    assert item in all_scores(market, bought, exclude_bought=False)


def test_what_is_known_of_items(market: EventRecommender) -> None:
    rows = {row["item"]: row for row in pa.Table.to_pylist(
        market.listings.attributes.select(SHOWN).append_column("item", pa.array(market.listings.vocabulary.ids))
    )}  # fmt: skip
    for one in market.recommend(sequences(market)[0]):
        assert {"item": one.item} | one.known == rows[one.item]
        assert type(one.item) is int and type(one.score) is float


def test_without_times_and_with_items_without_names(always: EventRecommender) -> None:
    assert not always.listings.live
    events = sequences(always)[0]
    found = all_scores(always, events)
    assert set(found) == set(always.listings.vocabulary.ids.tolist())
    unnamed = [item for item in found if item % UNNAMED == 0]
    assert unnamed
    assert always.listings.known(always.listings.find(unnamed[:1]))[0]["name"] == ""
    assert len(always.recommend([{"item": unnamed[0], "event": VIEW}], k=3)) == 3
    refused("--at: the run's data do not say when listings are live", always.recommend, events, at="2023-05-05")
    refused(f"item {unnamed[0]}: has no name, so none is like it", always.similar_items, unnamed[0])
    assert set(unnamed).isdisjoint(ids(always.similar_items(events[0]["item"], len(found))))


def test_examples(market: EventRecommender) -> None:
    assert market.example(4) == market.example(4)
    assert len({tuple(ids(market.example(seed))) for seed in range(5)}) > 1
    offsets = market.run.kept("example_offsets")
    lengths = {len(market.example()) for _ in range(20)}
    assert lengths <= set(np.diff(offsets).tolist())


# ---- unknown items ---------------------------------------------------------------------------------------------------


def test_unknown_items_by_name(others: dict[str, EventRecommender], monkeypatch: pytest.MonkeyPatch) -> None:
    market = others["both"]
    event = sequences(market)[0][0]
    row = market.listings.attributes.slice(int(market.listings.find([event["item"]])[0]), 1).to_pylist()[0]
    assert row["c0_id"] is not None and row["price"] is not None
    stranger = {"item": -7, "event": event["event"], "name": f" {row['name']} ", "c0_id": row["c0_id"],
                "price": row["price"], "brand_name": None}  # fmt: skip
    known = market.recommend([event], k=5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert market.recommend([stranger], k=5) == known, "a name of the data needs no text model"
        del stranger["item"]
        assert market.recommend([stranger], k=5) == known
        assert scores(market.recommend([{"name": row["name"], "event": VIEW}], k=5)) != scores(known)
    asked: list[Any] = []

    def find(model: str, update: Callable[..., None]) -> tuple[Path, str]:
        asked.append(model)
        return fake_find_model(model, update)

    monkeypatch.setattr(listings, "find_model", find)
    monkeypatch.setattr(listings, "encoded", fake_encoded)
    words = row["name"].split()
    turned = {"name": " ".join(words[::-1]), "event": event["event"], "c0_id": row["c0_id"], "price": row["price"]}
    assert words[::-1] != words and ids(market.recommend([turned], k=5)) == ids(known)  # the same words
    assert asked == [MODEL]


def test_unknown_items_without_a_name(market: EventRecommender) -> None:
    events = sequences(market)[0]
    with pytest.warns(UnknownItems, match=r"^2 unknown items without a 'name' left out: -5, x$") as caught:
        found = market.recommend([{"item": -5, "event": VIEW}, *events, {"item": "x", "event": BUY}], k=5)
    assert caught[0].filename == __file__
    assert found == market.recommend(events, k=5)
    counts = market.run.kept("item_counts")
    live = live_at(market, market.listings.time(None))
    text = "^unknown item without a 'name' in 1 of 3 sequences left out: -5; of sequences 1, 3 of 3 nothing is there"
    with pytest.warns(UnknownItems, match=text) as caught:
        popular, same, empty = market.recommend([[{"item": -5, "event": VIEW}], events, []], k=7)
    assert len(caught) == 1 and empty == popular
    with pytest.warns(UnknownItems, match="^unknown item .* -5; nothing else is there, so the most popular items are"):
        assert market.recommend([{"item": -5, "event": VIEW}], k=7) == popular
    assert ids(same) == ids(market.recommend(events, k=7))
    assert scores(popular) == np.sort(counts[live])[::-1][:7].tolist()
    assert [int(counts[market.listings.find([one.item])[0]]) for one in popular] == scores(popular)
    with pytest.warns(UnknownItems):
        rest = market.recommend([{"item": -5, "event": VIEW}], k=6, exclude=[popular[0].item])
    assert ids(rest) == ids(popular)[1:]


def test_sequences_in_any_form(market: EventRecommender) -> None:
    """And ids in any form that is theirs."""
    events, other = sequences(market)[:2]
    expected = market.recommend([events, other], k=5)
    forms: list[Any] = [
        tuple(events), np.array(events), pd.Series(events, index=range(7, 7 + len(events))), pa.array(events),
        (event for event in events), [event | {"item": float(event["item"])} for event in events],
        [event | {"item": f" {event['item']}.0"} for event in events],
    ]  # fmt: skip
    for form in forms:
        assert market.recommend(form, k=5) == market.recommend(events, k=5)
    for several in ((events, other), pd.Series([events, other], index=[3, 3]), iter([tuple(events), np.array(other)])):
        assert [ids(one) for one in market.recommend(several, k=5)] == [ids(one) for one in expected]
    with pytest.warns(UnknownItems, match="left out: 0"):
        market.recommend([events[0] | {"item": f"0{events[0]['item']}"}, *events], k=5)


@pytest.mark.usefixtures("text_model")
def test_sequences_share_programs(others: dict[str, EventRecommender]) -> None:
    """Whatever their lengths, k, what is left out; and what is added, but for a program where the table grows."""
    market = copied(others["text"])
    all_ids, given = market.listings.vocabulary.ids, sequences(market, 8)

    def ask(number: int) -> None:
        events, k = given[number % 8], number % 32 + 1
        without = all_ids[:number].tolist()
        found = market.recommend(events[: number + 1], k, exclude=without, where=f"price >= {number % 3}")
        assert len(found) <= k and not set(ids(found)) & set(without)
        market.recommend(given[: number % 7 + 2], k, exclude_bought=bool(number % 2))
        market.similar_items(int(all_ids[number]), k)

    ask(1)
    compiled = Compilations()
    for number in range(2, 20):
        ask(number)
    assert compiled.count == 0
    market.add_items([{"item": 10**9, "name": "red ball"}])
    ask(1)
    compiled = Compilations()
    for number in range(2, 8):
        market.add_items([{"item": 10**9 + 10 * number + one, "name": "blue ball"} for one in range(number)])
        ask(number)
    assert compiled.count == 0
    assert len(market.listings) == len(all_ids) + 1 + sum(range(2, 8))


def test_values_that_no_item_has_are_noted(market: EventRecommender) -> None:
    events = sequences(market)[0]
    name = next(name for name in market.listings.attributes["c0_name"].to_pylist() if name)
    with pytest.warns(UnknownValues, match=rf"^where: no item has the c0_name '{name}x' \(did you mean '{name}'\?\)$"):
        found = market.recommend(events, k=5, where=f"price >= 0 or c0_name in ('{name}', '{name}x')")
    assert found == market.recommend(events, k=5, where="price >= 0")
    refused(rf"^where: .* leaves none of \d+ items: no item has the c0_name '{name}x' \(did you mean '{name}'\?\); ask",
            market.recommend, events, where=f"c0_name = '{name}x'")  # fmt: skip
    for where in (["price > 0"], 5, {"price": 1}):
        refused("^where: found .*; give a condition, such as", market.recommend, events, where=where)


@pytest.mark.parametrize(
    "at", [True, 1.5, 10**20, "99999999999999999999", [1], "5" * 500, np.float32(3)], ids=lambda at: f"{at!r:.20}"
)
def test_what_is_no_time(market: EventRecommender, at: Any) -> None:
    refused("^--at .*: no time; give one such as", market.recommend, sequences(market)[0], at=at)


def test_text_models_that_are_not_the_runs(event_run: Path, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    new = [{"name": "a name that nobody knows", "event": VIEW}]
    market = EventRecommender.load(event_run, str(place / "nowhere"))
    refused("the run's text model: .*nowhere: no such folder", market.recommend, new)
    monkeypatch.setattr(listings, "find_model", fake_find_model)
    monkeypatch.setattr(listings, "encoded", fake_encoded)
    other = EventRecommender.load(event_run, "another")
    refused(
        f"another: another text model than the run's: another, the run has {MODEL}; .* --model", other.recommend, new
    )

    def missing(model: str, update: Callable[..., None]) -> NoReturn:
        raise UserError(f"{model}: no such folder; give one")

    monkeypatch.setattr(listings, "find_model", missing)
    with_default = EventRecommender.load(event_run)
    refused(f"the run's text model: {MODEL}: no such folder; .*; or say with --model", with_default.recommend, new)


# ---- added listings --------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("text_model")
@pytest.mark.parametrize("head", ["both", "text"])
def test_added_listings_rank_as_unseen_ones_of_their_name(others: dict[str, EventRecommender], head: str) -> None:
    market = copied(others[head])
    events = sequences(market)[0]
    before = all_scores(market, events)
    counts = market.run.kept("item_counts")
    unseen = next(item for item in before if counts[market.listings.find([item])[0]] == 0)
    (known,) = market.listings.known(market.listings.find([unseen]))
    new = [{"item": 10**9, "name": known["name"]}, {"item_id": str(10**9 + 1), "name": "Words of its own", "price": 3}]
    assert market.add_items(new) == [10**9, 10**9 + 1]
    found = all_scores(market, events)
    assert found[10**9] == pytest.approx(found[unseen], rel=1e-5, abs=1e-5)
    assert {item: score for item, score in found.items() if item < 10**9} == pytest.approx(before, rel=1e-5, abs=1e-5)
    assert market.recommend(events, k=9, where="price = 3 and name like 'Words%'")[0].known["c0_name"] is None
    assert 10**9 not in all_scores(market, events, exclude=[10**9])
    # They can be what happened, too.
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        by_id = market.recommend([{"item": 10**9 + 1, "event": VIEW}], k=5)
        by_name = market.recommend([{"name": "Words of its own", "event": VIEW, "price": 3}], k=5)
    assert by_id == by_name
    assert 10**9 + 1 not in all_scores(market, [{"item": 10**9 + 1, "event": BUY}])
    assert ids(market.similar_items(10**9, 5))[0] in ids(market.similar_items(known["name"], 5))


@pytest.mark.usefixtures("text_model")
def test_files_of_listings(others: dict[str, EventRecommender], tmp_path: Path) -> None:
    given = [
        {"item": 10**9, "name": "red ball", "price": 5.5, "c0_id": 10, "c0_name": "Toys", "size_name": "10",
         "sold": None},
        {"item": 10**9 + 1, "name": "blue, 'big' ball", "price": None, "c0_id": None, "c0_name": None,
         "size_name": None, "sold": 5},
    ]  # fmt: skip
    table = pa.Table.from_pylist(given)
    pq.write_table(table, tmp_path / "new.parquet")
    pa.csv.write_csv(table, tmp_path / "new.csv")
    (tmp_path / "new.json").write_text(json.dumps(given))
    found = []
    for name in ("new.parquet", "new.csv", "new.json"):
        market = copied(others["text"])
        assert market.add_items(tmp_path / name) == [10**9, 10**9 + 1]
        listed = market.listings.attributes.slice(len(market.listings) - 2).to_pylist()
        for row, expected in zip(listed, given, strict=True):
            assert {name: row[name] for name in expected if name != "item"} == {
                name: value for name, value in expected.items() if name != "item"
            }
        found.append(all_scores(market, sequences(market)[0]))
    assert found[0] == found[1] == found[2]
    assert 10**9 in found[0] and 10**9 + 1 not in found[0], "sold long ago"


@pytest.mark.usefixtures("text_model")
def test_listings_that_are_refused(others: dict[str, EventRecommender], tmp_path: Path) -> None:
    market = copied(others["text"])
    there, good = sequences(market)[0][0]["item"], {"item": 10**9, "name": "x"}
    for rows, names in (
        ([], "none are given"),
        ([good, {"name": "x"}], "new item 2: no 'item'"),
        ([good, {"item": 10**9 + 1}], "new item 2: no 'name', by which it would be ranked"),
        ([good, {"item": 10**9 + 1, "name": "  "}], "new item 2: no 'name'"),
        ([good, {"item": 10**9 + 1, "name": 5}], "new item 2: name: found 5, expected text"),
        ([good, good], f"new item 2: item {10**9} is there already"),
        ([{"item": str(there), "name": "x"}], f"new item 1: item {there} is there already; leave it out"),
        ([{"item": {"a": 1}, "name": "x"}], "new item 1: item: found .'a': 1., expected an id"),
        ([{"item": "a7", "name": "x"}], "new item 1: item: found 'a7', expected a whole number, as the run's ids are"),
        ([good | {"price": "cheap"}], "new item 1: price: found 'cheap', expected a number"),
        ([good | {"brand_id": 1.5}], "new item 1: brand_id: found 1.5, expected a whole number"),
        ([good | {"c0_name": ["a"]}], r"new item 1: c0_name: found \['a'\], expected text"),
    ):
        refused(names, market.add_items, rows)
    (tmp_path / "new.json").write_text(json.dumps([good, {"item": 1}]))
    refused("new.json: row 2: no 'name'", market.add_items, tmp_path / "new.json")
    refused("gone.csv: no such file", market.add_items, tmp_path / "gone.csv")
    assert len(market.listings) == len(market.listings.vocabulary), "all or none"
    refused("model.head items ranks nothing but what it was trained on", others["items"].add_items, [good])
    with pytest.warns(UnknownValues, match="columns that are not used: Price, colour; there are name, price, c0_name"):
        market.add_items([good | {"Price": 3, "colour": "red"}])
    refused("new item 1: item 1000000000 is there already", market.add_items, [good])


# ---- similar items ---------------------------------------------------------------------------------------------------


def test_similar_by_name(others: dict[str, EventRecommender]) -> None:
    market = others["both"]
    names = market.listings.attributes["name"].to_pylist()
    projected = word_vectors(names).astype(jnp.bfloat16).astype(np.float32) @ np.asarray(
        market._weights["params"]["match"]
    )
    projected /= np.linalg.norm(projected, axis=1, keepdims=True)
    cosines = projected @ projected[11]
    vocabulary = market.listings.vocabulary.ids
    found = market.similar_items(int(vocabulary[11]), 30)
    assert int(vocabulary[11]) not in ids(found)
    np.testing.assert_allclose(scores(found), np.sort(np.delete(cosines, 11))[::-1][:30], atol=1e-5)
    np.testing.assert_allclose(scores(found), cosines[market.listings.find(ids(found))], atol=1e-5)
    by_name = market.similar_items(names[11], 31)
    assert int(vocabulary[11]) in ids(by_name) and by_name[0].score == pytest.approx(1)


def test_similar_by_the_item_head(others: dict[str, EventRecommender]) -> None:
    market = others["items"]
    rows = np.asarray(market._weights["tables"]["item"])[:, :-1]
    rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    trained = market.run.kept("item_counts") > 0
    cosines = np.where(trained, rows @ rows[3], -np.inf)
    cosines[3] = -np.inf
    vocabulary = market.listings.vocabulary.ids
    found = market.similar_items(int(vocabulary[3]), 25)
    assert ids(found) == vocabulary[np.argsort(-cosines)[:25]].tolist()
    np.testing.assert_allclose(scores(found), np.sort(cosines)[::-1][:25], atol=1e-5)
    assert len(market.similar_items(int(vocabulary[3]), len(vocabulary))) == trained.sum() - 1
    unseen = int(vocabulary[np.flatnonzero(~trained)[0]])
    refused(f"item {unseen}: not in training, and model.head items", market.similar_items, unseen)
    refused("item red ball: unknown to the run", market.similar_items, "red ball")


# ---- what is refused -------------------------------------------------------------------------------------------------


def refused(names: str, function: Callable[..., Any], *argv: Any, **options: Any) -> None:
    with pytest.raises(UserError, match=names) as caught:
        function(*argv, **options)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("events", "names"),
    [
        ({"item": 1}, "events: found {'item': 1}, expected a list, such as "),
        (5, "events: found 5, expected a list"),
        ([], "events: empty; give at least one, oldest first"),
        ([{"item": 1, "event": VIEW}, 7], "events: entry 2: found 7, expected an object, such as {"),
        ([{"event": VIEW}], "entry 1: neither 'item' nor 'name'; give one"),
        ([{"event": VIEW, "item": None, "name": " "}], "entry 1: neither 'item' nor 'name'"),
        ([{"item": 1}], "entry 1: event: found none, expected one of item_view, item_like, item_add_to_cart_tap, "
                        "offer_make, buy_start, buy_comp$"),
        ([{"item": 1, "event": "item_veiw"}], r"found 'item_veiw' \(did you mean 'item_view'\?\), expected one of"),
        ([{"item": 1, "event": 2}], "event: found 2"),
        ([{"item": {"a": 1}, "event": VIEW}], "entry 1: item: found {'a': 1}, expected an id, a whole number or text"),
        ([{"item": True, "event": VIEW}], "item: found True"),
        ([{"item": 1.5, "event": VIEW}], "item: found 1.5"),
        ([{"item": "", "event": VIEW}], "item: found ''"),
        ([{"item": 1, "event": VIEW, "prise": 2}], r"unknown field 'prise' \(did you mean 'price'\?\); there are item"),
        ([{"item": 1, "event": VIEW, "sold": 2}], "unknown field 'sold'"),
        ([{"name": 5, "event": VIEW}], "entry 1: name: found 5, expected text"),
        ([{"name": "a\ud800", "event": VIEW}], r"name: found 'a\\ud800', no valid Unicode"),
        ([{"name": "a", "event": VIEW, "price": "5"}], "price: found '5', expected a number"),
        ([{"name": "a", "event": VIEW, "price": True}], "price: found True, expected a number"),
        ([{"name": "a", "event": VIEW, "price": float("inf")}], "price: found inf, expected a number"),
        ([{"name": "a", "event": VIEW, "price": 10**400}], "price: found 1000.*…, expected a number"),
        ([{"name": "a", "event": VIEW, "c0_id": 1.5}], "c0_id: found 1.5, expected a whole number"),
        ([{"name": "a", "event": VIEW, "c0_id": 2**63}], "c0_id: found 9223372036854775808, expected"),
        ([{"name": "a", "event": VIEW, "c0_name": 3}], "c0_name: found 3, expected text"),
        (iter([]), "events: empty"),
        ([[{"item": 1, "event": VIEW}], 3], "events: sequence 2 of 2: found 3, expected a list"),
        ([[{"item": 1, "event": VIEW}], [{"item": 1}]], "events: sequence 2: entry 1: event: found none"),
        ([{"item": 10**5000, "event": VIEW}], "item: found a number of thousands of digits, expected an id"),
        ([{"item": [1], "event": VIEW}], r"item: found \[1\], expected an id"),
        ({VIEW}, "events: found {'item_view'}, expected a list"),
    ],
)  # fmt: skip
def test_events_that_are_refused(events: Any, names: str, others: dict[str, EventRecommender]) -> None:
    refused(names, others["text"].recommend, events)


def test_options_that_are_refused(others: dict[str, EventRecommender]) -> None:
    market = others["items"]
    events, n = sequences(market)[0], len(market.listings)
    for k in (0, -1, n + 1, True, 2.0):
        refused(f"k = {k}: expected 1 to {n}", market.recommend, events, k=k)
        refused(f"k = {k}: expected 1 to {n}", market.similar_items, events[0]["item"], k=k)
    refused(f"where: .*leaves none of {n} items", market.recommend, events, where="price < 0")
    refused("where: no attribute 'prise'", market.recommend, events, where="prise < 0")
    refused("where: .* ends too early", market.recommend, events, where="price <")
    live = live_at(market, market.listings.time(None))
    gone = market.listings.vocabulary.ids[~live]
    price = market.listings.attributes["price"].to_numpy()
    dear = next(value for value in np.unique(price[~live]) if value not in price[live])
    refused(r"where: leaves \d+ items, none of them live at 2023-", market.recommend, events, where=f"price = {dear}")
    left = market.listings.vocabulary.ids[live]
    assert len(gone) and len(left)
    refused("nothing is left to recommend", market.recommend, events, exclude=left)
    refused("item 7777777: none of the run's", others["text"].similar_items, 7777777)
    refused("item 7777777: none of the run's", others["text"].similar_items, "7777777")
