"""What a run of sessions exports: ``encode``, a session to a query, and ``rank``, a query to items."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxrec.feeds.base import LaneBlock
from jaxrec.models.base import SessionModel
from jaxrec.ops.topk import CHUNK
from jaxrec.tasks.base import Loaded
from jaxrec.tasks.exported import (
    BATCH,
    QUERIES,
    VECTORS,
    Exports,
    Padding,
    Program,
    Value,
    id_array,
    named,
    rank_program,
)
from jaxrec.tasks.sessions import load
from jaxrec.tasks.sessions.recommend import Recommender
from jaxrec.tasks.vectors import check_k


def exports(loaded: Loaded, k: int | None) -> Exports:
    """Both programs, as ``Recommender`` runs them one after the other."""
    kind, model, tables = Recommender(loaded), loaded.model, loaded.weights["tables"]
    vectors, n = np.asarray(model.items(tables)), len(kind.items)
    k, padding = check_k(k, n), Padding(behind=-n % CHUNK)
    weights, whole = named({"params": loaded.weights["params"], "tables": tables})
    return Exports(
        [_encode(model, whole), rank_program(vectors, k, loaded.run.config.evaluation.memory, padding)],
        {**weights, VECTORS: vectors},
        load,
        {"k": k, "window": model.window, "reads_times": model.reads_times},
        {"ids": id_array(kind.items.ids.values())},
        {VECTORS: padding},
        items=kind.vectors(),
    )


def _encode(model: SessionModel, whole: Any) -> Program:
    clicks = model.window or "clicks"
    inputs = [
        Value("items", "positions of the last items clicked, oldest first, filled up behind", "int32", (BATCH, clicks)),
        Value("lengths", "how many of them there are", "int32", (BATCH,)),
    ]
    if model.reads_times:
        inputs.append(Value("times", "when each click was, in seconds from any moment on; -1 where it is unknown",
                            "int32", (BATCH, clicks)))  # fmt: skip

    def encode(weights: dict[str, Array], *values: Array) -> tuple[Array]:
        tree = whole(weights)
        return (model.last_query(tree["params"], tree["tables"], *values),)

    def plain(weights: dict[str, Array], items: Array, lengths: Array) -> tuple[Array]:
        """All clicks are walked over, as ONNX has no loop of a number of turns that data say."""
        tree, rows = whole(weights), jnp.arange(len(items))
        lanes = LaneBlock(items.T, items.T, jnp.zeros(items.T.shape, bool), jnp.zeros(items.T.shape))
        _, states = model.encode(tree["params"], tree["tables"], model.carry(len(items)), lanes)
        return (states[jnp.maximum(lengths - 1, 0), rows],)

    outputs = (Value("queries", QUERIES),)
    return Program("encode", encode, tuple(inputs), outputs, plain if model.window is None else encode)
