"""Rules of a shop: items that move up, or down, for some users, whatever the model says."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from pydantic import BeforeValidator, Field

from jaxrec.config.sections import RecommendationConfig, Section
from jaxrec.data import rows
from jaxrec.data.rows import Schema
from jaxrec.errors import UserError, nearest

Code = Callable[[rows.Field, Any], int]


def _no_truth(value: Any) -> Any:
    if isinstance(value, bool):  # not 1 or 0
        raise ValueError(f"found {value}; give a number, or text in quotes")
    return value


Value = Annotated[str | int | float, BeforeValidator(_no_truth)]


class Rule(Section):
    """What a shop knows and a model does not."""

    when: dict[str, Value] = Field(default_factory=dict)
    """Values of fields of the user that all have to hold; none: for everybody."""
    boost: Annotated[dict[str, Value], Field(min_length=1)]
    """Values of fields of the item; those that have all of them move up."""
    by: Annotated[float, Field(ge=-1.0, le=1.0)]
    """Added to their scores, which are between 0 and 1."""


class Rules(RecommendationConfig):
    """The recommendation section of models of users and items."""

    rules: tuple[Rule, ...] = ()
    """Applied where a run recommends; evaluate measures with and without them."""


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
        code: the index of a value of a field, as ``FieldCodes.strict``.
    """

    def __init__(self, rules: Sequence[Rule], schema: Schema, code: Code) -> None:
        self._rules = [
            Compiled(
                rule,
                {name: _code(schema, code, "when", "user", name, value) for name, value in rule.when.items()},
                {name: _code(schema, code, "boost", "item", name, value) for name, value in rule.boost.items()},
            )
            for rule in rules
        ]

    def __len__(self) -> int:
        return len(self._rules)

    def of_users(self, columns: Mapping[str, np.ndarray]) -> np.ndarray:
        """float32[n, rules], what each rule adds for each user: appended to the users' vectors, as ``of_items`` to the
        items', it makes the product of both a cosine with the rules applied. A cosine counts twice what a score of 0 to
        1 does.

        Args:
            columns: by field of the user int[n, width].
        """
        n = len(next(iter(columns.values()), ()))
        parts = [2 * rule.rule.by * _holds(rule.when, columns, n) for rule in self._rules]
        return np.stack([np.zeros(n), *parts], axis=1)[:, 1:].astype(np.float32)

    def of_items(self, columns: Mapping[str, np.ndarray]) -> np.ndarray:
        """float32[V, rules]: 1 where the rule moves the item; ``columns`` as for ``of_users``."""
        v = len(next(iter(columns.values()), ()))
        parts = [_holds(rule.boost, columns, v) for rule in self._rules]
        return np.stack([np.zeros(v), *parts], axis=1)[:, 1:].astype(np.float32)

    def applied(self, user: np.ndarray, item: np.ndarray) -> list[Rule]:
        """The rules that moved one item for one user: float32[rules] rows of ``of_users`` and ``of_items``."""
        return [rule.rule for rule, by, held in zip(self._rules, user, item, strict=True) if by and held]


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


def _code(schema: Schema, code: Code, part: str, side: str, name: str, value: Any) -> int:
    field = _field(schema, part, side, name)
    try:
        return code(field, value)
    except UserError as error:
        raise UserError(f"recommendation.rules: {part}: {error}") from None


def _field(schema: Schema, part: str, side: str, name: str) -> rows.Field:
    names = schema.of_side(side)
    if name not in names:
        raise UserError(f"recommendation.rules: {part}: no field '{name}' of the {side} that has values"
                        f"{nearest(name, names)}; there are {', '.join(names)}")  # fmt: skip
    return next(field for field in schema.fields if field.name == name)
