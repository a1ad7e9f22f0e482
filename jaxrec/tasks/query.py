"""What is asked of a run and what it answers: the types that cross the border, what a kind of run does between, and
answers as people and programs read them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field, fields
from functools import cached_property
from itertools import repeat
from typing import Any, NamedTuple, Protocol

import numpy as np
from jax import Array

from jaxrec.data.given import check_single, read_list
from jaxrec.data.items import Items
from jaxrec.errors import UserError, nearest, one_line, shown
from jaxrec.ops.rows import Table
from jaxrec.tasks import vectors

WIDTH = 40  # characters of a value that a table shows
POPULAR = "nothing is known, so the most popular items are recommended"
NOTHING_LEFT = "the exclusions, or the time, leave nothing to recommend"


@dataclass(frozen=True)
class Query:
    """What is known of one session, user or sequence; each kind of run reads some of the fields."""

    items: Sequence[Any] = ()
    """Raw ids in order of time: the clicks of a session, or what a user has bought."""
    events: Sequence[Mapping[str, Any]] = ()
    """Mappings with ``item``, ``event``, and, of items that the run does not know, ``name`` and attributes."""
    user: Any = None
    """Raw id of a user of the data."""
    profile: Mapping[str, Any] = field(default_factory=dict)
    """Values of fields of the user."""
    at: Any = None
    """The moment of the recommendation: seconds since 1970, a date or a time in ISO 8601."""
    times: Sequence[Any] = ()
    """When each of ``items`` was, in the same forms; nothing: unknown."""

    def __post_init__(self) -> None:
        for name in ("items", "events", "times"):  # any sequence of the caller's becomes a tuple
            value = getattr(self, name)
            if type(value) is not tuple:
                object.__setattr__(self, name, tuple(value if type(value) is list else read_list(name, value, True)))
        if type(self.profile) is not dict and not isinstance(self.profile, Mapping):
            raise UserError(f"profile: found {shown(self.profile)}; give fields with their values, as {{'age': 25}}")
        if len(self.times) not in (0, len(self.items)):
            raise UserError(f"times: found {len(self.times)} for {len(self.items)} items; give one for each, or none")
        if self.user is not None:
            check_single("user", self.user)

    @classmethod
    def parse(cls, mapping: Any) -> Query:
        """A query from a mapping of its fields, such as the body of a request to a server."""
        if not isinstance(mapping, Mapping):
            raise UserError(f"query: found {shown(mapping)}; give an object with some of {', '.join(FIELDS)}")
        if strange := [name for name in mapping if name not in FIELDS]:
            raise UserError(f"query: no field {shown(strange[0])}{nearest(str(strange[0]), FIELDS)}; there are "
                            f"{', '.join(FIELDS)}")  # fmt: skip
        return cls(**{name: value for name, value in mapping.items() if value is not None})

    def gives(self, name: str) -> bool:
        """Whether a field is given."""
        value = getattr(self, name)
        return value is not None and (name in ("user", "at") or len(value) > 0)


FIELDS = tuple(one.name for one in fields(Query))


class Item(NamedTuple):
    """One recommended item: the raw id, what it was ranked by (of click models a probability), attributes to show by
    name, and the rules of the shop that moved it, in words."""

    id: Any
    score: float
    known: Mapping[str, Any] = {}
    why: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Answer:
    """What is recommended for one query; ids, and what is known of items, are looked up when they are looked at."""

    source: Items = field(repr=False)
    places: np.ndarray = field(repr=False)
    scores: np.ndarray  # float[n]
    why: Iterable[tuple[str, ...]] = field(default=repeat(()), repr=False)
    _: KW_ONLY
    notes: list[str] = field(default_factory=list)  # unknown ids that were left out, values that were replaced
    popular: bool = False  # whether nothing was known, so that the items are the most popular ones
    unknown: list[Any] = field(default_factory=list)  # ids of the query that the run does not know
    at: int | None = None  # ms since 1970, where items are only live for a time

    @cached_property
    def ids(self) -> list[Any]:
        """Raw ids of the items."""
        return self.source.ids.decode(self.places)

    @cached_property
    def items(self) -> list[Item]:
        """Best first; fewer than asked for where exclusions leave fewer."""
        return list(map(Item, self.ids, self.scores.tolist(), self.source.known(self.places), self.why))

    def __eq__(self, other: object) -> bool:
        names = ("items", "notes", "popular", "unknown", "at")
        return isinstance(other, Answer) and all(getattr(self, name) == getattr(other, name) for name in names)


class Inputs(NamedTuple):
    """What a kind of run makes of one query."""

    what: Any  # what its model reads
    gone: np.ndarray  # int[n], items that the user has already
    notes: list[str]
    known: bool = True  # otherwise popularity ranks
    unknown: Sequence[Any] = ()
    at: int | None = None


class Kind(Protocol):
    """The ``Recommender`` of a kind of run, in ``jaxrec.tasks.<kind>.recommend``: how queries become scores. It also
    has the methods that ``can`` names (see ``jaxrec.recommend.Recommender``), and ``score_name``, if not score."""

    reads: tuple[str, ...]  # fields of Query
    can: frozenset[str]
    items: Items
    counts: np.ndarray  # float[V], by which the most popular are found

    def read(self, queries: Sequence[Query], seen: bool) -> list[Inputs]: ...

    def best(self, inputs: Sequence[Inputs], k: int, mask: np.ndarray, rules: bool) -> Iterable[Any]:
        """For each query int[n] places, best first, of items of bool[V] ``mask`` that are not ``gone``, their float[n]
        scores, and, if there are any, the rules that moved each."""


# ---- answers ---------------------------------------------------------------------------------------------------------


def answers(
    kind: Kind, inputs: Sequence[Inputs], k: int, mask: np.ndarray, notes: list[str], rules: bool
) -> list[Answer]:
    """The k best for each query; where nothing is known, the most popular of bool[V] ``mask``."""
    made, popular = list[Answer](), dict[tuple[Any, ...], Any]()
    for one, row in zip(inputs, kind.best(inputs, k, mask, rules), strict=True):
        if not one.known:
            key = (one.at, one.gone.tobytes())
            if key not in popular:
                left = mask if one.at is None else mask & kind.items.live(one.at)
                places = np.setdiff1d(np.flatnonzero(left), one.gone)
                places = places[np.argsort(-kind.counts[places], kind="stable")[:k]]
                popular[key] = (places, kind.counts[places])
            row = popular[key]
        said = [*notes, *one.notes, *[POPULAR] * (not one.known), *[NOTHING_LEFT] * (not len(row[0]))]
        made.append(Answer(kind.items, *row, notes=list(dict.fromkeys(said)) if said else [], popular=not one.known,
                           unknown=list(one.unknown), at=one.at))  # fmt: skip
    return made


def most_similar(
    items: Items, query: Array, table: Table, without: Sequence[int], k: int, memory: int, notes: Sequence[str] = ()
) -> Answer:
    """The k items whose vectors, rows of a table, have the highest products with one, float32[1, D]."""
    mask = np.ones(items.first + len(items), bool)
    mask[list(without)] = False
    ((places, scores),) = vectors.nearest(query, table, mask, [np.zeros(0, np.int64)], k, memory)()
    return Answer(items, places, scores, notes=list(dict.fromkeys(notes)))


# ---- as JSON and tables ----------------------------------------------------------------------------------------------


def answer_json(answer: Answer, score: str, rules: bool, unknown: bool) -> dict[str, Any]:
    """An answer as JSON has it; ``rules`` and ``unknown`` ids are told if asked for."""
    found: dict[str, Any] = {} if answer.at is None else {"at": answer.at}
    if unknown:
        found |= {"unknown": answer.unknown, "popularity": answer.popular}
    rows = [{"item": one.id, score: one.score} | ({"rules": list(one.why)} if rules else {}) for one in answer.items]
    more = [{name: value for name, value in one.known.items() if name not in rows[0]} for one in answer.items]
    return found | {"recommendations": [row | known for row, known in zip(rows, more, strict=True)]}


def answer_table(items: Sequence[Item], who: str, score: str) -> str:
    """A line for each item; empty without any."""
    names = list(dict.fromkeys(name for one in items for name in one.known if name not in (who, score)))
    rows = [[str(rank), str(one.id), f"{one.score:.4f}", *(_shown(one.known.get(name)) for name in names),
             f"[{'; '.join(one.why)}]" if one.why else ""] for rank, one in enumerate(items, 1)]  # fmt: skip
    return "\n".join(aligned([["rank", who, score, *names, ""], *rows], slice(0, 3)) if rows else [])


def shown_time(time: int) -> str:
    """``2023-05-31 18:30:00`` from ms since 1970."""
    return str(np.datetime64(time, "ms").astype("datetime64[s]")).replace("T", " ")


def aligned(rows: Sequence[Sequence[str]], right: slice) -> list[str]:
    """The lines of a table, two spaces between columns, of which those in ``right`` are aligned on their right."""
    widths, on_right = [max(map(len, column)) for column in zip(*rows, strict=True)], range(len(rows[0]))[right]
    cells = ((cell.rjust(width) if n in on_right else cell.ljust(width)
              for n, (cell, width) in enumerate(zip(row, widths, strict=True))) for row in rows)  # fmt: skip
    return [one_line("  ".join(row).rstrip()) for row in cells]


def _shown(value: Any) -> str:
    """A value on one line; names are anybody's text."""
    text = ", ".join(map(str, value)) if isinstance(value, list | tuple) else "" if value is None else str(value)
    text = " ".join("".join(one if one.isprintable() else " " for one in text).split())
    return text if len(text) <= WIDTH else f"{text[: WIDTH - 1]}…"
