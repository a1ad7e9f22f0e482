"""Vectors of the listings that can be recommended, and the best of them that are live; on one device, or dealt over
several, with those that were added since on each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxrec.ops.heads import Heads
from jaxrec.ops.rows import DealtRows, deal, gathered_array
from jaxrec.ops.topk import Live, block_size, top_listed
from jaxrec.tasks.vectors import Kernel, filled, steps, unit

Ends = tuple[np.ndarray, np.ndarray]
"""int32[n] twice, when listings are listed and sold."""
ADDED = 256, 4  # rows of a table of what was added: at first, and how many times as many where those are full


class Listings(Protocol):
    """Vectors float32[n, Q] of listings by index, and behind them padding."""

    def __len__(self) -> int:
        """Padding included."""
        ...

    def kernel(self, allowed: np.ndarray, ends: Ends | None) -> Callable[[Array | None], Kernel]:
        """From int32[q], when each query is asked, to what finds the best of bool[n] ``allowed`` listings that are live
        then; without ``ends`` all are."""
        ...

    def compared(self, part: slice, of_text: bool) -> tuple[Listings, np.ndarray]:
        """The part of the vectors by which listings are alike, at length 1, and bool[n], whether a listing has one;
        ``of_text``: it is that of the text."""
        ...

    def row(self, index: int) -> Array:
        """float32[1, Q]"""
        ...

    def extended(self, added: np.ndarray) -> Listings:
        """With float32[m, Q] behind those of the run, in the place of what was added before."""
        ...

    def whole(self) -> np.ndarray:
        """float32[n, Q], on the host."""
        ...


def listings(vectors: Array | Heads | DealtRows, memory: int) -> Listings:
    """Of a run's vectors; ``memory`` is MiB of scores that are held at once where they are dealt."""
    return Dealt(vectors, None, memory) if isinstance(vectors, DealtRows) else Whole(vectors, len(vectors))


@dataclass(frozen=True)
class Whole:
    """On one device."""

    vectors: Array | Heads
    run: int  # how many are of the run

    def __len__(self) -> int:
        return len(self.vectors)

    def kernel(self, allowed: np.ndarray, ends: Ends | None) -> Callable[[Array | None], Kernel]:
        there = filled(allowed, len(self))
        span = None if ends is None else [filled(end, len(self)) for end in ends]

        def asked(at: Array | None) -> Kernel:
            live = None if span is None or at is None else Live(span[0], span[1], at)
            return partial(best_listed, items=self.vectors, allowed=there, live=live)

        return asked

    def compared(self, part: slice, of_text: bool) -> tuple[Whole, np.ndarray]:
        heads = self.vectors
        if of_text and isinstance(heads, Heads) and heads.texts is not None and heads.text_of is not None:
            has = np.asarray(jnp.any(heads.texts, axis=1)[heads.text_of] & (heads.text_of >= 0))
            return replace(self, vectors=replace(heads, rows=None, new_row=None, texts=unit(heads.texts))), has
        vectors = side_by_side(heads)[:, part]
        return replace(self, vectors=unit(vectors)), np.asarray(jnp.any(vectors, axis=1))

    def row(self, index: int) -> Array:
        return self.vectors[index : index + 1] if isinstance(self.vectors, Array) else self.vectors.part(index, 1)

    def extended(self, added: np.ndarray) -> Whole:
        size = self.run + steps(len(added), *ADDED)
        if isinstance(self.vectors, Array):
            return replace(self, vectors=filled(np.append(np.asarray(self.vectors)[: self.run], added, axis=0), size))
        return replace(self, vectors=self.vectors.extended(jnp.asarray(added[:, self.vectors.text_part]), size))

    def whole(self) -> np.ndarray:
        return np.asarray(side_by_side(self.vectors))


@dataclass(frozen=True)
class Dealt:
    """Those of the run over several devices."""

    vectors: DealtRows
    added: Array | None  # float32[m, Q]
    memory: int

    def __len__(self) -> int:
        return len(self.vectors) + (0 if self.added is None else len(self.added))

    def kernel(self, allowed: np.ndarray, ends: Ends | None) -> Callable[[Array | None], Kernel]:
        run, added, mesh = len(self.vectors), self.added, self.vectors.mesh
        size, there = block_size(run, self.memory), deal(allowed[:run], mesh)
        span = None if ends is None else [deal(end[:run], mesh) for end in ends]
        further = ends and (ends[0][run:], ends[1][run:])
        of_added = None if added is None else Whole(added, 0).kernel(allowed[run:], further)

        def asked(at: Array | None) -> Kernel:
            live = None if span is None or at is None else Live(span[0], span[1], at)

            def best(queries: Array, ban: Array, k: int) -> tuple[Array, Array]:
                found, scores = top_listed(queries, self.vectors, ban, k, size, there, live)
                if added is None or of_added is None:
                    return found, scores
                ban = jnp.where(ban < run, len(added), ban - run)
                more, theirs = of_added(at)(queries, ban, min(k, len(added)))
                scores, order = jax.lax.top_k(jnp.concatenate([scores, theirs], 1), k)
                return jnp.take_along_axis(jnp.concatenate([found, run + more], 1), order, 1), scores

            return best

        return asked

    def compared(self, part: slice, of_text: bool) -> tuple[Dealt, np.ndarray]:
        heads, added = self.vectors.array, None if self.added is None else self.added[:, part]
        own = heads.texts if of_text else jnp.where(heads.trained[:, None], heads.rows[:, :-1], 0.0)
        vectors = replace(self.vectors, array=own)
        has = vectors.of_rows(lambda rows: jnp.any(rows, axis=1)).whole()
        if added is not None:
            has, added = np.append(has, np.asarray(jnp.any(added, axis=1))), unit(added)
        return replace(self, vectors=vectors.of_rows(unit), added=added), has

    def row(self, index: int) -> Array:
        run = len(self.vectors)
        if self.added is not None and index >= run:
            return self.added[index - run : index - run + 1]
        return self.vectors.read(jnp.array([index]))

    def extended(self, added: np.ndarray) -> Dealt:
        return replace(self, added=filled(added, steps(len(added), *ADDED)))

    def whole(self) -> np.ndarray:
        heads, dealt = self.vectors.array, self.vectors
        new_row = None if heads.new_row is None else heads.new_row[0]
        vectors = side_by_side(replace(heads, new_row=new_row))
        run = gathered_array(np.asarray(vectors), len(dealt), dealt.shards)
        return run if self.added is None else np.append(run, np.asarray(self.added), axis=0)


@jax.jit
def side_by_side(items: Array | Heads) -> Array:
    """float32[V, Q]: the vectors of items."""
    return items.whole() if isinstance(items, Heads) else items


@partial(jax.jit, static_argnames="k")
def best_listed(
    queries: Array, banned: Array, k: int, items: Array | Heads, allowed: Array, live: Live | None
) -> tuple[Array, Array]:
    """The k best items of each of float32[q, Q] queries, int32[q, k], and their scores; -inf where fewer are allowed.
    Of float32[V, Q] ``items``, bool[V] are ``allowed``, where they are ``live`` (None: always); int32[q, N]
    ``banned``, V for none.

    Unlike ``topk.top_items``, which works through the catalogue in parts, this reads the vectors where they lie: for
    a query or a few that is ten times as fast in a catalogue of a million items.
    """
    if isinstance(items, Heads):
        scores = items.scores(queries)
    else:
        scores = jnp.matmul(queries, items.T, precision=jax.lax.Precision.HIGHEST)
    if live is not None:
        allowed = allowed & (live.listed <= live.at[:, None]) & (live.at[:, None] < live.sold)
    scores = jnp.where(allowed & ~jnp.isnan(scores), scores, -jnp.inf)
    scores = scores.at[jnp.arange(len(queries))[:, None], banned].set(-jnp.inf, mode="drop")
    values, found = jax.lax.top_k(scores, k)
    return found, values
