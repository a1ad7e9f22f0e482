"""Events on the listings of a marketplace: MerRec (arXiv:2402.14230), or a log of your own with columns like it.

A session of MerRec is the rows of one (user_id, session_id, sequence_id). Each row has the time, one of six types of
event, the item, and what the item was called and was like then. With options that name columns any log is read so.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from jaxrec.data.clean.parts import Parts, describe_parts
from jaxrec.data.clean.protocol import Extras, Raw
from jaxrec.data.clean.shards import Shards
from jaxrec.data.clean.steps import make_latest
from jaxrec.data.reading import columns as read_as
from jaxrec.data.reading import duck
from jaxrec.data.reading.columns import ORDER, read_times
from jaxrec.data.reading.duck import fetch_row, identifier, literal, trimmed, undotted, value_text
from jaxrec.data.reading.table import Field, Table, load, reading
from jaxrec.data.store import write_file, write_parquet
from jaxrec.errors import UserError
from jaxrec.sources import shared

HELP = "events on the listings of a marketplace (MerRec), in Parquet or CSV files"
KIND = "events"
DEFAULTS = {"min_session_length": 3, "min_item_support": 1, "test_days": 3}

EVENT_TYPES: tuple[str, ...] = ("item_view", "item_like", "item_add_to_cart_tap", "offer_make", "buy_start", "buy_comp")
BOUGHT = "buy_comp"
PURCHASES = (BOUGHT, "purchase", "buy", "order", "transaction")
CHUNK = 1 << 16  # rows fetched from DuckDB at a time

CATEGORY = ("c0_name", "c1_name", "c2_name")
ROLES = {  # options that name columns
    "session": "the session; several are one key, such as user day",
    "item": "the item; integers or text",
    "time": "the time; a date and time or a number",
    "event": "what was done, any names (without one all events are of one type, event)",
    "name": "what the item is called, which the text heads of merrec rank by",
    "price": "the price of the item",
    "category": "levels of the item's category, the top one first; at most 3",
    "brand": "the brand of the item",
    "condition": "the condition of the item",
    "attributes": "further columns of the item, to be shown and to filter by with --where",
}
SEVERAL = ("session", "category", "attributes")
ATTRIBUTES = {
    "name": "text", "price": "price", "c0_name": "text", "c0_id": "integer", "c1_name": "text", "c1_id": "integer",
    "c2_name": "text", "c2_id": "integer", "brand_name": "text", "brand_id": "integer", "item_condition_id": "integer",
    "item_condition_name": "text", "size_name": "text", "size_id": "integer", "color": "text",
    "shipper_id": "integer", "shipper_name": "text", "product_id": "text",
}  # fmt: skip
"""Columns of the published data set that describe an item, and what they hold."""
PUBLISHED = {"session": ("user_id", "session_id", "sequence_id"), "item": "item_id", "time": "stime",
             "event": "event_id", "price": "price", "attributes": tuple(ATTRIBUTES)}  # fmt: skip
TEXTS = {"brand": "brand_name", "condition": "item_condition_name"}  # roles, and the attributes that they are
RESERVED = ("item", "event", "row", "index", "listed", "sold", "name", "price")
Attributes = dict[str, tuple[str | None, str]]  # the column, if any, and what it holds: text, price, integer or any
PUBLISHED_ATTRIBUTES: Attributes = {name: (name, kind) for name, kind in ATTRIBUTES.items()}
PUBLISHED_ENTRIES: dict[str, Any] = {"event_types": list(EVENT_TYPES), "target": "item", "live": False}


def add_arguments(parser: ArgumentParser) -> None:
    shared.add_raw_arguments(parser, "the events")
    group = parser.add_argument_group("a log of your own", "Without these: the columns of the published data set")
    shared.add_columns(group, ROLES, SEVERAL)
    group.add_argument("--events", nargs="+", metavar="NAME", help="keep events of these types alone, in this order "
                       "(default: all, the most frequent first). An item that was bought "
                       f"({', '.join(PURCHASES)}) is not recommended again")  # fmt: skip
    shared.add_file_arguments(parser)


def read(connection: Any, arguments: Namespace, listings: Path | None = None) -> Raw:
    """Fill the table ``raw`` from files with the columns of the published data set, or those that options name.

    ``listings`` is a Parquet file with ``item_id``, ``listed`` and ``sold`` (ms since 1970) of every item, which become
    attributes of the item.
    """
    text_ids = vars(arguments).get("text_ids", False)
    na, wanted, columns = arguments.na, arguments.events, {role: getattr(arguments, role) for role in ROLES}
    if not (own := any((*columns.values(), wanted))):
        columns |= PUBLISHED
    for role in ("session", "item", "time"):
        if not columns[role]:
            raise UserError(f"no column of the {role}; name it with --{role}")
    needed = [one for names in columns.values() for one in ([names] if isinstance(names, str) else names or ())]
    table = shared.open_raw(connection, arguments, needed)
    unit, time_field = read_times(connection, table, columns["time"], arguments)
    fields = [
        read_as.session_field(table, columns["session"], na),
        read_as.id_field(table, "item", columns["item"], na),
        time_field,
    ]
    if own:
        fields += [read_as.type_field(table, columns["event"], na)] if columns["event"] else []
    else:
        place = f"list_position([{duck.listed(EVENT_TYPES)}], CAST({{0}} AS VARCHAR))"
        fields.append(Field("event", columns["event"], f"CAST({place} - 1 AS UTINYINT)".format,
                            f"one of {', '.join(EVENT_TYPES)}"))  # fmt: skip
    if columns["price"]:
        fields.append(read_as.number_field(table, "price", columns["price"], na))
    read, invalid, about = load(connection, table, fields, arguments.drop_invalid)
    notes = [*about, *read_as.whole_column(connection, "item", f"column '{columns['item']}'", text_ids)]
    types, dropped, entries = list(EVENT_TYPES), dict[str, Any](), {"target": "item", "live": listings is not None}
    options: dict[str, Any] = {"target": "item", "split": "time"}
    attributes = PUBLISHED_ATTRIBUTES
    if own:
        attributes, texts = _attributes(columns)
        if columns["event"]:
            types, others = read_as.choose_types(connection, table, columns["event"], wanted)
            dropped |= {"invalid rows": {"events": invalid}} if arguments.drop_invalid else {}
            dropped |= {"other types of events": {"events": others}} if wanted else {}
        else:
            connection.execute("ALTER TABLE raw ADD COLUMN event UTINYINT DEFAULT 0")
            types = ["event"]
        entries["bought"] = next((name for name in PURCHASES if name in types), None)
        options = {role: columns[role] for role in ("session", "item", "time", "event", "name", "price")}
        options |= {"texts": texts, "attributes": columns["attributes"], "split": "time",
                    "delimiter": arguments.delimiter, "na": na, "time_unit": unit,
                    "time_format": arguments.time_format, "events": wanted}  # fmt: skip

    def extras(path: Path) -> Extras:
        make_latest(connection, "(SELECT item, time, rowid AS row FROM raw)")
        with reading(table):
            described = describe(connection, table, attributes, na, listings)
            return *write_items(connection, described, path), {"event_types": types, **entries}

    return Raw(
        table.called, options | shared.given_options(arguments), event_types=tuple(types), notes=notes, extras=extras,
        counters=unit == ORDER, time_unit=unit, read=read, dropped=dropped, columns=table.columns,
    )  # fmt: skip


def _attributes(columns: dict[str, Any]) -> tuple[Attributes, dict[str, str]]:
    """The attributes of items by the columns of a log, and of those that are text the columns."""
    if len(columns["category"]) > len(CATEGORY):
        raise UserError(f"--category: at most {len(CATEGORY)} levels, the top one first; give others as --attributes")
    texts = dict(zip(CATEGORY, columns["category"], strict=False))
    texts |= {name: columns[role] for role, name in TEXTS.items() if columns[role]}
    attributes: Attributes = {"name": (columns["name"], "text")}
    attributes |= {"price": (columns["price"], "price")} if columns["price"] else {}
    attributes |= {name: (column, "text") for name, column in texts.items()}
    taken = {*RESERVED, *attributes}
    for name in columns["attributes"]:
        if name.lower() in taken:
            raise UserError(f"--attributes {name}: the name is taken, or named twice; rename it or leave it out")
        taken.add(name.lower())
    return attributes | {name: (name, "any") for name in columns["attributes"]}, texts


def describe(
    connection: Any, table: Table, attributes: Attributes, na: Sequence[str] | None, listings: Path | None = None
) -> str:
    """SQL of the attributes of each item, and its ``index``, as its row in DuckDB's table ``latest`` (index, item, row)
    has them; ``name`` is one of the attributes."""
    live = ", listed, sold" if listings else ""
    join = f"LEFT JOIN read_parquet({literal(listings)}) AS l ON l.item_id = latest.item" if listings else ""
    values = ", ".join(f"{sql} AS {identifier(name)}"
                       for name, sql in _parsed(connection, table, attributes, na).items())  # fmt: skip
    return (
        f"SELECT everything.* EXCLUDE (row) REPLACE (coalesce(everything.name, '') AS name){live}, index FROM ("
        f"SELECT {values}, row_number() OVER () - 1 AS row FROM {table.relation}) AS everything "
        f"JOIN latest ON latest.row = everything.row {join}"
    )


def write_items(connection: Any, described: str, path: Path) -> tuple[dict[str, dict[str, Any]], dict[str, Any]]:
    """Write ``attributes.parquet``, ``names.parquet`` and ``item_names.npy`` from the SQL of ``describe``; returns
    their entries and counts."""
    query = f"SELECT * EXCLUDE (index) FROM ({described}) ORDER BY index"
    with connection.sql(query).to_arrow_reader(CHUNK) as reader:
        entry = write_parquet(reader, reader.schema, path / "attributes.parquet")
    names = pq.read_table(path / "attributes.parquet", columns=["name"])["name"]
    # Names are numbered in the order of their first item.
    codes = pc.if_else(pc.equal(names, ""), None, names).dictionary_encode().combine_chunks()
    distinct, numbers = pa.table({"name": codes.dictionary}), codes.indices.fill_null(-1).to_numpy().astype("<i4")
    files = {"names.parquet": write_parquet(distinct.to_batches(), distinct.schema, path / "names.parquet")}
    files |= write_file(path, "item_names.npy", numbers) | {"attributes.parquet": entry}
    return files, {"names": len(distinct), "unnamed": int(np.count_nonzero(numbers < 0))}


def in_parts(arguments: Namespace) -> bool:
    """Files with the columns of the published data set, whose types and attributes need no look at all of them."""
    return not arguments.drop_invalid and not any(getattr(arguments, name) for name in (*ROLES, "events"))


def extras_of_parts(parts: Parts, shards: Shards) -> Callable[[Path], Extras]:
    """``Raw.extras`` of files that were read in parts."""

    def extras(path: Path) -> Extras:
        described = describe_parts(_describe_published, parts, shards)
        return *write_items(shards.connection, described, path), dict(PUBLISHED_ENTRIES)

    return extras


def _describe_published(connection: Any, arguments: Namespace) -> str:
    return describe(connection, shared.open_raw(connection, arguments), PUBLISHED_ATTRIBUTES, arguments.na)


def _parsed(connection: Any, table: Table, attributes: Attributes, na: Sequence[str] | None) -> dict[str, str]:
    """SQL of each attribute, NULL where there is none; those of any kind are whole numbers or numbers where all values
    are such, otherwise text.
    """
    parsed, kinds = {}, {}
    for name, (column, kind) in attributes.items():
        if column is None:
            parsed[name] = "''"
            continue
        sql, found = table.column(column)
        if found.startswith(duck.NESTED) or found.endswith("]"):
            raise UserError(f"{table.called}: column '{column}' is of type {found}; expected text or numbers")
        text = trimmed(read_as.nothing_as_null(value_text(sql, found), na))
        if kind == "price":
            number = read_as.number_field(table, name, column, na).parse(sql)
            text = f"CASE WHEN NOT isnan({number}) THEN {number} END"
        elif kind == "integer":
            text = f"CAST({undotted(text)} AS BIGINT)"
        elif kind == "any":
            whole = f"bool_and(({duck.integer(text)}) IS NOT NULL OR {text} IS NULL)"
            number = f"isfinite(TRY_CAST({text} AS DOUBLE)) AND NOT regexp_matches({text}, '^[-+]?0[0-9]|_')"
            kinds[name] = (f"CASE WHEN count({text}) = 0 THEN 'VARCHAR' WHEN {whole} THEN 'BIGINT' "
                           f"WHEN bool_and({number}) THEN 'DOUBLE' ELSE 'VARCHAR' END")  # fmt: skip
        parsed[name] = text
    if kinds:
        answers = fetch_row(connection, f"SELECT {', '.join(kinds.values())} FROM {table.relation}")
        parsed |= {name: f"TRY_CAST({parsed[name]} AS {kind})" for name, kind in zip(kinds, answers, strict=True)}
    return parsed
