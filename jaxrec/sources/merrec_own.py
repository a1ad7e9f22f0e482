"""Events on the listings of people's own shops: any columns, any names of events, ids of integers or text."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from jaxrec.data.clean.choices import Raw
from jaxrec.data.clean.splits import Drawn
from jaxrec.data.reading.duck import identifier, quoted
from jaxrec.data.reading.fields import Field
from jaxrec.data.reading.files import load, reading_all
from jaxrec.data.reading.ids import id_field, nothing_as_null, trimmed, whole_column
from jaxrec.data.reading.logs import key_of
from jaxrec.data.reading.numbers import number_field
from jaxrec.data.reading.rows import leave_out
from jaxrec.data.reading.table import TEXT, Table, value_text
from jaxrec.data.reading.times import ORDER, Times, read_times
from jaxrec.errors import UserError, nearest, shown
from jaxrec.sources.merrec_attributes import write_attributes
from jaxrec.sources.merrec_columns import BOUGHT, Columns, find_columns, note_of_published
from jaxrec.sources.shared import file_options, open_named

ONE_TYPE = "event"  # what events are called where no column says
MOST_TYPES = 256
PURCHASES = (BOUGHT, "purchase", "buy", "order", "transaction")


def read_own(connection: Any, arguments: Namespace, drawn: Drawn | None, options: dict[str, Any]) -> Raw:
    """Fill the table ``raw``; see ``choices.Raw``.

    Args:
        drawn: of ``--split random``.
        options: of the split, for the manifest.
    """
    if arguments.target != "item":
        raise UserError("--target product: belongs to the columns of the published data set; name the column of the "
                        "product with --item")  # fmt: skip
    table, notes = open_named(connection, arguments, ())
    columns = find_columns(table, arguments)
    times = read_times(connection, table, columns.time, arguments.time_unit, arguments.time_format)
    if times.unit == ORDER and not drawn and (arguments.test_days or arguments.validation_days):
        raise UserError("--time-unit order: counters have no days, so nothing can be split by them; give --test-days 0 "
                        "or --split random")  # fmt: skip
    fields = _fields(table, columns, times, arguments.na)
    loaded = load(connection, table, fields, arguments.drop_invalid)
    notes = [
        *notes,
        *note_of_published(columns, arguments),
        *loaded.notes,
        *_name_sessions(connection, columns.session),
    ]
    notes += whole_column(connection, "item", f"column '{columns.item}'")
    dropped = {"invalid rows": {"events": loaded.invalid}} if arguments.drop_invalid else {}
    types, others = _event_types(connection, table, columns.event, arguments.events)
    dropped |= {} if arguments.events is None else {"other types of events": {"events": others}}
    bought = _bought(types, arguments.bought)
    options = columns.options() | options | {name: getattr(arguments, name) for name in ("delimiter", "na")}
    options |= {"time_unit": times.unit, "time_format": arguments.time_format, "events": arguments.events}
    entries = {"event_types": list(types), "target": "item", "live": False, "bought": bought}
    return Raw(
        table.called,
        options | file_options(arguments),
        extras=lambda path, n_items: entries,
        event_types=types,
        drawn=drawn,
        notes=notes,
        counters=times.unit == ORDER,
        read=loaded.read,
        dropped=dropped,
        place=lambda row: table.row_place(connection, row),
        attributes=lambda path: _write(connection, table, columns, arguments.na, path),
    )


def _fields(table: Table, columns: Columns, times: Times, na: Sequence[str] | None) -> list[Field]:
    """The columns of ``raw``."""
    fields = [id_field(table, f"session{place}", column, na) for place, column in enumerate(columns.session)]
    fields += [id_field(table, "item", columns.item, na), Field("time", columns.time, times.parse, times.expected)]
    if columns.event is not None:
        fields.append(replace(id_field(table, "event", columns.event, na), expected="the type of an event"))
    if columns.price is not None:
        fields.append(number_field(table, "price", columns.price, na))
    return fields


def _name_sessions(connection: Any, columns: Sequence[str]) -> list[str]:
    """The column ``session`` of ``raw``, a number of all columns of the key; returns notes."""
    parts = [f"session{place}" for place in range(len(columns))]
    notes = [note for part, column in zip(parts, columns, strict=True)
             for note in whole_column(connection, part, f"column '{column}'")]  # fmt: skip
    connection.execute("ALTER TABLE raw ADD COLUMN session UHUGEINT")
    connection.execute(f"UPDATE raw SET session = md5_number({key_of(parts)})")
    return notes


# ---- types of events -------------------------------------------------------------------------------------------------


def _event_types(
    connection: Any, table: Table, column: str | None, asked: Sequence[str] | None
) -> tuple[tuple[str, ...], int]:
    """The names of the types, and how many events are of others and left out.

    The column ``event`` of ``raw`` becomes an index into the names.

    Args:
        column: of the file; None where there is none.
        asked: of ``--events``.
    """
    if column is None:
        if asked is not None:
            raise UserError("--events: no column says what was done; name it with --event, or leave this out")
        connection.execute("ALTER TABLE raw ADD COLUMN event UTINYINT DEFAULT 0")
        return (ONE_TYPE,), 0
    connection.execute(f"UPDATE raw SET event = {trimmed('event')}")
    counts = dict(connection.execute("SELECT event, count(*) FROM raw GROUP BY event").fetchall())
    often = sorted(counts, key=lambda name: (-counts[name], name))
    place = f"{table.called}: column '{column}'"
    if asked is None:
        if len(often) > MOST_TYPES:
            raise UserError(f"{place}: {len(often):,} types of events, such as {', '.join(map(shown, often[:3]))}; "
                            f"choose up to {MOST_TYPES} with --events, or name another --event")  # fmt: skip
        known = {name: name for name in often}
    else:
        known = _asked_types(asked, often, place)
    types = tuple(dict.fromkeys(known.values()))
    pairs = " ".join(f"WHEN {quoted(name)} THEN {types.index(new)}" for name, new in known.items())
    connection.execute(f"ALTER TABLE raw ALTER event TYPE UTINYINT USING CASE event {pairs} END")
    others = len(known) < len(counts)
    return types, leave_out(connection, "event IS NULL") if others else 0


def _asked_types(asked: Sequence[str], found: Sequence[str], place: str) -> dict[str, str]:
    """From names in the file to those of ``--events``, each ``name`` or ``name=new``."""
    known: dict[str, str] = {}
    for word in asked:
        name, _, new = (word, "", word) if word in found else word.rpartition("=")
        if name not in found:
            name = name or word
            listed = ", ".join(found[:12]) + (", ..." if len(found) > 12 else "")
            raise UserError(f"--events {word}: {place} has no '{name}'{nearest(name, found)}; it has {listed}")
        if not new.strip() or name in known:
            what = "named twice; leave one out" if name in known else "no name behind the =; give one"
            raise UserError(f"--events {word}: {what}")
        known[name] = new.strip()
    return known


def _bought(types: Sequence[str], asked: str | None) -> str | None:
    """The type of event that is a purchase; None where there is none."""
    if asked is not None and asked not in types:
        raise UserError(f"--bought {asked}: no such type of event{nearest(asked, types)}; there are {', '.join(types)}")
    return asked or next((name for name in PURCHASES if name in types), None)


# ---- attributes ------------------------------------------------------------------------------------------------------


def _write(
    connection: Any, table: Table, columns: Columns, na: Sequence[str] | None, path: Path
) -> tuple[dict[str, dict[str, Any]], dict[str, Any]]:
    """Write the files of the items; see ``write_attributes``."""
    selected = {"name": "''" if columns.name is None else _text(table, columns.name, na)}
    if columns.price is not None:
        number = number_field(table, "price", columns.price, na).parse(table.column(columns.price)[0])
        selected["price"] = f"CASE WHEN NOT isnan({number}) THEN {number} END"
    selected |= {name: _text(table, column, na) for name, column in columns.texts.items()}
    selected |= _further(connection, table, columns.further, na)
    rows = ", ".join(f"{sql} AS {identifier(name)}" for name, sql in selected.items())
    with reading_all(connection, table):
        return write_attributes(connection, f"SELECT {rows} FROM {table.relation}", path)


def _text(table: Table, column: str, na: Sequence[str] | None) -> str:
    """SQL: the text of a column without the spaces around it, NULL where there is none."""
    return trimmed(nothing_as_null(value_text(*table.column(column)), na))


def _further(connection: Any, table: Table, columns: Sequence[str], na: Sequence[str] | None) -> dict[str, str]:
    """SQL of each column: whole numbers or numbers where all its values are such, otherwise text."""
    if not columns:
        return {}
    texts = {column: _text(table, column, na) for column in columns}
    whole = [f"bool_and(CAST(TRY_CAST({text} AS BIGINT) AS {TEXT}) = {text})" for text in texts.values()]
    plain = [f"bool_and(isfinite(TRY_CAST({text} AS DOUBLE)) AND NOT regexp_matches({text}, '^[-+]?0[0-9]'))"
             for text in texts.values()]  # fmt: skip
    with reading_all(connection, table):
        found = connection.execute(f"SELECT {', '.join([*whole, *plain])} FROM {table.relation}").fetchone()
    n = len(columns)
    kinds = ["BIGINT" if found[i] else "DOUBLE" if found[n + i] else TEXT for i in range(n)]
    return {column: f"TRY_CAST({text} AS {kind})" for (column, text), kind in zip(texts.items(), kinds, strict=True)}
