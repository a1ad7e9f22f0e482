"""Rules of a shop: items that move up, or down, for some users, whatever the model says."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any

import numpy as np
from pydantic import BeforeValidator, Field

from jaxrec.config.sections import RecommendationConfig, Section
from jaxrec.data.ids import Ids, listing
from jaxrec.data.rows import Schema
from jaxrec.errors import UserError, nearest


def _no_truth(value: Any) -> Any:
    if isinstance(value, bool):  # not 1 or 0
        raise ValueError(f"found {value}; give a number, or text in quotes")
    return value


Value = Annotated[str | int | float, BeforeValidator(_no_truth)]
Columns = Mapping[str, np.ndarray]
"""By field int[n, width]."""


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


class RuleBook:
    """The rules of a configuration, for a data set of the fields ``schema``.

    Args:
        ids: the values of a field, from index 1 on, as ``FieldCodes.vocabulary``.
    """

    def __init__(self, rules: Sequence[Rule], schema: Schema, ids: Callable[[str], Ids]) -> None:
        self._rules = list(rules)
        self._when = [_codes(schema, ids, "when", "user", rule.when) for rule in rules]
        self._boost = [_codes(schema, ids, "boost", "item", rule.boost) for rule in rules]

    def __len__(self) -> int:
        return len(self._rules)

    def of_users(self, columns: Columns) -> np.ndarray:
        """float32[n, rules], what each rule adds for each user: appended to the users' vectors, as ``of_items`` to the
        items', it makes the product of both a cosine with the rules applied. A cosine counts twice what a score of 0 to
        1 does.
        """
        return _holding(self._when, columns) * np.array([2 * rule.by for rule in self._rules], np.float32)

    def of_items(self, columns: Columns) -> np.ndarray:
        """float32[V, rules]: 1 where the rule moves the item."""
        return _holding(self._boost, columns)

    def applied(self, user: np.ndarray, item: np.ndarray) -> tuple[str, ...]:
        """The rules that moved one item for one user, such as ``category=Skincare +0.3 as skin_type=dry``, from rows of
        ``of_users`` and ``of_items``, float32[rules].
        """
        return tuple(_words(rule) for rule, by, held in zip(self._rules, user, item, strict=True) if by and held)


def _words(rule: Rule) -> str:
    boost, when = (", ".join(f"{name}={value}" for name, value in part.items()) for part in (rule.boost, rule.when))
    return f"{boost} {rule.by:+g}" + (f" as {when}" if when else "")


def _holding(rules: Sequence[Mapping[str, int]], columns: Columns) -> np.ndarray:
    """float32[n, rules]: 1 where all fields of a rule hold their values."""
    held = np.ones((len(next(iter(columns.values()), ())), len(rules)), np.float32)
    for number, wanted in enumerate(rules):
        for name, code in wanted.items():
            held[:, number] *= np.any(columns[name] == code, axis=1)
    return held


def _codes(
    schema: Schema, ids: Callable[[str], Ids], part: str, side: str, wanted: Mapping[str, Any]
) -> dict[str, int]:
    """By field the index of the value that a part of a rule names."""
    found, names = {}, schema.of_side(side)
    for name, value in wanted.items():
        if name not in names:
            raise UserError(f"recommendation.rules: {part}: no field '{name}' of the {side} that has values"
                            f"{nearest(name, names)}; there are {', '.join(names)}")  # fmt: skip
        known = ids(name)
        found[name] = known.find(value)
        if found[name] < 0:
            raise UserError(f"recommendation.rules: {part}: field '{name}': no value '{value}'{known.nearest(value)}; "
                            f"there are {listing(known.values(), 20)}")  # fmt: skip
    return found
