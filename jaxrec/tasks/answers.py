"""Answers as people and programs read them: tables and JSON, the same for every kind of run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxrec.cli.command import as_json
from jaxrec.errors import one_line
from jaxrec.tasks.query import Answer, Item

WIDTH = 40  # characters of a value that a table shows


def answer_json(answer: Answer, score: str = "score", rules: bool = False, unknown: bool = False) -> dict[str, Any]:
    """An answer as JSON has it.

    Args:
        score: what the score is called.
        rules: whether to say which rules moved an item.
        unknown: whether to say which ids are unknown.
    """
    found: dict[str, Any] = {} if answer.at is None else {"at": answer.at}
    if unknown:
        found |= {"unknown": answer.unknown, "popularity": answer.popular}
    rows = []
    for one in answer.items:
        row: dict[str, Any] = {"item": one.id, score: one.score} | ({"rules": list(one.why)} if rules else {})
        rows.append(row | {name: value for name, value in one.known.items() if name not in row})
    return found | {"recommendations": rows}


def answer_table(items: Sequence[Item], who: str = "item", score: str = "score") -> str:
    """A line for each item; empty without any."""
    if not items:
        return ""
    names = list(dict.fromkeys(name for one in items for name in one.known if name not in (who, score)))
    rows = [
        [str(rank), str(one.id), f"{one.score:.4f}", *(_shown(one.known.get(name)) for name in names)]
        for rank, one in enumerate(items, 1)
    ]
    lines = aligned([["rank", who, score, *names], *rows], right=3)
    why = ["", *(f"  [{'; '.join(one.why)}]" if one.why else "" for one in items)]
    return "\n".join(one_line(line + more) for line, more in zip(lines, why, strict=True))


def happenings_table(happened: Sequence[Mapping[str, Any]]) -> str:
    """A line for each event of a sequence: time, type, item and what is known of it."""
    rows = [
        [shown_time(one["time"]), one["event"], str(one["item"])]
        + [_shown(value) for name, value in one.items() if name not in ("time", "event", "item")]
        for one in happened
    ]
    return "\n".join(f"  {one_line(line)}" for line in aligned(rows))


def shown_time(time: int) -> str:
    """``2023-05-31 18:30:00`` from ms since 1970."""
    return str(np.datetime64(time, "ms").astype("datetime64[s]")).replace("T", " ")


def aligned(rows: Sequence[Sequence[str]], right: int = 0) -> list[str]:
    """Rows of a table, two spaces between columns.

    Args:
        right: columns at the beginning that are aligned on their right.
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(f"{cell:>{width}}" if n < right else f"{cell:<{width}}"
                  for n, (cell, width) in enumerate(zip(row, widths, strict=True))).rstrip()
        for row in rows
    ]  # fmt: skip


def _shown(value: Any) -> str:
    """A value on one line; names are anybody's text."""
    if isinstance(value, list | tuple):
        value = ", ".join(map(str, value))
    text = "" if value is None else str(value)
    text = " ".join("".join(one if one.isprintable() else " " for one in text).split())
    return text if len(text) <= WIDTH else f"{text[: WIDTH - 1]}…"


def json_text(answer: Answer, extra: Mapping[str, Any], **options: Any) -> str:
    """``answer_json`` as text, with more beside it."""
    return as_json(dict(extra) | answer_json(answer, **options))
