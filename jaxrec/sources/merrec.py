"""Events on the listings of a marketplace: MerRec (arXiv:2402.14230), or a log of your own with columns like it.

A session of MerRec is the rows of one (user_id, session_id, sequence_id). Each row has the time, one of six types of
event, the item, and what the item was called and was like then. With options that name columns any log is read so.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

from jaxrec.cli.command import ranged
from jaxrec.data.clean.choices import Drawn, Raw
from jaxrec.data.reading import duck
from jaxrec.data.reading.columns import id_field, nothing_as_null, number_field, session_field, whole_column
from jaxrec.data.reading.duck import identifier, literal, trimmed, value_text
from jaxrec.data.reading.table import Field, Table, load, reading
from jaxrec.data.reading.times import ORDER, read_times
from jaxrec.data.store import write_file, write_parquet
from jaxrec.errors import UserError, nearest
from jaxrec.sources import shared

HELP = "events on the listings of a marketplace (MerRec), in Parquet or CSV files"
KIND = "events"
DEFAULTS = {"min_session_length": 3, "min_item_support": 1, "test_days": 3}

EVENT_TYPES: tuple[str, ...] = ("item_view", "item_like", "item_add_to_cart_tap", "offer_make", "buy_start", "buy_comp")
BOUGHT = "buy_comp"
PURCHASES = (BOUGHT, "purchase", "buy", "order", "transaction")
MOST_TYPES = 256
CHUNK = 1 << 16  # rows fetched from DuckDB at a time

CATEGORY = ("c0_name", "c1_name", "c2_name")
# Options that name columns: the columns of the published data set that they take the place of, and their help.
ROLES: dict[str, tuple[tuple[str, ...], str]] = {
    "session": (("user_id", "session_id", "sequence_id"), "the session; several are one key, such as user day"),
    "item": (("item_id",), "the item; integers or text"),
    "time": (("stime",), "the time; a date and time or a number"),
    "event": (("event_id",), "what was done, any names (without one all events are of one type, event)"),
    "name": (("name",), "what the item is called, which the text heads of merrec rank by"),
    "price": (("price",), "the price of the item"),
    "category": (CATEGORY, "levels of the item's category, the top one first; at most 3"),
    "brand": (("brand_name",), "the brand of the item"),
    "condition": (("item_condition_name",), "the condition of the item"),
    "attributes": ((), "further columns of the item, to be shown and to filter by with --where"),
}
SEVERAL = ("session", "category", "attributes")
ATTRIBUTES = ("name", "price", "c0_name", "c0_id", "c1_name", "c1_id", "c2_name", "c2_id", "brand_name", "brand_id",
              "item_condition_id", "item_condition_name", "size_name", "size_id", "color", "shipper_id",
              "shipper_name", "product_id")  # fmt: skip
INTEGERS = ("c0_id", "c1_id", "c2_id", "brand_id", "item_condition_id", "size_id", "shipper_id")
FURTHER = (*INTEGERS[:5], "size_name", "size_id", "color", "shipper_id", "shipper_name", "product_id")
RESERVED = ("item", "event", "row", "index", "listed", "sold", "name", "price")
Attributes = dict[str, tuple[str | None, str]]  # the column, if any, and what it holds: text, price, integer or any


def add_arguments(parser: ArgumentParser) -> None:
    shared.add_raw_arguments(parser, "the events")
    group = parser.add_argument_group(
        "a log of your own", "Columns that are not named are those of the published data set, where the files have them"
    )
    shared.add_columns(group, {option: what for option, (_, what) in ROLES.items()}, SEVERAL)
    group.add_argument("--events", nargs="+", metavar="NAME", help="keep events of these types alone, in this order; "
                       "cart=add_to_cart also renames (default: all, the most frequent first)")  # fmt: skip
    group.add_argument("--bought", metavar="NAME", help="type of event after which an item is not recommended again "
                       "(default: buy_comp, purchase, buy, order or transaction, where there is one)")  # fmt: skip
    shared.add_file_arguments(parser)
    add_protocol_arguments(parser)


def add_protocol_arguments(parser: ArgumentParser) -> None:
    """Add ``--target`` and the options of the split."""
    parser.add_argument("--target", choices=("item", "product"), default="item", help="what the vocabulary holds: the "
                        "listing (item_id) or its brand and category (product_id) (default item)")  # fmt: skip
    parser.add_argument(
        "--split", choices=("time", "random"), default="time", help="test on the sequences of the last --test-days, "
        "with items that training has not seen, or on sequences drawn at random (default time)",
    )  # fmt: skip
    parser.add_argument("--test-fraction", type=shared.fraction, metavar="F",
                        help="with --split random: the part of the sequences to test on (default 0.2)")  # fmt: skip
    parser.add_argument("--split-seed", type=ranged(int, 0, 2**32), metavar="N",
                        help="with --split random: another seed draws others (default 0)")  # fmt: skip


def read(connection: Any, arguments: Namespace, listings: Path | None = None) -> Raw:
    """Fill the table ``raw`` from files with the columns of the published data set, or those that options name.

    ``listings`` is a Parquet file with ``item_id``, ``listed`` and ``sold`` (ms since 1970) of every item, which become
    attributes of the target item.
    """
    na, target, drawn = arguments.na, arguments.target, None
    files = ArgumentParser()
    shared.add_file_arguments(files)
    defaults = vars(files.parse_args([])) | dict.fromkeys((*ROLES, "events", "bought"))
    own = any(getattr(arguments, name) != default for name, default in defaults.items())
    if own and target != "item":
        raise UserError("--target product: belongs to the published columns; name the product's column with --item")
    options: dict[str, Any] = {"split": arguments.split}
    if arguments.split == "random":
        drawn = Drawn(arguments.test_fraction or Fraction(1, 5), arguments.split_seed or 0)
        options |= {"test_fraction": str(drawn.fraction), "split_seed": drawn.seed}
    elif arguments.test_fraction is not None or arguments.split_seed is not None:
        raise UserError("--test-fraction, --split-seed: the split is by time; add --split random or leave them out")
    table, notes = shared.open_named(connection, arguments, ())
    for name in () if own else (*ROLES["session"][0], "item_id", "stime", "event_id", *ATTRIBUTES):
        table.column(name, "; is --delimiter right? columns of a log of your own are named with --session and so on")
    columns = _find_columns(table, arguments, notes if own else [])
    columns["item"] = columns["item"] if own else f"{target}_id"
    times = read_times(connection, table, columns["time"], arguments.time_unit, arguments.time_format)
    if times.unit == ORDER and not drawn and (arguments.test_days or arguments.validation_days):
        raise UserError("--time-unit order: counters have no days to split by; give --test-days 0 or --split random")
    fields = [session_field(table, columns["session"], na), id_field(table, "item", columns["item"], na)]
    fields += [] if target == "item" else [id_field(table, "listing", "item_id", na)]
    fields.append(Field("time", columns["time"], times.parse, times.expected))
    if not own:
        place = f"list_position([{duck.listed(EVENT_TYPES)}], CAST({{0}} AS VARCHAR))"
        fields.append(Field("event", "event_id", f"CAST({place} - 1 AS UTINYINT)".format,
                            f"one of {', '.join(EVENT_TYPES)}"))  # fmt: skip
    elif columns["event"] is not None:
        fields.append(replace(id_field(table, "event", columns["event"], na), expected="the type of an event"))
    if columns["price"] is not None:
        fields.append(number_field(table, "price", columns["price"], na))
    loaded = load(connection, table, fields, arguments.drop_invalid)
    notes += [*loaded.notes, *whole_column(connection, "item", f"column '{columns['item']}'")]
    types, dropped, live = EVENT_TYPES, dict[str, Any](), listings if target == "item" else None
    entries: dict[str, Any] = {"target": target, "live": live is not None}
    if own:
        types, others = _event_types(connection, table, columns["event"], arguments.events)
        dropped |= {"invalid rows": {"events": loaded.invalid}} if arguments.drop_invalid else {}
        dropped |= {} if arguments.events is None else {"other types of events": {"events": others}}
        entries["bought"] = bought = arguments.bought or next((name for name in PURCHASES if name in types), None)
        if bought is not None and bought not in types:
            raise UserError(f"--bought {bought}: no such type of event{nearest(bought, types)}; there are "
                            f"{', '.join(types)}")  # fmt: skip
        options = columns | options | {"delimiter": arguments.delimiter, "na": na, "time_unit": times.unit}
        options |= {"time_format": arguments.time_format, "events": arguments.events}
        attributes: Attributes = {"name": (columns["name"], "text")}
        attributes |= {} if columns["price"] is None else {"price": (columns["price"], "price")}
        attributes |= {name: (column, "text") for name, column in columns["texts"].items()}
        attributes |= {column: (column, "any") for column in columns["attributes"]}
    else:
        options = {"target": target} | options
        kinds = {"price": "price"} | dict.fromkeys(INTEGERS, "integer")
        attributes = {name: (name, kinds.get(name, "text")) for name in ATTRIBUTES}
    return Raw(
        table.called, options | shared.given_options(arguments), event_types=types, drawn=drawn, notes=notes,
        extras=lambda path, n_items: {"event_types": list(types), **entries},
        counters=times.unit == ORDER, read=loaded.read, dropped=dropped,
        place=lambda row: table.row_place(connection, row),
        attributes=lambda path: write_items(connection, table, attributes, na, path, live),
    )  # fmt: skip


def _find_columns(table: Table, arguments: Namespace, notes: list[str]) -> dict[str, Any]:
    """The columns of a file by what they hold: those that are named, and published ones that are there; ``texts`` are
    of the category, the brand and the condition, by attribute, ``attributes`` kept as they are.
    """
    columns: dict[str, tuple[str, ...]] = {}
    for option, (published, _) in ROLES.items():
        value = getattr(arguments, option)
        columns[option] = (value,) if isinstance(value, str) else tuple(value or ())
        for name in columns[option]:
            table.column(name)
        if found := not columns[option] and tuple(name for name in published if name in table.names):
            columns[option] = found
            notes.append(f"a column of the published data set is there, as if given: --{option} {' '.join(found)}")
        if option in ("session", "item", "time") and not columns[option]:
            raise UserError(f"{table.path}: no column of the {option}; name it with --{option}")
    if len(columns["category"]) > len(CATEGORY):
        raise UserError(f"--category: at most {len(CATEGORY)} levels, the top one first; give others as --attributes")
    texts = dict(zip(CATEGORY, columns["category"], strict=False))
    texts |= {ROLES[role][0][0]: columns[role][0] for role in ("brand", "condition") if columns[role]}
    names = [*RESERVED, *texts, *(name.lower() for name in columns["attributes"])]
    if twice := [name for name in columns["attributes"] if names.count(name.lower()) > 1]:
        raise UserError(f"--attributes {twice[0]}: the name is taken, or named twice; rename it or leave it out")
    used = {name.lower() for names in columns.values() for name in names}
    further = tuple(name for name in FURTHER if name in table.names and name not in used)
    one = {role: next(iter(columns[role]), None) for role in ("item", "time", "event", "name", "price")}
    return {"session": columns["session"], **one, "texts": texts, "attributes": columns["attributes"] + further}


def _event_types(
    connection: Any, table: Table, column: str | None, wanted: Sequence[str] | None
) -> tuple[tuple[str, ...], int]:
    """The names of the types, and how many events are of others and left out; the column ``event`` of ``raw`` becomes
    an index into the names. ``wanted`` are those of ``--events``, each ``name`` or ``name=new``.
    """
    if column is None:
        if wanted is not None:
            raise UserError("--events: no column says what was done; name it with --event, or leave this out")
        connection.execute("ALTER TABLE raw ADD COLUMN event UTINYINT DEFAULT 0")
        return ("event",), 0
    counts = dict(connection.execute(f"SELECT {trimmed('event')}, count(*) FROM raw GROUP BY 1").fetchall())
    often = sorted(counts, key=lambda name: (-counts[name], name))
    chosen: dict[str, str] = {}
    for word in often if wanted is None else wanted:
        name, _, new = (word, "", word) if word in counts else word.rpartition("=")
        if name not in counts or name in chosen or not new.strip():
            raise UserError(f"--events {word}: twice, or none of column '{column}'{nearest(name or word, often)}; "
                            f"those are {', '.join(often[:12])}; give each once, as view or view=new")  # fmt: skip
        chosen[name] = new.strip()
    types = tuple(dict.fromkeys(chosen.values()))
    if len(types) > MOST_TYPES:
        raise UserError(f"{table.called}: column '{column}': {len(types):,} types of events, at most {MOST_TYPES} are "
                        "allowed; choose with --events, or name another --event")  # fmt: skip
    pairs = " ".join(f"WHEN {duck.quoted(name)} THEN {types.index(new)}" for name, new in chosen.items())
    connection.execute(f"ALTER TABLE raw ALTER event TYPE UTINYINT USING CASE {trimmed('event')} {pairs} END")
    return types, duck.leave_out(connection, "event IS NULL") if len(chosen) < len(counts) else 0


def write_items(
    connection: Any, table: Table, attributes: Attributes, na: Sequence[str] | None, path: Path,
    listings: Path | None = None,
) -> tuple[dict[str, dict[str, Any]], dict[str, Any]]:  # fmt: skip
    """Write ``attributes.parquet``, ``names.parquet`` and ``item_names.npy``, as of each item's latest event; returns
    their entries and counts. DuckDB has the tables ``raw`` and ``vocabulary``; ``name`` is one of the attributes.
    """

    def write(file: Path, query: str) -> dict[str, Any]:
        with connection.sql(query).to_arrow_reader(CHUNK) as reader:
            return write_parquet(reader, reader.schema, file)

    # Of each item the last row of those of its latest time.
    connection.execute(
        f"CREATE TEMP TABLE latest AS SELECT index, item, max({duck.input_rows(connection)}) AS row FROM raw "
        "JOIN (SELECT item, max(time) AS time FROM raw GROUP BY item) USING (item, time) "
        "JOIN vocabulary USING (item) GROUP BY index, item"
    )
    live = ", listed, sold" if listings else ""
    join = f"LEFT JOIN read_parquet({literal(listings)}) AS l ON l.item_id = latest.item" if listings else ""
    file, names_file = path / "attributes.parquet", path / "names.parquet"
    with reading(table):
        values = ", ".join(f"{sql} AS {identifier(name)}"
                           for name, sql in _parsed(connection, table, attributes, na).items())  # fmt: skip
        entry = write(file, (
            f"SELECT everything.* EXCLUDE (row) REPLACE (coalesce(everything.name, '') AS name){live} FROM ("
            f"SELECT {values}, row_number() OVER () - 1 AS row FROM {table.relation}) AS everything "
            f"JOIN latest ON latest.row = everything.row {join} ORDER BY index"
        ))  # fmt: skip
    named = f"(SELECT name, file_row_number AS index FROM read_parquet({literal(file)}, file_row_number = true))"
    connection.execute(
        "CREATE TEMP TABLE names AS SELECT name, (row_number() OVER (ORDER BY first) - 1)::INTEGER AS number FROM "
        f"(SELECT name, min(index) AS first FROM {named} WHERE name <> '' GROUP BY name)"
    )
    ((names, unnamed),) = connection.execute(
        f"SELECT (SELECT count(*) FROM names), count(*) FILTER (name = '') FROM {named}"
    ).fetchall()
    entries = {names_file.name: write(names_file, "SELECT name FROM names ORDER BY number")}
    numbers = f"SELECT coalesce(number, -1) AS number FROM {named} LEFT JOIN names USING (name) ORDER BY index"
    entries |= write_file(path, "item_names.npy", connection.sql(numbers).fetchnumpy()["number"].astype("<i4"))
    return entries | {file.name: entry}, {"names": names, "unnamed": unnamed}


def _parsed(connection: Any, table: Table, attributes: Attributes, na: Sequence[str] | None) -> dict[str, str]:
    """SQL of each attribute, NULL where there is none; those of any kind are whole numbers or numbers where all values
    are such, otherwise text.
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
            if found.startswith(duck.NESTED) or found.endswith("]"):
                raise UserError(f"{table.called}: column '{column}' is of type {found}; expected text or numbers")
            text = trimmed(nothing_as_null(value_text(sql, found), na))
            parsed[name] = text = duck.undotted(text) if kind == "integer" else text
            if kind != "text":
                tests[name, "BIGINT"] = f"bool_and(CAST(TRY_CAST({text} AS BIGINT) AS {duck.TEXT}) = {text})"
                tests[name, "DOUBLE"] = (f"bool_and(isfinite(TRY_CAST({text} AS DOUBLE)) AND NOT "
                                         f"regexp_matches({text}, '^[-+]?0[0-9]|_'))")  # fmt: skip
    columns = ", ".join(["count(*)", *tests.values()])
    ((_, *answers),) = connection.execute(f"SELECT {columns} FROM {table.relation}").fetchall()
    passed = dict(zip(tests, answers, strict=True))
    for name, (column, kind) in attributes.items():
        if kind == "integer" and passed[name, "BIGINT"] is False:
            raise UserError(f"{table.called}: column '{column}' holds what is no integer; mend it, or name the columns")
        number = next((one for one in ("BIGINT", "DOUBLE") if passed.get((name, one))), "BIGINT" * (kind == "integer"))
        parsed[name] = f"TRY_CAST({parsed[name]} AS {number})" if number else parsed[name]
    return parsed
