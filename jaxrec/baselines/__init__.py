"""Baselines that need no training loop: sessions, ratings and retrieval hold those of each kind of problem.

Each is a function of the training data whose keyword-only parameters a user may set: ``stan:k=500,lambda1=2``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from inspect import signature
from typing import Any, NamedTuple

from pydantic import ValidationError, create_model

from jaxrec.cli.command import pairs
from jaxrec.config.sections import Section
from jaxrec.errors import UserError, explained, nearest

Known = Mapping[str, Callable[..., Any]]


class Choice(NamedTuple):
    """A baseline as the user named it (``stan:k=500``): its name, all its parameters, and what fits it."""

    text: str
    name: str
    parameters: dict[str, Any]
    fit: Callable[..., Any]


def parse(texts: Sequence[str], known: Known) -> list[Choice]:
    """Read ``name`` or ``name:parameter=value,parameter=value``; ``all``, or nothing, is each one with its defaults."""
    names = [name for text in texts or ["all"] for name in (known if text == "all" else [text])]
    return [_parse(text, known) for text in dict.fromkeys(names)]


def _parse(text: str, known: Known) -> Choice:
    name, _, rest = text.partition(":")
    if name not in known:
        raise UserError(f"--baselines {text}: no baseline '{name}'{nearest(name, known)}; there are all, "
                        f"{', '.join(known)}")  # fmt: skip
    values = pairs(f"--baselines {name}:", rest.split(",") if rest else ())
    fields: dict[str, Any] = {one.name: (one.annotation, one.default) for one in _parameters(known[name])}
    try:
        section = create_model(name, __base__=Section, **fields)
        parameters: dict[str, Any] = section.model_validate(values).model_dump(mode="json")
    except ValidationError as error:
        names = ", ".join(fields) or "none"
        raise UserError(f"--baselines {text}: {explained(error)}; parameters of {name}: {names}") from None
    return Choice(text, name, parameters, partial(known[name], **parameters))


def _parameters(fit: Callable[..., Any]) -> list[Any]:
    return [one for one in signature(fit, eval_str=True).parameters.values() if one.kind is one.KEYWORD_ONLY]


def describe(known: Known) -> str:
    """Baselines with their parameters and defaults, for ``--help``: ``pop, stan:k=500,sample=1000``."""
    given = {name: ",".join(f"{one.name}={one.default}" for one in _parameters(fit)) for name, fit in known.items()}
    return ", ".join(f"{name}:{words}" if words else name for name, words in given.items())
