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
        attributes: by name, in their order; ``name`` is one of them.
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
    file, names_file, numbers_file = (path / name for name in ("attributes.parquet", "names.parquet", "item_names.npy"))
    entries: dict[str, dict[str, Any]] = {}
    with reading(table):
        parsed = _parsed(connection, table, attributes, na)
        values = ", ".join(f"{sql} AS {identifier(name)}" for name, sql in parsed.items())
        entry = _write(connection, file, (
            f"SELECT everything.* EXCLUDE (row) REPLACE (coalesce(everything.name, '') AS name){live} FROM ("
            f"SELECT {values}, row_number() OVER () - 1 AS row FROM {table.relation}) AS everything "
            f"JOIN latest ON latest.row = everything.row {join} ORDER BY index"
        ))  # fmt: skip
    named = f"(SELECT name, file_row_number AS index FROM read_parquet({literal(file)}, file_row_number = true))"
    connection.execute(
        "CREATE TEMP TABLE names AS SELECT name, (row_number() OVER (ORDER BY first) - 1)::INTEGER AS number FROM "
        f"(SELECT name, min(index) AS first FROM {named} WHERE name <> '' GROUP BY name)"
    )
    ((items, names, unnamed),) = connection.execute(
        f"SELECT (SELECT count(*) FROM vocabulary), (SELECT count(*) FROM names), count(*) FILTER (name = '') "
        f"FROM {named}"
    ).fetchall()
    if pyarrow.parquet.read_metadata(file).num_rows != items:
        raise AssertionError("the attributes are not one row an item")
    entries[names_file.name] = _write(connection, names_file, "SELECT name FROM names ORDER BY number")
    numbers = f"SELECT coalesce(number, -1) AS number FROM {named} LEFT JOIN names USING (name) ORDER BY index"
    with connection.sql(numbers).to_arrow_reader(CHUNK) as reader, array_file(numbers_file, "<i4", items) as append:
        for batch in reader:
            append(batch.column(0).to_numpy())
    entries |= {numbers_file.name: file_entry(numbers_file), file.name: entry}
    return entries, {"names": names, "unnamed": unnamed}


def _write(connection: Any, file: Path, query: str) -> dict[str, Any]:
    with connection.sql(query).to_arrow_reader(CHUNK) as reader:
        return write_parquet(reader, reader.schema, file)


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
            parsed[name] = text = f"regexp_replace({text}, '\\.0+$', '')" if kind == "integer" else text
            if kind != "text":
                tests[name, "BIGINT"] = f"bool_and(CAST(TRY_CAST({text} AS BIGINT) AS {TEXT}) = {text})"
                tests[name, "DOUBLE"] = (f"bool_and(isfinite(TRY_CAST({text} AS DOUBLE)) AND NOT "
                                         f"regexp_matches({text}, '^[-+]?0[0-9]|_'))")  # fmt: skip
    columns = ", ".join(["count(*)", *tests.values()])
    ((_, *answers),) = connection.execute(f"SELECT {columns} FROM {table.relation}").fetchall()
    passed = dict(zip(tests, answers, strict=True))
    for name, (column, kind) in attributes.items():
        if kind == "integer" and passed[name, "BIGINT"] is False:
            raise UserError(f"{table.called}: column '{column}' holds what is no integer; mend it, or name the columns "
                            "that it has with --session, --item, --time and the other options")  # fmt: skip
        number = next((one for one in ("BIGINT", "DOUBLE") if passed.get((name, one))), "BIGINT" * (kind == "integer"))
        parsed[name] = f"TRY_CAST({parsed[name]} AS {number})" if number else parsed[name]
    return parsed
