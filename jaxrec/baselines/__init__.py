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
from jaxrec.baselines.items import ItemKnn, Popularity, SessionPopularity
from jaxrec.baselines.neighbours import Stan, Vsknn
from jaxrec.cli.command import pairs
from jaxrec.errors import UserError, explained, nearest

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
    name, _, rest = text.partition(":")
    if name not in BASELINES:
        allowed = ", ".join(["all", *BASELINES])
        raise UserError(f"--baselines {text}: no baseline '{name}'{nearest(name, BASELINES)}; there are {allowed}")
    kind, values = BASELINES[name], pairs(f"--baselines {name}:", rest.split(",") if rest else ())
    try:
        return Choice(text, name, kind.model_validate(values))
    except ValidationError as error:
        fields = ", ".join(kind.model_fields) or "none"
        raise UserError(f"--baselines {text}: {explained(error)}; parameters of {name}: {fields}") from None


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
