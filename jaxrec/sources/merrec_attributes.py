"""The items of events: what is known of each as of its latest event, and what it is called."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow.parquet

from jaxrec.data.clean.writing import write_parquet
from jaxrec.data.reading.rows import input_rows
from jaxrec.data.reading.table import literal
from jaxrec.data.store import ArrayFile

CHUNK = 1 << 16  # rows fetched from DuckDB at a time


def write_attributes(
    connection: Any, rows: str, path: Path, item: str | None = None, target: str | None = None,
    listings: Path | None = None,
) -> tuple[dict[str, dict[str, Any]], dict[str, Any]]:  # fmt: skip
    """Write ``attributes.parquet``, ``names.parquet`` and ``item_names.npy``; returns their entries and counts.

    Args:
        connection: DuckDB, with the tables ``raw`` and ``vocabulary``.
        rows: SQL, the attributes of all rows of the files in their order, of which ``name`` is NULL or empty for none.
        path: the directory.
        item: the column of ``rows`` that is no attribute but the item; None: there is none.
        target: the column of ``rows`` that is the ``item`` of ``vocabulary``; None: there is none.
        listings: a Parquet file with ``item_id``, ``listed`` and ``sold`` of every item; needs ``item``.
    """
    # Of each item the last row of those of its latest time.
    connection.execute(
        f"CREATE TEMP TABLE latest AS SELECT index, item, max({input_rows(connection)}) AS row FROM raw "
        "JOIN (SELECT item, max(time) AS time FROM raw GROUP BY item) USING (item, time) "
        "JOIN vocabulary USING (item) GROUP BY index, item"
    )
    attributes = path / "attributes.parquet"
    with _latest(connection, rows, item, target, listings) as reader:
        entry = write_parquet(reader, reader.schema, attributes)
    (items,) = connection.execute("SELECT count(*) FROM vocabulary").fetchone()
    if pyarrow.parquet.read_metadata(attributes).num_rows != items:
        raise AssertionError("the attributes are not one row an item")
    entries, counts = _write_names(connection, attributes, items)
    return entries | {attributes.name: entry}, counts


def _latest(connection: Any, rows: str, item: str | None, target: str | None, listings: Path | None) -> Any:
    """A stream of the attributes by item index, from the rows that the table ``latest`` names."""
    live, join = "", ""
    if listings:
        live = ", listed, sold"
        join = f"LEFT JOIN read_parquet({literal(listings)}) AS listing ON listing.item_id = everything.{item}"
    same = "" if target is None else f" AND latest.item = everything.{target}"
    left_out = "row" if item is None else f"{item}, row"
    return connection.sql(
        f"SELECT everything.* EXCLUDE ({left_out}) REPLACE (coalesce(everything.name, '') AS name){live} FROM ("
        f"SELECT *, row_number() OVER () - 1 AS row FROM ({rows})) AS everything "
        f"JOIN latest ON latest.row = everything.row{same} {join} ORDER BY index"
    ).to_arrow_reader(CHUNK)


def _write_names(connection: Any, attributes: Path, items: int) -> tuple[dict[str, dict[str, Any]], dict[str, Any]]:
    """Write ``names.parquet`` and ``item_names.npy`` beside the attributes; returns their entries and counts."""
    named = f"(SELECT name, file_row_number AS index FROM read_parquet({literal(attributes)}, file_row_number = true))"
    connection.execute(
        "CREATE TEMP TABLE names AS SELECT name, (row_number() OVER (ORDER BY first) - 1)::INTEGER AS number FROM "
        f"(SELECT name, min(index) AS first FROM {named} WHERE name <> '' GROUP BY name)"
    )
    with connection.sql("SELECT name FROM names ORDER BY number").to_arrow_reader(CHUNK) as reader:
        entries = {"names.parquet": write_parquet(reader, reader.schema, attributes.with_name("names.parquet"))}
    numbers = f"SELECT coalesce(number, -1) AS number FROM {named} LEFT JOIN names USING (name) ORDER BY index"
    with (
        connection.sql(numbers).to_arrow_reader(CHUNK) as reader,
        ArrayFile(attributes.with_name("item_names.npy"), "<i4", items) as file,
    ):
        for batch in reader:
            file.append(batch.column(0).to_numpy())
    entries["item_names.npy"] = file.entry
    (names,) = connection.execute("SELECT count(*) FROM names").fetchone()
    (unnamed,) = connection.execute(f"SELECT count(*) FROM {named} WHERE name = ''").fetchone()
    return entries, {"names": names, "unnamed": unnamed}
