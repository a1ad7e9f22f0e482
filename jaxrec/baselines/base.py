"""What baselines share: names and parameters as users give them (``stan:k=500,lambda1=2``), the beginnings of sessions
that they read, popularity to fall back to, and least squares."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from inspect import signature
from typing import Any, NamedTuple

import numpy as np
from pydantic import ValidationError, create_model

from jaxrec.cli.command import pairs
from jaxrec.config.sections import SOURCELESS, Section
from jaxrec.data.dataset import Sessions
from jaxrec.errors import UserError, explained, nearest

Known = Mapping[str, Callable[..., Any]]


class Choice(NamedTuple):
    """A baseline as the user named it (``stan:k=500``): its name, all its parameters, and what fits it."""

    text: str
    name: str
    parameters: dict[str, Any]
    fit: Callable[..., Any]


def parse(texts: Sequence[str], known: Known, option: str = "--baselines") -> list[Choice]:
    """Read ``name`` or ``name:parameter=value,parameter=value``; ``all``, or nothing, is each one with its defaults.
    ``option`` begins a message."""
    names = [name for text in texts or ["all"] for name in (known if text == "all" else [text])]
    return [_parse(text, known, option) for text in dict.fromkeys(names)]


def _parse(text: str, known: Known, option: str) -> Choice:
    name, _, rest = text.partition(":")
    if name not in known:
        raise UserError(f"{option} {text}: no baseline '{name}'{nearest(name, known)}; there are all, "
                        f"{', '.join(known)}")  # fmt: skip
    values = pairs(f"{option} {name}:", rest.split(",") if rest else ())
    fields: dict[str, Any] = {one.name: (one.annotation, one.default) for one in _parameters(known[name])}
    try:
        section = create_model(name, __base__=Section, __cls_kwargs__=SOURCELESS, **fields)
        parameters: dict[str, Any] = section.model_validate(values).model_dump(mode="json")
    except ValidationError as error:
        names = ", ".join(fields) or "none"
        raise UserError(f"{option} {text}: {explained(error)}; parameters of {name}: {names}") from None
    return Choice(text, name, parameters, partial(known[name], **parameters))


def _parameters(fit: Callable[..., Any]) -> list[Any]:
    return [one for one in signature(fit, eval_str=True).parameters.values() if one.kind is one.KEYWORD_ONLY]


def describe(known: Known) -> str:
    """Baselines with their parameters and defaults, for ``--help``: ``pop, stan:k=500,sample=1000``."""
    given = {name: ",".join(f"{one.name}={one.default}" for one in _parameters(fit)) for name, fit in known.items()}
    return ", ".join(f"{name}:{words}" if words else name for name, words in given.items())


@dataclass(frozen=True)
class Prefixes:
    """Beginnings of sessions, query after query, oldest click first."""

    items: np.ndarray  # int32[n]
    query: np.ndarray  # int64[n], the query of each click
    distance: np.ndarray  # int64[n], how many clicks follow each click within its prefix
    lengths: np.ndarray  # int64[Q], clicks of each prefix
    now: np.ndarray  # int64[Q], ms since 1970, when the last click of the prefix happened

    def __len__(self) -> int:
        return len(self.lengths)


Scores = Callable[[Prefixes], np.ndarray]
"""float32[Q, V] of queries; those of a query do not depend on the others in the batch."""


@dataclass(frozen=True)
class Voting:
    """The scores of a method that names a few items of each query: ``votes`` gives CSR float64[Q, V], all above 0 that
    count; items without one follow by float32[V] ``popularity``."""

    votes: Callable[[Prefixes], Any]
    popularity: np.ndarray

    def __call__(self, prefixes: Prefixes) -> np.ndarray:
        return over_popularity(self.votes(prefixes), self.popularity)


class Queries:
    """All queries of a split, in the order of its events; ``targets`` int32[N] are the items that they ask for."""

    def __init__(self, sessions: Sessions) -> None:
        self._items, self._times = np.asarray(sessions.items), np.asarray(sessions.times)
        self._end = sessions.target_positions
        self._begin = np.repeat(sessions.offsets[:-1], np.diff(sessions.offsets))[self._end]
        self.targets = self._items[self._end]

    def __len__(self) -> int:
        return len(self.targets)

    def prefixes(self, numbers: np.ndarray) -> Prefixes:
        """The queries of int64[Q] numbers: all clicks before each one's target, in its session."""
        end = self._end[numbers]
        lengths = end - self._begin[numbers]
        query, clicks = np.repeat(np.arange(len(numbers)), lengths), expand(end - lengths, lengths)
        return Prefixes(self._items[clicks], query, end[query] - 1 - clicks, lengths, self._times[end - 1])


def expand(starts: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """The ranges ``starts[i]`` to ``starts[i] + counts[i]``, one after the other."""
    ends = np.cumsum(counts)
    return np.repeat(starts - (ends - counts), counts) + np.arange(ends[-1] if len(ends) else 0)


def first(n: int, groups: np.ndarray, *keys: np.ndarray) -> np.ndarray:
    """Indices of the first ``n`` of each group in the order of the keys, the first of which counts most."""
    order = np.lexsort((*keys[::-1], groups))
    group = groups[order]
    return order[np.arange(len(order)) - np.searchsorted(group, group) < n]


def last_clicks(groups: np.ndarray, items: np.ndarray, n_items: int) -> np.ndarray:
    """Indices, ascending, of the last click on each item within each group (a session or a query)."""
    backwards = (groups.astype(np.int64) * n_items + items)[::-1]
    return np.sort(len(items) - 1 - np.unique(backwards, return_index=True)[1])


def popularity(sessions: Sessions, n_items: int) -> np.ndarray:
    """float32[V] in [0, 1): the rank among the distinct numbers of training clicks (over 2^24 they run together)."""
    _, rank = np.unique(np.bincount(sessions.items, minlength=n_items), return_inverse=True)
    return (rank / (rank.max() + 1)).astype(np.float32)


def over_popularity(named: Any, order: np.ndarray) -> np.ndarray:
    """float32[Q, V]: what CSR float64[Q, V] names above 0, all other items below 0, in the order of popularity."""
    scores = np.tile(order - np.float32(1.0), (named.shape[0], 1))
    rows = np.repeat(np.arange(named.shape[0]), np.diff(named.indptr))
    values = named.data.astype(np.float32)
    some = values > 0  # a decay may end below the smallest float32
    scores[rows[some], named.indices[some]] = values[some]
    return scores


def least_squares(has: Any, other: np.ndarray, right: np.ndarray, ridge: np.ndarray, every: Any = 0.0) -> np.ndarray:
    """float[M, F] whose row x solves (every + sum over its columns c of has[c] y_c y_c' + ridge I) x = right, zeros for
    a row without columns; from CSR float[M, L] ``has`` and float[L, F] ``other``, y."""
    solved = np.zeros_like(right)
    diagonal = np.diag_indices(other.shape[1])
    for row in np.flatnonzero(np.diff(has.indptr)):
        part = slice(*has.indptr[row : row + 2])
        own = other[has.indices[part]]
        left = every + (own.T * has.data[part]) @ own
        left[diagonal] += ridge[row]
        solved[row] = np.linalg.solve(left, right[row])
    return solved
