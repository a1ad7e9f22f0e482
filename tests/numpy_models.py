"""GRU4Rec, from the equations (Cho et al. 2014; Hidasi et al. 2016), and MERRec in NumPy, a sequence at a time, and a
small made-up catalogue."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import pyarrow as pa
from scipy.special import expit

from jaxrec.data.items import Catalogue

N_ITEMS, EVENTS, DIM = 14, 3, 6
COUNTS = np.array([9, 8, 6, 5, 5, 3, 2, 2, 1, 1, 0, 0, 0, 0])  # events of training; the last four items are new


def gru(p: dict[str, np.ndarray], x: np.ndarray, h: np.ndarray) -> np.ndarray:
    """The reset gate acts after the recurrent product."""
    x_r, x_z, x_n = np.split(x @ p["input_kernel"] + p["input_bias"], 3)
    h_r, h_z, h_n = np.split(h @ p["hidden_kernel"] + p["hidden_bias"], 3)
    z = expit(x_z + h_z)
    return (1 - z) * np.tanh(x_n + expit(x_r + h_r) * h_n) + z * h


def onehot_gru(p: dict[str, np.ndarray], row: np.ndarray, h: np.ndarray) -> np.ndarray:
    """The reset gate acts before the recurrent product; the new state enters with the update gate."""
    x_n, x_r, x_z = np.split(row + p["bias"], 3)
    h_r, h_z = np.split(h @ p["gate_kernel"], 2)
    z = expit(x_z + h_z)
    return (1 - z) * h + z * np.tanh(x_n + (expit(x_r + h_r) * h) @ p["candidate_kernel"])


def all_scores(parameters: dict[str, Any], session: Any) -> np.ndarray:
    """float64[n, V]: the scores of all items after each of the session's n item indices."""
    tables, layers = {name: np.asarray(one, np.float64) for name, one in parameters["tables"].items()}, dict[str, Any]()
    for name, value in parameters["params"].items():
        _, number, part = name.split("_", 2)
        layers.setdefault(number, {})[part] = np.float64(value)
    stack = [layers[number] for number in sorted(layers)]
    vectors, biases = tables["item"][:, :-1], tables["item"][:, -1]
    source = tables.get("input", vectors)
    widths = [(p["candidate_kernel"] if "candidate_kernel" in p else p["hidden_kernel"]).shape[0] for p in stack]
    hidden = [np.zeros(width) for width in widths]
    scores = []
    for item in session:
        x = source[item]
        for i, p in enumerate(stack):
            x = hidden[i] = onehot_gru(p, x, hidden[i]) if "candidate_kernel" in p else gru(p, x, hidden[i])
        scores.append(vectors @ x + biases)
    return np.array(scores)


def unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


class Query(NamedTuple):
    item: np.ndarray | None  # float64, of the item head with the 1 that meets a bias; None: no head
    text: np.ndarray | None


def make_catalogue(fields: bool = True) -> Catalogue:
    """Items 2, 7 and 13 without a name, 4 and 5 with the same one; categories by the number."""
    random = np.random.default_rng(7)
    vectors = random.normal(size=(10, DIM))
    name_of = np.array([0, 1, -1, 2, 3, 3, 4, -1, 5, 6, 7, 8, 9, -1], np.int32)
    c0, price = np.arange(N_ITEMS) % 4, random.integers(0, 41, N_ITEMS)
    codes = np.stack([c0, price], axis=1).astype(np.int32) if fields else np.zeros((N_ITEMS, 0), np.int32)
    names, values = (("c0", "price"), (pa.array([11, 12, 13]), pa.array([], pa.float64()))) if fields else ((), ())
    return Catalogue(unit(vectors).astype(np.float16), {"identity": "none"}, name_of, codes, names, values)


def name_vectors(catalogue: Catalogue, items: Any) -> np.ndarray:
    """float64[n, dim], rounded as the device holds them; zeros for items without a name."""
    held = np.asarray(catalogue.vectors).astype(jnp.bfloat16).astype(np.float64)
    names = catalogue.name_of[items]
    return np.where((names >= 0)[:, None], held[names], 0.0)


def last_query(weights: Any, catalogue: Catalogue, items: Any, events: Any, temperature: float | None = None) -> Query:
    """The query after a sequence of int[n] items and their events."""
    p = {name: np.asarray(leaf, np.float64) for name, leaf in weights["params"]["encoder"].items()}
    parts = [name_vectors(catalogue, items) @ p["name_kernel"], p["event"][events]]
    first = 0
    for column, size in enumerate(catalogue.sizes):
        parts.append(np.asarray(weights["tables"]["fields"], np.float64)[first + catalogue.codes[items, column]])
        first += size
    x = np.concatenate(parts, axis=1)
    layers = sum(name.endswith("input_kernel") for name in p)
    for layer in range(layers):
        cell = {part: p[f"gru_{layer}_{part}"]
                for part in ("input_kernel", "hidden_kernel", "input_bias", "hidden_bias")}  # fmt: skip
        states = [np.zeros(len(cell["hidden_kernel"]))]
        for row in x:
            states.append(gru(cell, row, states[-1]))
        x = np.array(states[1:])
    item = np.append(x[-1] @ p["item_query"], 1.0) if "item_query" in p else None
    text = x[-1] @ p["text_query"] if "text_query" in p else None
    return Query(item, text if text is None or temperature is None else temperature * unit(text))


def item_scores(
    query: Query, weights: Any, catalogue: Catalogue, items: Any, new: Any, temperature: float | None = None
) -> np.ndarray:
    """float64[n]: the scores of int[n] items; bool[n] ``new`` tells which have no row of their own."""
    total = np.zeros(len(items))
    if query.item is not None:
        rows = np.asarray(weights["tables"]["item"], np.float64)[items]
        own = np.zeros(rows.shape[1])
        own[-1] = weights["params"]["new_bias"] if query.text is not None else -1e30
        total += np.where(np.asarray(new)[:, None], own, rows) @ query.item
    if query.text is not None:
        texts = name_vectors(catalogue, items) @ np.asarray(weights["params"]["match"], np.float64)
        if temperature is not None:
            texts = texts / np.maximum(np.linalg.norm(texts, axis=1, keepdims=True), 1e-6)
        total += texts @ query.text
    return total


def sampled_loss(
    scores: np.ndarray, own: int, targets: Sequence[int], drawn: Sequence[int], log_q: np.ndarray, live: np.ndarray
) -> float:
    """Of a query with float64[V] scores: its target ``own`` against the other targets of the step, ``own`` among them,
    and what is drawn; float64[2, V] ``log_q`` is taken from an item's score as either; bool[V], what is no negative."""
    logits = [scores[own] - log_q[0, own]]
    for given, items in zip(log_q, (targets, drawn), strict=True):
        logits += [scores[item] - given[item] for item in items if item != own and live[item]]
    return float(np.log(np.exp(np.array(logits) - logits[0]).sum()))


def softmax_loss(scores: np.ndarray, own: int, smoothing: float) -> float:
    """Of a query with float64[V] scores, those of items that training does not hold being -inf."""
    kept = scores[np.isfinite(scores)]
    log_mass = np.log(np.exp(kept - kept.max()).sum()) + kept.max()
    return float((1 - smoothing) * (log_mass - scores[own]) + smoothing * np.mean(log_mass - kept))
