"""The source merrec: which files it reads, what becomes of sequences, items and names, and what it refuses."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from helpers import fails
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxrec.data.dataset import SPLITS, open_sessions
from jaxrec.errors import UserError
from jaxrec.prepare import main
from jaxrec.sources.merrec import EVENT_TYPES

SHARED = Path(os.environ.get("JAXREC_SHARED_DATA", Path(__file__).resolve().parents[3] / "shared" / "data"))
SAMPLE = SHARED / "merrec" / "sample.csv"
Capsys = pytest.CaptureFixture[str]

ROW: dict[str, Any] = {
    "user_id": 1, "stime": "2023-05-01 10:00:00", "session_id": "s", "sequence_id": "20230501_0", "sequence_length": 3,
    "event_id": "item_view", "item_id": 1, "product_id": "7_9", "name": "Gold ring", "price": 12.5,
    "c0_name": "Women", "c0_id": 1097, "c1_name": "Jewelry", "c1_id": 201.0, "c2_name": "Rings", "c2_id": 1160.0,
    "brand_name": None, "brand_id": 0, "item_condition_id": 1, "item_condition_name": "New", "size_name": None,
    "size_id": None, "color": None, "shipper_id": 1, "shipper_name": "Buyer",
}  # fmt: skip
TEXTS = [name for name, value in ROW.items() if isinstance(value, str)] + ["brand_name", "size_name", "color"]
NUMBERS = {"price": pa.float64(), "c1_id": pa.float64(), "c2_id": pa.float64(), "size_id": pa.float64()}
SCHEMA = pa.schema([(n, pa.string() if n in TEXTS else NUMBERS.get(n, pa.int64())) for n in ROW])


def at(day: int, second: int = 0) -> str:
    return f"2023-05-{day:02d} 10:{second // 60:02d}:{second % 60:02d}"


def visit(user: int, day: int, *items: int, **more: Any) -> list[dict[str, Any]]:
    """A sequence of views, a second apart."""
    return [ROW | {"user_id": user, "stime": at(day, s), "item_id": item} | more for s, item in enumerate(items)]


def write(file: Path, rows: Sequence[dict[str, Any]], **columns: pa.Array) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    made = pa.Table.from_pylist(list(rows), SCHEMA)
    for name, values in columns.items():
        made = made.set_column(SCHEMA.names.index(name), name, values)
    pq.write_table(made, file)
    return file


def prepare(raw: object, *more: object) -> Path:
    """Prepare into a new directory beside the raw files; all is training but for ``more``."""
    out, words = Path(tempfile.mkdtemp(dir=Path(str(raw)).parent)) / "out", [str(word) for word in more]
    days = [] if any(word.startswith("--test-days") for word in words) else ["--test-days=0"]
    main(["merrec", f"--raw={raw}", f"--out={out}", *days, *words])
    open_sessions(out).verify()
    return out


def manifest(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((path / "manifest.json").read_text(encoding="utf-8"))
    return found


def sequences(path: Path, split: str = "train") -> list[list[tuple[Any, str]]]:
    """The sequences of a split as (raw id, event type)."""
    dataset, ids = open_sessions(path), pq.read_table(path / "items.parquet")["item"].to_pylist()
    sessions, types = dataset.split(split), dataset.event_types
    assert sessions.events is not None and types is not None
    steps = [(ids[i], types[e]) for i, e in zip(sessions.items, sessions.events, strict=True)]
    return [steps[a:b] for a, b in zip(sessions.offsets[:-1], sessions.offsets[1:], strict=True)]


def items(path: Path, split: str = "train") -> list[list[Any]]:
    return [[item for item, _ in steps] for steps in sequences(path, split)]


def attributes(path: Path) -> dict[Any, dict[str, Any]]:
    """The attributes by raw id, with ``named``, what item_names.npy and names.parquet say."""
    names = [*pq.read_table(path / "names.parquet")["name"].to_pylist(), None]
    ids, rows = pq.read_table(path / "items.parquet")["item"].to_pylist(), pq.read_table(path / "attributes.parquet")
    numbers = np.load(path / "item_names.npy")
    return {i: row | {"named": names[n]} for i, row, n in zip(ids, rows.to_pylist(), numbers, strict=True)}


LOG = [*visit(1, 1, 11, 12, 13), *visit(2, 2, 12, 13, 14, 12), *visit(3, 9, 13, 15, 12), *visit(4, 10, 16, 11, 12)]
N = len(LOG)
TIMES = pa.array([datetime.fromisoformat(row["stime"]) for row in LOG], pa.timestamp("us"))


# ---- files -----------------------------------------------------------------------------------------------------------


def test_parts_csv_and_types_that_other_programs_write_give_the_same_data(tmp_path: Path) -> None:
    write(tmp_path / "fo*der" / "sub[1]" / "b.parquet", LOG[5:])
    write(tmp_path / "fo*der" / "a.parquet", LOG[:5], stime=TIMES[:5])
    (tmp_path / "fo*der" / "sub[1]" / "_old.parquet").write_text("not read")
    plain = write(tmp_path / "one.parquet", LOG)
    pa.csv.write_csv(pq.read_table(plain).select(SCHEMA.names[::-1]), tmp_path / "log.csv")
    others = [
        {"stime": TIMES.cast(pa.timestamp("ns", "UTC")), "item_id": pa.array([str(row["item_id"]) for row in LOG])},
        {"price": pa.array([Decimal("12.50")] * N), "item_id": pa.array([float(row["item_id"]) for row in LOG])},
        {"color": pa.nulls(N), "size_name": pa.array([float("nan")] * N), "size_id": pa.nulls(N, pa.string())},
        {"event_id": pa.array(["item_view"] * N).dictionary_encode(), "brand_name": pa.array([""] * N)},
    ]
    raws = [plain, tmp_path / "fo*der", tmp_path / "log.csv"]
    raws += [write(tmp_path / f"{number}", LOG, **columns) for number, columns in enumerate(others)]
    made = [prepare(raw) for raw in raws]
    assert len({json.dumps(manifest(one) | {"read": 0, "checksum": 0}, sort_keys=True) for one in made}) == 1
    assert items(made[0]) == [[11, 12, 13], [12, 13, 14, 12], [13, 15, 12], [16, 11, 12]]
    assert str(tmp_path) not in (made[0] / "manifest.json").read_text()


# ---- sequences -------------------------------------------------------------------------------------------------------


def test_a_sequence_is_ordered_by_time_without_rows_that_are_there_twice(tmp_path: Path) -> None:
    rows = [
        *visit(1, 1, 5, 6, 5),
        ROW | {"stime": at(1, 1), "item_id": 6, "event_id": "item_like"},  # another type: no duplicate
        ROW | {"stime": at(1, 1), "item_id": 6},  # the second row again
        ROW | {"stime": at(1, 0), "item_id": 4, "event_id": "buy_comp"},  # out of order; ties in the order of rows
        *visit(1, 2, 5, 6, sequence_id="20230501_1"),  # too short
        *visit(1, 2, 7, 5, 6, session_id="1s"),
        *visit(11, 3, 6, 5, 6, session_id="s"),  # another user's: not 1 and 1s
    ]
    out = prepare(write(tmp_path / "raw", rows))
    assert sequences(out)[0] == [
        (5, "item_view"), (4, "buy_comp"), (6, "item_view"), (6, "item_like"), (5, "item_view"),
    ]  # fmt: skip
    assert items(out)[1:] == [[7, 5, 6], [6, 5, 6]]
    entries = manifest(out)
    assert entries["dropped"]["duplicate events"] == {"events": 1}
    assert entries["dropped"]["short sessions"] == {"sessions": 1, "events": 2}
    counts = dict.fromkeys(EVENT_TYPES, 0) | {"item_view": 9, "item_like": 1, "buy_comp": 1}
    assert entries["counts"]["events"] == counts


EVENT = st.tuples(st.integers(0, 4), st.integers(0, 5), st.sampled_from(EVENT_TYPES[:3]), st.integers(0, 3))


@given(st.lists(EVENT, min_size=1, max_size=60))
@settings(max_examples=6, deadline=None)
def test_whatever_the_order_of_rows_each_event_is_there_once_in_order(events: list[Any]) -> None:
    # The item says of which sequence it is, the price in which row it stood.
    rows = [ROW | {"user_id": u, "stime": at(1, s), "event_id": e, "item_id": 10 * u + i, "price": float(row)}
            for row, (u, s, e, i) in enumerate(events)]  # fmt: skip
    kept = {u: {(s, e, 10 * u + i) for v, s, e, i in events if v == u} for u, *_ in events}
    kept = {u: found for u, found in kept.items() if len(found) >= 3}
    with tempfile.TemporaryDirectory() as name:
        raw = write(Path(name) / "raw", rows)
        if not kept:
            with pytest.raises(UserError, match="no events left"):
                prepare(raw)
            return
        out = prepare(raw)
        sessions, found = open_sessions(out).split("train"), {}
        start = datetime.fromisoformat(f"{at(1)}+00:00").timestamp()
        for number, steps in enumerate(sequences(out)):
            seconds = sessions.slice(number, number + 1).times // 1000 - start
            assert np.all(np.diff(seconds) >= 0)
            found[steps[0][0] // 10] = [(int(s), e, i) for s, (i, e) in zip(seconds, steps, strict=True)]
        assert {u: sorted(steps) for u, steps in found.items()} == {u: sorted(steps) for u, steps in kept.items()}
        latest: dict[int, tuple[int, int]] = {}
        for row, (u, s, _, i) in enumerate(events):
            latest[10 * u + i] = max(latest.get(10 * u + i, (0, 0)), (s, row))
        prices = {i: row for i, (_, row) in latest.items() if i // 10 in kept}
        assert {i: one["price"] for i, one in attributes(out).items()} == prices


def test_a_random_split_is_by_sequence(tmp_path: Path) -> None:
    raw = write(tmp_path / "raw", [row for user in range(21) for row in visit(user, 1 + user, user, 50, 51)])
    drawn = [
        prepare(raw, "--split=random", *more)
        for more in ([], ["--split-seed=1"], ["--test-fraction=1/3", "--validation-days=7"])
    ]
    tests = [{steps[0] for steps in items(out, "test")} for out in drawn]
    assert [len(found) for found in tests] == [5, 5, 7]  # a fifth of 21, upwards
    assert tests[0] != tests[1] and tests[0] <= tests[2]  # the same order, cut elsewhere
    for out, test in zip(drawn, tests, strict=True):
        parts = {split: [steps[0] for steps in items(out, split)] for split in SPLITS}
        assert sorted(one for found in parts.values() for one in found) == list(range(21))
        assert max(test) > min(parts["train"]) and all(found == sorted(found) for found in parts.values())
    assert {steps[0] for steps in items(drawn[2], "validation")} == set(range(14, 21)) - tests[2]


# ---- items and names -------------------------------------------------------------------------------------------------


def test_attributes_are_the_latest_and_names_are_there_once(tmp_path: Path) -> None:
    rows = visit(1, 1, 11, 12, 13, 14, 15) + visit(2, 2, 11, 12, 13) + visit(3, 1, 13, 12, 17)
    rows[5] |= {"name": "  Old lamp\u3000", "price": 3.0, "color": "red", "size_id": 137.0, "product_id": None}
    rows[6] |= {"stime": at(2, 50), "name": "Lamp", "color": "blue"}
    rows.append(rows[6] | {"stime": at(2, 40), "name": "no longer called so"})
    rows.append(rows[6] | {"name": "Old lamp", "price": None, "c2_id": None, "c2_name": None})  # same time, later row
    rows[3] |= {"name": None}
    rows[4] |= {"name": " \t"}
    rows[10] |= {"name": "Old lamp"}
    out = prepare(write(tmp_path / "raw", rows))
    found = attributes(out)
    stated = {"name": "Old lamp", "price": 3.0, "color": "red", "size_id": 137, "product_id": None, "brand_name": None,
              "c1_id": 201}  # fmt: skip
    assert stated.items() <= found[11].items()
    assert {"name": "Old lamp", "price": None, "c2_id": None, "color": "blue"}.items() <= found[12].items()
    assert {item: one["named"] for item, one in found.items()} == {
        11: "Old lamp", 12: "Old lamp", 13: "Gold ring", 14: None, 15: None, 17: "Old lamp",
    }  # fmt: skip
    # In the order of their first use by item index.
    assert pq.read_table(out / "names.parquet")["name"].to_pylist() == ["Old lamp", "Gold ring"]
    counts, schema = manifest(out)["counts"], pq.read_schema(out / "attributes.parquet")
    assert (counts["names"], counts["unnamed"]) == (2, 2)
    whole = {name for name in schema.names if schema.field(name).type == pa.int64()}
    assert whole == {n for n in schema.names if n.endswith("_id")} - {"product_id"}


def test_items_that_training_has_not_seen_are_kept_behind_the_others(tmp_path: Path) -> None:
    out = prepare(write(tmp_path / "raw", [*LOG, *visit(5, 7, 99, 98, 98)]), "--test-days=2", "--validation-days=3")
    assert pq.read_table(out / "items.parquet").to_pydict() == {
        "item": [12, 13, 11, 14, 15, 16, 98, 99], "count": [3, 2, 1, 1, 0, 0, 0, 0],
    }  # fmt: skip
    assert [items(out, split) for split in SPLITS] == [
        [[11, 12, 13], [12, 13, 14, 12]], [[99, 98, 98]], [[13, 15, 12], [16, 11, 12]],
    ]  # fmt: skip
    assert (manifest(out)["counts"]["items"], manifest(out)["counts"]["trained"]) == (8, 4)


def test_products_as_the_target_have_the_attributes_of_their_latest_item(tmp_path: Path) -> None:
    rows = visit(1, 1, 1, 2, 3) + visit(2, 2, 4, 5, 6)
    for row, product in zip(rows, ("a", "b", "a", "c", "a", "b"), strict=True):
        row |= {"product_id": product, "price": float(row["item_id"])}
    out = prepare(write(tmp_path / "raw", rows), "--target=product")
    assert items(out) == [["a", "b", "a"], ["c", "a", "b"]]
    assert {item: one["price"] for item, one in attributes(out).items()} == {"a": 5.0, "b": 6.0, "c": 4.0}


@pytest.mark.skipif(not SAMPLE.is_file(), reason=f"the real sample is not at {SAMPLE} (set JAXREC_SHARED_DATA)")
def test_the_real_sample(tmp_path: Path) -> None:
    main(["merrec", f"--raw={SAMPLE}", f"--out={tmp_path / 'out'}"])
    steps = ("item_view", "item_like", "buy_start", "buy_comp")
    assert sequences(tmp_path / "out", "test") == [[(46579405, event) for event in steps]]
    vinyl = {"name": "Awesome Mix vol 1 vinyl", "price": 19.0, "c1_id": 276, "size_name": None}
    assert vinyl.items() <= attributes(tmp_path / "out")[46579405].items()


# ---- a log of one's own ----------------------------------------------------------------------------------------------

OWN = """\
shopper;visit;sku;when;did;title;cost;dept;shelf;maker;weight;code
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


def own(file: Path, text: str = OWN) -> Path:
    file.write_text(text)
    return file


def test_columns_events_and_ids_of_their_own(tmp_path: Path) -> None:
    out = prepare(own(tmp_path / "log.csv"), *MAPPED, "--test-days=1")
    entries = manifest(out)
    assert (entries["event_types"], entries["bought"]) == (["view", "buy", "cart"], "buy")
    assert sequences(out) == [
        [("red-7", "view"), ("blue", "view"), ("red-7", "buy")], [("blue", "view"), ("red-7", "view")],
    ]  # fmt: skip
    assert sequences(out, "test") == [[("blue", "view"), ("lamp", "cart")]]
    assert open_sessions(out).split("test").times.tolist() == [1772528400000, 1772528460000]
    assert pq.read_table(out / "attributes.parquet").to_pydict() == {
        "name": ["Red mug", "Blue mug", ""], "price": [6.0, 9.0, None], "c0_name": ["kitchen", "kitchen", "light"],
        "c1_name": ["mugs", "mugs", None], "brand_name": ["Delft", "Delft", None], "weight": [0.3, 0.4, 2.0],
        "code": ["007", "010", None],
    }  # fmt: skip


def test_events_are_chosen_renamed_and_left_out(tmp_path: Path, capsys: Capsys) -> None:
    raw = own(tmp_path / "log.csv", OWN.replace("ann;1;blue;", "ann;1;;", 1))
    words = ["--raw", raw, *MAPPED, "--out", tmp_path / "no"]
    fails(capsys, "prepare", "merrec", *words, names="row 2, column 'sku': found nothing")
    out = prepare(raw, *MAPPED, "--drop-invalid", "--events", "buy=order", "view")
    entries = manifest(out)
    assert (entries["event_types"], entries["bought"]) == (["order", "view"], "order")
    assert entries["dropped"]["invalid rows"] == entries["dropped"]["other types of events"] == {"events": 1}
    assert sequences(out) == [[("red-7", "view"), ("red-7", "order")], [("blue", "view"), ("red-7", "view")]]
    assert {item: one["price"] for item, one in attributes(out).items()} == {"red-7": 6.0, "blue": 9.0}


def test_what_is_optional(tmp_path: Path, capsys: Capsys) -> None:
    rows = "".join(f"{visit},{item},{1_772_000_000 + 86400 * visit + item}\n" for visit in range(5) for item in (4, 3))
    raw = own(tmp_path / "log.csv", f"user_id,sku,when\n{rows}")  # the session by its published name
    out = prepare(raw, "--item=sku", "--time=when", "--min-session-length=2")
    assert "of the published data set are there, as if given: --session user_id" in capsys.readouterr().err
    assert (manifest(out)["event_types"], manifest(out)["bought"]) == (["event"], None)
    assert items(out)[0] == [3, 4]  # by time, not as in the file


# ---- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("column", "value", "message"), [
    ("item_id", pa.array([[1]] * N), r"'item_id' is .*BIGINT\[\]"),
    ("price", pa.array(["1.5"] * (N - 1) + ["cheap"]), f"row {N}, .*'price': found 'cheap'"),
    ("event_id", "share", "row 4, column 'event_id': found 'share', expected one of item_v"),
    ("sequence_id", None, "row 4, .* in each of user_id, session_id, sequence_id"),
])  # fmt: skip
def test_a_value_that_cannot_be(column: str, value: Any, message: str, tmp_path: Path, capsys: Capsys) -> None:
    typed = isinstance(value, pa.Array)
    rows = LOG if typed else [*LOG[:3], LOG[3] | {column: value}, *LOG[4:]]
    raw = write(tmp_path / "raw", rows, **({column: value} if typed else {}))
    words = ["--raw", raw, "--out", tmp_path / "out", "--test-days", 0]
    fails(capsys, "prepare", "merrec", *words, names=f"{raw}.*{message}")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("words", "names"), [
    ([], "no column 'user_id'.*is --delimiter right.* named with --session"),
    (["--delimiter", ";", "--session", "shoper"], r"no column 'shoper' \(did you mean 'shopper'\?\)"),
    (["--delimiter", ";", "--session", "shopper"], "no column of the item; name it with --item"),
    ([*MAPPED, "--events", "view", "bye"], "--events bye: .*'did' has no 'bye'.*; it has view, buy, cart"),
    ([*MAPPED, "--events", "view", "view=seen"], "--events view=seen: named twice"),
    ([*MAPPED[:-5], "--attributes", "weight", "weight"], "--attributes weight: .*named twice"),
])  # fmt: skip
def test_options_that_do_not_fit(words: list[object], names: str, tmp_path: Path, capsys: Capsys) -> None:
    raw = own(tmp_path / "log.csv")
    fails(capsys, "prepare", "merrec", "--raw", raw, *words, "--out", tmp_path / "out", names=names)
