"""The items that a user most likely likes, python load.py 17, or somebody new: python load.py device=phone age=30; of a
run without items the probability of a positive label"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxrec.tasks.programs import Programs, best, show


def probabilities(programs: Programs, columns: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """float64[n], of rows."""
    (logits,) = programs("score", columns, numbers)
    return np.asarray(1 / (1 + np.exp(-logits.astype(np.float64))))


def recommend(
    programs: Programs, user: Any = None, profile: Mapping[str, Any] | None = None
) -> list[tuple[Any, float]]:
    """The best items with their probabilities, without those that the user has, by raw id (None, or unknown: somebody
    new), and values of fields that win over what is known."""
    row, *own = programs.row(user, profile or {})
    rows = [np.repeat(part[None], len(programs.ids), axis=0) for part in own]
    for part, name in zip(rows, ("item_columns", "item_numbers"), strict=True):
        part[:, programs.manifest["item_places"][name]] = programs.array(name)
    scores = probabilities(programs, *rows)
    scores[programs.seen(row)] = -np.inf
    order = np.argsort(-scores, kind="stable")[: programs.manifest["k"]]
    return best(programs.ids, order, scores[order])


if __name__ == "__main__":
    fields = dict(word.split("=", 1) for word in sys.argv[1:] if "=" in word)
    who = next((word for word in sys.argv[1:] if "=" not in word), None)
    opened = Programs()
    if len(opened.ids):
        show(lambda: recommend(opened, who, fields))
    else:
        show(
            lambda: [("probability", probabilities(opened, *(part[None] for part in opened.row(None, fields)[1:]))[0])]
        )
