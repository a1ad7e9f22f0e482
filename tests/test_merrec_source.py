"""The source merrec: which files it reads, and what becomes of sequences, items and names."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Sequence
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxrec.cli.command import Parser
from jaxrec.data.clean.writing import write_parquet
from jaxrec.data.dataset import SPLITS, open_sessions
from jaxrec.data.reading.duck import connect
from jaxrec.errors import UserError
from jaxrec.prepare import main
from jaxrec.sources import merrec
from jaxrec.sources.merrec_columns import EVENT_TYPES

SHARED = Path(os.environ.get("JAXREC_SHARED_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
SAMPLE = SHARED / "merrec" / "sample.csv"

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


def table(rows: Sequence[dict[str, Any]], **columns: pa.Array) -> pa.Table:
    made = pa.Table.from_pylist(list(rows), SCHEMA)
    for name, values in columns.items():
        made = made.set_column(SCHEMA.names.index(name), name, values)
    return made


def write(file: Path, rows: Sequence[dict[str, Any]], **columns: pa.Array) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table(rows, **columns), file)
    return file


def prepare(raw: object, *more: str, out: Path | None = None) -> Path:
    """Prepare into a directory, by default a new one beside the raw files; all is training but for ``more``."""
    out = out or Path(tempfile.mkdtemp(dir=Path(str(raw)).parent)) / "out"
    days = [] if any(option.startswith("--test-days") for option in more) else ["--test-days=0"]
    main(["merrec", f"--raw={raw}", f"--out={out}", *days, *more])
    open_sessions(out).verify()
    return out


def sequences(path: Path, split: str = "train") -> list[list[tuple[Any, str]]]:
    """The sequences of a split as (raw id, event type)."""
    dataset = open_sessions(path)
    sessions, types = dataset.split(split), dataset.event_types
    assert sessions.events is not None and types is not None
    assert sessions.events.dtype == np.uint8
    vocabulary = pq.read_table(path / "items.parquet")["item"].to_pylist()
    steps = [(vocabulary[i], types[e]) for i, e in zip(sessions.items, sessions.events, strict=True)]
    return [steps[a:b] for a, b in zip(sessions.offsets[:-1], sessions.offsets[1:], strict=True)]


def items(path: Path, split: str = "train") -> list[list[Any]]:
    return [[item for item, _ in steps] for steps in sequences(path, split)]


def attributes(path: Path) -> dict[Any, dict[str, Any]]:
    """The attributes by raw id, with ``named``, what item_names.npy and names.parquet say."""
    names = [*pq.read_table(path / "names.parquet")["name"].to_pylist(), None]
    rows = pq.read_table(path / "attributes.parquet").to_pylist()
    numbers = np.load(path / "item_names.npy")
    assert numbers.dtype == np.int32
    vocabulary = pq.read_table(path / "items.parquet")["item"].to_pylist()
    return {i: row | {"named": names[n]} for i, row, n in zip(vocabulary, rows, numbers, strict=True)}


LOG = [*visit(1, 1, 11, 12, 13), *visit(2, 2, 12, 13, 14, 12), *visit(3, 9, 13, 15, 12), *visit(4, 10, 16, 11, 12)]


# --- which files ------------------------------------------------------------------------------------------------------


def test_a_folder_a_pattern_one_file_and_csv_give_the_same_bytes(tmp_path: Path) -> None:
    one = write(tmp_path / "one.parquet", LOG)
    write(tmp_path / "fo*der" / "sub[1]" / "b.parquet", LOG[5:])
    write(tmp_path / "fo*der" / "a.parquet", LOG[:5])
    (tmp_path / "fo*der" / "sub[1]" / "_old.parquet").write_text("not read")
    (tmp_path / "fo*der" / ".a.parquet.crc").write_text("x")
    shuffled = table(LOG[5:]).select([*SCHEMA.names[::-1]]).append_column("more", pa.array([1] * len(LOG[5:])))
    (tmp_path / "csv").mkdir()
    pa.csv.write_csv(table(LOG[:5]), tmp_path / "csv" / "a.csv")
    pa.csv.write_csv(shuffled, tmp_path / "csv" / "b.csv")
    mixed = tmp_path / "mixed"
    write(mixed / "a", LOG[:2])
    write(mixed / "b", LOG[2:5], user_id=pa.array([1, 2, 2], pa.int16()), stime=times(LOG[2:5]))
    pq.write_table(shuffled, mixed / "c")
    raws = (one, tmp_path / "fo*der", tmp_path / "csv", f"{mixed}/*")
    made = [prepare(raw, out=tmp_path / f"out {number}") for number, raw in enumerate(raws)]
    manifests = [json.loads((out / "manifest.json").read_text()) for out in made]
    assert [manifest["read"]["files"] for manifest in manifests] == [1, 2, 2, 3]
    assert len({json.dumps(manifest | {"read": 0, "checksum": 0}, sort_keys=True) for manifest in manifests}) == 1
    assert items(made[0]) == [[11, 12, 13], [12, 13, 14, 12], [13, 15, 12], [16, 11, 12]]
    assert str(tmp_path) not in (made[0] / "manifest.json").read_text()
    assert items(prepare(f"{tmp_path}/**/a.parquet", out=tmp_path / "out")) == [[11, 12, 13]]


def times(rows: Sequence[dict[str, Any]]) -> pa.Array:
    return pa.array([datetime.fromisoformat(row["stime"]) for row in rows], pa.timestamp("us"))


@pytest.mark.parametrize(
    "change",
    [
        lambda n: {"stime": times(LOG)},
        lambda n: {"stime": pa.array(times(LOG).to_pylist(), pa.timestamp("ns", "UTC"))},
        lambda n: {"item_id": pa.array([float(row["item_id"]) for row in LOG])},
        lambda n: {"item_id": pa.array([str(row["item_id"]) for row in LOG])},
        lambda n: {"price": pa.array([Decimal("12.50")] * n), "c1_id": pa.array([201] * n, pa.uint64())},
        lambda n: {"color": pa.nulls(n), "size_name": pa.nulls(n, pa.float64()), "size_id": pa.nulls(n, pa.string())},
        lambda n: {"size_name": pa.array([float("nan")] * n), "size_id": pa.array([float("nan")] * n)},
        lambda n: {"event_id": pa.array(["item_view"] * n).dictionary_encode(), "brand_name": pa.array([""] * n)},
    ],
)
def test_types_that_other_programs_write(change: Callable[[int], dict[str, pa.Array]], tmp_path: Path) -> None:
    plain, other = prepare(write(tmp_path / "a", LOG)), prepare(write(tmp_path / "b", LOG, **change(len(LOG))))
    assert (other / "manifest.json").read_bytes() == (plain / "manifest.json").read_bytes()


def test_bytes_do_not_depend_on_threads_or_memory(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    rows = [
        ROW | {"user_id": int(u), "item_id": int(i), "name": f"name {i % 300}", "price": float(p), "stime": at(d, s)}
        for u, i, p, d, s in random.integers([0, 0, 1, 1, 0], [1000, 900, 90, 30, 3000], (9000, 5)).tolist()
    ]
    for number in range(3):
        write(tmp_path / "raw" / f"{number}.parquet", rows[number::3])
    options = [["--threads=1"], ["--threads=5", "--memory-limit=100MB"]]
    one, other = (prepare(tmp_path / "raw", "--test-days=2", *more) for more in options)
    assert (one / "manifest.json").read_bytes() == (other / "manifest.json").read_bytes()


def test_row_groups_do_not_depend_on_how_rows_come(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jaxrec.data.clean.writing.GROUP", 4)
    rows = pa.table({"x": list(range(11)), "y": [str(i) for i in range(11)]})
    written = [write_parquet(rows.to_batches(size), rows.schema, tmp_path / "t.parquet") for size in (1, 3, 11)]
    assert written[0] == written[1] == written[2]
    assert pq.ParquetFile(tmp_path / "t.parquet").num_row_groups == 3
    assert pq.read_table(tmp_path / "t.parquet") == rows


# --- sequences --------------------------------------------------------------------------------------------------------


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
    dataset = open_sessions(out)
    assert dataset.event_types == EVENT_TYPES
    assert dataset.manifest["dropped"]["duplicate events"] == {"events": 1}
    assert dataset.manifest["dropped"]["short sessions"] == {"sessions": 1, "events": 2}
    assert dataset.manifest["counts"]["events"] == dict.fromkeys(EVENT_TYPES, 0) | {
        "item_view": 9, "item_like": 1, "buy_comp": 1,
    }  # fmt: skip
    assert len(items(prepare(tmp_path / "raw", "--min-session-length=2"))) == 4


EVENTS = st.lists(
    st.tuples(st.integers(0, 4), st.integers(0, 5), st.sampled_from(EVENT_TYPES[:3]), st.integers(0, 3)),
    min_size=1,
    max_size=40,
)


@given(st.integers(1, 3).flatmap(lambda n: st.lists(EVENTS, min_size=n, max_size=n)))
@settings(max_examples=25, deadline=None)
def test_whatever_the_order_of_rows_each_event_is_there_once_in_order(files: list[list[Any]]) -> None:
    events = [event for file in files for event in file]
    with tempfile.TemporaryDirectory() as name:
        rows = [
            # The item says of which sequence it is.
            ROW | {"user_id": u, "stime": at(1, s), "event_id": e, "item_id": 10 * u + i, "price": float(row)}
            for row, (u, s, e, i) in enumerate(events)
        ]
        parts = iter(rows)
        for number, file in enumerate(files):
            write(Path(name) / "raw" / f"{number}.parquet", [next(parts) for _ in file])
        kept = {u: {(s, e, i) for v, s, e, i in events if v == u} for u, *_ in events}
        kept = {u: found for u, found in kept.items() if len(found) >= 3}
        if not kept:
            with pytest.raises(UserError, match="no events left"):
                prepare(Path(name) / "raw")
            return
        out = prepare(Path(name) / "raw")
        sessions = open_sessions(out).split("train")
        found = {}
        for number, steps in enumerate(sequences(out)):
            one = sessions.slice(number, number + 1)
            assert np.all(np.diff(one.times) >= 0)
            seconds = (one.times - one.times.min()) // 1000 + min(s for s, _, _ in kept[steps[0][0] // 10])
            assert len({item // 10 for item, _ in steps}) == 1
            found[steps[0][0] // 10] = [(int(s), e, i % 10) for s, (i, e) in zip(seconds, steps, strict=True)]
        assert {u: len(steps) for u, steps in found.items()} == {u: len(steps) for u, steps in kept.items()}
        assert {u: set(steps) for u, steps in found.items()} == kept
        latest: dict[int, tuple[int, int]] = {}
        for row, (u, s, _, i) in enumerate(events):
            latest[10 * u + i] = max(latest.get(10 * u + i, (0, 0)), (s, row))
        assert {i: one["price"] for i, one in attributes(out).items()} == {
            i: row for i, (_, row) in latest.items() if i // 10 in kept
        }


# --- items and names --------------------------------------------------------------------------------------------------


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
    assert {n: found[11][n] for n in ("name", "price", "color", "size_id", "product_id", "brand_name", "c1_id")} == {
        "name": "Old lamp", "price": 3.0, "color": "red", "size_id": 137, "product_id": None, "brand_name": None,
        "c1_id": 201,
    }  # fmt: skip
    assert (found[12]["name"], found[12]["price"], found[12]["c2_id"], found[12]["color"]) == (
        "Old lamp", None, None, "blue",
    )  # fmt: skip
    assert {item: one["named"] for item, one in found.items()} == {
        11: "Old lamp", 12: "Old lamp", 13: "Gold ring", 14: None, 15: None, 17: "Old lamp",
    }  # fmt: skip
    assert found[14]["name"] == found[15]["name"] == ""
    # In the order of their first use by item index.
    assert pq.read_table(out / "items.parquet")["item"].to_pylist()[:3] == [12, 13, 11]
    assert pq.read_table(out / "names.parquet")["name"].to_pylist() == ["Old lamp", "Gold ring"]
    counts = open_sessions(out).manifest["counts"]
    assert (counts["names"], counts["unnamed"]) == (2, 2)
    schema = pq.read_schema(out / "attributes.parquet")
    assert schema.names[0] == "name" and "item_id" not in schema.names and len(schema) == 18
    kinds = {name: schema.field(name).type for name in schema.names}
    assert {n for n, t in kinds.items() if t == pa.int64()} == {n for n in schema.names if n.endswith("_id")} - {
        "product_id"
    }
    assert {n for n, t in kinds.items() if t == pa.float64()} == {"price"}


def test_items_that_training_has_not_seen_are_kept_behind_the_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [*LOG, *visit(5, 7, 99, 98, 98)]
    out = prepare(write(tmp_path / "raw", rows), "--test-days=2", "--validation-days=3")
    vocabulary = pq.read_table(out / "items.parquet").to_pydict()
    assert vocabulary == {"item": [12, 13, 11, 14, 15, 16, 98, 99], "count": [3, 2, 1, 1, 0, 0, 0, 0]}
    assert [items(out, split) for split in SPLITS] == [
        [[11, 12, 13], [12, 13, 14, 12]], [[99, 98, 98]], [[13, 15, 12], [16, 11, 12]],
    ]  # fmt: skip
    dataset = open_sessions(out)
    assert (dataset.manifest["counts"]["items"], dataset.manifest["counts"]["trained"]) == (8, 4)
    assert (dataset.manifest["target"], dataset.manifest["live"]) == ("item", False)
    printed = capsys.readouterr().out
    for line in ("8 items, 4 of them unseen in training", "1 different ones, 0 items without", "16 events"):
        assert line in printed


def test_products_as_the_target_have_the_attributes_of_their_latest_item(tmp_path: Path) -> None:
    rows = visit(1, 1, 1, 2, 3) + visit(2, 2, 4, 5, 6)
    for row, product in zip(rows, ("a", "b", "a", "c", "a", "b"), strict=True):
        row |= {"product_id": product, "price": float(row["item_id"])}
    out = prepare(write(tmp_path / "raw", rows), "--target=product")
    assert items(out) == [["a", "b", "a"], ["c", "a", "b"]]
    assert {item: one["price"] for item, one in attributes(out).items()} == {"a": 5.0, "b": 6.0, "c": 4.0}
    assert open_sessions(out).manifest["options"]["target"] == "product"


def test_times_at_which_items_are_live_come_from_a_file(tmp_path: Path) -> None:
    listings = pa.table({"sold": [5, 6, 7], "item_id": [13, 12, 11], "listed": [1, 2, 3]})
    pq.write_table(listings, tmp_path / "listings")
    raw = write(tmp_path / "raw", LOG[:3])
    parser = Parser()
    merrec.add_protocol_arguments(parser)
    with connect(tmp_path / "spill") as connection:
        made = merrec.read_files(connection, [raw], parser.parse_args([]), "it", tmp_path / "listings")
        connection.execute("CREATE TABLE vocabulary AS SELECT * FROM (VALUES (12, 0), (11, 1)) AS t(item, index)")
        assert made.attributes is not None and made.extras is not None
        made.attributes(tmp_path)
    found = pq.read_table(tmp_path / "attributes.parquet").select(["listed", "sold"]).to_pylist()
    assert found == [{"listed": 2, "sold": 6}, {"listed": 3, "sold": 7}]
    assert made.extras(tmp_path, 2)["live"] is True


def test_a_random_split_is_by_sequence(tmp_path: Path) -> None:
    raw = write(tmp_path / "raw", [row for user in range(21) for row in visit(user, 1 + user, user, 50, 51)])
    drawn = [
        prepare(raw, "--split=random", *more)
        for more in ([], [], ["--split-seed=1"], ["--test-fraction=1/3", "--validation-days=7"])
    ]
    tests = [{steps[0] for steps in items(out, "test")} for out in drawn]
    assert [len(found) for found in tests] == [5, 5, 5, 7]  # a fifth of 21, upwards
    assert tests[0] == tests[1] != tests[2]
    assert tests[0] <= tests[3]  # the same order, cut elsewhere
    for out, test in zip(drawn, tests, strict=True):
        parts = {split: [steps[0] for steps in items(out, split)] for split in SPLITS}
        assert sorted(one for found in parts.values() for one in found) == list(range(21))
        assert max(test) > min(parts["train"]) and min(test) < max(parts["train"])
        assert all(found == sorted(found) for found in parts.values())  # by time within a split
    validation = {steps[0] for steps in items(drawn[3], "validation")}
    assert validation == set(range(14, 21)) - tests[3]
    options = open_sessions(drawn[3]).manifest["options"]
    assert (options["split"], options["test_fraction"], options["split_seed"], options["test_days"]) == (
        "random", "1/3", 0, 0,
    )  # fmt: skip


@pytest.mark.skipif(not SAMPLE.is_file(), reason=f"the real sample is not at {SAMPLE} (set JAXREC_SHARED_DATA)")
def test_the_real_sample(tmp_path: Path) -> None:
    out = tmp_path / "out"
    main(["merrec", f"--raw={SAMPLE}", f"--out={out}"])
    manifest = open_sessions(out).manifest
    left = sum(manifest["counts"][split]["events"] for split in SPLITS)
    assert left + sum(amounts["events"] for amounts in manifest["dropped"].values()) == 21
    assert sequences(out, "test") == [
        [(46579405, event) for event in ("item_view", "item_like", "buy_start", "buy_comp")]
    ]
    assert (manifest["counts"]["items"], manifest["counts"]["trained"], manifest["counts"]["unnamed"]) == (7, 6, 0)
    vinyl = attributes(out)[46579405]
    assert (vinyl["name"], vinyl["price"], vinyl["c1_id"], vinyl["size_name"]) == (
        "Awesome Mix vol 1 vinyl", 19.0, 276, None,
    )  # fmt: skip
