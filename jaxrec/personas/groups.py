"""Customers and products in groups that a picture can show: by persona, category or anything else that is known."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxrec.cli.command import say
from jaxrec.data.codes import read_table
from jaxrec.errors import UserError, nearest
from jaxrec.plots.pictures import Shown, legible
from jaxrec.run import Run
from jaxrec.tasks.retrieval.pages import PERSONA, Answers

LETTERS = 40  # of a name
COLOURS = ("C0", "C1", "C2", "C3", "C4", "C5", "C6", "C8", "C9")  # C7 is grey
GREY = "0.6"


class Groups(NamedTuple):
    """Customers or products, each in one group; the largest group first.

    Attributes:
        field: what they are grouped by, as it can be shown.
        names: as in the data, G.
        labels: the same as they can be shown.
        of: int64[n], the group of each by index; -1 for index 0, the unknown one.
        counts: int64[G].
    """

    field: str
    names: list[str]
    labels: list[Shown]
    of: np.ndarray
    counts: np.ndarray

    def most(self, limit: int) -> Groups:
        """With at most so many groups: the smallest are taken together."""
        if len(self.names) <= limit:
            return self
        rest, kept = f"{len(self.names) - limit + 1:,} others", limit - 1
        counts = np.append(self.counts[:kept], self.counts[kept:].sum())
        labels = [*self.labels[:kept], legible(rest, rest)]
        return Groups(self.field, [*self.names[:kept], rest], labels, np.minimum(self.of, kept), counts)


def grouped(field: str, values: Sequence[Any]) -> Groups:
    """Groups of what has the same value of a field; ``values`` are those by index, and index 0 is none."""
    titles = [_title(value) for value in values[1:]]
    counts = Counter(titles)
    names = sorted(counts, key=lambda name: (-counts[name], name))
    place = {name: number for number, name in enumerate(names)}
    stem = legible(field, "group").text
    labels = [legible(_shortened(name), f"{stem} {number}") for number, name in enumerate(names, 1)]
    of = np.array([-1, *(place[title] for title in titles)])
    return Groups(stem, names, labels, of, np.array([counts[name] for name in names], np.int64))


def _title(value: Any) -> str:
    if value is None or value == "":
        return "unknown"
    if isinstance(value, float):
        return f"{value:.0f}" if value.is_integer() else str(value)
    return " ".join(("|".join(map(str, value)) if isinstance(value, list) else str(value)).split())


def _shortened(text: str) -> str:
    return text if len(text) <= LETTERS else text[: LETTERS - 1] + "…"


def customers_by(run: Run, by: str | None) -> Groups:
    """The customers of a run by a column of users.parquet; None for their personas."""
    shown = read_table(run, "users.parquet")
    names = [name for name in shown.column_names if name != run.manifest["user"]]
    if by is None and PERSONA not in names:
        instead = (
            f"group its customers with --by by {', '.join(names)}" if names else "nor is anything else known of them"
        )
        raise UserError(f"{run.path}: its customers have no personas; {instead}")
    if by is not None and by not in names:
        raise UserError(f"--by {by}: not known of the customers{nearest(by, names)}; there are "
                        f"{', '.join(names) or 'none'}")  # fmt: skip
    return grouped(by or PERSONA, shown[by or PERSONA].to_pylist())


def products_of(run: Run, found: Answers) -> Groups:
    """The products of a run by ``evaluation.category``, in one group where it has none."""
    field = run.config.evaluation.category
    if field is None or found.categories is None:
        return grouped("product", [None] + ["products"] * (found.data.n_items - 1))
    values = [None, *read_table(run, f"vocabulary/{field}.parquet")["value"].to_pylist()]
    return grouped(field, [values[code] for code in found.categories])


def tell_replaced(*groups: Groups) -> None:
    """Say on stderr what stands for names that no installed font can show."""
    pairs = [(label.text, name) for group in groups for name, label in zip(group.names, group.labels, strict=True)]
    replaced = [f"{text} is {name}" for text, name in pairs if text != _shortened(name)]
    if replaced:
        say("note", f"no installed font can show some names: {', '.join(replaced)}")


def colour(group: int) -> str:
    """Of a group of customers, the same in every picture."""
    return COLOURS[group] if group < len(COLOURS) else GREY
