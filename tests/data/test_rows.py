"""Rows: what is written reads back as the raw values, and entities agree with them."""

from __future__ import annotations

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
from worlds import Clicks, Worlds

from jaxrec.data.clean.protocol import RawField, RawRows
from jaxrec.data.clean.rows import write_rows
from jaxrec.data.dataset import RowsDataset, open_dataset
from jaxrec.data.store import staging, write_manifest
from jaxrec.errors import UserError


def write(raw: RawRows, out: Path) -> RowsDataset:
    with staging(out) as stage:
        entries = write_rows(raw, stage)
        write_manifest(stage, entries.pop("files"), kind="rows", source="test", options={}, **entries)
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


def test_the_schema(worlds: Worlds) -> None:
    """What the manifest holds besides is held by content hashes, see test_golden.py."""
    dataset = open_dataset(worlds.data("clicks"))
    assert isinstance(dataset, RowsDataset)
    schema, things = dataset.schema, range(Clicks.items)
    shown = pq.read_table(dataset.path / "items.parquet").to_pydict()
    assert shown == {"item": [None, *map(Clicks.sku, things)], "title": [None, *(f"Thing {item}" for item in things)]}
    assert schema.columns(("tags", "age", "user")).tolist() == [4, 5, 6, 0]
    assert [places.tolist() for places in schema.places(schema.side("item"))] == [[1, 3, 4, 5, 6], [1]]
    with pytest.raises(UserError, match=r"'tag': no such field \(did you mean 'tags'\?\); there are user, item"):
        schema.select(("tag",))
