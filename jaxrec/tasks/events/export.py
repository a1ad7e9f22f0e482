"""What a run of events exports: ``encode``, a sequence to a query, and ``rank``, a query to listings."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxrec.ops.topk import Live
from jaxrec.tasks.base import Loaded
from jaxrec.tasks.events import load
from jaxrec.tasks.events.ranking import best_listed
from jaxrec.tasks.events.recommend import Recommender
from jaxrec.tasks.exported import (
    BATCH,
    QUERIES,
    RANKED,
    VECTORS,
    Exports,
    Program,
    Value,
    id_array,
    named,
    plain_best,
    rank_inputs,
    vectors_of,
)
from jaxrec.tasks.vectors import check_k, kernel_k

AT = Value("at", "when each query is asked, in seconds from the manifest's live.origin_ms on", "int32", (BATCH,))


def exports(loaded: Loaded, k: int | None) -> Exports:
    """Both programs, as ``Recommender`` runs them one after the other; of listings that the run knows."""
    kind, model, params = Recommender(loaded), loaded.model, loaded.weights["params"]
    tables = {name: table for name, table in loaded.weights["tables"].items() if name == "fields"}
    weights, whole = named({"params": {"encoder": params["encoder"]}, "tables": tables})
    catalogue, spans, items = model.catalogue, model.catalogue.spans, kind.vectors()
    allowed = np.ones(len(kind.items), bool) if model.has_text else kind.counts > 0
    live = {} if spans is None else {"listed": spans.listed, "sold": spans.sold}
    newest = {} if spans is None else {"origin_ms": int(spans.origin), "newest_ms": kind.time(None)}
    k, vectors = check_k(k, len(kind.items)), vectors_of(items)
    # Rounded as the model reads them: every such number is one of float16 as well.
    names = np.asarray(catalogue.vectors).astype(jnp.bfloat16).astype(np.float16)
    known = {"names": names, "name_of": catalogue.name_of, "codes": catalogue.codes}
    return Exports(
        [_encode(model, whole), _rank(vectors.shape[1], k, bool(live))],
        {**weights, **known, **live, "allowed": allowed, VECTORS: vectors},
        load,
        {"k": k, "window": model.window, "events": kind.types, "bought": kind.bought, "live": newest or None},
        {"ids": id_array(kind.items.ids.values())},
        items=items,
    )


def _encode(model: Any, whole: Any) -> Program:
    inputs = (
        Value("items", "positions of the items of the last events, oldest first, filled up behind", "int32",
              (BATCH, model.window)),
        Value("events", "what was done, as places in the manifest's events", "int32", (BATCH, model.window)),
        Value("lengths", "how many events there are", "int32", (BATCH,)),
    )  # fmt: skip

    def encode(weights: dict[str, Array], items: Array, events: Array, lengths: Array) -> tuple[Array]:
        there = jnp.arange(items.shape[1]) < lengths[:, None]
        rows = jnp.where(there, weights["name_of"][items], -1)[..., None]
        names = jnp.where(rows >= 0, weights["names"][jnp.maximum(rows[..., 0], 0)], 0)
        codes = jnp.where(there[..., None], weights["codes"][items], 0)
        return (model.last_query(whole(weights), names, codes, events, lengths),)

    return Program("encode", encode, inputs, (Value("queries", QUERIES),), encode)


def _rank(width: int, k: int, live: bool) -> Program:
    def rank(weights: dict[str, Array], queries: Array, excluded: Array, *at: Array) -> tuple[Array, Array]:
        table = weights[VECTORS]
        ban = jnp.where(excluded < 0, len(table), excluded)
        places, scores = best_listed(queries, ban, kernel_k(k, len(table)), table, weights["allowed"],
                                     spans(weights, *at))  # fmt: skip
        return places[:, :k], scores[:, :k]

    def spans(weights: dict[str, Array], *at: Array) -> Live | None:
        return Live(weights["listed"], weights["sold"], *at) if live else None

    def plain(weights: dict[str, Array], queries: Array, excluded: Array, *at: Array) -> tuple[Array, Array]:
        scores, allowed = queries @ weights[VECTORS].T, weights["allowed"]
        if live:
            moment = at[0][:, None]
            allowed = allowed & (weights["listed"] <= moment) & (moment < weights["sold"])
        return plain_best(jnp.where(allowed, scores, -jnp.inf), excluded, k)

    return Program("rank", rank, (*rank_inputs(width), *[AT] * live), RANKED, plain)
