"""Recommending from a run of events: scores against the model itself, live listings, filters, names, added listings."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

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
    word_vectors,
)
from helpers import call

from jaxrec import Answer, Query, Recommender, UserError
from jaxrec.data.catalogue import open_catalogue
from jaxrec.data.dataset import Sessions
from jaxrec.feeds.base import Plan
from jaxrec.feeds.packed import target_positions
from jaxrec.models.merrec import MERRec
from jaxrec.run import open_run
from jaxrec.tasks.events import listings
from jaxrec.tasks.events.recommend import EventRecommender

Events = list[dict[str, Any]]
VIEW, BUY = "item_view", "buy_comp"
HEADS = ("both", "text", "items")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("events")


@pytest.fixture(scope="module")
def markets(place: Path) -> dict[str, Recommender]:
    """Of each head, on data that say when listings are live, with random weights; tests that add add to a copy.

    ``always``: on data that do not say it, in which some have no name.
    """
    live, always = make_event_data(place / "live"), make_event_data(place / "always", live=False)
    runs = {head: make_run(live, place / head, model={"head": head}) for head in HEADS}
    return {name: untrained(run) for name, run in (runs | {"always": make_run(always, place / "all")}).items()}


@pytest.fixture(scope="module")
def market(markets: dict[str, Recommender]) -> Recommender:
    return markets["both"]


def untrained(path: Path) -> Recommender:
    run = open_run(path)
    catalogue = open_catalogue(path / "dataset", run.manifest, run.config.model.item_fields)
    model = MERRec(run.config, catalogue, len(run.manifest["event_types"]))
    return Recommender(run, EventRecommender(run, model, catalogue, random_weights(model)))


def copied(market: Recommender) -> Recommender:
    """Another one, that can be added to."""
    kind = copy.copy(market.kind)
    kind.listings = copy.copy(kind.listings)
    kind.listings.items = copy.deepcopy(kind.listings.items)
    return Recommender(market.run, kind)


@pytest.fixture
def text_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """The text model of the vectors is there."""
    monkeypatch.setattr(listings, "find_model", fake_find_model)
    monkeypatch.setattr(listings, "encoded", fake_encoded)


def ids(answer: Answer) -> list[Any]:
    return [one.id for one in answer.items]


def scores(answer: Answer) -> list[float]:
    return [one.score for one in answer.items]


def sequence(market: Recommender, seed: int = 0) -> Events:
    """A kept sequence without its last event."""
    return [{"item": one["item"], "event": one["event"]} for one in market.example(seed)[:-1]]


def all_scores(market: Recommender, events: Events, at: Any = None, **options: Any) -> dict[Any, float]:
    """By raw id, of all that can be recommended."""
    found = market.recommend(Query(events=events, at=at), market.n_items, **options)
    assert (np.diff(scores(found)) <= 0).all() and len(set(ids(found))) == len(found.items)
    return dict(zip(ids(found), scores(found), strict=True))


def raw_ids(market: Recommender) -> np.ndarray:
    return np.array(market.kind.listings.items.ids.values())


def known_ids(market: Recommender, mask: np.ndarray) -> set[int]:
    return set(raw_ids(market)[mask].tolist())


def live_at(market: Recommender, time: int) -> np.ndarray:
    table = market.kind.listings.items.attributes
    return (table["listed"].to_numpy() <= time) & (time < table["sold"].to_numpy())


# ---- scores ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("head", HEADS)
def test_scores_are_those_of_the_model_on_the_feed(markets: dict[str, Recommender], head: str) -> None:
    market, run = markets[head], markets[head].run
    items, times, offsets, events = (run.kept(f"example_{name}") for name in ("items", "times", "offsets", "events"))
    model, weights, trained = market.kind._model, market.kind._weights, run.kept("item_counts") > 0
    feed = model.feed(Sessions(items, times, offsets, events), Plan(128, 1, order="time", seed=0, device_bytes=2**30))
    where = target_positions(feed)
    queries = np.concatenate([np.asarray(model.encode(weights, model.known, block))[0] for block in feed.epoch(0)])
    expected = queries @ np.asarray(model.catalogue_vectors(weights, trained)).T
    vocabulary, lengths = raw_ids(market), np.diff(offsets)
    assert lengths.max() > model.window + 1, "one that is cut"
    asked, wanted = [], []
    for session in [*range(6), int(np.argmax(lengths))]:
        part = slice(int(offsets[session]), int(offsets[session + 1]) - 1)  # its last event is the target
        (row,) = np.flatnonzero(where.reshape(-1) == part.stop)
        given = [{"item": int(vocabulary[item]), "event": market.kind.types[event]}
                 for item, event in zip(items[part], events[part], strict=True)]  # fmt: skip
        time = int(times[part.stop - 1])
        asked.append(Query(events=given, at=time))
        allowed = live_at(market, time) & (trained | (head != "items"))
        assert 10 < allowed.sum() < len(trained)
        wanted.append(dict(zip(vocabulary[allowed].tolist(), expected[row][allowed].tolist(), strict=True)))
    for answer, right in zip(market.recommend(asked, market.n_items, seen=True), wanted, strict=True):
        assert set(ids(answer)) == set(right)
        np.testing.assert_allclose(scores(answer), [right[one] for one in ids(answer)], rtol=1e-4, atol=1e-4)


def test_blocks_keep_to_the_memory(market: Recommender, monkeypatch: pytest.MonkeyPatch) -> None:
    queries = [Query(events=sequence(market, seed)) for seed in range(5)]
    whole = market.recommend(queries, 3)
    with monkeypatch.context() as patch:
        patch.setattr(market.kind, "_rows", lambda: 2)
        assert list(map(ids, market.recommend(queries, 3))) == list(map(ids, whole))
    small = copied(market).kind
    evaluation = market.run.config.evaluation.model_copy(update={"memory": 1})
    small.run = small.run.__class__(
        market.run.path, market.run.config.model_copy(update={"evaluation": evaluation}), {}
    )
    for items, rows in ((1000, 256), (1024, 256), (1025, 128), (2**18, 1), (10**6, 1)):
        small.listings = range(items)
        assert small._rows() == rows


def test_only_the_window_counts_and_what_is_done_matters(market: Recommender) -> None:
    window = market.kind._model.window
    long = [event for seed in range(30) for event in sequence(market, seed) if event["event"] != BUY]
    last = all_scores(market, long[-window:])
    assert all_scores(market, long) == last != all_scores(market, long[-window + 1 :])
    item = sequence(market)[0]["item"]
    found = [tuple(all_scores(market, [{"item": item, "event": event}]).values()) for event in market.kind.types]
    assert len(set(found)) == len(market.kind.types) == 6


# ---- who can be recommended ------------------------------------------------------------------------------------------


def test_filters_and_times_are_masks(market: Recommender) -> None:
    events, table = sequence(market), market.kind.listings.items.attributes
    time, category = int(market.run.kept("example_times").max()), table["c0_name"][0].as_py()
    everything = all_scores(market, events)
    assert everything == all_scores(market, events, at=time), "the default"
    mask = live_at(market, time) & (table["price"].to_numpy() <= 60)
    mask &= np.array([name == category for name in table["c0_name"].to_pylist()])
    found = all_scores(market, events, only=f"price <= 60 and c0_name = '{category}'")
    assert 0 < mask.sum() < live_at(market, time).sum()
    assert found == {item: score for item, score in everything.items() if item in known_ids(market, mask)}
    day = np.datetime64(int(table["listed"].to_numpy().min()), "ms").astype("datetime64[D]") + 1
    expected = known_ids(market, live_at(market, int(day.astype("datetime64[ms]").astype(int))))
    for at in (str(day), f"{day} 00:00", f"{day}T00:00:00Z", f"{day} 02:00+02:00", day):
        assert set(all_scores(market, events, at=at)) == expected
    answers = market.recommend([Query(events=events, at=time), Query(events=events, at=str(day))], market.n_items)
    assert [len(one.items) for one in answers] == [len(everything), len(expected)]


def test_bought_items_are_left_out(market: Recommender) -> None:
    item = ids(market.recommend(Query(events=sequence(market)), 1))[0]
    bought = [{"item": item, "event": BUY}, *[{"item": item, "event": VIEW}] * 20]
    viewed = [{"item": str(item), "event": VIEW}] * 20
    found = [all_scores(market, one) for one in (bought, viewed)]
    assert item in found[1] and found[0].keys() == found[1].keys() - {item}
    assert item in all_scores(market, bought, seen=True)


def test_without_times_and_with_items_without_names(markets: dict[str, Recommender]) -> None:
    market = markets["always"]
    found = all_scores(market, sequence(market))
    assert len(found) == market.n_items and market.recommend(Query(events=sequence(market))).at is None
    unnamed = [item for item in found if item % UNNAMED == 0]
    assert len(market.recommend(Query(events=[{"item": unnamed[0], "event": VIEW}]), 3).items) == 3
    refused("at: the run's data do not say when listings are live", all_scores, market, [], at="2023-05-05")
    refused(f"item {unnamed[0]}: has no name, so none is like it", market.similar, unnamed[0])
    assert set(unnamed).isdisjoint(ids(market.similar(sequence(market)[0]["item"], len(found))))


def test_examples_and_what_is_known_of_items(market: Recommender) -> None:
    assert market.example(4) == market.example(4) != market.example(5)
    table = market.kind.listings.items.attributes.append_column("item", pa.array(raw_ids(market)))
    rows = {row["item"]: row for row in table.to_pylist()}
    answer = market.recommend(Query(events=sequence(market)))
    for one in answer.items:
        assert one.known == {name: rows[one.id][name] for name in listings.SHOWN} and type(one.id) is int
    vectors = market.vectors().to_pylist()
    assert vectors[7]["id"] == table["item"][7].as_py() and vectors[7]["name"] == table["name"][7].as_py()
    np.testing.assert_array_equal(vectors[7]["vector"], np.asarray(market.kind._items)[7])


# ---- unknown items ---------------------------------------------------------------------------------------------------


def test_unknown_items_by_name(market: Recommender, monkeypatch: pytest.MonkeyPatch) -> None:
    event = sequence(market)[0]
    row = market.kind.listings.items.attributes.slice(market.kind.listings.items.index(event["item"]), 1).to_pylist()[0]
    assert row["c0_id"] is not None and row["price"] is not None
    stranger = {"item": -7, "event": event["event"], "name": f" {row['name']} ", "c0_id": row["c0_id"],
                "price": row["price"], "brand_name": None}  # fmt: skip
    known = all_scores(market, [event])
    assert all_scores(market, [stranger]) == known, "a name of the data needs no text model"
    del stranger["item"]
    assert market.recommend(Query(events=[stranger])).notes == [] and all_scores(market, [stranger]) == known
    assert all_scores(market, [{"name": row["name"], "event": event["event"]}]) != known, "attributes matter"
    monkeypatch.setattr(listings, "find_model", fake_find_model)
    monkeypatch.setattr(listings, "encoded", fake_encoded)
    turned = stranger | {"name": " ".join(row["name"].split()[::-1])}
    assert turned["name"] != row["name"] and list(all_scores(market, [turned])) == list(known)  # the same words


def test_the_most_popular_of_what_is_live(market: Recommender) -> None:
    counts, live = market.run.kept("item_counts"), live_at(market, market.kind.listings.time(None))
    lost: Events = [{"item": -5, "event": VIEW}]
    answer = market.recommend(Query(events=lost), 7)
    assert answer.unknown == [-5] and scores(answer) == np.sort(counts[live])[::-1][:7].tolist()
    assert [int(counts[market.kind.listings.items.encode([one.id])[0]]) for one in answer.items] == scores(answer)
    assert ids(market.recommend(Query(events=lost), 6, exclude=[answer.items[0].id])) == ids(answer)[1:]


def test_sequences_in_any_form(market: Recommender) -> None:
    events = sequence(market)
    forms: list[Any] = [
        tuple(events), np.array(events), pd.Series(events, index=range(7, 7 + len(events))), pa.array(events),
        (event for event in events), [event | {"item": float(event["item"])} for event in events],
        [event | {"item": f" {event['item']}.0"} for event in events],
    ]  # fmt: skip
    for form in forms:
        assert market.recommend(Query(events=form)) == market.recommend(Query(events=events))


@pytest.mark.parametrize("at", [True, 10**20, "9" * 20, [1], "yesterday"], ids=str)
def test_what_is_no_time(market: Recommender, at: Any) -> None:
    refused("^at: found .*, no time; give one such as", market.recommend, {"at": at})


def test_text_models_that_are_not_the_runs(market: Recommender, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def asking(text_model: str) -> Callable[..., Any]:
        kind = market.kind
        other = EventRecommender(kind.run, kind._model, kind._catalogue, kind._weights, text_model)
        return lambda: other.listings.name_vectors(["a name that nobody knows"])

    refused("the run's text model: .*nowhere: no sentence-transformers model", asking(str(place / "nowhere")))
    monkeypatch.setattr(listings, "find_model", fake_find_model)
    monkeypatch.setattr(listings, "encoded", fake_encoded)
    refused(f"another: another text model than the run's: another, the run has {MODEL}; .* --model", asking("another"))


# ---- added listings --------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("text_model")
@pytest.mark.parametrize("head", ["both", "text"])
def test_added_listings_rank_as_unseen_ones_of_their_name(markets: dict[str, Recommender], head: str) -> None:
    market, counts = copied(markets[head]), markets[head].run.kept("item_counts")
    events, find = sequence(market), market.kind.listings.items.encode
    before = all_scores(market, events)
    unseen = next(item for item in before if counts[find([item])[0]] == 0)
    (known,) = market.kind.listings.known(find([unseen]))
    new = [{"item": 10**9, "name": known["name"]}, {"item_id": str(10**9 + 1), "name": "Words of its own", "price": 3}]
    assert market.add(new) == [10**9, 10**9 + 1]
    found = all_scores(market, events)
    assert found[10**9] == pytest.approx(found[unseen], rel=1e-5, abs=1e-5)
    assert {item: score for item, score in found.items() if item < 10**9} == pytest.approx(before, rel=1e-5, abs=1e-5)
    (one,) = market.recommend(Query(events=events), only="price = 3 and name like 'Words%'").items
    assert one.id == 10**9 + 1 and one.known["c0_name"] is None
    by_id, by_name = ({"item": 10**9 + 1, "event": VIEW}, {"name": "Words of its own", "event": VIEW, "price": 3})
    assert all_scores(market, [by_id]) == all_scores(market, [by_name]), "they can be what happened, too"
    assert 10**9 + 1 not in all_scores(market, [{"item": 10**9 + 1, "event": BUY}])
    assert ids(market.similar(10**9, 5))[0] in ids(market.similar(known["name"], 5))


@pytest.mark.usefixtures("text_model")
def test_files_of_listings(markets: dict[str, Recommender], tmp_path: Path) -> None:
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
        market = copied(markets["text"])
        assert market.add(str(tmp_path / name)) == [10**9, 10**9 + 1]
        listed = market.kind.listings.items.attributes.slice(market.n_items - 2).to_pylist()
        for row, right in zip(listed, given, strict=True):
            assert row | {"item": right["item"]} == row | right
        found.append(all_scores(market, sequence(market)))
    assert found[0] == found[1] == found[2]
    assert 10**9 in found[0] and 10**9 + 1 not in found[0], "sold long ago"


GOOD = {"item": 10**9, "name": "x"}
LISTINGS: list[tuple[Any, str]] = [
    ([], "none are given"),
    ([GOOD, {"name": "x"}], "new item 2: no 'item'"),
    ([GOOD, {"item": 10**9 + 1, "name": "  "}], "new item 2: no 'name', by which it would be ranked"),
    ([GOOD, {"item": 10**9 + 1, "name": 5}], "new item 2: name: found 5"),
    ([GOOD, GOOD], f"new item 2: '{10**9}' is there already"),
    ([{"item": "a7", "name": "x"}], "new item 1: item: found 'a7'"),
    ([GOOD | {"price": "cheap"}], "new item 1: price: found 'cheap'"),
    ([GOOD | {"brand_id": 1.5}], "new item 1: brand_id: found 1.5"),
    (
        [GOOD | {"Price": 3}],
        r"new items: no attribute 'Price' \(did you mean 'price'\?\); there are item, item_id, name",
    ),
    ("gone.csv", "gone.csv: cannot be read"),
]


@pytest.mark.usefixtures("text_model")
def test_listings_that_are_refused(markets: dict[str, Recommender]) -> None:
    market = copied(markets["text"])
    for rows, names in LISTINGS:
        refused(names, market.add, rows)
    assert market.n_items == markets["text"].n_items, "all or none"
    refused("model.head items ranks nothing but what it was trained on", markets["items"].add, [GOOD])


# ---- similar items ---------------------------------------------------------------------------------------------------


def test_similar_by_name(market: Recommender) -> None:
    names, vocabulary = market.kind.listings.items.attributes["name"].to_pylist(), raw_ids(market)
    vectors = word_vectors(names).astype(jnp.bfloat16).astype(np.float32)
    projected = vectors @ np.asarray(market.kind._weights["params"]["match"])
    projected /= np.linalg.norm(projected, axis=1, keepdims=True)
    cosines = projected @ projected[11]
    found = market.similar(int(vocabulary[11]), 30)
    assert int(vocabulary[11]) not in ids(found)
    np.testing.assert_allclose(scores(found), np.sort(np.delete(cosines, 11))[::-1][:30], atol=1e-5)
    np.testing.assert_allclose(scores(found), cosines[market.kind.listings.items.encode(ids(found))], atol=1e-5)
    by_name = market.similar(names[11], 31)
    assert int(vocabulary[11]) in ids(by_name) and by_name.items[0].score == pytest.approx(1)


def test_similar_by_the_item_head(markets: dict[str, Recommender]) -> None:
    market = markets["items"]
    rows = np.asarray(market.kind._weights["tables"]["item"])[:, :-1]
    rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    trained, vocabulary = market.run.kept("item_counts") > 0, raw_ids(market)
    cosines = np.where(trained, rows @ rows[3], -np.inf)
    cosines[3] = -np.inf
    found = market.similar(int(vocabulary[3]), 25)
    assert ids(found) == vocabulary[np.argsort(-cosines)[:25]].tolist()
    np.testing.assert_allclose(scores(found), np.sort(cosines)[::-1][:25], atol=1e-5)
    assert len(market.similar(int(vocabulary[3]), market.n_items).items) == trained.sum() - 1
    unseen = int(vocabulary[np.flatnonzero(~trained)[0]])
    refused(f"item {unseen}: not in training, and model.head items", market.similar, unseen)
    refused("item red ball: unknown to the run", market.similar, "red ball")


# ---- what is refused -------------------------------------------------------------------------------------------------


def refused(names: str, function: Callable[..., Any], *argv: Any, **options: Any) -> None:
    with pytest.raises(UserError, match=names):
        function(*argv, **options)


EVENTS: list[tuple[Any, str]] = [
    ({"item": 1}, "events: found {'item': 1}, expected a list"),
    (5, "events: found 5, expected a list"),
    ([{"item": 1, "event": VIEW}, 7], "events: entry 2: found 7; it should be a valid dictionary"),
    ([{"event": VIEW, "item": None, "name": " "}], "entry 1: neither 'item' nor 'name'"),
    ([{"item": 1}], "entry 1: no 'event'"),
    ([{"item": 1, "event": "item_veiw"}], r"found 'item_veiw' \(did you mean 'item_view'\?\); it should be"),
    ([{"item": {"a": 1}, "event": VIEW}], "entry 1: item: found {'a': 1}; expected an id, a whole number or text"),
    ([{"item": 1, "event": VIEW, "prise": 2}], r"unknown field 'prise' \(did you mean 'price'\?\); there are item"),
    ([{"item": 1, "event": VIEW, "sold": 2}], "unknown field 'sold'"),
    ([{"name": 5, "event": VIEW}], "entry 1: name: found 5; "),
    ([{"name": "a\ud800", "event": VIEW}], r"name: found 'a.ud800'; no valid Unicode"),
    ([{"name": "a", "event": VIEW, "price": float("inf")}], "price: found inf; it should be a finite number"),
    ([{"name": "a", "event": VIEW, "c0_id": 2**63}], "c0_id: found 9223372036854775808; it should be less"),
]  # fmt: skip


@pytest.mark.parametrize(("events", "names"), EVENTS)
def test_events_that_are_refused(events: Any, names: str, market: Recommender) -> None:
    refused(names, market.recommend, {"events": events})


def test_what_else_is_refused(markets: dict[str, Recommender]) -> None:
    market, events = markets["items"], sequence(markets["items"])
    n, live = market.n_items, live_at(market, market.kind.listings.time(None))
    refused(f"leaves none of {n} items", all_scores, market, events, only="price < 0")
    refused("no attribute 'prise'", all_scores, market, events, only="prise < 0")
    refused("only: none of them is known to the run", all_scores, market, events, only=["x"])
    price = market.kind.listings.items.attributes["price"].to_numpy()
    dear = next(value for value in np.unique(price[~live]) if value not in price[live])
    refused(r"only: leaves \d+ items, none of them live at 2023-", all_scores, market, events, only=f"price = {dear}")
    refused("no listing is live at 1999-01-01 00:00:00; the data have some from 2023-0.* to 2023-",
            all_scores, market, events, at="1999-01-01")  # fmt: skip
    refused("item 7777777: none of the run's", markets["text"].similar, "7777777")


# ---- the command -----------------------------------------------------------------------------------------------------


def test_the_command(
    market: Recommender, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(EventRecommender, "load", lambda run, **options: market.kind)

    def said(*words: object) -> str:
        capsys.readouterr()
        assert call("recommend", "--run", market.run.path, *words) == 0
        return capsys.readouterr().out

    shown = json.loads(said("--example", "--seed", 1, "--k", 3, "--json"))
    *past, last = market.example(1)
    assert (shown["events"], shown["next"], shown["at"]) == (past, last, past[-1]["time"])
    query = Query(events=[{"item": one["item"], "event": one["event"]} for one in past], at=shown["at"])
    assert [row["item"] for row in shown["recommendations"]] == ids(market.recommend(query, 3))
    text = said("--example", "--seed", 1, "--k", 3)
    assert "what came next (" in text and "recommended of what is live at 2023-" in text and str(last["item"]) in text
    (tmp_path / "events.json").write_text(json.dumps([{"item": -5, "event": VIEW}]))
    words = ["--events", tmp_path / "events.json", "--where", "price", ">=", 1, "--at", query.at]
    shown = json.loads(said(*words, "--json"))
    assert shown["unknown"] == [-5] and shown["popularity"] and len(shown["recommendations"]) == 20
    assert "similarity" in said("--similar-to", past[0]["item"], "--k", 2)
