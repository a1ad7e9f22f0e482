"""What a blend asks of its parts: the networks' query for each target of some sessions, and the neighbours' votes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxrec.baselines.base import Choice, Prefixes, Queries, Voting, parse
from jaxrec.baselines.sessions import BASELINES
from jaxrec.config import EvaluationConfig
from jaxrec.data.dataset import Sessions
from jaxrec.models.base import SessionModel
from jaxrec.models.blend import Blend
from jaxrec.tasks import base
from jaxrec.tasks.base import evaluation_plan
from jaxrec.tasks.sessions.task import places_of

TARGETS = 2**16  # whose queries are held at once
VOTING = {name: fit for name, fit in BASELINES.items() if name != "pop"}  # which ranks all items alike for everybody
INDEX = ("items", "times", "offsets")  # arrays of the sessions that neighbours are looked for in, as a blend keeps them


class Slice(NamedTuple):
    """Some targets of a split, the queries of the networks and the sessions so far."""

    vectors: list[np.ndarray]  # float32[n, D] of each network
    queries: Queries


def slices(model: Blend, weights: dict[str, Any], sessions: Sessions, config: EvaluationConfig) -> Iterator[Slice]:
    """The targets of a split in the order of its events, at most ``TARGETS`` at a time."""
    ends = np.asarray(sessions.offsets)
    per_session = sessions.counts["targets"] / max(1, len(sessions))
    step = max(1, int(TARGETS / max(per_session, 1e-9)))
    for start in range(0, len(ends) - 1, step):
        part = sessions.slice(start, min(start + step, len(sessions)))
        found = [target_queries(one, params, tables, part, config) for one, params, tables in model.each(weights)]
        yield Slice(found, Queries(part))


def target_queries(
    model: SessionModel, params: Any, tables: dict[str, Any], sessions: Sessions, config: EvaluationConfig
) -> np.ndarray:
    """float32[n, Q]: a network's query for each target, in the order of the events, not of the feed."""
    batch = min(config.batch_size, len(sessions) if model.window is None else base.QUERIES)
    batch = max(1, batch, model.window or 1)
    feed, carry, encode = model.feed(sessions, evaluation_plan(batch)), model.carry(batch), jax.jit(model.encode)
    places = places_of(feed).reshape(feed.shape.blocks, -1)
    targets, found = sessions.target_positions, None
    for place, block in zip(places, feed.epoch(0), strict=True):
        carry, queries = encode(params, tables, carry, block)
        flat, live = np.asarray(queries).reshape(-1, queries.shape[-1]), np.asarray(block.weight).reshape(-1) > 0
        found = np.zeros((len(targets), flat.shape[1]), np.float32) if found is None else found
        found[np.searchsorted(targets, place[live])] = flat[live]
    return np.asarray(found)


# ---- neighbours ------------------------------------------------------------------------------------------------------


def choices(names: Sequence[str]) -> list[Choice]:
    """The neighbours' methods that are named, with their parameters."""
    return parse(names, VOTING, "--neighbours") if names else []


def fitted(names: Sequence[str], index: Sessions, n_items: int) -> list[Voting]:
    """The methods with the sessions that they look for neighbours in."""
    return [one.fit(index, n_items) for one in choices(names)]


def votes_of(methods: Sequence[Voting], prefixes: Prefixes) -> list[Any]:
    """CSR float64[n, V] of each method, entries above 0 alone."""
    found = []
    for method in methods:
        votes = method.votes(prefixes).tocsr()
        votes.data[votes.data < 1e-300] = 0.0  # a decay that ends there says nothing, and divides badly
        votes.eliminate_zeros()
        found.append(votes)
    return found
