"""Baselines that need no training: popularity and nearest neighbours. ``BASELINES`` holds those of sessions by name.

Each is fitted on training sessions and gives dense scores to batches of queries, which see all clicks before the
target, of the session only. They are ranked like models, ties included.

    baseline = parse("stan:k=500").parameters.fit(training, n_items)
    scores = baseline.scores(prefixes)          # float32[Q, V]
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pydantic import ValidationError

from jaxrec.baselines.base import SessionBaseline
from jaxrec.baselines.itemknn import ItemKnn
from jaxrec.baselines.popularity import Popularity, SessionPopularity
from jaxrec.baselines.stan import Stan
from jaxrec.baselines.vsknn import Vsknn
from jaxrec.errors import UserError, nearest

BASELINES: dict[str, type[SessionBaseline]] = {
    "pop": Popularity, "spop": SessionPopularity, "itemknn": ItemKnn, "vsknn": Vsknn, "stan": Stan,
}  # fmt: skip


@dataclass(frozen=True)
class Choice:
    """A baseline with its parameters, as the user named it: ``text`` is such as ``stan:k=500``."""

    text: str
    name: str
    parameters: SessionBaseline


def parse(text: str) -> Choice:
    """Read ``name`` or ``name:parameter=value,parameter=value``."""
    name, colon, rest = text.partition(":")
    if name not in BASELINES:
        allowed = ", ".join(["all", *BASELINES])
        raise UserError(f"--baselines {text}: no baseline '{name}'{nearest(name, BASELINES)}; there are {allowed}")
    kind, values = BASELINES[name], dict[str, str]()
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
        hint = f"; {problem['msg'][:1].lower()}{problem['msg'][1:]}"
        raise UserError(f"--baselines {text}: {problem['loc'][0]}: found '{problem['input']}'{hint}") from None


def parse_all(texts: Sequence[str]) -> list[Choice]:
    """Read several; ``all``, or none, stands for each with its defaults. What is named twice counts once."""
    names = [name for text in texts or ["all"] for name in (BASELINES if text == "all" else [text])]
    return [parse(name) for name in dict.fromkeys(names)]


def describe() -> str:
    """The baselines with their parameters and defaults, for ``--help``."""
    lines = []
    for name, kind in BASELINES.items():
        lines.append(f"  {name}")
        for parameter, field in kind.model_fields.items():
            text = (field.description or "").replace("\n", " ")
            lines.append(f"    {parameter}: {text} [{field.default}]")
    return "\n".join(lines)
