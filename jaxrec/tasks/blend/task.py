"""Next items of sessions by a blend: its run, its parts, and its metrics. ``python -m jaxrec.blend`` makes them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxrec import config as configuration
from jaxrec.baselines.base import Voting
from jaxrec.baselines.sessions import BASELINES as BASELINES
from jaxrec.cli.text import read_yaml
from jaxrec.config import Config, EvaluationConfig
from jaxrec.data.dataset import Sessions
from jaxrec.errors import UserError
from jaxrec.models import blend
from jaxrec.models.base import make_model
from jaxrec.models.blend import Blend, log_probabilities
from jaxrec.ops.parallel import in_blocks, joined
from jaxrec.ops.topk import ROWS, Candidates, rank_scores, top_scores
from jaxrec.run import Run
from jaxrec.tasks import base
from jaxrec.tasks.base import Part, Task
from jaxrec.tasks.blend.parts import INDEX, fitted, slices, votes_of
from jaxrec.tasks.report import Asked, Report
from jaxrec.tasks.sessions.masks import is_masked, item_bits
from jaxrec.tasks.sessions.task import report
from jaxrec.tasks.vectors import padded, steps

OPTIONS = ("history",)  # of evaluate, beside those of every kind
BATCH = 512  # queries whose votes are counted together


def make(config: Config, dataset: Any, plan: Any = None) -> Task:
    """A blend is not trained."""
    raise UserError("model.name: blend is not trained; train its parts, then put them together with "
                    "python -m jaxrec.blend")  # fmt: skip


def build(run: Run) -> Blend:
    """A run's model."""
    networks = [make_model(one, run.n_items) for one in part_configs(run)]
    return Blend(networks, blend.Config.of(run.config.model).weights)


def part_configs(run: Run) -> list[Config]:
    """The configurations of a run's networks."""
    files = [run.path / "parts" / f"{n}.yaml" for n in range(len(blend.Config.of(run.config.model).networks))]
    return [configuration.parse(read_yaml(file, "a part of the blend"), str(file), former=True) for file in files]


def methods_of(run: Run) -> list[Voting]:
    """The neighbours' methods of a run, with the sessions that it keeps for them."""
    names = blend.Config.of(run.config.model).neighbours
    return fitted(names, index_of(run), run.n_items) if names else []


def index_of(run: Run) -> Sessions:
    """The sessions that a run keeps to look for neighbours in."""
    items, times, offsets = (run.kept(f"index_{name}") for name in INDEX)
    return Sessions(items, times, offsets)


# ---- scores ----------------------------------------------------------------------------------------------------------


@partial(jax.jit, static_argnames=("count", "k", "rows"))
def ranked(
    scored: Any, items: Array, targets: Array, count: int, k: int, rows: int, without: Array | None = None
) -> Any:
    """The ranks of targets, int32[n], and the k best items, of what ``scored`` gives for n queries; ``without`` as that
    of ``Candidates``."""

    def one(block: Any) -> Any:
        what, target, bits = block
        scores = log_probabilities(what[0], items, count, *what[1:])[:, :count]
        return rank_scores(scores, target, k, Candidates(without=bits))

    return joined(jax.lax.map(one, in_blocks((scored, targets, without), rows)), len(targets))


@partial(jax.jit, static_argnames=("count", "k", "rows"))
def best(scored: Any, items: Array, banned: Array, count: int, k: int, rows: int) -> Any:
    """The k best items of n queries and their logarithms of probabilities, without the ``banned``, int32[n, N]."""

    def one(block: Any) -> Any:
        return top_scores(log_probabilities(block[0][0], items, count, *block[0][1:]), block[1], k)

    return joined(jax.lax.map(one, in_blocks((scored, banned), rows)), len(banned))


def rows_at_once(n_items: int, memory: int) -> int:
    """Queries whose scores are held at once within ``memory`` MiB; one at least."""
    return max(1, min(ROWS, memory * 2**18 // n_items))


def scored(model: Blend, vectors: Sequence[np.ndarray], votes: Sequence[Any], clicks: np.ndarray, n_items: int) -> Any:
    """What ``ranked`` and ``best`` score n queries by: scaled queries, the logarithm of the networks' share, and the
    items that neighbours name with the logarithms of what they add."""
    share, added = model.mixed(votes, clicks)
    queries = jnp.asarray(model.scaled(vectors, clicks))
    if not votes:
        none = np.zeros((len(clicks), 0), np.int32)
        return queries, jnp.asarray(np.log(share), jnp.float32), jnp.asarray(none), jnp.asarray(none, jnp.float32)
    added.eliminate_zeros()
    width = steps(int(np.diff(added.indptr).max(initial=0)), 256, 2)
    place = padded(np.split(added.indices, added.indptr[1:-1]), len(clicks), width, n_items)
    value = padded(np.split(np.log(added.data), added.indptr[1:-1]), len(clicks), width, 0, np.float32)
    return queries, jnp.asarray(np.log(share), jnp.float32), jnp.asarray(place), jnp.asarray(value)


# ---- evaluation ------------------------------------------------------------------------------------------------------


class Judge(base.Judge):
    """Ranks the targets of a split by what a blend says."""

    def __init__(
        self, model: Blend, methods: Sequence[Voting], sessions: Sessions, n_items: int, config: EvaluationConfig
    ) -> None:  # fmt: skip
        self._model, self._methods, self._sessions = model, methods, sessions
        self._n_items, self._config = n_items, config
        self.targets = sessions.counts["targets"]
        self.blocks = -(-self.targets // BATCH)

    def _parts(self, weights: dict[str, Any], top: int) -> Iterator[Part]:
        items, rows = self._model.items(weights), rows_at_once(self._n_items, self._config.memory)
        last: tuple[Any, int] | None = None  # the device works on it while votes are counted
        for part in slices(self._model, weights, self._sessions, self._config):
            for start in range(0, len(part.queries), BATCH):
                now = self._dispatch(part, start, items, top, rows)
                if last is not None:
                    yield tuple(np.asarray(one)[: last[1]] for one in last[0])  # type: ignore[misc]
                last = now
        if last is not None:
            yield tuple(np.asarray(one)[: last[1]] for one in last[0])  # type: ignore[misc]

    def _dispatch(self, part: Any, start: int, items: Array, top: int, rows: int) -> tuple[Any, int]:
        size = min(BATCH, len(part.queries))
        which = np.minimum(np.arange(start, start + size), len(part.queries) - 1)
        prefixes = part.queries.prefixes(which)
        votes, vectors = votes_of(self._methods, prefixes), [one[which] for one in part.vectors]
        what = scored(self._model, vectors, votes, prefixes.lengths, self._n_items)
        targets = jnp.asarray(part.queries.targets[which])
        masked = is_masked(self._config)
        bits = jnp.asarray(item_bits(prefixes.query, prefixes.items, len(which), self._n_items)) if masked else None
        return ranked(what, items, targets, self._n_items, top, rows, bits), len(part.queries) - start


def evaluate(asked: Asked) -> Report:
    """Metrics of a blend, and of baselines beside it."""
    methods = methods_of(asked.run)
    return report(asked, lambda split: Judge(
        asked.loaded.model, methods, split, asked.data.n_items, asked.config.evaluation
    ))  # fmt: skip
