"""What is asked of a run and what it answers: the only types that cross the border, whatever the kind of the run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, NamedTuple

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

    items: tuple[Any, ...] = ()
    events: tuple[Mapping[str, Any], ...] = ()
    user: Any = None
    profile: Mapping[str, Any] = field(default_factory=dict)
    at: Any = None

    def __post_init__(self) -> None:
        for name in ("items", "events"):  # any sequence of the caller's becomes a tuple
            value = getattr(self, name)
            if isinstance(value, str | bytes | Mapping) or not hasattr(value, "__iter__"):
                raise UserError(f"{name}: found {shown(value)}; give a list")
            object.__setattr__(self, name, tuple(value))

    @classmethod
    def parse(cls, mapping: Any) -> Query:
        """A query from a mapping of its fields, such as the body of a request to a server."""
        names = [one.name for one in fields(cls)]
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
        return [one.name for one in fields(self) if getattr(self, one.name) not in (None, (), {})]


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


@dataclass(frozen=True)
class Answer:
    """What is recommended for one query.

    Attributes:
        items: best first; fewer than asked for where exclusions leave fewer.
        notes: what the caller should know: unknown ids that were left out, values that were replaced.
        popular: whether nothing was known, so that the items are the most popular ones.
    """

    items: list[Item]
    notes: list[str] = field(default_factory=list)
    popular: bool = False
