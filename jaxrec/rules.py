"""Rules of a shop: items that move up, or down, for some users, whatever the model says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxrec.config import Rule
from jaxrec.data.field_codes import FieldCodes
from jaxrec.data.rows import Field, Schema
from jaxrec.errors import UserError, nearest


@dataclass(frozen=True)
class Compiled:
    """A rule in indices.

    Attributes:
        rule: as written.
        when: by field of the user the value that it needs.
        boost: likewise of the item.
    """

    rule: Rule
    when: dict[str, int]
    boost: dict[str, int]


class RuleBook:
    """The rules of a configuration, for a data set.

    Args:
        schema: all fields of the data set.

    Raises:
        UserError: a rule names a field or a value that does not exist, a field of the other side, or a number.
    """

    def __init__(self, rules: Sequence[Rule], schema: Schema, codes: FieldCodes) -> None:
        self._rules = [
            Compiled(
                rule,
                {name: _code(schema, codes, "when", "user", name, value) for name, value in rule.when.items()},
                {name: _code(schema, codes, "boost", "item", name, value) for name, value in rule.boost.items()},
            )
            for rule in rules
        ]

    def __len__(self) -> int:
        return len(self._rules)

    @property
    def fields(self) -> set[str]:
        """Fields of the user that decide."""
        return {name for rule in self._rules for name in rule.when}

    def boosts(self, users: Mapping[str, np.ndarray], items: Mapping[str, np.ndarray]) -> np.ndarray:
        """float32[n, V], what is added to each score.

        Args:
            users: by field int[n, width], the columns of each user.
            items: likewise int[V, width], of each item.
        """
        n, v = (len(next(iter(side.values()), ())) for side in (users, items))
        total = np.zeros((n, v), np.float32)
        for rule in self._rules:
            total += np.float32(rule.rule.by) * np.outer(_holds(rule.when, users, n), _holds(rule.boost, items, v))
        return total

    def applied(self, user: Mapping[str, np.ndarray], items: Mapping[str, np.ndarray]) -> list[list[Rule]]:
        """Of each item the rules that moved it for one user: columns int[1, width] and int[V, width] by field."""
        v = len(next(iter(items.values()), ()))
        found: list[list[Rule]] = [[] for _ in range(v)]
        for rule in self._rules:
            if _holds(rule.when, user, 1)[0]:
                for item in np.flatnonzero(_holds(rule.boost, items, v)):
                    found[item].append(rule.rule)
        return found


def describe(rule: Rule) -> str:
    """``category=Skincare +0.3 as skin_type=dry``."""
    boost = ", ".join(f"{name}={value}" for name, value in rule.boost.items())
    when = ", ".join(f"{name}={value}" for name, value in rule.when.items())
    return f"{boost} {rule.by:+g}" + (f" as {when}" if when else "")


def _holds(wanted: Mapping[str, int], columns: Mapping[str, np.ndarray], n: int) -> np.ndarray:
    """bool[n]: where all fields hold their values."""
    held = np.ones(n, bool)
    for name, code in wanted.items():
        held &= np.any(columns[name] == code, axis=1)
    return held


def _code(schema: Schema, codes: FieldCodes, part: str, side: str, name: str, value: Any) -> int:
    field = _field(schema, part, side, name)
    try:
        return codes.strict(field, value)
    except UserError as error:
        raise UserError(f"recommendation.rules: {part}: {error}") from None


def _field(schema: Schema, part: str, side: str, name: str) -> Field:
    names = schema.of_side(side)
    if name not in names:
        raise UserError(f"recommendation.rules: {part}: no field '{name}' of the {side} that has values"
                        f"{nearest(name, names)}; there are {', '.join(names)}")  # fmt: skip
    return next(field for field in schema.fields if field.name == name)
