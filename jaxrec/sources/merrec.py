"""Events on the listings of a marketplace: MerRec (arXiv:2402.14230), or a log of your own with columns like it.

A session of MerRec is a sequence of the data set: the rows of one (user_id, session_id, sequence_id). Each row has the
time, one of six event types, the item, and what the item was called and was like then. With options that name columns
the same is read from any log: any columns, any names of events, ids of integers or text.
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
from jaxrec.data.reading.columns import id_field, number_field, session_field, whole_column
from jaxrec.data.reading.duck import leave_out, quoted, trimmed
from jaxrec.data.reading.table import Field, Table, load
from jaxrec.data.reading.times import ORDER, read_times
from jaxrec.errors import UserError, nearest, shown
from jaxrec.sources.merrec_items import Attribute, write_items
from jaxrec.sources.shared import add_file_arguments, add_raw_arguments, fraction, given_options, open_named

HELP = "events on the listings of a marketplace (MerRec), in Parquet or CSV files"
KIND = "events"
DEFAULTS = {"min_session_length": 3, "min_item_support": 1, "test_days": 3}

EVENT_TYPES = ("item_view", "item_like", "item_add_to_cart_tap", "offer_make", "buy_start", "buy_comp")
BOUGHT = "buy_comp"
PURCHASES = (BOUGHT, "purchase", "buy", "order", "transaction")
ONE_TYPE = "event"  # what events are called where no column says
MOST_TYPES = 256

SESSION, CATEGORY = ("user_id", "session_id", "sequence_id"), ("c0_name", "c1_name", "c2_name")
ROLES: dict[str, tuple[tuple[str, ...], str]] = {
    "session": (SESSION, "the session; several together are one key, such as user and day"),
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
"""Options that name columns: the columns of the published data set that they take the place of, and their help."""
SEVERAL, NEEDED = ("session", "category", "attributes"), ("session", "item", "time")
ATTRIBUTES = ("name", "price", "c0_name", "c0_id", "c1_name", "c1_id", "c2_name", "c2_id", "brand_name", "brand_id",
              "item_condition_id", "item_condition_name", "size_name", "size_id", "color", "shipper_id",
              "shipper_name", "product_id")  # fmt: skip
INTEGERS = ("c0_id", "c1_id", "c2_id", "brand_id", "item_condition_id", "size_id", "shipper_id")
FURTHER = (*INTEGERS[:5], "size_name", "size_id", "color", "shipper_id", "shipper_name", "product_id")
HINT = "; is --delimiter right? the columns of a log of your own are named with --session, --item, --time and so on"
RESERVED = ("item", "event", "row", "index", "listed", "sold", "name", "price")


def add_arguments(parser: ArgumentParser) -> None:
    add_raw_arguments(parser, "the events")
    group = parser.add_argument_group(
        "a log of your own", "Columns that are not named are those of the published data set, where the files have them"
    )
    for option, (_, what) in ROLES.items():
        nargs = "+" if option in SEVERAL else None
        group.add_argument(f"--{option}", nargs=nargs, metavar="COL", help=f"column: {what}")
    group.add_argument(
        "--events", nargs="+", metavar="NAME", help="keep events of these types alone, in this order; cart=add_to_cart "
        "also renames (default: all, the most frequent first)",
    )  # fmt: skip
    group.add_argument(
        "--bought", metavar="NAME", help="the type of event after which an item is not recommended again (default: "
        "buy_comp, purchase, buy, order or transaction, where there is one)",
    )  # fmt: skip
    add_file_arguments(parser)
    add_protocol_arguments(parser)


def add_protocol_arguments(parser: ArgumentParser) -> None:
    """Add ``--target``, ``--split``, ``--test-fraction`` and ``--split-seed``."""
    parser.add_argument(
        "--target", choices=("item", "product"), default="item",
        help="what the vocabulary holds: the listing (item_id) or its brand and category (product_id) (default item)",
    )  # fmt: skip
    parser.add_argument(
        "--split", choices=("time", "random"), default="time", help="test on the sequences of the last --test-days, "
        "with items that training has not seen, or on sequences drawn at random (default time)",
    )  # fmt: skip
    parser.add_argument("--test-fraction", type=fraction, metavar="F", help="with --split random: the part of the "
                        "sequences to test on (default 0.2)")  # fmt: skip
    parser.add_argument("--split-seed", type=ranged(int, 0, 2**32), metavar="N", help="with --split random: another "
                        "seed draws others (default 0)")  # fmt: skip


def read(connection: Any, arguments: Namespace) -> Raw:
    """Fill the table ``raw``; see ``choices.Raw``."""
    return read_files(connection, arguments)


def split_of(arguments: Namespace) -> tuple[Drawn | None, dict[str, Any]]:
    """What ``--split random`` asks for, None of a split by time; and the split for the manifest."""
    if arguments.split == "random":
        drawn = Drawn(arguments.test_fraction or Fraction(1, 5), arguments.split_seed or 0)
        return drawn, {"split": "random", "test_fraction": str(drawn.fraction), "split_seed": drawn.seed}
    for option in ("test_fraction", "split_seed"):
        if (value := getattr(arguments, option)) is not None:
            raise UserError(f"--{option.replace('_', '-')} {value}: the split is by time; add --split random or leave "
                            "the option out")  # fmt: skip
    return None, {"split": arguments.split}


def read_files(connection: Any, arguments: Namespace, listings: Path | None = None) -> Raw:
    """Fill the table ``raw`` from files with the columns of the published data set, or those that options name.

    Args:
        listings: a Parquet file with ``item_id``, ``listed`` and ``sold`` (ms since 1970) of every item, which are
            added to its attributes; without effect for the target product, of which there are several.
    """
    (drawn, options), na, target = split_of(arguments), arguments.na, arguments.target
    files = ArgumentParser()
    add_file_arguments(files)
    defaults = vars(files.parse_args([])) | dict.fromkeys((*ROLES, "events", "bought"))
    own = any(getattr(arguments, name) != default for name, default in defaults.items())
    if own and target != "item":
        raise UserError("--target product: belongs to the columns of the published data set; name the column of the "
                        "product with --item")  # fmt: skip
    table, notes = open_named(connection, arguments, ())
    columns = _find_columns(table, arguments, notes) if own else _published(table, target)
    times = read_times(connection, table, columns["time"], arguments.time_unit, arguments.time_format)
    if times.unit == ORDER and not drawn and (arguments.test_days or arguments.validation_days):
        raise UserError("--time-unit order: counters have no days, so nothing can be split by them; give --test-days 0 "
                        "or --split random")  # fmt: skip
    fields = [session_field(table, columns["session"], na), id_field(table, "item", columns["item"], na)]
    fields += [] if target == "item" else [id_field(table, "listing", "item_id", na)]
    fields.append(Field("time", columns["time"], times.parse, times.expected))
    if columns["event"] is not None:
        event = replace(id_field(table, "event", columns["event"], na), expected="the type of an event")
        fields.append(event if own else _published_event())
    if columns["price"] is not None:
        fields.append(number_field(table, "price", columns["price"], na))
    loaded = load(connection, table, fields, arguments.drop_invalid)
    notes += [*loaded.notes, *whole_column(connection, "item", f"column '{columns['item']}'")]
    types: tuple[str, ...] = EVENT_TYPES
    dropped, live = dict[str, Any](), listings if target == "item" else None
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
    return Raw(
        table.called,
        ({} if own else {"target": target}) | options | given_options(arguments),
        extras=lambda path, n_items: {"event_types": list(types), **entries},
        event_types=types,
        drawn=drawn,
        notes=notes,
        counters=times.unit == ORDER,
        read=loaded.read,
        dropped=dropped,
        place=lambda row: table.row_place(connection, row),
        attributes=lambda path: write_items(connection, table, _attributes(columns, own), na, path, live),
    )


def _attributes(columns: dict[str, Any], own: bool) -> dict[str, Attribute]:
    """By name, in their order."""
    if not own:
        kinds = {"price": "price"} | dict.fromkeys(INTEGERS, "integer")
        return {name: Attribute(name, kinds.get(name, "text")) for name in ATTRIBUTES}
    found = {"name": Attribute(columns["name"], "text")}
    found |= {} if columns["price"] is None else {"price": Attribute(columns["price"], "price")}
    found |= {name: Attribute(column, "text") for name, column in columns["texts"].items()}
    return found | {column: Attribute(column) for column in columns["attributes"]}


def _published(table: Table, target: str) -> dict[str, Any]:
    """The columns of the published data set, all of which have to be there."""
    for name in (*(name for names, _ in ROLES.values() for name in names), *FURTHER):
        table.column(name, HINT)
    return {"session": SESSION, "item": f"{target}_id", "time": "stime", "event": "event_id", "price": "price"}


def _published_event() -> Field:
    names = ", ".join(f"'{name}'" for name in EVENT_TYPES)
    return Field("event", "event_id", lambda sql: f"CAST(list_position([{names}], CAST({sql} AS VARCHAR)) - 1 AS "
                 "UTINYINT)", f"one of {', '.join(EVENT_TYPES)}")  # fmt: skip


def _find_columns(table: Table, arguments: Namespace, notes: list[str]) -> dict[str, Any]:
    """The columns of a file by what they hold: those that are named, and of the published data set those that are
    there; ``texts`` are of the category, the brand and the condition, by attribute, ``attributes`` kept as they are.
    """
    columns: dict[str, tuple[str, ...]] = {}
    silent = []
    for option, (published, _) in ROLES.items():
        value = getattr(arguments, option)
        named = () if value is None else (value,) if isinstance(value, str) else tuple(value)
        for name in named:
            table.column(name)
        columns[option] = named or tuple(name for name in published if name in table.names)
        if option in NEEDED and not columns[option]:
            raise UserError(f"{table.path}: no column of the {option}; name it with --{option}")
        if columns[option] and not named and option in list(ROLES)[:6]:
            silent.append(f"--{option} {' '.join(columns[option])}")
    if silent:
        notes.append(f"columns of the published data set are there, as if given: {', '.join(silent)}")
    if len(columns["category"]) > len(CATEGORY):
        raise UserError(f"--category: {len(columns['category'])} levels; give at most {len(CATEGORY)}, the top one "
                        "first, and the others as --attributes")  # fmt: skip
    texts = dict(zip(CATEGORY, columns["category"], strict=False))
    texts |= {ROLES[role][0][0]: columns[role][0] for role in ("brand", "condition") if columns[role]}
    taken = [*RESERVED, *texts]
    for name in columns["attributes"]:
        if name.lower() in taken:
            raise UserError(f"--attributes {name}: the name is taken, or named twice; rename the column, or leave it "
                            "out")  # fmt: skip
        taken.append(name.lower())
    used = {name.lower() for names in columns.values() for name in names}
    further = tuple(name for name in FURTHER if name in table.names and name not in used)
    one = {role: next(iter(columns[role]), None) for role in ("item", "time", "event", "name", "price")}
    return {"session": columns["session"], **one, "texts": texts, "attributes": columns["attributes"] + further}


def _event_types(
    connection: Any, table: Table, column: str | None, wanted: Sequence[str] | None
) -> tuple[tuple[str, ...], int]:
    """The names of the types, and how many events are of others and left out; the column ``event`` of ``raw`` becomes
    an index into the names.

    Args:
        column: of the file; None where there is none.
        wanted: of ``--events``, each ``name`` or ``name=new``.
    """
    if column is None:
        if wanted is not None:
            raise UserError("--events: no column says what was done; name it with --event, or leave this out")
        connection.execute("ALTER TABLE raw ADD COLUMN event UTINYINT DEFAULT 0")
        return (ONE_TYPE,), 0
    counts = dict(connection.execute(f"SELECT {trimmed('event')}, count(*) FROM raw GROUP BY 1").fetchall())
    often = sorted(counts, key=lambda name: (-counts[name], name))
    place = f"{table.called}: column '{column}'"
    if wanted is None and len(often) > MOST_TYPES:
        raise UserError(f"{place}: {len(often):,} types of events, such as {', '.join(map(shown, often[:3]))}; "
                        f"choose up to {MOST_TYPES} with --events, or name another --event")  # fmt: skip
    chosen: dict[str, str] = {}
    for word in often if wanted is None else wanted:
        name, _, new = (word, "", word) if word in counts else word.rpartition("=")
        if name not in counts:
            raise UserError(f"--events {word}: {place} has no '{name or word}'{nearest(name or word, often)}; it has "
                            f"{', '.join(often[:12])}")  # fmt: skip
        if not new.strip() or name in chosen:
            raise UserError(f"--events {word}: named twice, or no name behind the =; give each one name")
        chosen[name] = new.strip()
    types = tuple(dict.fromkeys(chosen.values()))
    pairs = " ".join(f"WHEN {quoted(name)} THEN {types.index(new)}" for name, new in chosen.items())
    connection.execute(f"ALTER TABLE raw ALTER event TYPE UTINYINT USING CASE {trimmed('event')} {pairs} END")
    return types, leave_out(connection, "event IS NULL") if len(chosen) < len(counts) else 0
