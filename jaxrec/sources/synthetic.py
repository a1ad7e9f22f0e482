"""Synthetic sessions: needs no data, and the best reachable metrics are known (jaxrec/sources/markov.py)."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet

from jaxrec.data.clean.choices import Raw
from jaxrec.data.clean.splits import DAY
from jaxrec.sources.markov import MAX_LENGTH, Markov, draw, make_markov
from jaxrec.sources.shared import add_number

HELP = "made-up sessions with a known best result; needs no raw data"
KIND = "sessions"
DEFAULTS = {"min_item_support": 1, "test_days": 3}

START = 1_704_067_200_000  # 2024-01-01 UTC, in ms
MEAN_GAP = 30_000  # ms between clicks


def add_arguments(parser: ArgumentParser) -> None:
    number = partial(add_number, parser)
    number("items", int, 2, 10**7, 1000, "items in the catalogue")
    number("sessions", int, 1, 10**7, 30_000, "sessions to make")
    number("mean-length", float, 2, 20, 7.0, f"mean clicks of a session, of which each has 2 to {MAX_LENGTH}")
    number("days", int, 1, 10_000, 30, "days over which they are spread")
    number("successors", int, 1, 1000, 12, "items that tend to follow each item")
    number("epsilon", float, 0, 1, 0.2, "probability of a next item by popularity instead")
    number("skew", float, 0, 3, 0.8, "popularity falls as rank to the power of -skew")
    number("seed", int, 0, 2**32, 0, "another seed makes another data set")


def read(connection: Any, arguments: Namespace) -> Raw:
    """Fill the table ``raw``; see ``cleaning.Raw``.

    Item ids are 1 to ``--items``, shuffled, so that an id says nothing about the popularity.
    """
    random = np.random.default_rng(arguments.seed)
    markov = make_markov(arguments.items, arguments.successors, arguments.epsilon, arguments.skew, random)
    ids = np.argsort(random.random(arguments.items)) + 1
    lengths = _lengths(arguments.sessions, arguments.mean_length, random)
    items = markov.walk(_starts(markov, arguments.sessions, random), lengths, random)
    table = pyarrow.table(
        {
            "session": np.repeat(np.arange(1, arguments.sessions + 1), lengths),
            "item": ids[items],
            "time": _times(lengths, arguments.days, random),
        }
    )
    connection.register("generated", table)
    connection.execute("CREATE TABLE raw AS SELECT * FROM generated")
    connection.unregister("generated")
    names = ("items", "sessions", "mean_length", "days", "successors", "epsilon", "skew", "seed")
    options = {name: getattr(arguments, name) for name in names}
    return Raw("the synthetic sessions", options, extras=lambda path, n_items: _optimum(markov, ids, path, n_items))


def _lengths(sessions: int, mean: float, random: np.random.Generator) -> np.ndarray:
    """2 and more, geometric above that, int64[sessions]."""
    if mean <= 2:
        return np.full(sessions, 2)
    further = np.log1p(-random.random(sessions)) / np.log1p(-1 / (mean - 1))
    return np.minimum(2 + further.astype(np.int64), MAX_LENGTH)


def _starts(markov: Markov, sessions: int, random: np.random.Generator) -> np.ndarray:
    """First items by popularity, except that the first sessions visit every item once.

    Only so is every item sure to be in the training split however many there are: the optimum below holds for a
    catalogue without unseen items.
    """
    starts = draw(markov.popularity, random.random(sessions))
    covered = min(markov.n_items, sessions)
    starts[:covered] = np.arange(covered)
    return starts


def _times(lengths: np.ndarray, days: int, random: np.random.Generator) -> np.ndarray:
    """ms since 1970, int64[events]: sessions begin at random in ascending order, clicks follow at random gaps."""
    begin = START + (np.sort(random.random(len(lengths))) * days * DAY).astype(np.int64)
    gaps = 1 + (-np.log1p(-random.random(int(lengths.sum()))) * MEAN_GAP).astype(np.int64)
    first = np.concatenate([[0], np.cumsum(lengths)[:-1]])
    elapsed = np.cumsum(gaps)
    return np.repeat(begin - elapsed[first], lengths) + elapsed


def _optimum(markov: Markov, ids: np.ndarray, path: Path, n_items: int) -> dict[str, Any]:
    """The manifest's ``optimum``, for the test split as prepared.

    Left out where there is no test split, or where cleaning has taken items: the sessions then have gaps, and what
    follows a gap is not distributed as the process says.
    """
    offsets = np.load(path / "test" / "offsets.npy")
    if n_items < markov.n_items or len(offsets) == 1:
        return {}
    is_input = np.ones(offsets[-1], bool)
    is_input[offsets[1:] - 1] = False
    clicks = np.load(path / "test" / "items.npy")[is_input]
    vocabulary = pyarrow.parquet.read_table(path / "items.parquet")["item"].to_numpy()
    states = np.empty(len(ids), np.int64)
    states[ids - 1] = np.arange(len(ids))
    probability = markov.rank_probability(states[vocabulary[clicks] - 1])
    # Rounded, so that the manifest does not depend on the order in which a machine sums.
    return {"optimum": {"rank_probability": [round(float(p), 9) for p in probability]}}
