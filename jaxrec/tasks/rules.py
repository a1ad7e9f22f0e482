"""Rules of a shop: items that move up, or down, for some users, whatever the model says."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any

import numpy as np
from pydantic import Field, StrictFloat, StrictInt, StrictStr

from jaxrec.config.sections import RecommendationConfig, Section
from jaxrec.data.codes import Columns
from jaxrec.data.dataset import Schema
from jaxrec.data.given import Ids, listing
from jaxrec.errors import UserError, nearest

Value = StrictStr | StrictInt | StrictFloat  # true and false are no numbers


class Rule(Section):
    """What a shop knows and a model does not."""

    when: dict[str, Value] = Field(default_factory=dict)
    """Values of fields of the user that all have to hold; none: for everybody."""
    boost: Annotated[dict[str, Value], Field(min_length=1)]
    """Values of fields of the item; those that have all of them move up."""
    by: Annotated[float, Field(ge=-1.0, le=1.0)]
    """Added to their scores, which are between 0 and 1."""

    def __str__(self) -> str:
        boost, when = (", ".join(f"{name}={value}" for name, value in part.items()) for part in (self.boost, self.when))
        return f"{boost} {self.by:+g}" + (f" as {when}" if when else "")


class Rules(RecommendationConfig):
    """The recommendation section of models of users and items."""

    rules: tuple[Rule, ...] = ()
    """Applied where a run recommends; evaluate measures with and without them."""


class RuleBook:
    """The rules of a configuration, for fields ``schema``; ``ids`` are the values of one, as of ``FieldCodes``."""

    def __init__(self, rules: Sequence[Rule], schema: Schema, ids: Callable[[str], Ids]) -> None:
        self._rules, self._schema, self._ids = list(rules), schema, ids
        self._when = [self._codes("when", "user", rule.when) for rule in rules]
        self._boost = [self._codes("boost", "item", rule.boost) for rule in rules]

    def of_users(self, columns: Columns) -> np.ndarray:
        """float32[n, rules], what each rule adds for each user: appended to the users' vectors, as ``of_items`` to the
        items', it makes the product of both a cosine with the rules applied. A cosine counts twice what a score of 0 to
        1 does.
        """
        return _holding(self._when, columns) * np.array([2 * rule.by for rule in self._rules], np.float32)

    def of_items(self, columns: Columns) -> np.ndarray:
        """float32[V, rules]: 1 where the rule moves the item."""
        return _holding(self._boost, columns)

    def applied(self, user: np.ndarray, items: np.ndarray) -> list[tuple[str, ...]]:
        """The rules that moved each item for one user, such as ``category=Skincare +0.3 as skin_type=dry``, from rows
        of ``of_users`` and ``of_items``, float32[n, rules]."""
        return [tuple(str(self._rules[at]) for at in np.flatnonzero(row)) for row in (user != 0) & (items != 0)]

    def _codes(self, part: str, side: str, wanted: Mapping[str, Any]) -> dict[str, int]:
        """By field the index of the value that a part of a rule names."""
        found, names, place = {}, self._schema.side(side).slices(), f"recommendation.rules: {part}"
        for name, value in wanted.items():
            if name not in names:
                raise UserError(f"{place}: no field '{name}' of the {side} that has values{nearest(name, names)}; "
                                f"there are {', '.join(names)}")  # fmt: skip
            known = self._ids(name)
            found[name] = known.find(value)
            if found[name] < 0:
                raise UserError(f"{place}: field '{name}': no value '{value}'; there are "
                                f"{listing(known.values(), 20)}")  # fmt: skip
        return found


def _holding(rules: Sequence[Mapping[str, int]], columns: Columns) -> np.ndarray:
    """float32[n, rules]: 1 where all fields of a rule hold their values."""
    held = np.ones((len(next(iter(columns.values()), ())), len(rules)), np.float32)
    for number, wanted in enumerate(rules):
        for name, code in wanted.items():
            held[:, number] *= np.any(columns[name] == code, axis=1)
    return held
