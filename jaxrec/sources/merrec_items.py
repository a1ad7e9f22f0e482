"""The items of events: what is known of each as of its latest event, and what it is called."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow.parquet

from jaxrec.data.reading.columns import nothing_as_null, number_field
from jaxrec.data.reading.duck import NESTED, TEXT, identifier, input_rows, literal, trimmed, value_text
from jaxrec.data.reading.table import Table, reading
from jaxrec.data.store import array_file, file_entry, write_parquet
from jaxrec.errors import UserError

CHUNK = 1 << 16  # rows fetched from DuckDB at a time


class Attribute(NamedTuple):
    """A column of the raw files (None: there is none) and what it holds: text, price, integer or any of them."""

    column: str | None
    kind: str = "any"


def write_items(
    connection: Any, table: Table, attributes: dict[str, Attribute], na: Sequence[str] | None, path: Path,
    listings: Path | None = None,
) -> tuple[dict[str, dict[str, Any]], dict[str, Any]]:  # fmt: skip
    """Write ``attributes.parquet``, ``names.parquet`` and ``item_names.npy``; returns their entries and counts.

    Args:
        connection: DuckDB, with the tables ``raw`` and ``vocabulary``.
        table: the raw files.
        attributes: by name, in their order; ``name`` is one of them.
        na: of ``--na``.
        path: the directory.
        listings: a Parquet file with ``item_id``, ``listed`` and ``sold`` of every item.
    """
    # Of each item the last row of those of its latest time.
    connection.execute(
        f"CREATE TEMP TABLE latest AS SELECT index, item, max({input_rows(connection)}) AS row FROM raw "
        "JOIN (SELECT item, max(time) AS time FROM raw GROUP BY item) USING (item, time) "
        "JOIN vocabulary USING (item) GROUP BY index, item"
    )
    live, join = "", ""
    if listings:
        live = ", listed, sold"
        join = f"LEFT JOIN read_parquet({literal(listings)}) AS listing ON listing.item_id = latest.item"
    file = path / "attributes.parquet"
    with reading(table):
        values = ", ".join(f"{sql} AS {identifier(name)}"
                           for name, sql in _parsed(connection, table, attributes, na).items())  # fmt: skip
        reader = connection.sql(
            f"SELECT everything.* EXCLUDE (row) REPLACE (coalesce(everything.name, '') AS name){live} FROM ("
            f"SELECT {values}, row_number() OVER () - 1 AS row FROM {table.relation}) AS everything "
            f"JOIN latest ON latest.row = everything.row {join} ORDER BY index"
        ).to_arrow_reader(CHUNK)
        with reader:
            entry = write_parquet(reader, reader.schema, file)
    (items,) = connection.execute("SELECT count(*) FROM vocabulary").fetchone()
    if pyarrow.parquet.read_metadata(file).num_rows != items:
        raise AssertionError("the attributes are not one row an item")
    entries, counts = _write_names(connection, file, items)
    return entries | {file.name: entry}, counts


def _parsed(
    connection: Any, table: Table, attributes: dict[str, Attribute], na: Sequence[str] | None
) -> dict[str, str]:
    """SQL of each attribute, NULL where there is none.

    Attributes of any kind are whole numbers or numbers where all values are such, otherwise text.
    """
    parsed, tests = {}, {}
    for name, (column, kind) in attributes.items():
        if column is None:
            parsed[name] = "''"
        elif kind == "price":
            number = number_field(table, name, column, na).parse(table.column(column)[0])
            parsed[name] = f"CASE WHEN NOT isnan({number}) THEN {number} END"
        else:
            sql, found = table.column(column)
            if found.startswith(NESTED) or found.endswith("]"):
                raise UserError(f"{table.called}: column '{column}' is of type {found}; expected text or numbers")
            text = trimmed(nothing_as_null(value_text(sql, found), na))
            text = f"regexp_replace({text}, '\\.0+$', '')" if kind == "integer" else text
            parsed[name] = text
            if kind != "text":
                tests[f"{name} BIGINT"] = f"bool_and(CAST(TRY_CAST({text} AS BIGINT) AS {TEXT}) = {text})"
                tests[f"{name} DOUBLE"] = (f"bool_and(isfinite(TRY_CAST({text} AS DOUBLE)) AND NOT "
                                           f"regexp_matches({text}, '^[-+]?0[0-9]|_'))")  # fmt: skip
    answers: Sequence[Any] = ()
    if tests:
        (answers,) = connection.execute(f"SELECT {', '.join(tests.values())} FROM {table.relation}").fetchall()
    passed = dict(zip(tests, answers, strict=True))
    for name, (column, kind) in attributes.items():
        if kind == "integer" and passed[f"{name} BIGINT"] is False:
            raise UserError(f"{table.called}: column '{column}' holds what is no integer; mend it, or name the columns "
                            "that it has with --session, --item, --time and the other options")  # fmt: skip
        number = next((t for t in ("BIGINT", "DOUBLE") if passed.get(f"{name} {t}")), "BIGINT" * (kind == "integer"))
        parsed[name] = f"TRY_CAST({parsed[name]} AS {number})" if number else parsed[name]
    return parsed


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
        array_file(attributes.with_name("item_names.npy"), "<i4", items) as append,
    ):
        for batch in reader:
            append(batch.column(0).to_numpy())
    entries["item_names.npy"] = file_entry(attributes.with_name("item_names.npy"))
    (names,) = connection.execute("SELECT count(*) FROM names").fetchone()
    (unnamed,) = connection.execute(f"SELECT count(*) FROM {named} WHERE name = ''").fetchone()
    return entries, {"names": names, "unnamed": unnamed}
