"""Sequences of events as a run of merrec reads them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxrec.data.given import Entry
from jaxrec.data.ids import listing
from jaxrec.tasks.events.listings import Listings


class Given(NamedTuple):
    """A sequence as the model reads it, without what is unknown.

    Attributes:
        names: bfloat16[n, dim], vectors of the items' names.
        codes: int32[n, F].
        events: int32[n].
        bought: int64[m], items of purchases.
    """

    names: np.ndarray
    codes: np.ndarray
    events: np.ndarray
    bought: np.ndarray


def read_given(
    listings: Listings, types: Sequence[str], bought: str | None, sequences: Sequence[Sequence[Entry]]
) -> tuple[list[Given], list[list[Any]]]:
    """What the model reads of each sequence, and the items of each that are unknown; all with one look-up.

    Args:
        listings: the items of the run.
        types: of events.
        bought: the one that is a purchase; None: none is.
        sequences: events, oldest first.
    """
    purchase = -1 if bought is None else types.index(bought)
    flat = [entry for sequence in sequences for entry in sequence]
    items = listings.find([-1 if entry.item is None else entry.item for entry in flat])
    items = np.where(np.array([entry.item is None for entry in flat], bool), -1, items)
    named = np.array([bool(entry.name) for entry in flat], bool) & (items < 0)
    names, codes = listings.vectors(np.maximum(items, 0)), listings.codes(np.maximum(items, 0))
    if named.any():
        entries = [flat[at] for at in np.flatnonzero(named)]
        names[named] = listings.name_vectors([entry.name for entry in entries])
        codes[named] = listings.encode([entry.attributes for entry in entries])
    names, events = names.astype(jnp.bfloat16), np.array([entry.event for entry in flat], np.int32)
    given, start, lost = [], 0, []
    for sequence in sequences:
        rows = np.arange(start, start + len(sequence))
        used = rows[(items[rows] >= 0) | named[rows]]
        lost.append([flat[row].item for row in np.setdiff1d(rows, used)])
        gone = np.unique(items[used][(events[used] == purchase) & (items[used] >= 0)])
        given.append(Given(names[used], codes[used], events[used], gone))
        start += len(sequence)
    return given, lost


def note_of_unknown(lost: Sequence[Sequence[Any]], left: Sequence[int]) -> str:
    """What a warning says of all sequences; nothing where nothing is unknown.

    Args:
        lost: the unknown items of each.
        left: the events of each that are read.
    """
    several, items = len(lost) > 1, [item for one in lost for item in one]
    notes, instead = [], "so the most popular items are recommended"
    if items:
        many = f"{len(items):,} unknown items" if len(items) > 1 else "unknown item"
        where = f" in {sum(map(bool, lost))} of {len(lost)} sequences" if several else ""
        notes.append(f"{many} without a 'name'{where} left out: {listing(items)}")
    nothing = [number for number, n in enumerate(left, 1) if not n]
    if nothing and several:
        notes.append(f"of sequence{'s' if len(nothing) > 1 else ''} {listing(nothing)} of {len(lost)} nothing is "
                     f"there, {instead}")  # fmt: skip
    elif nothing:
        notes.append(f"nothing else is there, {instead}")
    return "; ".join(notes)
