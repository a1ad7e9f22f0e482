"""Rows: what is written reads back as the raw values, entities agree with them, and damage is one line."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxrec.data import encode
from jaxrec.data.dataset import open_dataset
from jaxrec.data.encode import RawField, RawRows, rows_summary, write_rows
from jaxrec.data.rows import Rows, RowsDataset, Schema
from jaxrec.data.store import staging, write_manifest
from jaxrec.errors import UserError

# --- writing ----------------------------------------------------------------------------------------------------------


class Written(NamedTuple):
    """A rows directory as it was read back, all of it in memory."""

    manifest: dict[str, Any]
    rows: Rows
    schema: Schema
    vocabulary: dict[str, list[Any]]
    counts: dict[str, list[int]]
    entities: dict[str, np.ndarray]
    shown: dict[str, dict[str, list[Any]]]


def write(raw: RawRows, out: Path) -> RowsDataset:
    with staging(out) as stage:
        entries = write_rows(raw, stage.dataset)
        write_manifest(stage.dataset, entries.pop("files"), kind="rows", source="test", options={}, **entries)
    dataset = open_dataset(out)
    assert isinstance(dataset, RowsDataset)
    return dataset


def written(raw: RawRows) -> Written:
    with tempfile.TemporaryDirectory() as folder:
        dataset = write(raw, Path(folder) / "out")
        dataset.verify()
        rows = jax.tree.map(np.array, vars(dataset.rows()))
        tables = {f.name: pq.read_table(dataset.path / f"vocabulary/{f.name}.parquet") for f in dataset.schema.coded}
        sides = [side for side, name in (("user", raw.user), ("item", raw.item)) if name is not None]
        return Written(
            dataset.manifest,
            Rows(**rows),
            dataset.schema,
            {name: table["value"].to_pylist() for name, table in tables.items()},
            {name: table["count"].to_pylist() for name, table in tables.items()},
            {f"{side}s{kind}": np.array(dataset.array(f"{side}s{kind}.npy"))
             for side in sides for kind in ("", "_numbers")},
            {side: pq.read_table(dataset.path / f"{side}s.parquet").to_pydict() for side in sides},
        )  # fmt: skip


WORDS = st.none() | st.sampled_from(["", "a", "b", "é", "a b", "10"])
VALUES: dict[str, tuple[st.SearchStrategy[Any], pa.DataType]] = {
    "integers": (st.none() | st.integers(-2, 3) | st.just(2**62), pa.int64()),
    "words": (WORDS, pa.string()),
    "bags": (st.none() | st.lists(WORDS, max_size=3), pa.list_(pa.string())),
    "numbers": (st.none() | st.floats(-1e6, 1e6) | st.sampled_from([0.1, float("nan")]), pa.float64()),
    "whole numbers": (st.none() | st.integers(-5, 5) | st.just(2**62 + 1), pa.int64()),
}
KINDS = {"integers": "categorical", "words": "categorical", "bags": "bag"}


@st.composite
def raw_rows(draw: st.DrawFn) -> tuple[RawRows, dict[str, list[Any]]]:
    """Raw rows, and the value of each field in each row."""
    n = draw(st.integers(1, 12))
    fields, values = [], {}
    for number, which in enumerate(draw(st.lists(st.sampled_from(sorted(VALUES)), min_size=1, max_size=5))):
        strategy, kind = VALUES[which]
        by = None
        if draw(st.booleans()):
            entities = draw(st.integers(1, 5))
            by = np.array(draw(st.lists(st.integers(0, entities - 1), min_size=n, max_size=n)))
        own = draw(st.lists(strategy, min_size=n if by is None else entities, max_size=n if by is None else entities))
        side = draw(st.sampled_from(["user", "item", "context"]))
        fields.append(RawField(f"f{number}", KINDS.get(which, "numerical"), side, pa.array(own, kind), by))
        values[f"f{number}"] = own if by is None else [own[entity] for entity in by]
    ids = {side: [f.name for f in fields if f.side == side and f.kind == "categorical"] for side in ("user", "item")}
    ratings = draw(st.lists(st.sampled_from([0.0, 1.0]), min_size=n, max_size=n))
    raw = RawRows(
        fields, np.array(ratings), np.arange(n), 1.0, 0.0, 1.0,
        user=ids["user"][0] if ids["user"] else None, item=ids["item"][0] if ids["item"] else None,
        min_count=draw(st.integers(1, 3)),
    )  # fmt: skip
    return raw, values


def check_indices_lead_back_to_the_raw_values(raw: RawRows, values: dict[str, list[Any]], found: Written) -> None:
    for field in raw.fields:
        if field.kind == "numerical":
            continue
        rows = values[field.name] if field.kind == "bag" else [[value] for value in values[field.name]]
        held = Counter(value for row in rows for value in set(row or ()) if value is not None)
        often = {value: count for value, count in held.items() if count >= raw.min_count}
        assert found.vocabulary[field.name] == sorted(often)
        assert dict(zip(found.vocabulary[field.name], found.counts[field.name], strict=True)) == often
        columns = found.rows.columns[:, found.schema.columns((field.name,))]
        for codes, row in zip(columns.tolist(), rows, strict=True):
            row = [None] if row is None else row  # a bag that is not known is not an empty one
            assert codes[len(row) :] == [-1] * (len(codes) - len(row))
            decoded = [found.vocabulary[field.name][code - 1] if code else None for code in codes[: len(row)]]
            assert decoded == [value if value in often else None for value in row]


def check_numbers_are_standardised_and_unknown_ones_are_the_mean(values: dict[str, list[Any]], found: Written) -> None:
    for number, field in enumerate(found.schema.numerical):
        raw_values = np.array([np.nan if value is None else value for value in values[field.name]], np.float64)
        known = ~np.isnan(raw_values)
        stored = found.rows.numbers[:, number].astype(np.float64)
        np.testing.assert_array_equal(stored[~known], 0)
        scale = np.abs(raw_values[known]).max(initial=0)
        np.testing.assert_allclose(
            stored[known] * field.deviation + field.mean, raw_values[known], rtol=1e-6, atol=1e-6 * scale
        )
        if known.any() and raw_values[known].min() < raw_values[known].max() - 1e-9 * scale:
            assert abs(stored[known].mean()) < 1e-5
            assert abs(stored[known].std() - 1) < 1e-5
        elif len(set(raw_values[known])) == 1:
            np.testing.assert_array_equal(stored, 0)


def check_entities_agree_with_their_last_rows(raw: RawRows, found: Written) -> None:
    for side, name in (("user", raw.user), ("item", raw.item)):
        if name is None:
            continue
        own = found.rows.columns[:, found.schema.columns((name,))[0]]
        columns = found.rows.columns[:, found.schema.columns(found.schema.of_side(side))]
        numbers = found.rows.numbers[:, [field.side == side for field in found.schema.numerical]]
        last = {code: row for row, code in enumerate(own.tolist())}
        assert set(last) - {0} == set(range(1, len(found.vocabulary[name]) + 1))
        for kind, expected in (("", columns), ("_numbers", numbers)):
            table = found.entities[f"{side}s{kind}"]
            assert table.dtype == expected.dtype
            assert table.shape == (len(found.vocabulary[name]) + 1, expected.shape[1])
            assert not table[0].any()
            for code in set(last) - {0}:
                np.testing.assert_array_equal(table[code], expected[last[code]])
        assert found.shown[side] == {name: [None, *found.vocabulary[name]]}
    if raw.user is not None:
        np.testing.assert_array_equal(found.rows.users, found.rows.columns[:, found.schema.columns((raw.user,))[0]])
    else:
        assert not found.rows.users.any()


@settings(max_examples=40, deadline=None)
@given(raw_rows())
def test_what_is_written_reads_back(made: tuple[RawRows, dict[str, list[Any]]]) -> None:
    raw, values = made
    found = written(raw)
    check_indices_lead_back_to_the_raw_values(raw, values, found)
    check_numbers_are_standardised_and_unknown_ones_are_the_mean(values, found)
    check_entities_agree_with_their_last_rows(raw, found)


def few(**changes: Any) -> RawRows:
    """Six rows of two users and three items, with a genre, a bag and a number."""
    chosen: dict[str, Any] = {
        "fields": [
            RawField("user", "categorical", "user", pa.array([7, 5]), np.array([0, 1, 0, 1, 0, 1])),
            RawField("genre", "categorical", "item", pa.array(["x", None, "y"]), np.array([0, 1, 2, 0, 1, 2])),
            RawField("price", "numerical", "item", pa.array([1.0, 3.0, None]), np.array([0, 1, 2, 0, 1, 2])),
            RawField("item", "categorical", "item", pa.array(["a", "b", "c"]), np.array([0, 1, 2, 0, 1, 2])),
            RawField("tags", "bag", "context", pa.array([["p"], [], ["q", "p"], ["p"], ["p"], None])),
        ],
        "ratings": np.array([5, 4, 3, 2, 1, 3], np.int64),
        "times": np.array([10, 11, 12, 13, 14, 15]),
        "threshold": 4.0, "low": 1.0, "high": 5.0, "user": "user", "item": "item",
    }  # fmt: skip
    return RawRows(**(chosen | changes))


def test_the_manifest_of_rows(tmp_path: Path) -> None:
    dataset = write(few(calendar={"genre": "year"}, extras={"optimum": {"auc": 0.5}}), tmp_path / "out")
    manifest = json.loads((dataset.path / "manifest.json").read_text())
    assert manifest["kind"] == "rows"
    assert (manifest["user"], manifest["item"]) == ("user", "item")
    assert (manifest["calendar"], manifest["optimum"]) == ({"genre": "year"}, {"auc": 0.5})
    assert manifest["label"] == {"threshold": 4.0, "low": 1.0, "high": 5.0}
    assert manifest["counts"] == {"rows": 6, "positive": 2, "values": {"user": 2, "genre": 2, "item": 3, "tags": 2}}
    expected = [("user", 3, 1), ("genre", 3, 1), ("price", 1, 0), ("item", 4, 1), ("tags", 3, 2)]
    assert [(entry["name"], entry["size"], entry["width"]) for entry in manifest["fields"]] == expected
    on_disk = {str(file.relative_to(dataset.path)) for file in dataset.path.rglob("*") if file.is_file()}
    assert set(manifest["files"]) == on_disk - {"manifest.json"}
    assert set(dataset.run_files) == {name for name in manifest["files"] if not name.startswith("rows/")}
    assert "6 rows, 33.3% positive (at least 4)" in rows_summary(manifest)[0]
    rows = dataset.rows()
    assert rows.labels.tolist() == [1, 1, 0, 0, 0, 0]
    assert rows.take(np.array([1, 5])).times.tolist() == [11, 15]
    raw = few(fields=[RawField("price", "numerical", "context", pa.array(range(6)))], user=None, item=None)
    rows = write(raw, tmp_path / "numbers").rows()
    assert rows.columns.shape == (6, 0) and rows.numbers.shape == (6, 1)
    shown = pa.table({"name": ["C", "Z", "A"], "item": ["c", "z", "a"]})
    table = pq.read_table(write(few(shown={"item": shown}), tmp_path / "shown").path / "items.parquet")
    assert table.to_pydict() == {"name": [None, "A", None, "C"], "item": [None, "a", "b", "c"]}


def test_a_schema_selects_its_fields(tmp_path: Path) -> None:
    schema = write(few(), tmp_path / "out").schema
    assert schema.columns().tolist() == [0, 1, 2, 3, 4]
    assert schema.columns(("tags", "price", "user")).tolist() == [3, 4, 0]
    assert schema.of_side("item") == ("genre", "item")
    assert schema.numbers_of_side("item").tolist() == [0]
    chosen = schema.select(("tags", "user"))
    assert [field.name for field in chosen.fields] == ["tags", "user"]
    assert chosen.columns(("user",)).tolist() == [2]
    assert (chosen.item, schema.select(None)) == ("item", schema)
    with pytest.raises(UserError, match=r"'genres': no such field \(did you mean 'genre'\?\); there are user, genre"):
        schema.select(("genres",))


# --- damage -----------------------------------------------------------------------------------------------------------


def flip(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(bytes(data))


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-4])


def replaced(old: bytes, new: bytes) -> Callable[[Path], object]:
    return lambda file: file.write_bytes(file.read_bytes().replace(old, new))


@pytest.mark.parametrize(("name", "damage", "message"), [
    ("rows/columns.npy", Path.unlink, r"rows/columns\.npy: damaged or missing .*; prepare the data set again$"),
    ("rows/times.npy", truncate, r"rows/times\.npy: damaged or missing \(checksum differs\); prepare"),
    ("rows/columns.npy", replaced(b"(6, 5)", b"(5, 6)"), r"rows/columns\.npy: damaged or missing \(checksum differs\)"),
    ("manifest.json", truncate, r"manifest\.json: damaged manifest .*; prepare the data set again$"),
    ("manifest.json", replaced(b'"label"', b'"lable"'), "damaged"),
    ("manifest.json", replaced(b'"mean"', b'"maen"'), "damaged"),
])  # fmt: skip
def test_damage_is_one_line(name: str, damage: Callable[[Path], object], message: str, tmp_path: Path) -> None:
    place = write(few(), tmp_path / "out").path
    damage(place / name)
    with pytest.raises(UserError, match=f"^{place}/.*{message}"):
        open_dataset(place).rows()  # type: ignore[union-attr]


def test_every_changed_file_is_found(tmp_path: Path) -> None:
    good = write(few(), tmp_path / "out")
    for name in good.manifest["files"]:
        for damage in (Path.unlink, flip):
            place = tmp_path / "copy"
            shutil.copytree(good.path, place)
            damage(place / name)
            with pytest.raises(UserError, match=rf"{name}: damaged or missing \(checksum differs\); prepare"):
                open_dataset(place).verify()
            shutil.rmtree(place)


def test_nothing_is_left_of_a_failed_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError("the disk is gone")

    monkeypatch.setattr(encode, "file_entry", fail)
    with pytest.raises(OSError, match="the disk is gone"):
        write(few(), tmp_path / "deep" / "out")
    assert list(tmp_path.iterdir()) == []
