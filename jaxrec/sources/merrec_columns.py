"""Which columns of people's own logs are the session, the item, the time and the rest of what merrec reads."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from jaxrec.data.reading.table import Table
from jaxrec.errors import UserError, nearest
from jaxrec.sources.shared import add_file_arguments

EVENT_TYPES = ("item_view", "item_like", "item_add_to_cart_tap", "offer_make", "buy_start", "buy_comp")
BOUGHT = "buy_comp"


SESSION = ("user_id", "session_id", "sequence_id")
CATEGORY = ("c0_name", "c1_name", "c2_name")
PUBLISHED = {
    "session": SESSION, "item": ("item_id",), "time": ("stime",), "event": ("event_id",), "name": ("name",),
    "price": ("price",), "category": CATEGORY, "brand": ("brand_name",), "condition": ("item_condition_name",),
}  # fmt: skip
"""The options that name columns, and those of the published data set that they take the place of."""
NEEDED = ("session", "item", "time")
TEXTS = {"brand": "brand_name", "condition": "item_condition_name"}  # options, and the attributes that they become
FURTHER = ("c0_id", "c1_id", "c2_id", "brand_id", "item_condition_id", "size_name", "size_id", "color", "shipper_id",
           "shipper_name", "product_id")  # fmt: skip
RESERVED = ("item", "event", "row", "index", "listed", "sold")


@dataclass(frozen=True)
class Columns:
    """The columns of a file by what they hold.

    Attributes:
        session: together they tell one session from the others.
        event, name, price: None where there is none.
        texts: attributes that are text (levels of the category, brand, condition), by name.
        further: attributes that are kept as they are, of whatever type.
    """

    session: tuple[str, ...]
    item: str
    time: str
    event: str | None
    name: str | None
    price: str | None
    texts: dict[str, str]
    further: tuple[str, ...]

    def options(self) -> dict[str, Any]:
        """For the manifest."""
        return {
            "session": list(self.session), "item": self.item, "time": self.time, "event": self.event,
            "name": self.name, "price": self.price, "texts": self.texts, "attributes": list(self.further),
        }  # fmt: skip


def add_column_arguments(parser: ArgumentParser) -> None:
    """Add the options that name columns, and those of their files."""
    group = parser.add_argument_group(
        "a log of your own", "Columns that are not named are those of the published data set, where the files have them"
    )
    for option, several, what in (
        ("session", True, "the session; several together are one key, such as user and day"),
        ("item", False, "the item; integers or text"),
        ("time", False, "the time; a date and time or a number"),
        ("event", False, "what was done, any names (without one all events are of one type, event)"),
        ("name", False, "what the item is called, which the text heads of merrec rank by"),
        ("price", False, "the price of the item"),
        ("category", True, "levels of the item's category, the top one first; at most 3"),
        ("brand", False, "the brand of the item"),
        ("condition", False, "the condition of the item"),
        ("attributes", True, "further columns of the item, to be shown and to filter by with --where"),
    ):
        group.add_argument(f"--{option}", nargs="+" if several else None, metavar="COL", help=f"column: {what}")
    group.add_argument(
        "--events", nargs="+", metavar="NAME", help="keep events of these types alone, in this order; cart=add_to_cart "
        "also renames (default: all, the most frequent first)",
    )  # fmt: skip
    group.add_argument(
        "--bought", metavar="NAME", help="the type of event after which an item is not recommended again (default: "
        "buy_comp, purchase, buy, order or transaction, where there is one)",
    )  # fmt: skip
    add_file_arguments(parser)


def is_own(arguments: Namespace) -> bool:
    """Whether an option says that the files are not those of the published data set."""
    files = ArgumentParser()
    add_file_arguments(files)
    defaults = vars(files.parse_args([])) | dict.fromkeys((*PUBLISHED, "attributes", "events", "bought"))
    return any(getattr(arguments, name) != default for name, default in defaults.items())


def note_of_published(columns: Columns, arguments: Namespace) -> list[str]:
    """A note about columns that no option names, which are taken for what they are in the published data set."""
    taken = [("session", columns.session), ("item", columns.item), ("time", columns.time), ("event", columns.event),
             ("name", columns.name), ("price", columns.price)]  # fmt: skip
    words = [f"--{option} {' '.join(one) if isinstance(one, tuple) else one}"
             for option, one in taken if one is not None and getattr(arguments, option) is None]  # fmt: skip
    return [f"columns of the published data set are there, as if given: {', '.join(words)}"] if words else []


def find_columns(table: Table, arguments: Namespace) -> Columns:
    """The columns of a file: those that are named, and of the published data set those that are there."""
    found, missing = {}, []
    for option, published in PUBLISHED.items():
        given = getattr(arguments, option)
        names = () if given is None else (given,) if isinstance(given, str) else tuple(given)
        missing += [f"'{name}'{nearest(name, table.names)} (--{option})" for name in names if name not in table.names]
        found[option] = names or tuple(name for name in published if name in table.names)
        if option in NEEDED and not found[option]:
            missing.append(f"of the {option} (--{option})")
    further = tuple(arguments.attributes or ())
    missing += [f"'{name}'{nearest(name, table.names)} (--attributes)" for name in further if name not in table.names]
    if missing:
        raise lacking(table, missing)
    if len(found["category"]) > len(CATEGORY):
        raise UserError(f"--category: {len(found['category'])} levels; give at most {len(CATEGORY)}, the top one "
                        "first, and the others as --attributes")  # fmt: skip
    texts = dict(zip(CATEGORY, found["category"], strict=False))
    texts |= {name: found[option][0] for option, name in TEXTS.items() if found[option]}
    used = {name for names in found.values() for name in names}
    _check_further(further, {"name", "price", *texts})
    there = {name.lower() for name in (*used, *further)}
    further += tuple(name for name in FURTHER if name in table.names and name not in there)
    for name in {*used, *further}:
        table.column(name)  # which refuses one that is there twice
    (item,), (time,) = found["item"], found["time"]
    event, name, price = (next(iter(found[option]), None) for option in ("event", "name", "price"))
    return Columns(found["session"], item, time, event, name, price, texts, further)


def lacking(table: Table, missing: Sequence[str]) -> UserError:
    """The error about columns that a file does not have."""
    there = ", ".join(table.names[:30]) + (", ..." if len(table.names) > 30 else "")
    hint = "" if len(table.names) > 1 else "; is the --delimiter right?"
    return UserError(f"{table.path}: no column {', '.join(missing)}; it has {there}{hint}; name the columns of a log "
                     "of your own with --session, --item, --time, --event, --name, --price, --category")  # fmt: skip


def lacking_published(table: Table, missing: Sequence[str]) -> UserError:
    """The same about columns of the published data set, with the options that name others."""
    option_of = {column: option for option, columns in PUBLISHED.items() for column in columns}
    return lacking(table, [f"'{name}'{nearest(name, table.names)}" + (f" (--{option_of[name]})" if name in option_of
                           else "") for name in missing])  # fmt: skip


def _check_further(further: Sequence[str], taken: set[str]) -> None:
    for place, name in enumerate(further):
        if name.lower() in RESERVED:
            raise UserError(f"--attributes {name}: the name is taken; rename the column")
        if name.lower() in taken:
            raise UserError(f"--attributes {name}: another column is that attribute; rename the one, or leave it out")
        if name.lower() in [one.lower() for one in further[:place]]:
            raise UserError(f"--attributes {name}: named twice; leave one out")
