"""What is asked of a run and what it answers: the only types that cross the border, whatever the kind of the run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, NamedTuple

import numpy as np

from jaxrec.data.given import SUCH_AS
from jaxrec.data.ids import check_single, read_list
from jaxrec.errors import UserError, nearest, shown


@dataclass(frozen=True)
class Query:
    """What is known of one session, user or sequence; each kind of run reads some of the fields.

    Attributes:
        items: raw ids in order of time: the clicks of a session, or what a user has bought.
        events: mappings with ``item``, ``event``, and, of items that the run does not know, ``name`` and attributes.
        user: raw id of a user of the data.
        profile: values of fields of the user.
        at: the moment of the recommendation: seconds since 1970, a date or a time in ISO 8601.
    """

    items: Sequence[Any] = ()
    events: Sequence[Mapping[str, Any]] = ()
    user: Any = None
    profile: Mapping[str, Any] = field(default_factory=dict)
    at: Any = None

    def __post_init__(self) -> None:
        for name in ("items", "events"):  # any sequence of the caller's becomes a tuple
            value = getattr(self, name)
            if name == "events" and (isinstance(value, str | Mapping | set) or not hasattr(value, "__iter__")):
                raise UserError(f"events: found {shown(value)}, expected a list, such as {SUCH_AS}")
            if type(value) is not tuple:
                object.__setattr__(self, name, tuple(value if type(value) is list else read_list(name, value, True)))
        if not isinstance(self.profile, Mapping):
            raise UserError(f"profile: found {shown(self.profile)}; give fields with their values, such as "
                            "{'gender': 'F', 'age': 25}")  # fmt: skip
        check_single("user", self.user)

    @classmethod
    def parse(cls, mapping: Any) -> Query:
        """A query from a mapping of its fields, such as the body of a request to a server."""
        names = FIELDS
        if not isinstance(mapping, Mapping):
            raise UserError(f"query: found {shown(mapping)}; give an object with some of {', '.join(names)}")
        for name in mapping:
            if name not in names:
                raise UserError(f"query: no field {shown(name)}{nearest(str(name), names)}; there are "
                                f"{', '.join(names)}")  # fmt: skip
        return cls(**{name: value for name, value in mapping.items() if value is not None})

    @property
    def asked(self) -> list[str]:
        """Names of the fields that are given."""
        values = ((name, getattr(self, name)) for name in FIELDS)
        return [name for name, value in values if value is not None and (name in ("user", "at") or len(value))]


FIELDS = tuple(one.name for one in fields(Query))


class Item(NamedTuple):
    """One recommended item.

    Attributes:
        id: the raw id.
        score: what it was ranked by; of click models a probability.
        known: attributes to show, by name.
        why: rules of the shop that moved it, in words.
    """

    id: Any
    score: float
    known: Mapping[str, Any] = {}
    why: tuple[str, ...] = ()


class Ranked(Sequence[Item]):
    """A list of items of which nothing is known but ids and scores; an ``Item`` is made when it is looked at.

    Attributes:
        ids: raw ids.
        scores: float32[n].
    """

    def __init__(self, ids: list[Any], scores: np.ndarray) -> None:
        self.ids, self.scores = ids, scores

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, at: Any) -> Any:
        if isinstance(at, slice):
            return Ranked(self.ids[at], self.scores[at])
        return Item(self.ids[at], float(self.scores[at]))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)

    def __repr__(self) -> str:
        return repr(list(self))


@dataclass(frozen=True)
class Answer:
    """What is recommended for one query.

    Attributes:
        items: best first; fewer than asked for where exclusions leave fewer.
        notes: what the caller should know: unknown ids that were left out, values that were replaced.
        popular: whether nothing was known, so that the items are the most popular ones.
        unknown: ids of the query that the run does not know.
        at: where items are only live for a time, the moment for which it holds, in ms since 1970.
    """

    items: Sequence[Item]
    notes: list[str] = field(default_factory=list)
    popular: bool = False
    unknown: list[Any] = field(default_factory=list)
    at: int | None = None

    @property
    def ids(self) -> list[Any]:
        """Raw ids of the items."""
        return self.items.ids if isinstance(self.items, Ranked) else [one.id for one in self.items]

    @property
    def scores(self) -> np.ndarray:
        """float32[n]: scores of the items."""
        if isinstance(self.items, Ranked):
            return self.items.scores
        return np.array([one.score for one in self.items], np.float32)
