"""Answers: made the same way for every kind of run, and as people and programs read them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from jax import Array

from jaxrec.data.items import Items
from jaxrec.errors import one_line
from jaxrec.tasks.query import Answer, Inputs, Item, Kind
from jaxrec.tasks.vectors import nearest

WIDTH = 40  # characters of a value that a table shows
POPULAR = "nothing is known, so the most popular items are recommended"
NOTHING_LEFT = "the exclusions, or the time, leave nothing to recommend"


def answers(
    kind: Kind, inputs: Sequence[Inputs], k: int, mask: np.ndarray, notes: list[str], rules: bool
) -> list[Answer]:
    """The k best for each query; where nothing is known, the most popular of bool[V] ``mask``."""
    made, popular = list[Answer](), dict[tuple[Any, ...], Any]()
    for one, row in zip(inputs, kind.best(inputs, k, mask, rules), strict=True):
        if not one.known:
            key = (one.at, one.gone.tobytes())
            if key not in popular:
                left = mask if one.at is None else mask & kind.items.live(one.at)
                places = np.setdiff1d(np.flatnonzero(left), one.gone)
                places = places[np.argsort(-kind.counts[places], kind="stable")[:k]]
                popular[key] = (places, kind.counts[places])
            row = popular[key]
        said = [*notes, *one.notes, *[POPULAR] * (not one.known), *[NOTHING_LEFT] * (not len(row[0]))]
        made.append(Answer(kind.items, *row, notes=list(dict.fromkeys(said)) if said else [], popular=not one.known,
                           unknown=list(one.unknown), at=one.at))  # fmt: skip
    return made


def most_similar(
    items: Items, query: Array, table: Array, without: Sequence[int], k: int, memory: int, notes: Sequence[str] = ()
) -> Answer:
    """The k items whose vectors, rows of a table, have the highest products with one, float32[1, D]."""
    mask = np.ones(items.first + len(items), bool)
    mask[list(without)] = False
    ((places, scores),) = nearest(query, table, mask, [np.zeros(0, np.int64)], k, memory)()
    return Answer(items, places, scores, notes=list(dict.fromkeys(notes)))


# ---- as JSON and tables ----------------------------------------------------------------------------------------------


def answer_json(answer: Answer, score: str, rules: bool, unknown: bool) -> dict[str, Any]:
    """An answer as JSON has it; ``rules`` and ``unknown`` ids are told if asked for."""
    found: dict[str, Any] = {} if answer.at is None else {"at": answer.at}
    if unknown:
        found |= {"unknown": answer.unknown, "popularity": answer.popular}
    rows = [{"item": one.id, score: one.score} | ({"rules": list(one.why)} if rules else {}) for one in answer.items]
    more = [{name: value for name, value in one.known.items() if name not in rows[0]} for one in answer.items]
    return found | {"recommendations": [row | known for row, known in zip(rows, more, strict=True)]}


def answer_table(items: Sequence[Item], who: str, score: str) -> str:
    """A line for each item; empty without any."""
    names = list(dict.fromkeys(name for one in items for name in one.known if name not in (who, score)))
    rows = [[str(rank), str(one.id), f"{one.score:.4f}", *(_shown(one.known.get(name)) for name in names),
             f"[{'; '.join(one.why)}]" if one.why else ""] for rank, one in enumerate(items, 1)]  # fmt: skip
    return "\n".join(aligned([["rank", who, score, *names, ""], *rows], slice(0, 3)) if rows else [])


def shown_time(time: int) -> str:
    """``2023-05-31 18:30:00`` from ms since 1970."""
    return str(np.datetime64(time, "ms").astype("datetime64[s]")).replace("T", " ")


def aligned(rows: Sequence[Sequence[str]], right: slice) -> list[str]:
    """The lines of a table, two spaces between columns, of which those in ``right`` are aligned on their right."""
    widths, on_right = [max(map(len, column)) for column in zip(*rows, strict=True)], range(len(rows[0]))[right]
    cells = ((cell.rjust(width) if n in on_right else cell.ljust(width)
              for n, (cell, width) in enumerate(zip(row, widths, strict=True))) for row in rows)  # fmt: skip
    return [one_line("  ".join(row).rstrip()) for row in cells]


def _shown(value: Any) -> str:
    """A value on one line; names are anybody's text."""
    text = ", ".join(map(str, value)) if isinstance(value, list | tuple) else "" if value is None else str(value)
    text = " ".join("".join(one if one.isprintable() else " " for one in text).split())
    return text if len(text) <= WIDTH else f"{text[: WIDTH - 1]}…"
