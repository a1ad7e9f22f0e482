"""What a blend recommends; see ``jaxrec.recommend``."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxrec.baselines.base import Prefixes, expand
from jaxrec.data.given import read_time
from jaxrec.ops.topk import CHUNK
from jaxrec.tasks.base import Loaded
from jaxrec.tasks.blend.parts import votes_of
from jaxrec.tasks.blend.task import best, index_of, methods_of, rows_at_once, scored
from jaxrec.tasks.query import Answer, Inputs, Query, most_similar
from jaxrec.tasks.sessions.recommend import encoded_last, read_sessions
from jaxrec.tasks.vectors import Waiting, in_batches, ranked, unit


class Recommender:
    """See ``jaxrec.tasks.query.Kind``; the items of the session are ``gone``. Neighbours are as old as they are at the
    query's time ``at``, by default that of the newest session."""

    can = frozenset({"similar"})
    score_name = "probability"

    def __init__(self, loaded: Loaded) -> None:
        self._model, self._weights, run = loaded.model, loaded.weights, loaded.run
        self._memory, self.items = run.config.evaluation.memory, run.vocabulary()
        self.counts, self._methods = self.items.counts.astype(np.float32), methods_of(run)
        self._times = any(one.reads_times for one in self._model.networks)
        self.reads = ("items", *["times"] * self._times, *["at"] * bool(self._methods))
        self._now = int(index_of(run).times.max(initial=0)) if self._methods else 0
        vectors = self._model.items(self._weights)
        self._items = jnp.pad(vectors, ((0, -len(vectors) % CHUNK), (0, 0)))
        self._encoders = [(one, params, tables, jax.jit(one.last_query))
                          for one, params, tables in self._model.each(self._weights)]  # fmt: skip

    def read(self, queries: Sequence[Query], seen: bool) -> list[Inputs]:
        times = [self._now if (time := read_time(query.at)) is None else time for query in queries]
        clicks = read_sessions(self.items, queries, seen, self._times)
        return [one._replace(what=(one.what, time)) for one, time in zip(clicks, times, strict=True)]

    def best(
        self, inputs: Sequence[Inputs], k: int, mask: np.ndarray, rules: bool
    ) -> list[tuple[np.ndarray, np.ndarray]]:
        """Shorter sessions first, as a batch is padded to its longest."""
        order = sorted(range(len(inputs)), key=lambda at: len(inputs[at].what[0]))
        out = np.flatnonzero(~mask)

        def dispatch(part: slice, rows: int) -> Waiting:
            chosen = [inputs[at] for at in order[part]]
            return ranked(partial(self._kernel, [one.what for one in chosen]), jnp.zeros((rows, 1)), len(mask),
                          [np.append(out, one.gone) for one in chosen], k)  # fmt: skip

        found = dict(zip(order, in_batches(len(inputs), dispatch), strict=True))
        return [(found[at][0], np.exp(found[at][1])) for at in range(len(inputs))]

    def _kernel(self, sessions: Sequence[Any], queries: Any, banned: Any, k: int) -> tuple[Any, Any]:
        """The k best of each session; rows behind them are padding, and repeat the last one."""
        rows, n_items = len(queries), len(self.items)
        clicks = [items for items, _ in sessions]
        vectors = [np.asarray(encoded_last(model, encode, params, tables, clicks, rows))
                   for model, params, tables, encode in self._encoders]  # fmt: skip
        filled = [*sessions, *[sessions[-1]] * (rows - len(sessions))]
        prefixes = prefixes_of([(items if items.ndim == 1 else items[:, 0], time) for items, time in filled])
        votes = votes_of(self._methods, prefixes)
        what = scored(self._model, vectors, votes, np.maximum(prefixes.lengths, 1), n_items)
        return best(what, self._items, banned, n_items, k, rows_at_once(n_items, self._memory))

    def similar(self, item: Any, k: int) -> Answer:
        """The items whose vectors are most like that of ``item``, by the mean cosine of the networks."""
        index, vectors = self.items.index(item), unit(self._model.vectors(self._weights))
        query = jax.lax.dynamic_slice_in_dim(vectors, index, 1)
        return most_similar(self.items, query, vectors, [index], k, self._memory)


def prefixes_of(sessions: Sequence[tuple[np.ndarray, int]]) -> Prefixes:
    """Whole sessions and their times as what baselines read."""
    lengths = np.array([len(items) for items, _ in sessions], np.int64)
    query = np.repeat(np.arange(len(sessions)), lengths)
    place = expand(np.zeros(len(sessions), np.int64), lengths)
    items = np.concatenate([items for items, _ in sessions]).astype(np.int32)
    return Prefixes(items, query, lengths[query] - 1 - place, lengths, np.array([time for _, time in sessions]))
