"""``prepare merrec`` on people's own logs: their columns and names of events, ids of text; and a run of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from event_data import SMALL, train_small
from helpers import call, fails

from jaxrec.data.dataset import Sessions, open_sessions
from jaxrec.tasks.events.recommend import EventRecommender

Capsys = pytest.CaptureFixture[str]
HEADER = "shopper;visit;sku;when;did;title;cost;dept;shelf;maker;weight;code"
LOG = """\
ann;1;red-7;2026-03-01 09:00:00;view; Red mug ;7.5;kitchen;mugs;Delft;0.3;007
ann;1;blue;2026-03-01 09:01:00;view;Blue mug;9;kitchen;mugs;Delft;0.4;010
ann;1;red-7;2026-03-01 09:02:00;buy;Red mug;6.5;kitchen;mugs;Delft;0.3;007
ann;2;blue;2026-03-03 09:00:00;view;Blue mug;9;kitchen;mugs;Delft;0.4;010
ann;2;lamp;2026-03-03 09:01:00;cart;;;light;;;2;
bob;1;blue;2026-03-01 10:00:00;view;Blue mug;9;kitchen;mugs;Delft;0.4;010
bob;1;red-7;2026-03-01 10:05:00;view;Red mug;6;kitchen;mugs;Delft;0.3;007
bob;1;red-7;2026-03-01 10:05:00;view;Red mug;6;kitchen;mugs;Delft;0.3;007
"""
MAPPED = [
    "--delimiter", ";", "--session", "shopper", "visit", "--item", "sku", "--time", "when", "--event", "did",
    "--name", "title", "--price", "cost", "--category", "dept", "shelf", "--brand", "maker",
    "--attributes", "weight", "code", "--min-session-length", 2,
]  # fmt: skip


def write(file: Path, rows: str = LOG, header: str = HEADER) -> Path:
    file.write_text(f"{header}\n{rows}")
    return file


def prepared(out: Path, *words: object) -> dict[str, Any]:
    assert call("prepare", "merrec", *words, "--out", out) == 0
    manifest: dict[str, Any] = json.loads((out / "manifest.json").read_text())
    return manifest


def sequences(sessions: Sessions, ids: list[str], types: list[str]) -> list[list[tuple[str, str]]]:
    """(item, event) of each session."""
    assert sessions.events is not None
    pairs = [(ids[item], types[event]) for item, event in zip(sessions.items, sessions.events, strict=True)]
    return [pairs[start:end] for start, end in zip(sessions.offsets[:-1], sessions.offsets[1:], strict=True)]


def test_columns_events_and_ids_of_their_own(tmp_path: Path, capsys: Capsys) -> None:
    manifest = prepared(tmp_path / "d", "--raw", write(tmp_path / "log.csv"), *MAPPED, "--test-days", 1)
    assert (manifest["event_types"], manifest["bought"]) == (["view", "buy", "cart"], "buy")
    assert manifest["dropped"]["duplicate events"] == {"events": 1}
    assert manifest["counts"]["train"] == {"sessions": 2, "events": 5, "targets": 3}
    ids = pq.read_table(tmp_path / "d" / "items.parquet").to_pydict()
    assert ids == {"item": ["red-7", "blue", "lamp"], "count": [3, 2, 0]}  # equal counts would go by id
    dataset = open_sessions(tmp_path / "d")
    assert sequences(dataset.split("train"), ids["item"], manifest["event_types"]) == [
        [("red-7", "view"), ("blue", "view"), ("red-7", "buy")], [("blue", "view"), ("red-7", "view")],
    ]  # fmt: skip
    test = dataset.split("test")
    assert sequences(test, ids["item"], manifest["event_types"]) == [[("blue", "view"), ("lamp", "cart")]]
    assert test.times.tolist() == [1772528400000, 1772528460000]
    assert pq.read_table(tmp_path / "d" / "attributes.parquet").to_pydict() == {
        "name": ["Red mug", "Blue mug", ""], "price": [6.0, 9.0, None], "c0_name": ["kitchen", "kitchen", "light"],
        "c1_name": ["mugs", "mugs", None], "brand_name": ["Delft", "Delft", None], "weight": [0.3, 0.4, 2.0],
        "code": ["007", "010", None],
    }  # fmt: skip
    assert pq.read_table(tmp_path / "d" / "names.parquet")["name"].to_pylist() == ["Red mug", "Blue mug"]
    assert np.load(tmp_path / "d" / "item_names.npy").tolist() == [0, 1, -1]


def test_events_are_chosen_renamed_and_left_out(tmp_path: Path, capsys: Capsys) -> None:
    raw = write(tmp_path / "log.csv", LOG.replace("ann;1;blue;", "ann;1;;", 1))
    words = ["--raw", raw, *MAPPED]
    fails(capsys, "prepare", "merrec", *words, "--out", tmp_path / "d", names="row 2, column 'sku': found nothing")
    chosen = [*words, "--drop-invalid", "--events", "buy=order", "view"]
    manifest = prepared(tmp_path / "d", *chosen, "--test-days", 0)
    assert (manifest["event_types"], manifest["bought"]) == (["order", "view"], "order")
    assert manifest["dropped"]["invalid rows"] == {"events": 1}
    assert manifest["dropped"]["other types of events"] == {"events": 1}
    ids = pq.read_table(tmp_path / "d" / "items.parquet")["item"].to_pylist()
    assert sequences(open_sessions(tmp_path / "d").split("train"), ids, ["order", "view"]) == [
        [("red-7", "view"), ("red-7", "order")], [("blue", "view"), ("red-7", "view")],
    ]  # fmt: skip
    attributes = pq.read_table(tmp_path / "d" / "attributes.parquet").to_pydict()
    assert dict(zip(ids, attributes["price"], strict=True)) == {"red-7": 6.0, "blue": 9.0}  # rows are still the file's


def test_what_is_optional(tmp_path: Path, capsys: Capsys) -> None:
    rows = "".join(f"{visit},{item},{1_772_000_000 + 86400 * visit + item}\n" for visit in range(5) for item in (4, 3))
    raw = write(tmp_path / "log.csv", rows, "user_id,sku,when")  # the session by its published name
    manifest = prepared(tmp_path / "d", "--raw", raw, "--item", "sku", "--time", "when", "--min-session-length", 2)
    assert capsys.readouterr().err == (
        "jaxrec: note: columns of the published data set are there, as if given: --session user_id\n"
    )
    assert (manifest["event_types"], manifest["bought"]) == (["event"], None)
    assert manifest["options"]["session"] == ["user_id"]
    assert (manifest["counts"]["names"], manifest["counts"]["unnamed"]) == (0, 2)
    assert pq.read_table(tmp_path / "d" / "items.parquet")["item"].to_pylist() == [3, 4]
    assert open_sessions(tmp_path / "d").split("train").items.tolist()[:2] == [0, 1]  # by time, not as in the file


RENAMED = {
    "user_id": "buyer", "session_id": "visit", "sequence_id": "part", "item_id": "listing", "stime": "clock",
    "event_id": "deed", "name": "title", "price": "cost", "c0_name": "top", "c1_name": "middle", "c2_name": "leaf",
    "brand_name": "maker", "item_condition_name": "state",
}  # fmt: skip
AS_RENAMED = [
    "--session", "buyer", "visit", "part", "--item", "listing", "--time", "clock", "--event", "deed",
    "--events", "item_view", "item_like", "item_add_to_cart_tap", "offer_make", "buy_start", "buy_comp",
    "--name", "title", "--price", "cost", "--category", "top", "middle", "leaf", "--brand", "maker",
    "--condition", "state",
]  # fmt: skip


def test_mapped_columns_give_what_published_ones_give(tmp_path: Path) -> None:
    size = [str(word) for name, value in (SMALL | {"events": 600}).items() for word in (f"--{name}", value)]
    raw = tmp_path / "raw"
    assert call("prepare", "merrec-synthetic", "--out", tmp_path / "made", *size, "--raw-out", raw) == 0
    for file in raw.glob("[!_]*.parquet"):
        table = pq.read_table(file)
        (tmp_path / "mine").mkdir(exist_ok=True)
        pq.write_table(table.rename_columns([RENAMED.get(one, one) for one in table.column_names]),
                       tmp_path / "mine" / file.name)  # fmt: skip
    published = prepared(tmp_path / "p", "--raw", raw, "--test-days", 2)
    mapped = prepared(tmp_path / "m", "--raw", tmp_path / "mine", *AS_RENAMED, "--test-days", 2)
    assert mapped["counts"] == published["counts"] and mapped["event_types"] == published["event_types"]
    same = {name for name in published["files"] if name != "attributes.parquet"}
    assert {name: mapped["files"][name] for name in same} == {name: published["files"][name] for name in same}
    theirs, ours = (pq.read_table(tmp_path / one / "attributes.parquet") for one in "pm")
    assert set(ours.column_names) == set(theirs.column_names)
    for name in ("name", "price", "c0_name", "c2_name", "brand_name", "item_condition_name", "c0_id", "brand_id"):
        assert ours[name].to_pylist() == theirs[name].to_pylist(), name


@pytest.mark.parametrize(("words", "names"), [
    ([], r"no column 'user_id' \(--session\), 'stime' \(--time\), .*'item_id' \(--item\), .*'price' \(--price\).*; it "
         r"has shopper;visit;.*; is the --delimiter right\?; name the columns of a log of your own with --session"),
    (["--delimiter", ";", "--session", "shoper", "--name", "titel", "--attributes", "wait"],
     r"no column 'shoper' \(did you mean 'shopper'\?\) \(--session\), of the item \(--item\), of the time \(--time\), "
     r"'titel' \(did you mean 'title'\?\) \(--name\), 'wait' .*\(--attributes\); it has shopper, visit, sku, when"),
    ([*MAPPED, "--events", "view", "bye"], "--events bye: .*column 'did' has no 'bye'.*; it has view, buy, cart"),
    ([*MAPPED, "--events", "view", "buy="], "--events buy=: no name behind the =; give one"),
    ([*MAPPED, "--bought", "cert"], r"--bought cert: no such type of event \(did you mean 'cart'\?\); there are "),
    ([*MAPPED, "--target", "product"], "--target product: belongs to the columns of the published data set; name"),
    ([*MAPPED[:-5], "--attributes", "weight", "Price"], r"no column 'Price' \(--attributes\)"),
    (["--delimiter", ";", "--session", "visit", "--item", "sku", "--time", "when", "--category", "dept", "shelf",
      "maker", "code"], "--category: 4 levels; give at most 3"),
])  # fmt: skip
def test_what_is_missing_is_said_at_once(words: list[object], names: str, tmp_path: Path, capsys: Capsys) -> None:
    raw = write(tmp_path / "log.csv")
    fails(capsys, "prepare", "merrec", "--raw", raw, *words, "--out", tmp_path / "d", names=names)
    assert not (tmp_path / "d").exists()


@pytest.fixture(scope="module")
def nameless(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A shop of 30 products without names, with a department and a weight each."""
    place = tmp_path_factory.mktemp("shop")
    deeds = ("look", "look", "basket", "purchase")
    rows = [
        f"u{user},{day},p{(product := (7 * user + day + step) % 30)},{1_772_000_000 + 86400 * day + 60 * step},{deed},"
        f"d{product % 3},{product / 2}\n"
        for user in range(40) for day in range(4) for step, deed in enumerate(deeds)
    ]  # fmt: skip
    raw = write(place / "log.csv", "".join(rows), "user,day,product,at,deed,dept,weight")
    prepared(place / "data", "--raw", raw, "--session", "user", "day", "--item", "product", "--time", "at", "--event",
             "deed", "--category", "dept", "--attributes", "weight", "--test-days", 1)  # fmt: skip
    return place / "data"


def test_a_run_of_their_own_events(nameless: Path, tmp_path: Path, capsys: Capsys) -> None:
    run = train_small(nameless, tmp_path / "run", model={"head": "items", "item_fields": ["c0"]}, evaluation={"k": [5]})
    assert call("evaluate", "--run", run, "--json") == 0
    result = json.loads((run / "eval-test.json").read_text())["groups"]
    assert set(result["event"]) == {"look", "basket", "purchase"} and set(result["category"]) == {"d0", "d1", "d2"}
    market = EventRecommender.load(run)
    events = [{"item": "p4", "event": "look"}, {"item": "p7", "event": "purchase"}]
    found = market.recommend(events, 29)
    assert len(found) == 29 and "p7" not in {one.item for one in found} and "p4" in {one.item for one in found}
    known = {one.item: one.known for one in found}["p4"]
    assert (known["c0_name"], known["weight"], known["name"], known["price"]) == ("d1", 2.0, "", None)
    few = market.recommend(events, where="c0_name = 'd2' and weight <= 4")
    assert {one.item for one in few} == {"p2", "p5", "p8"}
    file = tmp_path / "events.json"
    file.write_text(json.dumps(events))
    capsys.readouterr()
    assert call("recommend", "--run", run, "--events", file, "--k", 2) == 0
    assert "weight" in capsys.readouterr().out
    file.write_text(json.dumps([{"item": "p4", "event": "item_view"}]))
    fails(capsys, "recommend", "--run", run, "--events", file, names="found 'item_view', expected one of look, basket")
    file.write_text(json.dumps([{"name": "red dress", "event": "look"}]))
    fails(capsys, "recommend", "--run", run, "--events", file, names="name red dress: the run's items have no names")


@pytest.mark.parametrize(("words", "names"), [
    (["--model.head", "both"], "model.head: both ranks items by their names, and .* has none; set it to items, or"),
    (["--model.head", "text"], "model.head: text ranks items by their names, and .* has none; set it to items, or"),
    (["--model.head", "items", "--model.item_fields", "c0", "brand"], "model.item_fields: .* has no brand .*are c0"),
])  # fmt: skip
def test_what_data_without_names_cannot_do(
    words: list[object], names: str, nameless: Path, tmp_path: Path, capsys: Capsys
) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(f"data: {{path: {nameless}}}\nmodel: {{name: merrec}}\n")
    fails(capsys, "train", "--config", file, "--run", tmp_path / "r", *words, names=names)
    assert not (tmp_path / "r").exists()
