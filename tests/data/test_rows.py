"""Rows: what is written reads back as the raw values, entities agree with them, and damage is one line."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxrec.data.dataset import open_dataset
from jaxrec.data.encode import RawField, RawRows, rows_summary, write_rows
from jaxrec.data.rows import RowsDataset
from jaxrec.data.store import staging, write_manifest
from jaxrec.errors import UserError


def write(raw: RawRows, out: Path) -> RowsDataset:
    with staging(out) as stage:
        entries = write_rows(raw, stage.dataset)
        write_manifest(stage.dataset, entries.pop("files"), kind="rows", source="test", options={}, **entries)
    dataset = open_dataset(out)
    assert isinstance(dataset, RowsDataset)
    return dataset


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
        by, size = None, n
        if draw(st.booleans()):
            size = draw(st.integers(1, 5))
            by = np.array(draw(st.lists(st.integers(0, size - 1), min_size=n, max_size=n)))
        own, side = (
            draw(st.lists(strategy, min_size=size, max_size=size)),
            draw(st.sampled_from(["user", "item", "context"])),
        )
        fields.append(RawField(f"f{number}", KINDS.get(which, "numerical"), side, pa.array(own, kind), by))
        values[f"f{number}"] = own if by is None else [own[entity] for entity in by]
    user, item = (
        next((f.name for f in fields if f.side == side and f.kind == "categorical"), None) for side in ("user", "item")
    )
    ratings = np.array(draw(st.lists(st.sampled_from([0.0, 1.0]), min_size=n, max_size=n)))
    least = draw(st.integers(1, 3))
    return RawRows(fields, ratings, np.arange(n), 1.0, 0.0, 1.0, user=user, item=item, min_count=least), values


def check_values(raw: RawRows, values: dict[str, list[Any]], dataset: RowsDataset) -> None:
    """Indices lead back to raw values; numbers are standardised, and unknown ones are the mean."""
    rows = dataset.rows()
    for field in raw.fields:
        if field.kind == "numerical":
            continue
        held = values[field.name] if field.kind == "bag" else [[value] for value in values[field.name]]
        counts = Counter(value for row in held for value in set(row or ()) if value is not None)
        often = {value: count for value, count in counts.items() if count >= raw.min_count}
        table = pq.read_table(dataset.path / "vocabulary" / f"{field.name}.parquet").to_pydict()
        assert table == {"value": sorted(often), "count": [often[value] for value in sorted(often)]}
        for codes, row in zip(rows.columns[:, dataset.schema.columns((field.name,))].tolist(), held, strict=True):
            row = [None] if row is None else row  # a bag that is not known is not an empty one
            assert codes[len(row) :] == [-1] * (len(codes) - len(row))
            decoded = [table["value"][code - 1] if code else None for code in codes[: len(row)]]
            assert decoded == [value if value in often else None for value in row]
    for number, numerical in enumerate(dataset.schema.numerical):
        wanted = np.array([np.nan if one is None else one for one in values[numerical.name]], np.float64)
        known, stored = ~np.isnan(wanted), rows.numbers[:, number].astype(np.float64)
        scale = np.abs(wanted[known]).max(initial=0)
        np.testing.assert_array_equal(stored[~known], 0)
        np.testing.assert_allclose(numerical.raw(stored[known]), wanted[known], rtol=1e-6, atol=1e-6 * scale)
        if known.any() and wanted[known].min() < wanted[known].max() - 1e-9 * scale:
            assert abs(stored[known].mean()) < 1e-5 and abs(stored[known].std() - 1) < 1e-5
        elif len(set(wanted[known])) == 1:
            np.testing.assert_array_equal(stored, 0)


def check_entities(raw: RawRows, dataset: RowsDataset) -> None:
    """Users and items are as in their last rows; 0 is nothing."""
    rows, schema = dataset.rows(), dataset.schema
    for side, name in (("user", raw.user), ("item", raw.item)):
        if name is None:
            continue
        own, raw_ids = rows.columns[:, schema.columns((name,))[0]], dataset.values(name)
        last = {code: row for row, code in enumerate(own.tolist()) if code}
        assert set(last) == set(range(1, len(raw_ids) + 1))
        columns, numbers = schema.places(schema.side(side))
        for kind, expected in (("", rows.columns[:, columns]), ("_numbers", rows.numbers[:, numbers])):
            table = dataset.array(f"{side}s{kind}.npy")
            assert table.dtype == expected.dtype and table.shape == (len(raw_ids) + 1, expected.shape[1])
            assert not table[0].any()
            np.testing.assert_array_equal(table[1:], expected[[last[code] for code in sorted(last)]])
        assert pq.read_table(dataset.path / f"{side}s.parquet").to_pydict() == {name: [None, *raw_ids]}
    users = np.zeros(len(rows)) if raw.user is None else rows.columns[:, schema.columns((raw.user,))[0]]
    np.testing.assert_array_equal(rows.users, users)


@settings(max_examples=40, deadline=None)
@given(raw_rows())
def test_what_is_written_reads_back(made: tuple[RawRows, dict[str, list[Any]]]) -> None:
    raw, values = made
    with tempfile.TemporaryDirectory() as folder:
        dataset = write(raw, Path(folder) / "out")
        dataset.verify()
        check_values(raw, values, dataset)
        check_entities(raw, dataset)


def few(**changes: Any) -> RawRows:
    """Six rows of two users and three items, with a genre, a bag and a number."""
    users, items = np.array([0, 1, 0, 1, 0, 1]), np.array([0, 1, 2, 0, 1, 2])
    chosen: dict[str, Any] = {
        "fields": [
            RawField("user", "categorical", "user", pa.array([7, 5]), users),
            RawField("genre", "categorical", "item", pa.array(["x", None, "y"]), items),
            RawField("price", "numerical", "item", pa.array([1.0, 3.0, None]), items),
            RawField("item", "categorical", "item", pa.array(["a", "b", "c"]), items),
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
    assert {name: manifest[name] for name in ("kind", "user", "item", "calendar", "optimum", "label")} == {
        "kind": "rows", "user": "user", "item": "item", "calendar": {"genre": "year"}, "optimum": {"auc": 0.5},
        "label": {"threshold": 4.0, "low": 1.0, "high": 5.0},
    }  # fmt: skip
    assert manifest["counts"] == {"rows": 6, "positive": 2, "values": {"user": 2, "genre": 2, "item": 3, "tags": 2}}
    expected = [("user", 3, 1), ("genre", 3, 1), ("price", 1, 0), ("item", 4, 1), ("tags", 3, 2)]
    assert [(entry["name"], entry["size"], entry["width"]) for entry in manifest["fields"]] == expected
    on_disk = {str(file.relative_to(dataset.path)) for file in dataset.path.rglob("*") if file.is_file()}
    assert set(manifest["files"]) == on_disk - {"manifest.json"}
    assert set(dataset.run_files) == {name for name in manifest["files"] if not name.startswith("rows/")}
    assert "6 rows, 33.3% positive (at least 4)" in rows_summary(manifest)[0]
    assert dataset.rows().labels.tolist() == [1, 1, 0, 0, 0, 0]
    assert dataset.rows().take(np.array([1, 5])).times.tolist() == [11, 15]
    raw = few(fields=[RawField("price", "numerical", "context", pa.array(range(6)))], user=None, item=None)
    rows = write(raw, tmp_path / "numbers").rows()
    assert rows.columns.shape == (6, 0) and rows.numbers.shape == (6, 1)
    shown = pa.table({"name": ["C", "Z", "A"], "item": ["c", "z", "a"]})
    table = pq.read_table(write(few(shown={"item": shown}), tmp_path / "shown").path / "items.parquet")
    assert table.to_pydict() == {"name": [None, "A", None, "C"], "item": [None, "a", "b", "c"]}


def test_a_schema_selects_its_fields(tmp_path: Path) -> None:
    schema = write(few(), tmp_path / "out").schema
    assert schema.columns().tolist() == [0, 1, 2, 3, 4] and schema.columns(("tags", "price")).tolist() == [3, 4]
    assert [places.tolist() for places in schema.places(schema.side("item"))] == [[1, 2], [0]]
    assert schema.select(("tags", "user")).columns(("user",)).tolist() == [2]
    with pytest.raises(UserError, match=r"'genres': no such field \(did you mean 'genre'\?\); there are user, genre"):
        schema.select(("genres",))


def test_every_changed_file_is_found(tmp_path: Path) -> None:
    good = write(few(), tmp_path / "out")
    shutil.copytree(good.path, tmp_path / "other")
    for old, new in (('"label"', '"lable"'), ('"mean"', '"maen"'), ("}\n", "")):
        file = tmp_path / "other" / "manifest.json"
        file.write_text((good.path / "manifest.json").read_text().replace(old, new))
        with pytest.raises(UserError, match=rf"^{file}: damaged manifest .*; prepare the data set again$"):
            open_dataset(file.parent)
    for name in good.manifest["files"]:
        shutil.copytree(good.path, tmp_path / "copy")
        data = bytearray((good.path / name).read_bytes())
        data[-1] ^= 1
        for damage in (lambda file, data=data: file.write_bytes(data), Path.unlink):
            damage(tmp_path / "copy" / name)
            with pytest.raises(UserError, match=rf"{name}: damaged or missing \(checksum differs\); prepare"):
                open_dataset(tmp_path / "copy").verify()
        shutil.rmtree(tmp_path / "copy")
