"""Baselines that need no training: popularity and nearest neighbours. ``BASELINES`` holds them by name.

Each is fitted on training sessions and gives dense scores to batches of queries, which see all clicks before the
target, of the session only. They are ranked like models, ties included.

    baseline = make_baseline(parse("stan:k=500"), training, n_items)
    scores = baseline.scores(prefixes)          # float32[Q, V]
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
from pydantic import ValidationError

from jaxrec.baselines.itemknn import ItemKnn, ItemKnnParameters
from jaxrec.baselines.popularity import NoParameters, Popularity, SessionPopularity
from jaxrec.baselines.prefixes import Prefixes
from jaxrec.baselines.stan import Stan, StanParameters
from jaxrec.baselines.vsknn import Vsknn, VsknnParameters
from jaxrec.config.sections import Section
from jaxrec.data.dataset import Sessions
from jaxrec.errors import UserError, nearest


class Baseline(Protocol):
    """A fitted baseline.

    Attributes:
        work: int64[V], how much a click on each item costs in a batch; see ``Queries.batches``.
    """

    work: np.ndarray

    def scores(self, prefixes: Prefixes) -> np.ndarray:
        """float32[Q, V]; those of a query do not depend on the others in the batch."""


class Kind(NamedTuple):
    """The type of a baseline's parameters, and the baseline from (parameters, training sessions, V)."""

    parameters: type[Section]
    make: Callable[[Any, Sessions, int], Baseline]


BASELINES: dict[str, Kind] = {
    "pop": Kind(NoParameters, Popularity),
    "spop": Kind(NoParameters, SessionPopularity),
    "itemknn": Kind(ItemKnnParameters, ItemKnn),
    "vsknn": Kind(VsknnParameters, Vsknn),
    "stan": Kind(StanParameters, Stan),
}


@dataclass(frozen=True)
class Choice:
    """A baseline with its parameters, as the user named it: ``text`` is such as ``stan:k=500``."""

    text: str
    name: str
    parameters: Section


def parse(text: str) -> Choice:
    """Read ``name`` or ``name:parameter=value,parameter=value``."""
    name, colon, rest = text.partition(":")
    if name not in BASELINES:
        allowed = ", ".join(["all", *BASELINES])
        raise UserError(f"--baselines {text}: no baseline '{name}'{nearest(name, BASELINES)}; there are {allowed}")
    kind, values = BASELINES[name].parameters, {}
    for word in rest.split(",") if colon else ():
        parameter, equals, value = word.partition("=")
        if not equals or not value:
            raise UserError(f"--baselines {text}: '{word}': expected parameter=value, as in stan:k=500,lambda1=1.1")
        if parameter not in kind.model_fields:
            known = ", ".join(kind.model_fields) or "none"
            hint = nearest(parameter, kind.model_fields)
            raise UserError(f"--baselines {text}: no parameter '{parameter}'{hint}; those of {name}: {known}")
        if parameter in values:
            raise UserError(f"--baselines {text}: {parameter} is given twice; give it once")
        values[parameter] = value
    try:
        return Choice(text, name, kind.model_validate(values))
    except ValidationError as error:
        problem = error.errors()[0]
        place, message = problem["loc"][0], problem["msg"][:1].lower() + problem["msg"][1:]
        hint = nearest(problem["input"], problem["ctx"]["expected"].replace("'", "").replace(" or ", ", ").split(", ")
                       ) if problem["type"] == "literal_error" else ""  # fmt: skip
        raise UserError(f"--baselines {text}: {place}: found '{problem['input']}'; {message}{hint}") from None


def parse_all(texts: Sequence[str]) -> list[Choice]:
    """Read several; ``all``, or none, stands for each with its defaults. What is named twice counts once."""
    names = [name for text in texts or ["all"] for name in (BASELINES if text == "all" else [text])]
    return [parse(name) for name in dict.fromkeys(names)]


def make_baseline(choice: Choice, sessions: Sessions, n_items: int) -> Baseline:
    """Fit a baseline on training sessions."""
    return BASELINES[choice.name].make(choice.parameters, sessions, n_items)


def describe() -> str:
    """The baselines with their parameters and defaults, for ``--help``."""
    lines = []
    for name, kind in BASELINES.items():
        lines.append(f"  {name}")
        for parameter, field in kind.parameters.model_fields.items():
            text = (field.description or "").replace("\n", " ")
            lines.append(f"    {parameter}: {text} [{field.default}]")
    return "\n".join(lines)
