"""Recommending from a run of events: scores against the model itself, live listings, filters, names, added listings."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import open_sessions
from worlds import Worlds, word_vectors

from jaxrec import Answer, Query, Recommender, UserError
from jaxrec import config as configuration
from jaxrec.data.dataset import Sessions
from jaxrec.data.items import open_catalogue
from jaxrec.feeds.base import Plan
from jaxrec.feeds.packed import target_positions
from jaxrec.models import merrec
from jaxrec.models.merrec import MERRec
from jaxrec.ops.heads import Heads
from jaxrec.run import create_run, open_run
from jaxrec.tasks.base import Loaded, make_task
from jaxrec.tasks.events import recommend as serving

Events = list[dict[str, Any]]
VIEW, BUY, NEW = "item_view", "buy_comp", 10**9
HEADS = ("both", "text", "items")
UNNAMED = 16  # one in so many items of ``always``


@pytest.fixture(scope="module")
def markets(worlds: Worlds, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Recommender]:
    """Of each head, on data that say when listings are live, with random weights; tests that add add to a copy.

    ``always``: on data that do not say it, in which some have no name. ``large``: as a catalogue whose vectors are too
    many to be put side by side.
    """
    place, live = tmp_path_factory.mktemp("events"), worlds.live()
    made = {head: untrained(worlds, place / head, live, head) for head in HEADS}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(merrec, "SIDE_BY_SIDE", 0)
        made["large"] = untrained(worlds, place / "large", live, "both")
        made["large, always"] = untrained(worlds, place / "large_always", worlds.data("events"), "both", UNNAMED)
    assert isinstance(made["large"].kind._items.vectors, Heads) and isinstance(
        made["both"].kind._items.vectors, jax.Array
    )
    return made | {"always": untrained(worlds, place / "always", worlds.data("events"), "both", UNNAMED)}


@pytest.fixture(scope="module")
def market(markets: dict[str, Recommender]) -> Recommender:
    return markets["both"]


def untrained(worlds: Worlds, path: Path, data: Path, head: str, unnamed: int = 0) -> Recommender:
    file = worlds.config("merrec", data={"path": str(data), "validation_fraction": 0.0}, model={"head": head})
    config, dataset = configuration.load(file), open_sessions(data)
    task = make_task(config, dataset)
    run = open_run(create_run(path, config, dataset, False, task.kept, task.copied).path)
    catalogue = open_catalogue(path / "dataset", run.manifest, config.model.item_fields)
    if unnamed:
        names = np.where(np.arange(catalogue.n_items) % unnamed, catalogue.name_of, -1)
        catalogue = dataclasses.replace(catalogue, name_of=names)
    model, random = MERRec(config, catalogue, len(run.manifest["event_types"])), np.random.default_rng(1)
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    params = jax.tree.map(lambda leaf: jnp.asarray(random.normal(size=leaf.shape), jnp.float32), shapes)
    tables = {name: jnp.asarray(random.normal(size=(spec.rows, spec.width)), jnp.float32)
              for name, spec in model.tables.items()}  # fmt: skip
    return Recommender(run, serving.Recommender(Loaded(run, model, {"params": params, "tables": tables}, "none")))


def copied(market: Recommender) -> Recommender:
    """Another one, that can be added to."""
    kind = copy.copy(market.kind)
    kind.items = copy.deepcopy(kind.items)
    return Recommender(market.run, kind)


@pytest.fixture
def text_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """The text model of the vectors is there; its identity is its name."""
    monkeypatch.setattr(serving, "find_model", lambda model: (Path(model), model))
    monkeypatch.setattr(serving, "embed", lambda texts, *_: word_vectors(texts))


def ids(answer: Answer) -> list[Any]:
    return [one.id for one in answer.items]


def scores(answer: Answer) -> list[float]:
    return [one.score for one in answer.items]


def sequence(market: Recommender, seed: int = 0) -> Events:
    """A kept sequence without its last event."""
    return market.example(seed)[:-1]


def all_scores(market: Recommender, events: Events, at: Any = None, **options: Any) -> dict[Any, float]:
    """By raw id, of all that can be recommended."""
    found = market.recommend(Query(events=events, at=at), market.n_items, **options)
    return dict(zip(ids(found), scores(found), strict=True))


def raw_ids(market: Recommender, mask: Any = slice(None)) -> list[int]:
    return list(np.array(market.kind.items.ids.values())[mask].tolist())


def live_at(market: Recommender, time: int) -> np.ndarray:
    table = market.kind.items.attributes
    return (table["listed"].to_numpy() <= time) & (time < table["sold"].to_numpy())


# ---- scores ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("head", [*HEADS, "large"])
def test_scores_are_those_of_the_model_on_the_feed(markets: dict[str, Recommender], head: str) -> None:
    market, run = markets[head], markets[head].run
    items, times, offsets, events = (run.kept(f"example_{name}") for name in ("items", "times", "offsets", "events"))
    model, weights, trained = market.kind._model, market.kind._weights, run.kept("item_counts") > 0
    feed = model.feed(Sessions(items, times, offsets, events), Plan(128, 1, order="time", seed=0, device_bytes=2**30))
    where = target_positions(feed)
    queries = np.concatenate([np.asarray(model.encode(weights, model.known, block))[0] for block in feed.epoch(0)])
    expected = queries @ np.asarray(model.catalogue_vectors(weights, trained)).T
    vocabulary, lengths = np.array(raw_ids(market)), np.diff(offsets)
    assert lengths.max() > model.window + 1, "one that is cut"
    asked, wanted = [], []
    for session in [*range(6), int(np.argmax(lengths))]:
        part = slice(int(offsets[session]), int(offsets[session + 1]) - 1)  # its last event is the target
        (row,) = np.flatnonzero(where.reshape(-1) == part.stop)
        given = [{"item": int(vocabulary[item]), "event": market.kind.types[event]}
                 for item, event in zip(items[part], events[part], strict=True)]  # fmt: skip
        asked.append(Query(events=given, at=int(times[part.stop - 1])))
        allowed = live_at(market, asked[-1].at) & (trained | (head != "items"))
        assert 10 < allowed.sum() < len(trained)
        wanted.append(dict(zip(vocabulary[allowed].tolist(), expected[row][allowed].tolist(), strict=True)))
    for answer, right in zip(market.recommend(asked, market.n_items, seen=True), wanted, strict=True):
        assert set(ids(answer)) == set(right)
        np.testing.assert_allclose(scores(answer), [right[one] for one in ids(answer)], rtol=1e-4, atol=1e-4)


# ---- who can be recommended ------------------------------------------------------------------------------------------


def test_filters_and_times_are_masks(market: Recommender) -> None:
    events, table = sequence(market), market.kind.items.attributes
    time, category = int(market.run.kept("example_times").max()), table["c0_name"][0].as_py()
    everything = all_scores(market, events)
    assert everything == all_scores(market, events, at=time), "the default"
    mask = live_at(market, time) & (table["price"].to_numpy() <= 60)
    mask &= np.array([name == category for name in table["c0_name"].to_pylist()])
    found = all_scores(market, events, only=f"price <= 60 and c0_name = '{category}'")
    assert 0 < mask.sum() < live_at(market, time).sum()
    assert found == {item: score for item, score in everything.items() if item in raw_ids(market, mask)}
    day = np.datetime64(int(table["listed"].to_numpy().min()), "ms").astype("datetime64[D]") + 1
    expected = set(raw_ids(market, live_at(market, int(day.astype("datetime64[ms]").astype(int)))))
    for at in (str(day), f"{day} 00:00", f"{day} 02:00+02:00", day):
        assert set(all_scores(market, events, at=at)) == expected
    answers = market.recommend([Query(events=events, at=time), Query(events=events, at=str(day))], market.n_items)
    assert [len(one.items) for one in answers] == [len(everything), len(expected)]
    assert not all_scores(market, events, at="1999-01-01")


def test_bought_items_are_left_out(market: Recommender) -> None:
    item = ids(market.recommend(Query(events=sequence(market)), 1))[0]
    bought = [{"item": item, "event": BUY}, *[{"item": item, "event": VIEW}] * 20]
    viewed = [{"item": str(item), "event": VIEW}] * 20
    found = [all_scores(market, one) for one in (bought, viewed)]
    assert item in found[1] and found[0].keys() == found[1].keys() - {item}
    assert item in all_scores(market, bought, seen=True)


@pytest.mark.parametrize("which", ["always", "large, always"])
def test_without_times_and_with_items_without_names(markets: dict[str, Recommender], which: str) -> None:
    market = markets[which]
    found, unnamed = all_scores(market, sequence(market)), raw_ids(market, slice(None, None, UNNAMED))
    assert len(found) == market.n_items and market.recommend(Query(events=sequence(market))).at is None
    assert len(market.recommend(Query(events=[{"item": unnamed[0], "event": VIEW}]), 3).items) == 3
    with pytest.raises(UserError, match=r"^at: the run's data do not say when listings are live"):
        all_scores(market, [], at="2023-05-05")
    with pytest.raises(UserError, match=f"^item {unnamed[0]}: none is like it"):
        market.similar(unnamed[0])
    assert set(unnamed).isdisjoint(ids(market.similar(raw_ids(market)[1], len(found))))


def test_the_most_popular_of_what_is_live(market: Recommender) -> None:
    counts, live = market.run.kept("item_counts"), live_at(market, market.kind.time(None))
    lost: Events = [{"item": -5, "event": VIEW}]
    answer = market.recommend(Query(events=lost), 7)
    assert answer.unknown == [-5] and scores(answer) == np.sort(counts[live])[::-1][:7].tolist()
    assert counts[market.kind.items.ids.encode(ids(answer))].tolist() == scores(answer)
    assert ids(market.recommend(Query(events=lost), 6, exclude=[answer.items[0].id])) == ids(answer)[1:]


# ---- names, and added listings ---------------------------------------------------------------------------------------


def test_unknown_items_by_name(market: Recommender, request: pytest.FixtureRequest) -> None:
    event = sequence(market)[0]
    row = market.kind.items.attributes.slice(market.kind.items.index(event["item"]), 1).to_pylist()[0]
    assert row["c0_id"] is not None and row["price"] is not None
    stranger = {"item": -7, "event": event["event"], "name": f" {row['name']} ", "c0_id": row["c0_id"],
                "price": row["price"], "brand_name": None}  # fmt: skip
    known = all_scores(market, [event])
    assert all_scores(market, [stranger]) == known, "a name of the data needs no text model"
    del stranger["item"]
    assert market.recommend(Query(events=[stranger])).notes == [] and all_scores(market, [stranger]) == known
    assert all_scores(market, [{"name": row["name"], "event": event["event"]}]) != known, "attributes matter"
    turned = stranger | {"name": " ".join(row["name"].split()[::-1])}
    request.getfixturevalue("text_model")
    assert turned["name"] != row["name"] and list(all_scores(market, [turned])) == list(known)  # the same words
    request.getfixturevalue("monkeypatch").setattr(serving, "find_model", lambda model: (Path(model), "other"))
    with pytest.raises(UserError, match=r"^fake: another text model than the run's: other, the run has fake"):
        market.kind.name_vectors(["a name that nobody knows"])


@pytest.mark.usefixtures("text_model")
@pytest.mark.parametrize("head", ["both", "text", "large"])
def test_added_listings_rank_as_unseen_ones_of_their_name(markets: dict[str, Recommender], head: str) -> None:
    market, counts = copied(markets[head]), markets[head].run.kept("item_counts")
    events, items = sequence(market), market.kind.items
    before = all_scores(market, events)
    unseen = next(item for item in before if counts[items.index(item)] == 0)
    (known,) = items.known(items.ids.encode([unseen]))
    new = [{"item": NEW, "name": known["name"]}, {"item": str(NEW + 1), "name": "Words of its own", "price": 3}]
    assert market.add(new) == [NEW, NEW + 1]
    found = all_scores(market, events)
    assert found[NEW] == pytest.approx(found[unseen], rel=1e-5, abs=1e-5)
    assert {item: score for item, score in found.items() if item < NEW} == pytest.approx(before, rel=1e-5, abs=1e-5)
    (one,) = market.recommend(Query(events=events), only="price = 3 and name like 'Words%'").items
    assert one.id == NEW + 1 and one.known["c0_name"] is None
    by_id, by_name = ({"item": NEW + 1, "event": VIEW}, {"name": "Words of its own", "event": VIEW, "price": 3})
    assert all_scores(market, [by_id]) == all_scores(market, [by_name]), "they can be what happened, too"
    assert NEW + 1 not in all_scores(market, [{"item": NEW + 1, "event": BUY}])
    assert market.similar(NEW, 5).items[0].known["name"] == known["name"]
    assert market.add([{"item": NEW + 2, "name": known["name"]}]) == [NEW + 2]
    again = all_scores(market, events)
    assert again[NEW + 2] == again[NEW] and {item: again[item] for item in found} == found
    vectors = dict(zip(market.vectors()["id"].to_pylist(), market.vectors()["vector"].to_pylist(), strict=True))
    assert len(vectors) == market.n_items and vectors[NEW + 2] == vectors[NEW]


# ---- similar items ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("head", ["both", "items", "large"])
def test_similar_listings(markets: dict[str, Recommender], head: str) -> None:
    """By names in the space of the text head, or by the item head's vectors of what training holds."""
    market, weights = markets[head], markets[head].kind._weights
    vocabulary, names = np.array(raw_ids(market)), market.kind.items.attributes["name"].to_pylist()
    if head != "items":
        vectors = word_vectors(names).astype(jnp.bfloat16).astype(np.float32) @ np.asarray(weights["params"]["match"])
    else:
        trained = market.run.kept("item_counts") > 0
        vectors = np.asarray(weights["tables"]["item"])[:, :-1] * trained[:, None]
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    cosines = np.where(lengths > 0, vectors / np.maximum(lengths, 1e-9), 0) @ (vectors[3] / lengths[3])
    others = np.flatnonzero((lengths[:, 0] > 0) & (np.arange(len(lengths)) != 3))
    found = market.similar(int(vocabulary[3]), market.n_items)
    np.testing.assert_allclose(scores(found), np.sort(cosines[others])[::-1], atol=1e-5)
    np.testing.assert_allclose(scores(found), cosines[market.kind.items.ids.encode(ids(found))], atol=1e-5)
    assert set(ids(found)) == set(vocabulary[others].tolist())
    if head != "items":
        return
    item = int(vocabulary[np.flatnonzero(~trained)[0]])
    with pytest.raises(UserError, match=f"^item {item}: none is like it"):
        market.similar(item)


# ---- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("text_model")
def test_what_is_refused(markets: dict[str, Recommender]) -> None:
    market, good = copied(markets["text"]), {"item": NEW, "name": "x"}
    ask, add = lambda events: market.recommend({"events": events}), market.add
    calls: list[tuple[Any, Any, str]] = [
        (add, [good, {"name": "x"}], "new item 2: no 'item'"),
        (add, [good, good], "new item 2: .* is there already"),
        (ask, [{"item": 1, "event": "item_veiw"}], "events: entry 1: event: found 'item_veiw'; input should be 'item"),
        (ask, [{"name": "a", "event": VIEW, "price": float("inf")}], "events: entry 1: price: found inf"),
        (markets["items"].add, [good], ".*model.head items ranks nothing but what it was"),
    ]
    for function, given, names in calls:
        with pytest.raises(UserError, match=f"^{names}"):
            function(given)
    assert market.n_items == markets["text"].n_items, "all or none"
