"""The source merrec: what becomes of sequences, items and names in a log; test_market.py has MerRec's own columns."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from helpers import open_sessions, prepared, sessions
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxrec.data.dataset import SPLITS

WORDS = ("--session=visit", "--item=sku", "--time=when", "--event=did", "--name=title", "--price=cost")
Rows = Iterable[tuple[object, ...]]


def at(day: int, second: int = 0) -> str:
    return f"2023-05-{day:02d} 10:00:{second:02d}"


def views(visit: int, day: int, *items: int) -> Rows:
    return [(visit, item, at(day, second)) for second, item in enumerate(items)]


def prepare(out: Path, rows: Rows, *more: str) -> dict[str, Any]:
    """Prepare rows of visit, sku, when and, where they have them, did, title and cost; the manifest."""
    lines = [",".join(map(str, (*row, *("view", "Thing", 1.5)[len(row) - 3 :]))) for row in rows]
    return prepared(out, "merrec", "\n".join(["visit,sku,when,did,title,cost", *lines, ""]), *WORDS, *more)


def typed(path: Path, split: str = "train") -> list[list[tuple[Any, str]]]:
    """The sequences of a split as (raw id, event type)."""
    dataset, items = open_sessions(path), sessions(path, split)
    events, types = dataset.split(split).events, dataset.event_types
    assert events is not None and types is not None
    each = iter(events)
    return [[(item, types[next(each)]) for item in steps] for steps in items]


def attributes(path: Path) -> dict[Any, dict[str, Any]]:
    """The attributes by raw id, with ``named``, what item_names.npy and names.parquet say."""
    names = [*pq.read_table(path / "names.parquet")["name"].to_pylist(), None]
    ids, rows = pq.read_table(path / "items.parquet")["item"].to_pylist(), pq.read_table(path / "attributes.parquet")
    numbers = np.load(path / "item_names.npy")
    return {i: row | {"named": names[n]} for i, row, n in zip(ids, rows.to_pylist(), numbers, strict=True)}


EVENT = st.tuples(st.integers(0, 4), st.integers(0, 5), st.sampled_from(["view", "like"]), st.integers(0, 3))


@settings(max_examples=10, deadline=None)
@given(st.lists(EVENT, min_size=1, max_size=40, unique=True))
def test_events_and_latest_attributes_are_kept(events: list[tuple[int, int, str, int]]) -> None:
    """Items are of one user each, so that an item's latest event is in one sequence; some rows are there twice."""
    events = [*events, (9, 0, "view", 0), (9, 1, "view", 0), (9, 1, "like", 0)]
    kept = {u: sorted((10 * u + i, e) for v, _, e, i in events if v == u) for u, *_ in events}
    kept = {u: found for u, found in kept.items() if len(found) >= 3}
    latest: dict[int, tuple[int, int]] = {}
    twice = [*events, *events[:3]]
    for row, (u, s, _, i) in enumerate(twice):
        latest[10 * u + i] = max(latest.get(10 * u + i, (0, 0)), (s, row))
    with tempfile.TemporaryDirectory() as name:
        rows = [(u, 10 * u + i, at(1, s), e, "x", row) for row, (u, s, e, i) in enumerate(twice)]
        dropped = prepare(out := Path(name) / "d", rows, "--test-days=0")["dropped"]
        assert dropped["duplicate events"] == {"events": 3}
        split = open_sessions(out).split("train")
        assert all((np.diff(split.slice(n, n + 1).times) >= 0).all() for n in range(len(kept)))
        assert {steps[0][0] // 10: sorted(steps) for steps in typed(out)} == kept
        prices = {i: row for i, (_, row) in latest.items() if i // 10 in kept}
        assert {i: one["price"] for i, one in attributes(out).items()} == prices


def test_attributes_are_the_latest_and_names_are_there_once(tmp_path: Path) -> None:
    rows = [*views(1, 1, 11, 12, 14, 15), (1, 13, at(1, 9), "view", " \t"),
            (2, 11, at(2), "view", "  Old lamp\u3000", 3), (2, 12, at(2, 50), "view", "Lamp", 4),
            (2, 12, at(2, 40), "view", "other", 5), (2, 12, at(2, 50), "view", "Old lamp", "")]  # fmt: skip
    counts = prepare(out := tmp_path / "d", rows, "--test-days=0")["counts"]
    found = {item: (one["name"], one["price"], one["named"]) for item, one in attributes(out).items()}
    assert found == {11: ("Old lamp", 3, "Old lamp"), 12: ("Old lamp", None, "Old lamp"), 13: ("", 1.5, None),
                     14: ("Thing", 1.5, "Thing"), 15: ("Thing", 1.5, "Thing")}  # fmt: skip
    # In the order of their first use by item index.
    assert pq.read_table(out / "names.parquet")["name"].to_pylist() == ["Old lamp", "Thing"]
    assert (counts["names"], counts["unnamed"]) == (2, 1)


def test_items_that_training_has_not_seen_are_kept_behind_the_others(tmp_path: Path) -> None:
    rows = [*views(1, 1, 11, 12, 13), *views(2, 2, 12, 13, 14, 12), *views(3, 9, 13, 15, 12), *views(4, 10, 16, 11, 12)]
    rows += views(5, 7, 99, 98, 98)
    manifest = prepare(out := tmp_path / "d", rows, "--test-days=2", "--validation-days=3")
    ids, counts = pq.read_table(out / "items.parquet").to_pydict().values()
    assert (ids, counts) == ([12, 13, 11, 14, 15, 16, 98, 99], [3, 2, 1, 1, 0, 0, 0, 0])
    splits = [[[11, 12, 13], [12, 13, 14, 12]], [[99, 98, 98]], [[13, 15, 12], [16, 11, 12]]]
    assert [sessions(out, split) for split in SPLITS] == splits
    assert (manifest["counts"]["items"], manifest["counts"]["trained"]) == (8, 4)


OWN = """\
shopper;visit;sku;when;did;title;cost;dept;shelf;maker;weight;code
ann;1;red-7;2026-03-01 09:00:00;view; Red mug ;7.5;kitchen;mugs;Delft;0.3;007
ann;1;blue;2026-03-01 09:01:00;view;Blue mug;9;kitchen;mugs;Delft;0.4;010
ann;1;red-7;2026-03-01 09:02:00;buy;Red mug;6.5;kitchen;mugs;Delft;0.3;007
ann;2;blue;2026-03-03 09:00:00;view;Blue mug;9;kitchen;mugs;Delft;0.4;010
ann;2;lamp;2026-03-03 09:01:00;cart;;;light;;;2;
bob;1;blue;2026-03-01 10:00:00;view;Blue mug;9;kitchen;mugs;Delft;0.4;010
bob;1;red-7;2026-03-01 10:05:00;view;Red mug;6;kitchen;mugs;Delft;0.3;007
"""
MAPPED = [*WORDS[1:], "--delimiter=;", "--session", "shopper", "visit", "--category", "dept", "shelf", "--brand=maker",
          "--attributes", "weight", "code", "--min-session-length=2"]  # fmt: skip


def test_columns_events_and_ids_of_their_own(tmp_path: Path) -> None:
    out, blue = tmp_path / "d", ("blue", "view")
    manifest = prepared(out, "merrec", OWN, *MAPPED, "--test-days=1")
    assert (manifest["event_types"], manifest["bought"]) == (["view", "buy", "cart"], "buy")
    assert typed(out) == [[("red-7", "view"), blue, ("red-7", "buy")], [blue, ("red-7", "view")]]
    assert typed(out, "test") == [[blue, ("lamp", "cart")]]
    assert pq.read_table(out / "attributes.parquet").to_pydict() == {
        "name": ["Red mug", "Blue mug", ""], "price": [6.0, 9.0, None], "c0_name": ["kitchen", "kitchen", "light"],
        "c1_name": ["mugs", "mugs", None], "brand_name": ["Delft", "Delft", None], "weight": [0.3, 0.4, 2.0],
        "code": ["007", "010", None],
    }  # fmt: skip
    bad = OWN.replace("ann;1;blue;", "ann;1;;", 1)
    manifest = prepared(out, "merrec", bad, *MAPPED, "--test-days=0", "--drop-invalid", "--events", "buy", "view")
    assert (manifest["event_types"], manifest["bought"]) == (["buy", "view"], "buy")
    assert manifest["dropped"]["invalid rows"] == manifest["dropped"]["other types of events"] == {"events": 1}
    assert typed(out) == [[("red-7", "view"), ("red-7", "buy")], [blue, ("red-7", "view")]]
